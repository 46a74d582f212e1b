//! How often a study of this size would decide, by simulation: made-up answers, put through the very test that decides.

use std::collections::BTreeSet;

use compare::bootstrap::{Difference, Scale};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::file::{Family, HeldOut, OF_PAIRS, Power, Primary, Rule, Study, Term};
use crate::results::{difference, mean_row, word};

/// How often a primary would be decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PowerRow {
    /// The primary.
    pub primary: String,
    /// Families that it is over.
    pub families: usize,
    /// Test adapters of all of them.
    pub adapters: usize,
    /// Reader seeds.
    pub seeds: usize,
    /// (true difference, share of simulated studies that find it): at the expected difference first.
    pub at: Vec<(f64, f64)>,
    /// Share of simulated studies without any difference that find equality (or that it is not inferior).
    pub equal_at_zero: f64,
}

impl PowerRow {
    /// The share at the expected difference; at an expected difference of 0, that of finding none.
    pub fn expected(&self) -> f64 {
        match self.at.first() {
            Some((0.0, _)) | None => self.equal_at_zero,
            Some((_, power)) => *power,
        }
    }
}

/// Power of every primary. `carrying` are the families that carry something: no primary is over others.
pub fn power(study: &Study, carrying: &BTreeSet<&str>) -> Vec<PowerRow> {
    study.primaries.iter().map(|p| of_primary(study, p, carrying)).collect()
}

/// Differences at which power is told beside the expected one.
const BESIDE: [f64; 4] = [0.05, 0.1, 0.15, 0.2];

fn of_primary(study: &Study, p: &Primary, carrying: &BTreeSet<&str>) -> PowerRow {
    let named = p.terms().iter().find_map(|t| t.family.clone()).filter(|_| p.names_families());
    let counted = |f: &&Family| match &named {
        Some(one) => f.name() == one,
        None => f.test > 0 && p.is_over(f) && carrying.contains(f.name()),
    };
    let mut sizes: Vec<usize> = study.families.iter().filter(counted).map(|f| f.test).collect();
    if let Some(n) = study.power.families.filter(|n| *n > 0 && *n < sizes.len() && p.leave_out_saturated) {
        sizes.truncate(n);
    }
    let seeds = study.seeds.len();
    let (families, adapters) = (sizes.len(), sizes.iter().sum());
    if study.held_out == HeldOut::Families {
        // A row for each group, of the pairs or adapters of its families.
        let of_pairs = |t: &Term| OF_PAIRS.contains(&t.metric.as_deref().unwrap_or(&p.metric));
        let each = if p.terms().iter().any(of_pairs) { 2 } else { 1 };
        let counts = |of: &&str| {
            study.families.iter().filter(counted).filter(|f| f.group == **of).map(|f| f.test / each).sum()
        };
        sizes = study.groups().iter().map(counts).filter(|n| *n > 0).collect();
    }
    // A weighted sum varies as its weights say; a difference of two arms as the file says.
    let terms = p.terms();
    let plain = terms.len() == 2 && terms.iter().all(|t| t.weight.abs() == 1.0);
    let spread = (!plain).then(|| (terms.iter().map(|t| t.weight * t.weight).sum::<f64>() / 2.0).sqrt());
    let share = |delta: f64, wanted: &str| {
        let stream = format!("power|{}|{}|{delta}", study.name, p.name);
        let found = (0..study.power.simulations)
            .filter(|i| {
                let d = simulate(
                    (&sizes, study.held_out),
                    seeds,
                    delta,
                    (&study.power, spread),
                    &format!("{stream}|{i}"),
                );
                word(&d, &study.rule, p.not_inferior_by) == wanted
            })
            .count();
        found as f64 / study.power.simulations as f64
    };
    let side = |delta: f64| {
        if p.not_inferior_by.is_some() {
            "not inferior"
        } else if delta < 0.0 {
            "worse"
        } else {
            "better"
        }
    };
    let mut deltas = vec![p.expected];
    deltas.extend(BESIDE.iter().map(|d| d.copysign(p.expected)).filter(|d| *d != p.expected));
    PowerRow {
        primary: p.name.clone(),
        families,
        adapters,
        seeds,
        at: deltas.into_iter().map(|d| (d, share(d, side(d)))).collect(),
        equal_at_zero: share(0.0, if p.not_inferior_by.is_some() { "not inferior" } else { "equal" }),
    }
}

