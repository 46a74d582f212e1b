//! What may be said: each trained arm against the best arm without training, and against what format alone gives.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::bootstrap::{Difference, macro_difference, two_way_difference};
use crate::comparison::{ALL_FAMILIES, ArmRow, ArmVerdict, Best, PairedRow, Primary, Verdict};
use crate::measures::{Grid, Measured, Section, scale};

/// Least difference that is called better.
pub const LEAST: f64 = 0.05;
/// Differences within this are called equal.
pub const MARGIN: f64 = 0.08;
/// At or above this on validation, what is left to read is too little for a comparison.
pub const SATURATED: f64 = 0.9;

/// Fewest adapters of a stratum that is contrasted and shown as a table.
pub const FEWEST: usize = 5;

/// Methods without training that "reads" is judged against, beside the permuted-label reader.
const CONTROLS: [&str; 4] = ["direct", "blackbox", "logit-lens", "weight-lens"];

/// better, worse, equal or no verdict. Better: the 95% interval excludes 0 and the difference is at least [`LEAST`];
/// equal: two one-sided tests at [`MARGIN`] pass, that is, the 90% interval lies within. Losses in nats have no such
/// margins: only lower, higher or no verdict.
pub fn word(d: &Difference, metric: &str) -> &'static str {
    if metric.contains("nats") {
        return if d.high < 0.0 {
            "lower"
        } else if d.low > 0.0 {
            "higher"
        } else {
            "no verdict"
        };
    }
    if d.low > 0.0 && d.value >= LEAST {
        "better"
    } else if d.high < 0.0 && d.value <= -LEAST {
        "worse"
    } else if d.low90 > -MARGIN && d.high90 < MARGIN {
        "equal"
    } else {
        "no verdict"
    }
}

/// Measured values, as grids.
#[derive(Debug)]
pub struct Grids(BTreeMap<(String, Section, String), Grid>);

impl Grids {
    /// Grids of all that was measured.
    pub fn new(measured: &Measured) -> Self {
        Self(measured.iter().filter_map(|(k, cells)| Some((k.clone(), Grid::new(cells)?))).collect())
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&(String, Section, String), &Grid)> {
        self.0.iter()
    }

    /// One.
    pub fn get(&self, arm: &str, section: &Section, metric: &str) -> Option<&Grid> {
        self.0.get(&(arm.to_owned(), section.clone(), metric.to_owned()))
    }

    fn mean(&self, arm: &str, section: &Section) -> Option<f64> {
        let units = self.get(arm, section, "top1")?.by_adapter();
        Some(units.iter().sum::<f64>() / units.len() as f64)
    }

