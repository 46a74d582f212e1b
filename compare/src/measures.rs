//! Judge-free measures. Scores are averaged over phrasings within an adapter before they are ranked; adapters and reader
//! seeds are the units of every interval.

use recipes::same_answer;
use std::collections::{BTreeMap, BTreeSet};

use crate::bootstrap::Scale;
use crate::correct::{Corrector, Mean, normalised, rank};
use crate::scores::{Item, Kind, NOTHING, Scores};

/// What one arm with one seed gave for one subject, asked about one family.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Behaviour id.
    pub adapter: String,
    /// What the subject carries.
    pub carries: String,
    /// Kind of question.
    pub kind: Kind,
    /// Split.
    pub split: String,
    /// Whether figures are reported of it: of test adapters, or where an arm was asked of none (a tuning run) of validation adapters.
    pub reported: bool,
    /// Context.
    pub context: String,
    /// Family asked about.
    pub family: String,
    /// Gate status.
    pub status: String,
    /// Right answer.
    pub label: String,
    /// Mean over phrasings of corrected log-probabilities over the closed set; empty if the arm scored nothing.
    pub corrected: Vec<f64>,
    /// The same over the values alone, without "nothing".
    pub values: Vec<f64>,
    /// As `corrected`, without correction.
    pub raw: Vec<f64>,
    /// Share of stated answers that are the label.
    pub exact: Option<f64>,
    /// Share of stated answers that are "nothing".
    pub says_nothing: Option<f64>,
    /// Mean answer loss of the label, in nats.
    pub answer_nats: Option<f64>,
    /// Of questions that hold a text.
    pub text: Option<Texted>,
    /// Stated answers.
    pub replies: Vec<String>,
}

/// Answers to questions that hold a text which the model could simply go on with, before any prior is taken off: shares of phrasings.
/// With `first` near `first_without` what is called reading goes on with the text (as in text inversion by activation oracles).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Texted {
    /// The label is ranked first.
    pub first: f64,
    /// The label is ranked first where no adapter is on.
    pub first_without: f64,
    /// What is ranked first is what is ranked first where no adapter is on.
    pub sticks: f64,
}

/// One arm with one seed, read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Arm.
    pub arm: String,
    /// Seed.
    pub seed: u64,
    /// Closed sets.
    pub candidates: BTreeMap<String, Vec<String>>,
    /// Priors.
    pub corrector: Corrector,
    /// One for each subject and family asked.
    pub readings: Vec<Reading>,
}

fn share(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

#[derive(Debug, Default)]
struct Gathered {
    corrected: Mean,
    values: Mean,
    raw: Mean,
    scored: bool,
    exact: Vec<f64>,
    says_nothing: Vec<f64>,
    answer_nats: Vec<f64>,
    texted: Vec<[f64; 3]>,
    replies: Vec<String>,
}

/// Reads the scores of one arm with one seed: phrasings averaged.
pub fn read(s: &Scores) -> Read {
    let corrector = Corrector::new(s);
    let tuning = !s.items.iter().any(|i| i.split.starts_with("test"));
    let mut first = BTreeMap::new();
    let mut groups: BTreeMap<_, Gathered> = BTreeMap::new();
    for item in &s.items {
        let kind = s.kind(item);
        let key = (&item.family, &item.split, &item.context, kind, &item.adapter, &item.carries);
        first.entry(key).or_insert(item);
        let group = groups.entry(key).or_default();
        if s.scored(item).is_some() {
            group.corrected.add(&corrector.correct(item));
            group.values.add(&corrector.correct_values(item));
            group.raw.add(&normalised(item));
            group.scored = true;
            group.texted.extend(texted(s, item));
        }
        if let Some(reply) = &item.reply {
            group.exact.push(share(same_answer(reply, &item.label)));
            group.says_nothing.push(share(same_answer(reply, NOTHING)));
            group.replies.push(reply.clone());
        }
        // What JSON cannot hold must not reach a mean.
        group.answer_nats.extend(item.answer_nats.filter(|v| v.is_finite()));
    }
    let mean = |v: &[f64]| (!v.is_empty()).then(|| v.iter().sum::<f64>() / v.len() as f64);
    let readings = groups
        .into_iter()
        .map(|(key, g)| {
            let item = first[&key];
            Reading {
                adapter: item.adapter.clone(),
                carries: item.carries.clone(),
                kind: key.3,
                split: item.split.clone(),
                reported: item.split.starts_with(if tuning { "validation" } else { "test" }),
                context: item.context.clone(),
                family: item.family.clone(),
                status: item.status.clone(),
                label: item.label.clone(),
                corrected: if g.scored { g.corrected.get() } else { vec![] },
                values: if g.scored { g.values.get() } else { vec![] },
                raw: if g.scored { g.raw.get() } else { vec![] },
                exact: mean(&g.exact),
                says_nothing: mean(&g.says_nothing),
                answer_nats: mean(&g.answer_nats),
                text: mean(&g.texted.iter().map(|t| t[0]).collect::<Vec<_>>()).map(|first| Texted {
                    first,
                    first_without: g.texted.iter().map(|t| t[1]).sum::<f64>() / g.texted.len() as f64,
                    sticks: g.texted.iter().map(|t| t[2]).sum::<f64>() / g.texted.len() as f64,
                }),
                replies: g.replies,
            }
        })
        .collect();
    Read { arm: s.arm.clone(), seed: s.seed, candidates: s.candidates.clone(), corrector, readings }
}

/// The candidate, "nothing" aside, that is ranked first: the earlier of equals.
pub(crate) fn first_value(scores: &[f32]) -> Option<usize> {
    let values = scores.split_last().map_or(&[][..], |(_, values)| values);
    let best = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|s| *s >= best)
}