/// One made-up study: families whose difference varies about `delta`, adapters on which the arms differ or not, seeds that shift all.
/// Where families are held out the sizes are of groups, and each is one row.
/// `spread` is given for sums that are no plain difference: how much more than one they vary.
fn simulate(
    (sizes, held_out): (&[usize], HeldOut),
    seeds: usize,
    delta: f64,
    (assumed, spread): (&Power, Option<f64>),
    stream: &str,
) -> Difference {
    let mut rng = ChaCha8Rng::from_seed(*blake3::hash(stream.as_bytes()).as_bytes());
    let normal = |rng: &mut ChaCha8Rng| {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    };
    let shifts: Vec<f64> = (0..seeds).map(|_| assumed.seed_sd * normal(&mut rng)).collect();
    let mut families: Vec<Vec<Vec<f64>>> = sizes
        .iter()
        .map(|n| {
            let of_family = delta + assumed.families_sd * normal(&mut rng);
            let adapters = 0..(*n).max(1);
            adapters
                .map(|_| {
                    // What an adapter is does not change with the reader's seed; half of its luck does.
                    let fixed: f64 = rng.random();
                    shifts
                        .iter()
                        .map(|shift| {
                            let luck = if rng.random_bool(0.5) { fixed } else { rng.random() };
                            let own = of_family + shift;
                            match spread {
                                None => drawn(own.clamp(-1.0, 1.0), assumed.discordance, luck),
                                Some(spread) => own + spread * drawn(0.0, assumed.discordance, luck),
                            }
                        })
                        .collect()
                })
                .collect()
        })
        .collect();
    if held_out == HeldOut::Families {
        families = vec![families.iter().map(|rows| mean_row(&rows.iter().collect::<Vec<_>>())).collect()];
    }
    difference(held_out, &families, if spread.is_none() { Scale::Share } else { Scale::Open }, stream)
}

/// -1, 0 or 1, with a mean and a share of those that are not 0.
fn drawn(mean: f64, differ: f64, luck: f64) -> f64 {
    let differ = differ.max(mean.abs());
    let up = differ.midpoint(mean);
    if luck < up {
        1.0
    } else if luck < differ {
        -1.0
    } else {
        0.0
    }
}

impl Primary {
    /// Whether a family takes part, as far as the file says.
    pub fn is_over(&self, f: &Family) -> bool {
        self.over.is_empty() || self.over.iter().any(|o| o == f.name() || *o == f.group)
    }
}

/// The rule in words.
pub fn rule_text(rule: &Rule) -> String {
    format!(
        "better or worse: the 95% interval excludes 0 and the difference is at least {}; equal: two one-sided tests at .05 within {}; else no verdict",
        rule.least, rule.margin
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::SMALL;

    fn study(test: usize, families_sd: f64) -> Study {
        let mut s = Study::parse("s.toml", SMALL).unwrap();
        s.families.truncate(1);
        s.families[0].test = test;
        s.power = Power { families_sd, simulations: 60, ..Power::default() };
        s
    }

    fn of(study: &Study) -> Vec<PowerRow> {
        power(study, &study.families.iter().map(Family::name).collect())
    }

    #[test]
    fn power_grows_with_adapters_and_with_the_difference() {
        let (few, many) = (of(&study(8, 0.0)).remove(0), of(&study(200, 0.0)).remove(0));
        assert!(few.expected() < 0.6 && many.expected() > 0.9, "{few:?} {many:?}");
        assert_eq!((many.families, many.adapters, many.seeds, many.at[0].0), (1, 200, 3, 0.2));
        let at = |d: f64| many.at.iter().find(|a| a.0 == d).unwrap().1;
        assert!(at(0.05) < at(0.15), "{many:?}");
        assert_eq!(of(&study(8, 0.0)), of(&study(8, 0.0)));
    }

    #[test]
    fn a_sum_of_small_weights_is_known_better_than_a_difference() {
        let mut s = study(40, 0.0);
        s.primaries[0].expected = 0.1;
        let plain = of(&s).remove(0).expected();
        let term = |weight: f64, arm: &str| crate::file::Term {
            weight,
            arm: arm.into(),
            family: None,
            split: None,
            context: None,
            metric: None,
        };
        s.primaries[0].arm = None;
        s.primaries[0].minus = None;
        s.primaries[0].terms = vec![term(0.2, "dit"), term(-0.2, "lens")];
        let light = of(&s).remove(0).expected();
        assert!(light > plain + 0.2, "{light} {plain}");
    }

    #[test]
    fn where_there_is_no_difference_none_is_found() {
        let mut s = study(100, 0.0);
        s.primaries[0].expected = 0.0;
        let row = of(&s).remove(0);
        assert!(row.at[0].1 <= 0.1, "{row:?}");
        assert_eq!(row.expected(), row.equal_at_zero);
    }

    #[test]
    fn where_families_are_held_out_their_groups_are_what_grows_power() {
        let held_out = |groups: usize| {
            let mut s = study(2, 0.1);
            s.held_out = HeldOut::Families;
            s.primaries[0].expected = 0.4;
            let like = s.families[0].clone();
            let family = |i: usize| {
                let (name, group) = (Some(format!("f{i}")), format!("g{}", i % groups));
                Family { name, group, ..like.clone() }
            };
            s.families = (0..24).map(family).collect();
            of(&s).remove(0)
        };
        let (few, many) = (held_out(2), held_out(24));
        assert_eq!((few.families, few.adapters), (24, 48));
        assert_eq!((few.families, few.adapters), (many.families, many.adapters));
        assert!(few.expected() + 0.2 < many.expected(), "{few:?} {many:?}");
    }

    #[test]
    fn families_that_carry_nothing_count_for_nothing() {
        let s = Study::parse("s.toml", SMALL).unwrap();
        let row = power(&s, &BTreeSet::from(["favourite"])).remove(0);
        assert_eq!((row.families, row.adapters, s.families.len()), (1, 8, 2));
    }
}