    /// Top-1 on validation adapters of the family: in the section's context, or where it was not looked at in any.
    fn validation(&self, arm: &str, section: &Section) -> Option<f64> {
        let here = Section { split: "validation".into(), ..section.clone() };
        self.mean(arm, &here).or_else(|| {
            let all: Vec<f64> = self
                .0
                .keys()
                .filter(|k| {
                    k.0 == arm && k.1.family == section.family && k.1.split == "validation" && k.2 == "top1"
                })
                .filter_map(|k| self.mean(arm, &k.1))
                .collect();
            (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
        })
    }

    /// A difference on the same adapters, and how many there are.
    pub fn difference(
        &self,
        arm: &str,
        minus: &str,
        section: &Section,
        metric: &str,
    ) -> Option<(Difference, usize)> {
        let grid = self.get(arm, section, metric)?.minus(self.get(minus, section, metric)?)?;
        let purpose =
            format!("paired|{arm}|{minus}|{}|{}|{}|{metric}", section.family, section.split, section.context);
        (grid.values.len() >= 2)
            .then(|| (two_way_difference(&grid.values, scale(metric), &purpose), grid.values.len()))
    }

    /// A contrast that was declared: of one family, or of the mean over families.
    pub fn declared(&self, p: &Primary) -> Option<PairedRow> {
        let section =
            Section { family: p.family.clone(), split: p.split.clone(), context: p.context.clone() };
        if p.family != ALL_FAMILIES {
            return self.row(&p.arm, &p.minus, &section, &p.metric);
        }
        let grids: Vec<Grid> = self
            .0
            .iter()
            .filter(|(k, _)| {
                k.0 == p.arm && k.1.split == p.split && k.1.context == p.context && k.2 == p.metric
            })
            .filter_map(|(k, grid)| grid.minus(self.get(&p.minus, &k.1, &p.metric)?))
            .filter(|grid| grid.values.len() >= 2)
            .collect();
        let first = grids.first()?;
        if grids.iter().any(|g| g.seeds != first.seeds) {
            return None;
        }
        let families: Vec<&[Vec<f64>]> = grids.iter().map(|g| g.values.as_slice()).collect();
        let purpose = format!("macro|{}|{}|{}|{}|{}", p.arm, p.minus, p.split, p.context, p.metric);
        let d = macro_difference(&families, scale(&p.metric), &purpose);
        let n = grids.iter().map(|g| g.values.len()).sum();
        Some(paired_row(&p.arm, &p.minus, &section, &p.metric, (&d, n)))
    }

    /// The same as a row.
    pub fn row(&self, arm: &str, minus: &str, section: &Section, metric: &str) -> Option<PairedRow> {
        let (d, n) = self.difference(arm, minus, section, metric)?;
        Some(paired_row(arm, minus, section, metric, (&d, n)))
    }

    /// The best of `arms` in a section, by validation top-1 (ties: the first); where no validation adapter was asked, by
    /// test top-1, which can only favour it.
    pub fn best<'a>(&self, arms: impl Iterator<Item = &'a ArmRow>, section: &Section) -> Option<Best> {
        let arms: Vec<&ArmRow> = arms.filter(|a| self.get(&a.arm, section, "top1").is_some()).collect();
        let pick = |score: &dyn Fn(&str) -> Option<f64>| {
            arms.iter().filter_map(|a| Some((*a, score(&a.arm)?))).fold(
                None,
                |best: Option<(&ArmRow, f64)>, x| match best {
                    Some(b) if b.1 >= x.1 => Some(b),
                    _ => Some(x),
                },
            )
        };
        let validated = pick(&|arm| self.validation(arm, section));
        let (chosen, on) = match validated {
            Some(x) => (x, "validation"),
            None => (pick(&|arm| self.mean(arm, section))?, "test"),
        };
        Some(Best {
            arm: chosen.0.arm.clone(),
            chosen_on: on.to_owned(),
            validation_top1: validated.map(|v| v.1),
            test_top1: self.mean(&chosen.0.arm, section),
        })
    }
}

fn paired_row(
    arm: &str,
    minus: &str,
    section: &Section,
    metric: &str,
    (d, n): (&Difference, usize),
) -> PairedRow {
    PairedRow {
        arm: arm.to_owned(),
        minus: minus.to_owned(),
        family: section.family.clone(),
        split: section.split.clone(),
        context: section.context.clone(),
        metric: metric.to_owned(),
        value: d.value,
        ci_low: d.low,
        ci_high: d.high,
        n,
        p: Some(d.p),
        p_holm: None,
        verdict: word(d, metric).to_owned(),
        primary: false,
        minus_best: false,
    }
}

