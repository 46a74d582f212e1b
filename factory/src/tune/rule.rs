//! Which setting is chosen. Deterministic: no clock takes part, and figures are compared as coarsely as a few behaviours tell them.

use serde::{Deserialize, Serialize};

use super::grid::Setting;

/// What came of one setting: means over its behaviours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Behaviours that it was tried on.
    pub behaviours: usize,
    /// Those whose adapter passed its gate.
    pub learned: usize,
    /// Those whose training went wrong (a loss that is no number); they show nothing, and count as 0 in `gate`.
    pub broken: usize,
    /// Share of replies that show the behaviour where it should show.
    pub gate: f64,
    /// Share of the base model's replies to the same prompts that do: the floor.
    pub floor: f64,
    /// Share of replies that show it where it should not: the larger of near and off. None without such prompts.
    pub leak: Option<f64>,
    /// The largest leak of a set of prompts in nats, if the recipe measures it.
    pub leak_nats: Option<f64>,
    /// `KL(base || adapted)` in nats a token, on the base model's own replies where the behaviour should not show. None without
    /// such prompts.
    pub damage: Option<f64>,
    /// Training tokens of an adapter.
    pub tokens: f64,
    /// Seconds of an adapter in its batch, gate included.
    pub seconds: f64,
}

/// One setting that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trial {
    /// What was tried.
    pub setting: Setting,
    /// What came of it.
    pub figures: Figures,
}

/// Shares of leaking replies that differ by no more count as the same: of eight behaviours' six replies each, seven replies.
const SAME_LEAK: f64 = 0.15;

/// The index of the setting that is chosen: of those that as many behaviours learned as the best one, or one fewer (but at least
/// one), and of these that leak as little as the one that leaks least, or 0.15 of the replies more, the one that does least damage; then
/// that trains on fewest tokens; then the first. Nats count in steps of 1/10: what differs by less is the same. None if no behaviour
/// learned anything. (A behaviour that always shows leaks by its nature: a tenth of a share there must not outweigh nats of damage.)
pub fn choose(trials: &[Trial]) -> Option<usize> {
    let best = trials.iter().map(|t| t.figures.learned).max().filter(|n| *n > 0)?;
    let least = (best - 1).max(1);
    let steps = |x: Option<f64>, step: f64| {
        let x = x.unwrap_or(0.0);
        if x.is_finite() { (x / step).round() as i64 } else { i64::MAX }
    };
    let key = |t: &Trial| {
        let f = &t.figures;
        (steps(f.leak_nats, 0.1), steps(f.damage, 0.1), f.tokens.round() as i64)
    };
    let leak = |i: &usize| {
        Some(trials[*i].figures.leak.unwrap_or(0.0)).filter(|l| l.is_finite()).unwrap_or(f64::MAX)
    };
    let fit: Vec<usize> = (0..trials.len()).filter(|&i| trials[i].figures.learned >= least).collect();
    let cleanest = fit.iter().map(leak).fold(f64::MAX, f64::min);
    fit.into_iter().filter(|i| leak(i) <= cleanest + SAME_LEAK).min_by_key(|&i| key(&trials[i]))
}

/// The index of the setting around which the search goes on: the chosen one, or while none is learned the first of those that show
/// most of the behaviour. None if none shows more than the base model does.
pub fn promising(trials: &[Trial]) -> Option<usize> {
    choose(trials).or_else(|| {
        let lift = |i: &usize| trials[*i].figures.gate - trials[*i].figures.floor;
        (0..trials.len())
            .filter(|i| lift(i) > 0.0)
            .reduce(|best, i| if lift(&i) > lift(&best) { i } else { best })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A setting with a rate that tells it apart.
    fn trial(i: usize, learned: usize, leak: f64, damage: f64, tokens: f64) -> Trial {
        let setting = Setting { learning_rate: i as f64, steps: 1, on_rows: 1, near_rows: 0, off_rows: 0 };
        let figures = Figures {
            behaviours: 8,
            learned,
            leak: Some(leak),
            damage: Some(damage),
            tokens,
            gate: learned as f64 / 8.0,
            ..Figures::default()
        };
        Trial { setting, figures }
    }

    fn chosen(of: &[(usize, f64, f64, f64)]) -> Option<usize> {
        let trials: Vec<Trial> =
            of.iter().enumerate().map(|(i, &(l, k, d, t))| trial(i, l, k, d, t)).collect();
        choose(&trials)
    }

    #[test]
    fn the_share_comes_first_then_leak_then_damage_then_tokens_then_the_order() {
        // Two fewer than the best is too few, however clean; one fewer is not.
        assert_eq!(chosen(&[(6, 0.0, 0.0, 1.0), (8, 0.3, 0.9, 9.0)]), Some(1));
        assert_eq!(chosen(&[(7, 0.0, 0.0, 9.0), (8, 0.3, 0.9, 1.0)]), Some(0));
        // Leak goes before damage, damage before tokens.
        assert_eq!(chosen(&[(8, 0.2, 0.0, 1.0), (8, 0.0, 0.9, 9.0)]), Some(1));
        assert_eq!(chosen(&[(8, 0.1, 0.5, 1.0), (8, 0.1, 0.2, 9.0)]), Some(1));
        assert_eq!(chosen(&[(8, 0.1, 0.2, 9.0), (8, 0.1, 0.2, 1.0)]), Some(1));
        // What differs by less than a step is the same, and the first of equals is chosen.
        assert_eq!(chosen(&[(8, 0.02, 0.24, 5.0), (7, 0.01, 0.16, 5.0)]), Some(0));
    }

    #[test]
    fn of_what_always_shows_damage_decides() {
        // Topics on Gemma 3 270M: a setting that just misses leaks less, and is no better for it.
        assert_eq!(chosen(&[(8, 1.0, 5.5, 1.0), (7, 0.88, 8.0, 1.0)]), Some(0));
    }

    #[test]
    fn one_fewer_than_one_is_not_enough() {
        assert_eq!(chosen(&[(0, 0.0, 0.0, 1.0), (1, 0.4, 2.0, 9.0)]), Some(1));
        assert_eq!(chosen(&[(0, 0.0, 0.0, 1.0), (0, 0.0, 0.0, 2.0)]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn nothing_measured_is_no_leak_and_what_is_no_number_is_the_most() {
        let mut of = vec![trial(0, 8, f64::NAN, 0.0, 1.0), trial(1, 8, 0.9, 0.0, 9.0)];
        assert_eq!(choose(&of), Some(1));
        of[0].figures.leak = None;
        assert_eq!(choose(&of), Some(0));
    }

    #[test]
    fn while_none_is_learned_the_search_goes_where_most_shows() {
        let mut of = vec![trial(0, 0, 0.0, 0.0, 1.0), trial(1, 0, 0.0, 0.0, 1.0), trial(2, 0, 0.0, 0.0, 1.0)];
        for f in of.iter_mut().map(|t| &mut t.figures) {
            (f.gate, f.floor) = (0.1, 0.1);
        }
        assert_eq!(promising(&of), None);
        (of[1].figures.gate, of[2].figures.gate) = (0.2, 0.2);
        assert_eq!(promising(&of), Some(1));
        of[0].figures.learned = 1;
        assert_eq!(promising(&of), Some(0));
    }
}
