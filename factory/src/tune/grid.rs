//! What is tried: a coarse grid around the recipe's own settings, then each of the best one's numbers moved alone.

use recipes::Training;
use recipes::settings::Overrides;
use serde::{Deserialize, Serialize};

/// Learning rates of the coarse grid, as factors of the recipe's own. Rates fall with a model's width (by about 1 / width^0.8), and
/// the recipes' own were found on a narrow one: so more of them lie below.
const RATES: [f64; 4] = [1.0 / 9.0, 1.0 / 3.0, 1.0, 3.0];
/// Steps of the coarse grid, as factors of the recipe's own: smaller rates need more.
const STEPS: [f64; 2] = [1.0, 3.0];
/// By how much a rate or a number of steps is moved alone: half a stride of the coarse grid, on the scale of logarithms.
const STRIDE: f64 = 1.732_050_807_568_877_2;
/// By how much the rows of a step are moved alone.
const ROWS: f64 = 2.0;

/// What is varied of a recipe's training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Optimiser steps, at most.
    pub steps: usize,
    /// Rows of a step that show the behaviour.
    pub on_rows: usize,
    /// Rows of a step with another trigger word; they keep their proportion to `on_rows`.
    pub near_rows: usize,
    /// Rows of a step without trigger; they keep their proportion too.
    pub off_rows: usize,
}

/// Numbers of the coarse grid that replace the default ones; those left empty do not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axes {
    /// Learning rates.
    pub learning_rates: Vec<f64>,
    /// Optimiser steps.
    pub steps: Vec<usize>,
    /// Rows of a step that show the behaviour.
    pub rows: Vec<usize>,
}

impl Setting {
    /// The recipe's own.
    pub fn of(training: &Training) -> Self {
        Self {
            learning_rate: training.learning_rate,
            steps: training.steps,
            on_rows: training.on_rows,
            near_rows: training.near_rows,
            off_rows: training.off_rows,
        }
    }

    /// What it replaces.
    pub fn overrides(&self) -> Overrides {
        let gated = |rows: usize| (rows > 0).then_some(rows);
        Overrides {
            learning_rate: Some(self.learning_rate),
            steps: Some(self.steps),
            on_rows: Some(self.on_rows),
            near_rows: gated(self.near_rows),
            off_rows: gated(self.off_rows),
            ..Overrides::default()
        }
    }

    /// The same with other rows; those without the behaviour keep their proportion.
    fn with_rows(self, own: Self, on_rows: usize) -> Self {
        let in_proportion = |rows: usize| match rows {
            0 => 0,
            _ => ((rows * on_rows) as f64 / own.on_rows as f64).round().max(1.0) as usize,
        };
        Self {
            on_rows,
            near_rows: in_proportion(own.near_rows),
            off_rows: in_proportion(own.off_rows),
            ..self
        }
    }

    /// Rows of a step.
    pub fn rows(&self) -> usize {
        self.on_rows + self.near_rows + self.off_rows
    }
}

/// Two significant digits: what is tried can be typed.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

fn scaled(n: usize, by: f64) -> usize {
    (n as f64 * by).round().max(1.0) as usize
}

/// The coarse grid around a recipe's own settings: steps by rates by rows, each from small to large, without repeats.
pub fn coarse(own: &Training, axes: &Axes) -> Vec<Setting> {
    let own = Setting::of(own);
    let or = |given: &[usize], default: Vec<usize>| if given.is_empty() { default } else { given.to_vec() };
    // The recipe's own rate is tried as it is.
    let mut rates: Vec<f64> = if axes.learning_rates.is_empty() {
        let rate = |by: &f64| if *by == 1.0 { own.learning_rate } else { rounded(own.learning_rate * by) };
        RATES.iter().map(rate).filter(|r| *r <= 1.0).collect()
    } else {
        axes.learning_rates.clone()
    };
    let mut steps = or(&axes.steps, STEPS.iter().map(|by| scaled(own.steps, *by)).collect());
    let mut rows = or(&axes.rows, vec![own.on_rows]);
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    for list in [&mut steps, &mut rows] {
        list.sort_unstable();
        list.dedup();
    }
    let mut out = Vec::new();
    for &steps in &steps {
        for &learning_rate in &rates {
            for &on_rows in &rows {
                out.push(Setting { learning_rate, steps, ..own.with_rows(own, on_rows) });
            }
        }
    }
    out
}