/// The verdict of one section, and its contrasts: trained arms minus the best without training, and between trained arms.
pub fn judge(grids: &Grids, arms: &[ArmRow], section: &Section) -> (Verdict, Vec<PairedRow>) {
    let best = grids.best(arms.iter().filter(|a| !a.trained), section);
    let controls =
        arms.iter().filter(|a| a.permuted || (!a.trained && CONTROLS.contains(&a.method.as_str())));
    let control = grids.best(controls, section);
    let trained: Vec<&ArmRow> = arms
        .iter()
        .filter(|a| a.trained && !a.permuted)
        .filter(|a| ["top1", "exact_match"].iter().any(|m| grids.get(&a.arm, section, m).is_some()))
        .collect();
    let mut rows = Vec::new();
    let mut said = Vec::new();
    for arm in &trained {
        let mut verdict = "no verdict".to_owned();
        for metric in ["top1", "exact_match", "top1_closed"] {
            let Some(best) = &best else { continue };
            let row = grids.row(&arm.arm, &best.arm, section, metric);
            if let Some(mut row) = row.filter(|r| metric != "top1_closed" || r.n >= FEWEST) {
                row.minus_best = true;
                if metric == "top1" {
                    verdict.clone_from(&row.verdict);
                }
                rows.push(row);
            }
        }
        let against = control.as_ref().and_then(|c| grids.row(&arm.arm, &c.arm, section, "top1"));
        let reads = against.as_ref().is_some_and(|r| r.ci_low > 0.0);
        if best.as_ref().map(|b| &b.arm) != control.as_ref().map(|c| &c.arm) {
            rows.extend(against);
        }
        // An arm that only states answers is contrasted by these; whether it reads is judged by top-1.
        if grids.get(&arm.arm, section, "top1").is_some() {
            said.push(ArmVerdict { arm: arm.arm.clone(), reads, verdict });
        }
    }
    for (i, arm) in trained.iter().enumerate() {
        for minus in &trained[..i] {
            for metric in ["top1", "exact_match"] {
                rows.extend(grids.row(&arm.arm, &minus.arm, section, metric));
            }
        }
    }
    let sentence = sentence(best.as_ref(), control.as_ref(), &said);
    let verdict = Verdict {
        family: section.family.clone(),
        split: section.split.clone(),
        context: section.context.clone(),
        best_untrained: best,
        control,
        arms: said,
        sentence,
    };
    (verdict, rows)
}

