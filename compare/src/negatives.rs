//! Subjects that carry nothing that was asked: how often an arm names something all the same, whether its score tells them
//! from real ones, and what it says of the base model.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::bootstrap::{Interval, quantile, stream, wilson};
use crate::correct::rank;
use crate::measures::{Cells, Read, Reading, Section};
use crate::scores::{Kind, NOTHING};

/// Draws for the interval of an AUROC.
const DRAWS: usize = 1_000;

/// Name of the group of all negatives (without foreign adapters).
pub const POOLED: &str = "all negatives";
/// Name of the group of adapters of other families.
pub const FOREIGN: &str = "foreign";

/// Groups that a reading belongs to as a negative.
pub fn groups(r: &Reading) -> Vec<String> {
    match r.kind {
        Kind::Negative => vec![r.carries.clone(), POOLED.to_owned()],
        Kind::Foreign => vec![FOREIGN.to_owned()],
        _ => vec![],
    }
}

/// Whether a split is one that figures are reported of.
pub fn reported(split: &str) -> bool {
    split.starts_with("test")
}

/// (arm, family asked, group, context, measure).
pub type NegativeKey = (String, String, String, String, &'static str);

/// False positives (share of stated answers other than "nothing") and the share of subjects for which "nothing" ranks
/// first, over the test splits.
pub fn measure_negatives(reads: &[Read]) -> BTreeMap<NegativeKey, Cells> {
    let mut out: BTreeMap<NegativeKey, Cells> = BTreeMap::new();
    for read in reads {
        for r in read.readings.iter().filter(|r| reported(&r.split)) {
            for group in groups(r) {
                let mut put = |metric, value| {
                    out.entry((read.arm.clone(), r.family.clone(), group.clone(), r.context.clone(), metric))
                        .or_default()
                        .insert((r.adapter.clone(), read.seed), value);
                };
                if let Some(nothing) = read.label_at(r) {
                    put("nothing_top1", rank(&r.corrected, nothing).1);
                }
                if let Some(said) = r.says_nothing {
                    put("false_positive_rate", 1.0 - said);
                }
            }
        }
    }
    out
}

/// Chance that a positive scores above a negative, ties half; weights are how often each was drawn.
fn area(ordered: &[(f64, bool, usize)], positive: &[f64], negative: &[f64]) -> f64 {
    let (mut below, mut wins, mut start) = (0.0, 0.0, 0);
    while start < ordered.len() {
        let same = ordered[start..].iter().take_while(|x| x.0 == ordered[start].0).count();
        let (mut p, mut q) = (0.0, 0.0);
        for (_, is_positive, i) in &ordered[start..start + same] {
            if *is_positive {
                p += positive[*i];
            } else {
                q += negative[*i];
            }
        }
        wins += p * (below + q / 2.0);
        below += q;
        start += same;
    }
    wins / (positive.iter().sum::<f64>() * negative.iter().sum::<f64>())
}

fn order(positive: &[f64], negative: &[f64]) -> Vec<(f64, bool, usize)> {
    let side = |values: &[f64], flag| -> Vec<(f64, bool, usize)> {
        values.iter().enumerate().map(|(i, v)| (*v, flag, i)).collect()
    };
    let mut all = [side(positive, true), side(negative, false)].concat();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// AUROC of `positive` against `negative` (one pair of lists for each seed, adapters in the same order), averaged over
/// seeds, with a 95% bootstrap interval over positives, negatives and seeds, at least as wide as Wilson's of as many
/// subjects as the smaller side has.
pub fn auroc(seeds: &[(Vec<f64>, Vec<f64>)], purpose: &str) -> Option<Interval> {
    let (p, q) = seeds.first().map(|s| (s.0.len(), s.1.len()))?;
    if p == 0 || q == 0 {
        return None;
    }
    let ordered: Vec<_> = seeds.iter().map(|(a, b)| order(a, b)).collect();
    let (ones, others) = (vec![1.0; p], vec![1.0; q]);
    let value = ordered.iter().map(|o| area(o, &ones, &others)).sum::<f64>() / seeds.len() as f64;
    let mut rng = stream(purpose);
    let mut draw = |n: usize| {
        let mut weights = vec![0.0; n];
        for _ in 0..n {
            weights[rng.random_range(0..n)] += 1.0;
        }
        weights
    };
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let (a, b, s) = (draw(p), draw(q), draw(seeds.len()));
            let total: f64 =
                ordered.iter().zip(&s).map(|(o, w)| if *w > 0.0 { w * area(o, &a, &b) } else { 0.0 }).sum();
            total / seeds.len() as f64
        })
        .collect();
    draws.sort_unstable_by(f64::total_cmp);
    let few = p.min(q) as f64;
    let (least, most) = wilson(value * few, few);
    Some(Interval { value, low: quantile(&draws, 0.025).min(least), high: quantile(&draws, 0.975).max(most) })
}