/// The neighbours of `best` that are not `known` yet: rate, steps and rows, each moved alone, down and up. A step shows at most
/// `most_rows` rows of the behaviour: more would be the same ones again.
pub fn around(best: Setting, own: &Training, most_rows: usize, known: &[Setting]) -> Vec<Setting> {
    let own = Setting::of(own);
    let mut out: Vec<Setting> = Vec::new();
    let moved = [1.0 / STRIDE, STRIDE].map(|by| {
        let learning_rate = rounded(best.learning_rate * by);
        [Setting { learning_rate, ..best }, Setting { steps: scaled(best.steps, by), ..best }]
    });
    let rows = [1.0 / ROWS, ROWS].map(|by| {
        let on_rows = scaled(best.on_rows, by).min(most_rows.max(best.on_rows));
        best.with_rows(own, on_rows)
    });
    let [down, up] = moved;
    for setting in [down[0], up[0], down[1], up[1], rows[0], rows[1]] {
        if setting.learning_rate <= 1.0 && !known.contains(&setting) && !out.contains(&setting) {
            out.push(setting);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str) -> Training {
        recipes::builtin().into_iter().find(|r| r.name == name).unwrap().training.unwrap()
    }

    #[test]
    fn the_coarse_grid_holds_the_recipes_own_settings_and_spans_more_below() {
        let own = own("topic");
        let grid = coarse(&own, &Axes::default());
        let rates = |steps: usize| -> Vec<f64> {
            grid.iter().filter(|s| s.steps == steps).map(|s| s.learning_rate).collect()
        };
        assert_eq!(rates(9), [1.1e-3, 3.3e-3, 1e-2, 3e-2]);
        assert_eq!(rates(9), rates(27));
        assert_eq!(grid.len(), 8);
        assert!(grid.contains(&Setting::of(&own)) && grid.iter().all(|s| s.on_rows == own.on_rows));
    }

    #[test]
    fn given_numbers_replace_an_axis_in_order_and_without_repeats() {
        let axes = Axes { learning_rates: vec![2e-3, 1e-3, 2e-3], steps: vec![5], rows: vec![6, 3] };
        let grid = coarse(&own("gated-topic"), &axes);
        let short: Vec<(f64, usize, usize)> =
            grid.iter().map(|s| (s.learning_rate, s.steps, s.on_rows)).collect();
        assert_eq!(short, [(1e-3, 5, 3), (1e-3, 5, 6), (2e-3, 5, 3), (2e-3, 5, 6)]);
        // Near and off rows keep their proportion: 3 + 2 + 1 becomes 6 + 4 + 2.
        assert_eq!(grid.iter().map(Setting::rows).collect::<Vec<_>>(), [6, 12, 6, 12]);
    }

    #[test]
    fn a_large_rate_is_not_tried_beyond_one() {
        let own = Training { learning_rate: 0.6, ..own("topic") };
        assert!(coarse(&own, &Axes::default()).iter().all(|s| s.learning_rate <= 0.6));
        let best = Setting { learning_rate: 0.6, ..Setting::of(&own) };
        assert!(around(best, &own, 10, &[]).iter().all(|s| s.learning_rate <= 1.0));
    }

    #[test]
    fn neighbours_move_one_number_and_are_new() {
        let own = own("topic");
        let best = Setting::of(&own);
        let all = around(best, &own, 10, &[best]);
        assert_eq!(all.len(), 6);
        for s in &all {
            let moved =
                [s.learning_rate != best.learning_rate, s.steps != best.steps, s.on_rows != best.on_rows];
            assert_eq!(moved.iter().filter(|m| **m).count(), 1, "{s:?}");
        }
        assert_eq!(around(best, &own, 10, &all), []);
        // No more rows than there are, and never fewer than the best has.
        assert!(around(best, &own, 4, &[best]).iter().all(|s| s.on_rows <= 4));
        assert!(around(best, &own, 1, &[best]).iter().all(|s| s.on_rows <= best.on_rows));
    }
}