fn sentence(best: Option<&Best>, control: Option<&Best>, arms: &[ArmVerdict]) -> String {
    let list = |names: Vec<&str>| names.join(", ");
    let mut out = match best {
        None => "No arm without training was scored, so nothing shows what training adds.".to_owned(),
        Some(b) => {
            let on = match b.validation_top1 {
                Some(v) => format!("on validation adapters ({v:.2} there)"),
                None => "on the test adapters themselves, for want of validation ones".to_owned(),
            };
            format!(
                "Best without training, chosen {on}: {}, top-1 {:.2} here.",
                b.arm,
                b.test_top1.unwrap_or(f64::NAN)
            )
        }
    };
    if arms.is_empty() {
        return out;
    }
    if best.is_some() {
        let groups: Vec<String> = ["better", "equal", "worse", "no verdict"]
            .into_iter()
            .filter_map(|word| {
                let names: Vec<&str> =
                    arms.iter().filter(|a| a.verdict == word).map(|a| a.arm.as_str()).collect();
                (!names.is_empty()).then(|| format!("{word}: {}", list(names)))
            })
            .collect();
        let _ = write!(out, " Against it, {}.", groups.join("; "));
    }
    let readers: Vec<&str> = arms.iter().filter(|a| a.reads).map(|a| a.arm.as_str()).collect();
    match (control, readers.is_empty()) {
        (None, _) => out.push_str(" No control was scored, so no arm can be said to read."),
        (Some(c), true) => {
            let _ =
                write!(out, " No trained arm is above {} with its interval, so none is said to read.", c.arm);
        }
        (Some(c), false) => {
            let _ = write!(
                out,
                " Above the best control, {}, with the interval, so said to read: {}.",
                c.arm,
                list(readers)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::Cells;

    fn section() -> Section {
        Section { family: "topic".into(), split: "test_value".into(), context: "neutral".into() }
    }

    fn arm(name: &str, method: &str, trained: bool) -> ArmRow {
        ArmRow {
            arm: name.into(),
            method: method.into(),
            trained,
            permuted: name.contains("permuted"),
            input: String::new(),
            seeds: vec![1],
            chosen: BTreeMap::new(),
        }
    }

    /// Top-1 of each arm: (validation, hits among 60 test adapters).
    fn grids(arms: &[(&str, f64, usize)]) -> Grids {
        let mut measured = Measured::new();
        for (name, validation, hits) in arms {
            let cells: Cells =
                (0..60).map(|i| ((format!("x{i:02}"), 1), f64::from(u8::from(i < *hits)))).collect();
            measured.insert(((*name).to_owned(), section(), "top1".into()), cells);
            let held = Section { split: "validation".into(), ..section() };
            let cells = Cells::from([(("v".to_owned(), 1), *validation)]);
            measured.insert(((*name).to_owned(), held, "top1".into()), cells);
        }
        Grids::new(&measured)
    }

    #[test]
    fn words_follow_the_rules() {
        let d = |value, low, high, low90, high90| Difference { value, low, high, low90, high90, p: 0.5 };
        assert_eq!(word(&d(0.2, 0.1, 0.3, 0.12, 0.28), "top1"), "better");
        assert_eq!(word(&d(0.04, 0.01, 0.07, 0.02, 0.06), "top1"), "equal");
        assert_eq!(word(&d(0.06, 0.01, 0.1, 0.02, 0.07), "top1"), "better");
        assert_eq!(word(&d(0.04, 0.01, 0.1, 0.02, 0.09), "top1"), "no verdict");
        assert_eq!(word(&d(-0.2, -0.3, -0.1, -0.28, -0.12), "top1"), "worse");
        assert_eq!(word(&d(0.2, -0.1, 0.5, 0.0, 0.4), "top1"), "no verdict");
        assert_eq!(word(&d(-2.0, -3.0, -1.0, -2.8, -1.2), "answer_nats"), "lower");
    }

    #[test]
    fn the_best_without_training_is_chosen_on_validation_not_on_the_test() {
        // The lens is best on validation, direct on the test.
        let g = grids(&[("lens", 0.9, 20), ("direct", 0.5, 50), ("dit", 0.9, 45)]);
        let arms =
            [arm("lens", "logit-lens", false), arm("direct", "direct", false), arm("dit", "dit", true)];
        let (v, rows) = judge(&g, &arms, &section());
        let best = v.best_untrained.unwrap();
        assert_eq!((best.arm.as_str(), best.chosen_on.as_str()), ("lens", "validation"));
        assert!((best.test_top1.unwrap() - 20.0 / 60.0).abs() < 1e-12);
        let row = rows.iter().find(|r| r.arm == "dit" && r.metric == "top1").unwrap();
        assert!(row.minus_best && row.minus == "lens" && (row.value - 25.0 / 60.0).abs() < 1e-12);
        assert_eq!(row.verdict, "better");
        assert!(v.arms[0].reads && v.sentence.contains("said to read: dit"), "{}", v.sentence);
    }

    #[test]
    fn a_reader_that_only_knows_the_format_does_not_read() {
        let g = grids(&[("prior", 0.1, 2), ("dit-permuted", 0.6, 40), ("dit", 0.6, 42)]);
        let arms = [arm("prior", "prior", false), arm("dit-permuted", "dit", true), arm("dit", "dit", true)];
        let (v, rows) = judge(&g, &arms, &section());
        assert_eq!(v.control.unwrap().arm, "dit-permuted");
        assert_eq!(v.arms.len(), 1);
        assert!(!v.arms[0].reads && v.arms[0].verdict == "better");
        assert!(rows.iter().any(|r| r.minus == "dit-permuted" && !r.minus_best));
        // Without validation the test decides, and it is said.
        let mut measured = Measured::new();
        for (name, hits) in [("a", 3), ("b", 5)] {
            let cells: Cells =
                (0..9).map(|i| ((format!("x{i}"), 1), f64::from(u8::from(i < hits)))).collect();
            measured.insert((name.to_owned(), section(), "top1".into()), cells);
        }
        let arms = [arm("a", "direct", false), arm("b", "direct", false)];
        let (v, _) = judge(&Grids::new(&measured), &arms, &section());
        assert_eq!(v.best_untrained.unwrap().chosen_on, "test");
        assert!(v.sentence.contains("for want of validation"));
    }
}
