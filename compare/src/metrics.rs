//! Judge-free metrics. A question's score is averaged within its adapter first; adapters are the units.

use std::collections::{BTreeMap, BTreeSet};

use crate::items::{Arm, Control, Diagnostics, ItemScore, Paired, ResultRow};
use crate::stats::{Scale, difference_interval, mean_interval};

/// Rank of the label's score among all (1 is best), ties counted half, so that order never helps; and the chance that it
/// is picked as the best, ties sharing it.
fn rank(scores: &[f64], label: usize) -> (f64, f64) {
    let own = scores[label];
    let (mut above, mut ties) = (0usize, 0usize);
    for (i, s) in scores.iter().enumerate() {
        if i != label {
            above += usize::from(*s > own);
            ties += usize::from(*s == own);
        }
    }
    let picked = if above == 0 { 1.0 / (ties + 1) as f64 } else { 0.0 };
    (1.0 + above as f64 + ties as f64 / 2.0, picked)
}

/// Lower case, words only, without a leading article.
pub fn normalise(text: &str) -> String {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric() && c != '-')
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .collect();
    let skip = usize::from(words.len() > 1 && ["a", "an", "the"].contains(&words[0].as_str()));
    words[skip..].join(" ")
}

fn share(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

/// Answer losses and their gaps are in nats; all else are shares.
fn scale(metric: &str) -> Scale {
    if metric == "answer_nll" || metric.starts_with("gap_") { Scale::Open } else { Scale::Share }
}

/// One (arm, control, split, family, question) and its candidates.
type Asked = (Arm, Control, String, String, usize, Vec<String>);

/// Mean score of each candidate over the items that were asked the same: the prior that `top1_prior_corrected` subtracts.
type Priors = BTreeMap<Asked, Vec<f64>>;

fn priors(items: &[ItemScore]) -> Priors {
    let mut sums: BTreeMap<_, (Vec<f64>, f64)> = BTreeMap::new();
    for item in items.iter().filter(|i| !i.negative) {
        let entry = sums.entry(key(item)).or_insert_with(|| (vec![0.0; item.log_probs.len()], 0.0));
        for (sum, x) in entry.0.iter_mut().zip(&item.log_probs) {
            *sum += x;
        }
        entry.1 += 1.0;
    }
    sums.into_iter().map(|(k, (sum, n))| (k, sum.into_iter().map(|s| s / n).collect())).collect()
}

fn key(item: &ItemScore) -> Asked {
    (
        item.arm,
        item.control,
        item.split.clone(),
        item.family.clone(),
        item.question_id,
        item.candidates.clone(),
    )
}

/// The metrics of one item.
fn item_metrics(item: &ItemScore, priors: &Priors) -> Vec<(&'static str, f64)> {
    let reply = normalise(&item.reply);
    let mut out = vec![("answer_nll", -item.label_log_prob)];
    if item.negative {
        out.push(("false_positive_rate", share(reply != normalise(&item.label))));
        return out;
    }
    out.push(("exact_match", share(reply == normalise(&item.label))));
    let Some(label) = item.candidates.iter().position(|c| *c == item.label) else { return out };
    let (r, hit) = rank(&item.log_probs, label);
    out.push(("top1", hit));
    if item.arm == Arm::Prior {
        out.push(("chance", 1.0 / item.candidates.len() as f64));
    }
    out.push(("mrr", 1.0 / r));
    // Without a diff every adapter gets the same scores: subtracting their mean leaves nothing to rank.
    if item.arm != Arm::Prior && item.control != Control::None {
        let prior = &priors[&key(item)];
        let corrected: Vec<f64> = item.log_probs.iter().zip(prior).map(|(x, p)| x - p).collect();
        out.push(("top1_prior_corrected", rank(&corrected, label).1));
    }
    if item.status == "learned" {
        out.push(("top1_learned", hit));
    }
    out.push((if item.held_out_question { "top1_held_out_phrasing" } else { "top1_seen_phrasing" }, hit));
    if let Some(other) = &item.swapped_label
        && let Some(other) = item.candidates.iter().position(|c| c == other)
    {
        out.push(("follows_swapped", rank(&item.log_probs, other).1));
    }
    out
}

/// (arm, control, split, family, metric) -> adapter -> mean over its questions.
type Units = BTreeMap<(Arm, Control, String, String, &'static str), BTreeMap<String, f64>>;

fn units(items: &[ItemScore]) -> Units {
    let priors = priors(items);
    let mut sums: BTreeMap<_, BTreeMap<String, (f64, f64)>> = BTreeMap::new();
    for item in items {
        for (metric, value) in item_metrics(item, &priors) {
            let group: &mut BTreeMap<String, (f64, f64)> = sums
                .entry((item.arm, item.control, item.split.clone(), item.family.clone(), metric))
                .or_default();
            let slot = group.entry(item.adapter.clone()).or_default();
            slot.0 += value;
            slot.1 += 1.0;
        }
    }
    sums.into_iter()
        .map(|(k, group)| (k, group.into_iter().map(|(a, (s, n))| (a, s / n)).collect()))
        .collect()
}

/// All metrics with 95% intervals over adapters.
pub fn results(items: &[ItemScore]) -> Vec<ResultRow> {
    units(items)
        .into_iter()
        .map(|((arm, control, split, family, metric), group)| {
            let values: Vec<f64> = group.values().copied().collect();
            let (value, ci_low, ci_high) = mean_interval(
                &values,
                scale(metric),
                &format!("{}|{}|{split}|{family}|{metric}", arm.name(), control.name()),
            );
            ResultRow {
                arm,
                control,
                split,
                family,
                metric: metric.to_owned(),
                value,
                ci_low,
                ci_high,
                n: values.len(),
            }
        })
        .collect()
}

/// Differences on the same adapters: between arms (own diff), and between own and swapped or no diff within an arm
/// (`gap_swap`, `gap_none`: how many nats the right diff is worth).
pub fn paired(items: &[ItemScore]) -> Vec<Paired> {
    let units = units(items);
    let mut out = Vec::new();
    let mut difference = |a: &BTreeMap<String, f64>,
                          b: &BTreeMap<String, f64>,
                          arm: Arm,
                          minus: Arm,
                          split: &str,
                          family: &str,
                          metric: &str| {
        let values: Vec<f64> = a.iter().filter_map(|(k, x)| b.get(k).map(|y| x - y)).collect();
        if values.len() >= 2 {
            let (value, ci_low, ci_high) = difference_interval(
                &values,
                scale(metric),
                &format!("paired|{}|{}|{split}|{family}|{metric}", arm.name(), minus.name()),
            );
            out.push(Paired {
                arm,
                minus,
                split: split.into(),
                family: family.into(),
                metric: metric.into(),
                value,
                ci_low,
                ci_high,
                n: values.len(),
            });
        }
    };
    for ((arm, control, split, family, metric), group) in &units {
        if *control != Control::Own {
            continue;
        }
        let at =
            |arm: Arm, control: Control| units.get(&(arm, control, split.clone(), family.clone(), *metric));
        if *metric == "answer_nll" {
            for (control, name) in
                [(Control::Swapped, "gap_swap"), (Control::None, "gap_none"), (Control::Random, "gap_random")]
            {
                if let Some(other) = at(*arm, control) {
                    difference(other, group, *arm, *arm, split, family, name);
                }
            }
        }
        let against: &[Arm] = match arm {
            Arm::Dit => &[Arm::OraclePosttrained, Arm::OracleScratch, Arm::Direct],
            Arm::OraclePosttrained => &[Arm::OracleScratch, Arm::Direct],
            _ => &[],
        };
        for minus in against {
            if let Some(other) = at(*minus, Control::Own) {
                difference(group, other, *arm, *minus, split, family, metric);
            }
        }
    }
    out
}

/// What each arm says, whatever the truth.
pub fn diagnostics(items: &[ItemScore], train_labels: &BTreeSet<String>) -> Vec<Diagnostics> {
    let mut replies: BTreeMap<(Arm, String), BTreeMap<String, usize>> = BTreeMap::new();
    for item in items.iter().filter(|i| i.control == Control::Own && !i.negative) {
        *replies
            .entry((item.arm, item.family.clone()))
            .or_default()
            .entry(normalise(&item.reply))
            .or_default() += 1;
    }
    let train: BTreeSet<String> = train_labels.iter().map(|l| normalise(l)).collect();
    replies
        .into_iter()
        .map(|((arm, family), counts)| {
            let n: usize = counts.values().sum();
            let (most, times) = counts
                .iter()
                .max_by_key(|(text, n)| (**n, std::cmp::Reverse((*text).clone())))
                .map(|(t, n)| (t.clone(), *n))
                .unwrap_or_default();
            let trained: usize = counts.iter().filter(|(t, _)| train.contains(*t)).map(|(_, n)| n).sum();
            Diagnostics {
                arm,
                family,
                n,
                distinct: counts.len(),
                most_frequent: most.chars().take(40).collect(),
                most_frequent_share: times as f64 / n as f64,
                train_label_share: trained as f64 / n as f64,
            }
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn item(adapter: &str, label: &str, log_probs: [f64; 3], control: Control) -> ItemScore {
        let candidates = ["cats", "dogs", "tea"].map(str::to_owned).to_vec();
        let at = candidates.iter().position(|c| c == label).unwrap();
        ItemScore {
            arm: Arm::Dit,
            control,
            split: "test_value".into(),
            family: "topic".into(),
            adapter: adapter.into(),
            status: "learned".into(),
            question_id: 0,
            held_out_question: false,
            label: label.into(),
            negative: false,
            label_log_prob: log_probs[at],
            candidates,
            log_probs: log_probs.to_vec(),
            reply: format!("The {label}."),
            swapped_label: None,
        }
    }

    fn value(rows: &[ResultRow], metric: &str) -> f64 {
        rows.iter().find(|r| r.metric == metric).unwrap().value
    }

    #[test]
    fn metrics_match_hand_computed_cases() {
        let items = vec![
            item("topic/cats", "cats", [-1.0, -2.0, -3.0], Control::Own),
            item("topic/dogs", "dogs", [-1.0, -2.0, -3.0], Control::Own),
            item("topic/tea", "tea", [-1.0, -2.0, -2.5], Control::Own),
        ];
        let rows = results(&items);
        assert!((value(&rows, "top1") - 1.0 / 3.0).abs() < 1e-12);
        assert!((value(&rows, "mrr") - (1.0 + 0.5 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
        assert!((value(&rows, "exact_match") - 1.0).abs() < 1e-12);
        assert!((value(&rows, "answer_nll") - 5.5 / 3.0).abs() < 1e-12);
        // Priors are (-1, -2, -2.83): tea gains on tea; the other two tie between cats and dogs.
        assert!((value(&rows, "top1_prior_corrected") - (0.5 + 0.5 + 1.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn ties_are_shared_and_order_does_not_matter() {
        assert_eq!(rank(&[1.0, 1.0, 0.0], 0), (1.5, 0.5));
        assert_eq!(rank(&[1.0, 1.0, 0.0], 1), (1.5, 0.5));
        assert_eq!(rank(&[0.0; 4], 2), (2.5, 0.25));
        assert_eq!(rank(&[1.0, 2.0], 0), (2.0, 0.0));
        let mut items: Vec<ItemScore> = (0..6)
            .map(|i| item(&format!("a{i}"), "dogs", [-1.0, -(i as f64) / 3.0, -0.5], Control::Own))
            .collect();
        let forward = results(&items);
        items.reverse();
        assert_eq!(forward, results(&items));
    }

    #[test]
    fn gaps_and_false_positives_are_counted() {
        let mut negative = item("zero/1", "cats", [-1.0, -2.0, -3.0], Control::Own);
        negative.negative = true;
        negative.label = "nothing".into();
        negative.reply = "cats".into();
        let mut abstains = negative.clone();
        abstains.adapter = "zero/2".into();
        abstains.reply = "Nothing.".into();
        assert!((value(&results(&[negative, abstains]), "false_positive_rate") - 0.5).abs() < 1e-12);
        let items = vec![
            item("a", "cats", [-1.0, -9.0, -9.0], Control::Own),
            item("b", "dogs", [-9.0, -1.0, -9.0], Control::Own),
            item("a", "cats", [-5.0, -1.0, -9.0], Control::Swapped),
            item("b", "dogs", [-1.0, -7.0, -9.0], Control::Swapped),
        ];
        let gap = paired(&items).into_iter().find(|p| p.metric == "gap_swap").unwrap();
        assert!((gap.value - 5.0).abs() < 1e-12);
    }
}