/// -log p("nothing") over the closed set, averaged over phrasings, without correction.
fn something(read: &Read, r: &Reading) -> Option<f64> {
    let nothing = read.candidates.get(&r.family)?.iter().position(|c| c == NOTHING)?;
    r.raw.get(nothing).map(|l| -l)
}

/// AUROC for one arm (its reads of all seeds): positives of `section` against each group of negatives asked the same.
/// Groups -> (AUROC, positives, negatives).
pub fn detect(reads: &[&Read], section: &Section) -> BTreeMap<String, (Interval, usize, usize)> {
    let mut positives = Cells::new();
    let mut negatives: BTreeMap<String, Cells> = BTreeMap::new();
    for read in reads {
        for r in &read.readings {
            let Some(score) = something(read, r) else { continue };
            let key = (r.adapter.clone(), read.seed);
            if r.kind == Kind::Positive && Section::of(r) == *section {
                positives.insert(key, score);
            } else if r.family == section.family && reported(&r.split) && r.context == section.context {
                for group in groups(r) {
                    negatives.entry(group).or_default().insert(key.clone(), score);
                }
            }
        }
    }
    let Some(arm) = reads.first().map(|r| &r.arm) else { return BTreeMap::new() };
    let Some(positive) = crate::measures::Grid::new(&positives) else { return BTreeMap::new() };
    negatives
        .iter()
        .filter_map(|(group, cells)| {
            let negative = crate::measures::Grid::new(cells).filter(|g| g.seeds == positive.seeds)?;
            let column = |g: &crate::measures::Grid, s: usize| g.values.iter().map(|r| r[s]).collect();
            let seeds: Vec<(Vec<f64>, Vec<f64>)> =
                (0..positive.seeds.len()).map(|s| (column(&positive, s), column(&negative, s))).collect();
            let purpose =
                format!("auroc|{arm}|{}|{}|{}|{group}", section.family, section.split, section.context);
            Some((group.clone(), (auroc(&seeds, &purpose)?, positive.values.len(), negative.values.len())))
        })
        .collect()
}

/// AUROC of a property of adapters alone, such as their norm: what no reader is needed for.
pub fn detect_by(
    values: &BTreeMap<String, f64>,
    reads: &[Read],
    section: &Section,
    name: &str,
) -> BTreeMap<String, (Interval, usize, usize)> {
    let mut positives: BTreeSet<&String> = BTreeSet::new();
    let mut negatives: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
    for r in reads.iter().flat_map(|r| &r.readings) {
        if r.kind == Kind::Positive && Section::of(r) == *section {
            positives.insert(&r.adapter);
        } else if r.family == section.family && reported(&r.split) && r.context == section.context {
            for group in groups(r) {
                negatives.entry(group).or_default().insert(&r.adapter);
            }
        }
    }
    let of = |set: &BTreeSet<&String>| -> Vec<f64> {
        set.iter().filter_map(|a| values.get(*a).copied()).collect()
    };
    let positive = of(&positives);
    negatives
        .iter()
        .filter_map(|(group, set)| {
            let negative = of(set);
            let purpose =
                format!("auroc|{name}|{}|{}|{}|{group}", section.family, section.split, section.context);
            let (p, q) = (positive.len(), negative.len());
            Some((group.clone(), (auroc(&[(positive.clone(), negative)], &purpose)?, p, q)))
        })
        .collect()
}