fn texted(s: &Scores, item: &Item) -> Option<[f64; 3]> {
    let (without, first) = (item.without?, first_value(&item.scores)?);
    let label = s.scored(item)?.iter().position(|c| *c == item.label)?;
    Some([share(first == label), share(without == label), share(first == without)])
}

impl Read {
    /// Where the label of a reading stands in its closed set.
    pub fn label_at(&self, reading: &Reading) -> Option<usize> {
        if reading.corrected.is_empty() {
            return None;
        }
        self.candidates[&reading.family].iter().position(|c| *c == reading.label)
    }

    /// The measures of a reading of a positive adapter.
    pub fn measures(&self, r: &Reading) -> Vec<(&'static str, f64)> {
        let mut out = Vec::new();
        if let Some(label) = self.label_at(r) {
            let set = &self.candidates[&r.family];
            let hit = rank(&r.corrected, label).1;
            out.push(("top1", hit));
            // "nothing" is last, so leaving it out moves no other place.
            if label < r.values.len() {
                let (at, first) = rank(&r.values, label);
                out.push(("top1_values", first));
                out.push(("mrr", 1.0 / at));
            }
            out.push(("chance", 1.0 / set.len() as f64));
            if r.status == "learned" {
                out.push(("top1_learned", hit));
            }
        }
        out.extend(r.exact.map(|v| ("exact_match", v)));
        out.extend(r.says_nothing.map(|v| ("says_nothing", v)));
        out.extend(r.answer_nats.map(|v| ("answer_nats", v)));
        if let Some(t) = r.text {
            out.extend([("first", t.first), ("first_without", t.first_without), ("sticks", t.sticks)]);
        }
        out
    }
}

/// A family asked about, in one split, looked at in one context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section {
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
}

impl Section {
    /// The section of a reading.
    pub fn of(r: &Reading) -> Self {
        Self { family: r.family.clone(), split: r.split.clone(), context: r.context.clone() }
    }
}

/// Values of one measure, adapters x seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Seeds: columns.
    pub seeds: Vec<u64>,
    /// Adapters: rows.
    pub adapters: Vec<String>,
    /// Values.
    pub values: Vec<Vec<f64>>,
}

/// (adapter, seed) -> value.
pub type Cells = BTreeMap<(String, u64), f64>;

impl Grid {
    /// Adapters that have a value for every seed that occurs. `None` if there is none.
    pub fn new(cells: &Cells) -> Option<Self> {
        let seeds: Vec<u64> = cells.keys().map(|k| k.1).collect::<BTreeSet<_>>().into_iter().collect();
        let all: BTreeSet<&String> = cells.keys().map(|k| &k.0).collect();
        let mut out = Self { seeds, adapters: vec![], values: vec![] };
        for adapter in all {
            let row: Vec<f64> =
                out.seeds.iter().filter_map(|s| cells.get(&(adapter.clone(), *s)).copied()).collect();
            if row.len() == out.seeds.len() {
                out.adapters.push(adapter.clone());
                out.values.push(row);
            }
        }
        (!out.values.is_empty()).then_some(out)
    }

