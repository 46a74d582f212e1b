//! Subjects that carry nothing that was asked: how often an arm names something all the same, whether its score tells them
//! from real ones, and what it says of the base model.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::bootstrap::{Interval, quantile, stream, wilson};
use crate::correct::rank;
use crate::measures::{Cells, Grid, Read, Reading, Section};
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

/// (arm, family asked, group, context, measure).
pub type NegativeKey = (String, String, String, String, &'static str);

/// False positives (share of stated answers other than "nothing") and the share of subjects for which "nothing" ranks
/// first, over the reported splits.
pub fn measure_negatives(reads: &[Read]) -> BTreeMap<NegativeKey, Cells> {
    let mut out: BTreeMap<NegativeKey, Cells> = BTreeMap::new();
    for read in reads {
        for r in read.readings.iter().filter(|r| r.reported) {
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

/// Name of the group of pairs whose weight differences have nearly the same norm.
pub const MATCHED: &str = "same norm";

/// By how much, as a factor, the norms of a matched pair may differ.
const CALIPER: f64 = 1.1;

/// Fewer pairs than this are no group.
const LEAST_PAIRS: usize = 4;

/// Who is told from whom: for each group of negatives asked what a section asks, the section's positives and its members. One
/// group more pairs positives with negatives of any group by the norms of their weights, so that size tells nothing.
pub type Sides = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// The sides of a section.
pub fn sides(reads: &[Read], section: &Section, norms: &BTreeMap<String, f64>) -> Sides {
    let mut positives: BTreeSet<String> = BTreeSet::new();
    let mut groups_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for r in reads.iter().flat_map(|r| &r.readings) {
        if r.kind == Kind::Positive && Section::of(r) == *section {
            positives.insert(r.adapter.clone());
        } else if r.family == section.family && r.reported && r.context == section.context {
            for group in groups(r) {
                groups_of.entry(group).or_default().insert(r.adapter.clone());
            }
        }
    }
    let all: BTreeSet<String> = groups_of.values().flatten().cloned().collect();
    let pairs = matched(&positives, &all, norms);
    let mut out: Sides = groups_of.into_iter().map(|(g, set)| (g, (positives.clone(), set))).collect();
    if pairs.len() >= LEAST_PAIRS {
        out.insert(MATCHED.to_owned(), pairs.into_iter().unzip());
    }
    out
}

/// As many pairs as there are whose norms differ by less than the caliper, everybody in one pair at most.
fn matched(
    positives: &BTreeSet<String>,
    negatives: &BTreeSet<String>,
    norms: &BTreeMap<String, f64>,
) -> Vec<(String, String)> {
    let ordered = |set: &BTreeSet<String>| -> Vec<(f64, String)> {
        let mut list: Vec<(f64, String)> =
            set.iter().filter_map(|a| Some((*norms.get(a)?, a.clone()))).collect();
        list.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        list
    };
    let (p, q) = (ordered(positives), ordered(negatives));
    let (mut i, mut j, mut out) = (0, 0, vec![]);
    while let (Some((a, positive)), Some((b, negative))) = (p.get(i), q.get(j)) {
        if a.max(*b) <= a.min(*b) * CALIPER {
            out.push((positive.clone(), negative.clone()));
            (i, j) = (i + 1, j + 1);
        } else if a < b {
            i += 1;
        } else {
            j += 1;
        }
    }
    out
}

/// AUROC of -log p("nothing") for one arm (its reads of all seeds), by group: (AUROC, positives, negatives).
pub fn detect(
    reads: &[&Read],
    section: &Section,
    sides: &Sides,
) -> BTreeMap<String, (Interval, usize, usize)> {
    let mut scores = Cells::new();
    for read in reads {
        let here =
            |r: &&Reading| r.family == section.family && r.context == section.context && r.kind != Kind::Base;
        for r in read.readings.iter().filter(here) {
            if let Some(score) = something(read, r) {
                scores.insert((r.adapter.clone(), read.seed), score);
            }
        }
    }
    let Some(arm) = reads.first().map(|r| &r.arm) else { return BTreeMap::new() };
    areas(&scores, section, sides, arm)
}

/// AUROC of a property of adapters alone, such as their norm: what no reader is needed for.
pub fn detect_by(
    values: &BTreeMap<String, f64>,
    section: &Section,
    sides: &Sides,
    name: &str,
) -> BTreeMap<String, (Interval, usize, usize)> {
    let scores = values.iter().map(|(a, v)| ((a.clone(), 0), *v)).collect();
    areas(&scores, section, sides, name)
}

fn areas(
    scores: &Cells,
    section: &Section,
    sides: &Sides,
    name: &str,
) -> BTreeMap<String, (Interval, usize, usize)> {
    let grid = |set: &BTreeSet<String>| {
        Grid::new(&scores.iter().filter(|(k, _)| set.contains(&k.0)).map(|(k, v)| (k.clone(), *v)).collect())
    };
    let column = |g: &Grid, s: usize| -> Vec<f64> { g.values.iter().map(|r| r[s]).collect() };
    sides
        .iter()
        .filter_map(|(group, (positives, negatives))| {
            let (p, q) = (grid(positives)?, grid(negatives)?);
            if p.seeds != q.seeds {
                return None;
            }
            let seeds: Vec<_> = (0..p.seeds.len()).map(|s| (column(&p, s), column(&q, s))).collect();
            let purpose =
                format!("auroc|{name}|{}|{}|{}|{group}", section.family, section.split, section.context);
            Some((group.clone(), (auroc(&seeds, &purpose)?, p.values.len(), q.values.len())))
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
    use crate::measures::read;
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
        let norms = BTreeMap::from([
            ("x/cats".to_owned(), 1.0),
            ("x/tea".to_owned(), 2.0),
            ("dud/1".to_owned(), 1.5),
            ("dud/2".to_owned(), 0.5),
        ]);
        let sides = sides(std::slice::from_ref(&r), &section(), &norms);
        let found = detect(&[&r], &section(), &sides);
        // -log p(nothing): cats 5.02, tea 1.33; dud/1 4.03, dud/2 .007: 3 of 4 pairs.
        assert!((found["dud"].0.value - 0.75).abs() < 1e-12 && found["dud"].1 == 2 && found["dud"].2 == 2);
        assert!(found.contains_key(FOREIGN));
        let by = detect_by(&norms, &section(), &sides, "norm");
        assert!((by["dud"].0.value - 0.75).abs() < 1e-12);
        assert_eq!(base_answers(&r)[&("topic".into(), "neutral".into())], ("cats".into(), 1.0, 1));
        let hits = base_hits(&r, &section());
        assert_eq!(hits.values().copied().collect::<Vec<_>>(), [1.0, 0.0]);
    }

    #[test]
    fn matched_pairs_differ_little_in_norm_and_nobody_is_in_two() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<String>>();
        let norms: BTreeMap<String, f64> = [
            ("a", 1.0),
            ("b", 2.0),
            ("c", 2.05),
            ("d", 9.0),
            ("k", 1.08),
            ("l", 1.09),
            ("m", 2.2),
            ("n", 30.0),
        ]
        .into_iter()
        .map(|(n, v)| (n.to_owned(), v))
        .collect();
        let pairs = matched(&set(&["a", "b", "c", "d", "unknown"]), &set(&["k", "l", "m", "n"]), &norms);
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(p, n)| (p.as_str(), n.as_str())).collect();
        assert_eq!(pairs, [("a", "k"), ("b", "m")]);
    }
}
