//! From item scores and readers to one comparison.

use std::collections::{BTreeMap, BTreeSet};

use recipes::Split;

use crate::items::{Comparison, GateRow, ItemScore};
use crate::metrics::{diagnostics, paired, results};
use crate::readers::{Reader, Supervision};

/// Puts a comparison together.
pub fn assemble(
    run: &str,
    model: String,
    created_at: String,
    smoke: bool,
    s: &Supervision<'_>,
    readers: &[&Reader],
    items: &[ItemScore],
) -> Comparison {
    let train_labels: BTreeSet<String> =
        s.of(Split::Train).iter().filter(|e| !e.negative).map(|e| e.answer.clone()).collect();
    let mut notes = vec![
        "Unit of resampling: the adapter. Intervals: 95% percentile bootstrap over adapters, for shares at least as wide as Wilson's. One training seed per reader.".to_owned(),
        "corrected: each candidate's mean score over the split's adapters is subtracted. nats: answer loss with its own diff, none, another's.".to_owned(),
        if same_supervision(readers) {
            "dit and the oracles were trained on the same episodes in the same order, each for its own number of steps (rows seen, below); validation adapters chose the step that was kept.".to_owned()
        } else {
            "WARNING: these readers were trained on different episodes or seeds, so their arms are not comparable.".to_owned()
        },
    ];
    if let Some(p) = readers.iter().find(|r| r.budget.arm == crate::Arm::OraclePretrained)
        && let Some(last) = p.trajectory.points.iter().find(|x| x.step == p.budget.chosen_step)
    {
        notes.push(format!(
            "The pretrained oracle names held-out system-prompt labels (its own task) with top-1 {:.2}, answer loss {:.2} nats.",
            last.validation.top1, last.validation.loss
        ));
    }
    let tested: BTreeSet<&String> = s
        .episodes
        .iter()
        .filter(|e| !e.negative && matches!(e.split, Split::TestValue | Split::TestCategory))
        .map(|e| &e.answer)
        .collect();
    for reader in readers {
        let known = tested.iter().filter(|label| reader.labels.contains(**label)).count();
        if known > 0 {
            notes.push(format!(
                "WARNING: {} was trained on or stopped by {known} of the labels that it is tested on; train it again on these splits.",
                reader.budget.arm.name()
            ));
        }
    }
    Comparison {
        schema: "comparison/1".into(),
        run: run.to_owned(),
        created_at,
        model,
        smoke,
        notes,
        budgets: readers.iter().map(|r| r.budget.clone()).collect(),
        trajectories: readers
            .iter()
            .filter(|r| r.budget.supervision_rows > 0)
            .map(|r| r.trajectory.clone())
            .collect(),
        gates: gates(s),
        results: results(items),
        paired: paired(items),
        diagnostics: diagnostics(items, &train_labels),
    }
}

/// Whether all readers that were supervised saw the same episodes under the same seed.
pub fn same_supervision(readers: &[&Reader]) -> bool {
    let mut seen = readers.iter().filter_map(|r| Some((r.supervision()?, &r.record.spec["fit"]["seed"])));
    seen.next().is_none_or(|first| seen.all(|other| other == first))
}

fn gates(s: &Supervision<'_>) -> Vec<GateRow> {
    let mut groups: BTreeMap<(String, String), Vec<&registry::AdapterRecord>> = BTreeMap::new();
    for r in s.records.values().filter(|r| {
        r.metrics.contains_key("gate_on") && r.tags.get("polarity").is_some_and(|p| p == "positive")
    }) {
        groups.entry((r.family.clone(), r.split.clone().unwrap_or_default())).or_default().push(r);
    }
    groups
        .into_iter()
        .map(|((family, split), members)| {
            let mean = |key: &str| -> Option<f64> {
                let found: Vec<f64> = members.iter().filter_map(|r| r.metrics.get(key).copied()).collect();
                (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
            };
            let mut statuses = BTreeMap::new();
            for r in &members {
                *statuses.entry(r.field("status").unwrap_or_default()).or_insert(0) += 1;
            }
            GateRow {
                n: members.len(),
                on: mean("gate_on").unwrap_or(0.0),
                floor: mean("gate_floor").unwrap_or(0.0),
                near: mean("gate_near"),
                off: mean("gate_off"),
                statuses,
                family,
                split,
            }
        })
        .collect()
}