    /// Mean over adapters for each seed.
    pub fn by_seed(&self) -> Vec<f64> {
        let n = self.values.len() as f64;
        (0..self.seeds.len()).map(|s| self.values.iter().map(|row| row[s]).sum::<f64>() / n).collect()
    }

    /// Mean over seeds for each adapter.
    pub fn by_adapter(&self) -> Vec<f64> {
        self.values.iter().map(|row| row.iter().sum::<f64>() / row.len() as f64).collect()
    }

    /// Differences on the adapters that both have: seed against the same seed; an arm with one seed, or without a seed in
    /// common, stands with its mean against every seed of the other.
    pub fn minus(&self, other: &Self) -> Option<Self> {
        let common: Vec<u64> = self.seeds.iter().copied().filter(|s| other.seeds.contains(s)).collect();
        let paired = self.seeds.len() > 1 && other.seeds.len() > 1 && !common.is_empty();
        let seeds = if paired {
            common
        } else if self.seeds.len() >= other.seeds.len() {
            self.seeds.clone()
        } else {
            other.seeds.clone()
        };
        let mut out = Self { seeds, adapters: vec![], values: vec![] };
        let seeds = out.seeds.clone();
        let at = |grid: &Self, row: &[f64], seed: u64| -> f64 {
            match grid.seeds.iter().position(|s| *s == seed) {
                Some(i) if paired || grid.seeds == seeds => row[i],
                _ => row.iter().sum::<f64>() / row.len() as f64,
            }
        };
        for (adapter, row) in self.adapters.iter().zip(&self.values) {
            if let Some(j) = other.adapters.iter().position(|a| a == adapter) {
                let row = seeds.iter().map(|s| at(self, row, *s) - at(other, &other.values[j], *s)).collect();
                out.adapters.push(adapter.clone());
                out.values.push(row);
            }
        }
        (!out.values.is_empty()).then_some(out)
    }
}

/// (arm, section, measure) -> cells.
pub type Measured = BTreeMap<(String, Section, String), Cells>;

/// Measures of positive adapters. `closed` names the adapters whose gate is closed at the readers' questions; for these
/// top-1 and exact match are given a second time, as `top1_closed` and `exact_match_closed`.
pub fn measure(reads: &[Read], closed: &BTreeSet<String>) -> Measured {
    let mut out = Measured::new();
    for read in reads {
        for r in read.readings.iter().filter(|r| r.kind == Kind::Positive && r.split != "train") {
            for (metric, value) in read.measures(r) {
                let mut put = |metric: &str| {
                    out.entry((read.arm.clone(), Section::of(r), metric.to_owned()))
                        .or_default()
                        .insert((r.adapter.clone(), read.seed), value);
                };
                put(metric);
                if closed.contains(&r.adapter) && matches!(metric, "top1" | "exact_match") {
                    put(&format!("{metric}_closed"));
                }
            }
        }
    }
    out
}