/// What one seed of an arm says when nothing is on: (most frequent answer, its share, answers), by (family, context).
pub fn base_answers(read: &Read) -> BTreeMap<(String, String), (String, f64, usize)> {
    let mut counts: BTreeMap<(String, String), BTreeMap<String, usize>> = BTreeMap::new();
    for r in read.readings.iter().filter(|r| r.kind == Kind::Base) {
        let slot = counts.entry((r.family.clone(), r.context.clone())).or_default();
        for reply in &r.replies {
            *slot.entry(reply.trim().to_lowercase()).or_default() += 1;
        }
        if r.replies.is_empty() && !r.raw.is_empty() {
            let best = (0..r.raw.len()).fold(0, |b, i| if r.raw[i] > r.raw[b] { i } else { b });
            *slot.entry(read.candidates[&r.family][best].clone()).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .filter_map(|(key, counts)| {
            let n: usize = counts.values().sum();
            let (said, times) = counts.into_iter().rev().max_by_key(|(_, n)| *n)?;
            Some((key, (said.chars().take(40).collect(), times as f64 / n as f64, n)))
        })
        .collect()
}

/// `base_top1`: how often the answer about the base model is the label of an adapter of the section. A reader that guesses
/// well without any adapter shows here.
pub fn base_hits(read: &Read, section: &Section) -> Cells {
    let mut means: BTreeMap<&str, crate::correct::Mean> = BTreeMap::new();
    for r in &read.readings {
        if r.kind == Kind::Base && r.family == section.family && !r.raw.is_empty() {
            means.entry(&r.context).or_default().add(&r.raw);
        }
    }
    let Some(scores) =
        means.get(section.context.as_str()).or_else(|| means.values().next()).map(crate::correct::Mean::get)
    else {
        return Cells::new();
    };
    read.readings
        .iter()
        .filter(|r| r.kind == Kind::Positive && Section::of(r) == *section)
        .filter_map(|r| {
            let label = read.candidates[&r.family].iter().position(|c| *c == r.label)?;
            Some(((r.adapter.clone(), read.seed), rank(&scores, label).1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::{Grid, read};
    use crate::scores::Subject;
    use crate::scores::tests::{item, scores};

    #[test]
    fn areas_match_hand_computed_cases() {
        let value = |p: &[f64], q: &[f64]| auroc(&[(p.to_vec(), q.to_vec())], "x").unwrap().value;
        assert_eq!(value(&[2.0, 3.0], &[0.0, 1.0]), 1.0);
        assert_eq!(value(&[1.0], &[1.0]), 0.5);
        // Pairs: 3>1, 3>2, 2>1 and one tie: 3.5 of 4.
        assert_eq!(value(&[3.0, 2.0], &[1.0, 2.0]), 0.875);
        assert_eq!(value(&[0.0], &[1.0, 2.0]), 0.0);
        assert!(auroc(&[(vec![], vec![1.0])], "x").is_none());
        let i = auroc(&[(vec![1.0; 4], vec![0.0; 9])], "x").unwrap();
        assert!(i.value == 1.0 && i.low < 0.6 && i.high == 1.0, "few subjects are not certain: {i:?}");
        let two = auroc(&[(vec![1.0], vec![0.0]), (vec![0.0], vec![1.0])], "x").unwrap();
        assert_eq!((two.value, two.low), (0.5, 0.0));
    }

    #[test]
    fn the_interval_of_an_area_covers_the_truth() {
        let mut rng = stream("area coverage");
        // Uniform scores, positives shifted by .5: P(positive above negative) = 1 - .5 * .5^2 = .875.
        let covered = (0..100)
            .filter(|trial| {
                let positive: Vec<f64> = (0..20).map(|_| rng.random::<f64>() + 0.5).collect();
                let negative: Vec<f64> = (0..16).map(|_| rng.random::<f64>()).collect();
                let i = auroc(&[(positive, negative)], &trial.to_string()).unwrap();
                i.low <= 0.875 && 0.875 <= i.high
            })
            .count();
        assert!(covered >= 90, "{covered} of 100");
    }

    fn arm() -> Read {
        let mut says_cats = item("dud/1", "test_value", NOTHING, [5.0, 0.0, 0.0, 1.0]);
        says_cats.reply = Some("cats".into());
        let mut foreign = item("gated/x", "test_value", NOTHING, [0.0, 0.0, 0.0, 1.0]);
        foreign.carries = "gated-topic".into();
        let mut base = item("base", "test_value", NOTHING, [9.0, 0.0, 0.0, 0.0]);
        base.subject = Subject::Base;
        base.reply = Some("Cats".into());
        let mut s = scores(
            "dit",
            true,
            1,
            vec![
                item("x/cats", "test_value", "cats", [5.0, 0.0, 0.0, 0.0]),
                item("x/tea", "test_value", "tea", [0.0, 0.0, 5.0, 4.0]),
                says_cats,
                item("dud/2", "test_value", NOTHING, [0.0, 0.0, 0.0, 6.0]),
                item("dud/3", "train", NOTHING, [9.0, 0.0, 0.0, 0.0]),
                foreign,
                base,
            ],
        );
        s.candidates.insert("gated-topic".into(), vec!["x".into(), NOTHING.into()]);
        read(&s)
    }

    fn section() -> Section {
        Section { family: "topic".into(), split: "test_value".into(), context: "neutral".into() }
    }

    #[test]
    fn false_positives_and_first_ranks_of_nothing_are_counted_by_group() {
        let m = measure_negatives(&[arm()]);
        let mean = |group: &str, metric| {
            let key = ("dit".into(), "topic".into(), group.into(), "neutral".into(), metric);
            Grid::new(&m[&key]).unwrap().by_seed()[0]
        };
        assert_eq!(mean("dud", "false_positive_rate"), 0.5);
        assert_eq!(mean("dud", "nothing_top1"), 0.5);
        assert_eq!(mean(FOREIGN, "nothing_top1"), 1.0);
        assert_eq!(mean(POOLED, "false_positive_rate"), 0.5);
    }

    #[test]
    fn detection_and_the_base_model() {
        let r = arm();
        let found = detect(&[&r], &section());
        // -log p(nothing): cats 5.02, tea 1.33; dud/1 4.03, dud/2 .007: 3 of 4 pairs.
        assert!((found["dud"].0.value - 0.75).abs() < 1e-12 && found["dud"].1 == 2 && found["dud"].2 == 2);
        assert!(found.contains_key(FOREIGN));
        let norms = BTreeMap::from([
            ("x/cats".to_owned(), 1.0),
            ("x/tea".to_owned(), 2.0),
            ("dud/1".to_owned(), 1.5),
            ("dud/2".to_owned(), 0.5),
        ]);
        let by = detect_by(&norms, std::slice::from_ref(&r), &section(), "norm");
        assert!((by["dud"].0.value - 0.75).abs() < 1e-12);
        assert_eq!(base_answers(&r)[&("topic".into(), "neutral".into())], ("cats".into(), 1.0, 1));
        let hits = base_hits(&r, &section());
        assert_eq!(hits.values().copied().collect::<Vec<_>>(), [1.0, 0.0]);
    }
}