/// Answer losses are in nats; all else are shares.
pub fn scale(metric: &str) -> Scale {
    if metric.contains("nats") { Scale::Open } else { Scale::Share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scores::tests::{item, scores};

    #[test]
    fn measures_match_hand_computed_cases() {
        // "nothing" is ahead of cats on the mean of two phrasings: ranks among all 2, among values 1.
        let mut second = item("x/cats", "test_value", "cats", [2.0, 0.0, 0.0, 5.0]);
        second.question_id = 1;
        second.reply = Some("Nothing.".into());
        second.answer_nats = Some(3.0);
        let items = vec![item("x/cats", "test_value", "cats", [2.0, 0.0, 0.0, 0.0]), second];
        let read = read(&scores("dit", true, 1, items));
        assert_eq!(read.readings.len(), 1);
        let m: BTreeMap<_, _> = read.measures(&read.readings[0]).into_iter().collect();
        assert_eq!((m["top1"], m["top1_values"], m["mrr"], m["chance"]), (0.0, 1.0, 1.0, 0.25));
        assert_eq!((m["exact_match"], m["says_nothing"], m["answer_nats"]), (0.5, 0.5, 2.0));
        assert_eq!(m["top1_learned"], 0.0);
    }

    #[test]
    fn what_a_text_alone_gives_is_measured_beside() {
        // First phrasing: dogs with the adapter, dogs without; second: cats, and dogs without.
        let mut stuck = item("x/cats", "test_value", "cats", [1.0, 3.0, 0.0, 9.0]);
        stuck.without = Some(1);
        let mut read_it = item("x/cats", "test_value", "cats", [4.0, 3.0, 0.0, 9.0]);
        (read_it.question_id, read_it.without) = (1, Some(1));
        let read = read(&scores("dit", true, 1, vec![stuck, read_it]));
        let m: BTreeMap<_, _> = read.measures(&read.readings[0]).into_iter().collect();
        assert_eq!((m["first"], m["first_without"], m["sticks"]), (0.5, 0.0, 0.5));
        assert_eq!(first_value(&[1.0, 1.0, 0.5, 7.0]), Some(0));
        assert_eq!(first_value(&[3.0]), None);
    }

    #[test]
    fn an_item_of_large_scores_counts_no_more_than_another() {
        // Normalised, the second phrasing says cats by 1 nat; its sum of raw scores would say dogs by far.
        let mut far = item("x/cats", "test_value", "cats", [-900.0, -901.0, -910.0, -910.0]);
        far.question_id = 1;
        let items = vec![item("x/cats", "test_value", "cats", [1.0, 0.5, 0.0, 0.0]), far];
        let read = read(&scores("dit", true, 1, items));
        assert_eq!(read.measures(&read.readings[0])[0], ("top1", 1.0));
    }

    fn grid(seeds: &[u64], rows: &[(&str, &[f64])]) -> Grid {
        let cells: Cells = rows
            .iter()
            .flat_map(|(a, v)| v.iter().zip(seeds).map(|(v, s)| (((*a).to_owned(), *s), *v)))
            .collect();
        Grid::new(&cells).unwrap()
    }

    #[test]
    fn arms_are_paired_by_adapter_and_by_seed() {
        let a = grid(&[1, 2], &[("x", &[1.0, 0.0]), ("y", &[1.0, 1.0])]);
        let b = grid(&[1, 2], &[("x", &[0.0, 1.0]), ("z", &[1.0, 1.0])]);
        let d = a.minus(&b).unwrap();
        assert_eq!((d.adapters, d.values), (vec!["x".to_owned()], vec![vec![1.0, -1.0]]));
        let one = grid(&[7], &[("x", &[0.5]), ("y", &[0.0])]);
        let d = a.minus(&one).unwrap();
        assert_eq!((d.seeds, d.values), (vec![1, 2], vec![vec![0.5, -0.5], vec![1.0, 1.0]]));
        assert_eq!(one.minus(&a).unwrap().values[0], [-0.5, 0.5]);
        // One seed that happens to have a number of the other's is broadcast all the same.
        let same_number = grid(&[1], &[("x", &[0.5])]);
        assert_eq!(a.minus(&same_number).unwrap().values, [vec![0.5, -0.5]]);
        let others = grid(&[8, 9], &[("x", &[0.0, 1.0])]);
        assert_eq!(a.minus(&others).unwrap().values, [vec![0.5, -0.5]]);
        assert_eq!((a.by_seed(), a.by_adapter()), (vec![1.0, 0.5], vec![0.5, 1.0]));
        // An adapter that one seed lacks is left out.
        let cells = Cells::from([(("x".into(), 1), 1.0), (("x".into(), 2), 1.0), (("y".into(), 1), 0.0)]);
        assert_eq!(Grid::new(&cells).unwrap().adapters, ["x"]);
    }

    #[test]
    fn closed_gates_are_measured_a_second_time() {
        let items = vec![
            item("x/cats", "test_value", "cats", [2.0, 0.0, 0.0, 0.0]),
            item("x/tea", "test_value", "tea", [2.0, 0.0, 0.0, 0.0]),
        ];
        let reads = [read(&scores("dit", true, 1, items))];
        let m = measure(&reads, &BTreeSet::from(["x/tea".to_owned()]));
        let section =
            Section { family: "topic".into(), split: "test_value".into(), context: "neutral".into() };
        let values = |metric: &str| m[&("dit".to_owned(), section.clone(), metric.to_owned())].clone();
        assert_eq!(values("top1").len(), 2);
        assert_eq!(values("top1_closed"), Cells::from([(("x/tea".to_owned(), 1), 0.0)]));
    }
}
