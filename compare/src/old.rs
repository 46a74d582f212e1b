//! Comparisons of the first schema, so that files of earlier builds still print.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::comparison::{
    ArmRow, BudgetRow, Comparison, GateRow, NegativeRow, PairedRow, ResultRow, TrajectoryRow, Verdict,
};
use crate::scores::Budget;

#[derive(Debug, Deserialize)]
struct OldBudget {
    arm: String,
    supervision_rows: usize,
    trainable_parameters: usize,
    steps: usize,
    chosen_step: usize,
    #[serde(default)]
    rows_seen: usize,
    train_tokens: u64,
    pretrain_tokens: u64,
    train_flops: f64,
    pretrain_flops: f64,
    collect_flops: f64,
    #[serde(default)]
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct OldTrajectory {
    arm: String,
    points: Vec<lm::FitPoint>,
}

#[derive(Debug, Deserialize)]
struct OldResult {
    arm: String,
    control: String,
    split: String,
    family: String,
    metric: String,
    value: f64,
    ci_low: f64,
    ci_high: f64,
    n: usize,
}

#[derive(Debug, Deserialize)]
struct OldPaired {
    arm: String,
    minus: String,
    split: String,
    family: String,
    metric: String,
    value: f64,
    ci_low: f64,
    ci_high: f64,
    n: usize,
}

#[derive(Debug, Deserialize)]
struct OldDiagnostics {
    arm: String,
    family: String,
    n: usize,
    distinct: usize,
    most_frequent: String,
    most_frequent_share: f64,
}

#[derive(Debug, Deserialize)]
struct OldComparison {
    run: String,
    created_at: String,
    model: String,
    smoke: bool,
    notes: Vec<String>,
    budgets: Vec<OldBudget>,
    trajectories: Vec<OldTrajectory>,
    gates: Vec<GateRow>,
    results: Vec<OldResult>,
    paired: Vec<OldPaired>,
    #[serde(default)]
    diagnostics: Vec<OldDiagnostics>,
}

/// Said at the top of every report of such a file.
pub(crate) const NOTE: &str = "Made by an earlier build (comparison/1), with one reader seed: its \"swapped\" control cannot fail, its \"corrected\" used the test set, and its closed sets hold test labels only, without \"nothing\". No verdict is drawn from it.";

/// Names of arms in the order of their reports: (arm, trained).
const ARMS: [(&str, bool); 6] = [
    ("prior", false),
    ("direct", false),
    ("oracle-pretrained", true),
    ("oracle-scratch", true),
    ("oracle-posttrained", true),
    ("dit", true),
];

fn metric(arm: &str, control: &str, metric: &str) -> String {
    let name = match metric {
        "answer_nll" => "answer_nats",
        "top1_prior_corrected" => "top1_corrected_on_test",
        other => other,
    };
    // The base model's own answer is what the prior arm is; elsewhere no diff is a control.
    if control == "own" || (arm == "prior" && control == "none") {
        name.to_owned()
    } else {
        format!("{name}_{control}")
    }
}

pub(crate) fn convert(json: &str) -> Result<Comparison, serde_json::Error> {
    let old: OldComparison = serde_json::from_str(json)?;
    let context = "neutral".to_owned();
    let mut results = Vec::new();
    let mut negatives = Vec::new();
    for r in old.results {
        let metric = metric(&r.arm, &r.control, &r.metric);
        if r.metric == "false_positive_rate" {
            negatives.push(NegativeRow {
                arm: r.arm,
                asked: "all".into(),
                carries: r.family,
                context: context.clone(),
                metric,
                value: r.value,
                ci_low: r.ci_low,
                ci_high: r.ci_high,
                n: r.n,
                by_seed: vec![],
            });
        } else {
            results.push(ResultRow {
                arm: r.arm,
                seeds: vec![],
                context: context.clone(),
                family: r.family,
                split: r.split,
                metric,
                value: r.value,
                ci_low: r.ci_low,
                ci_high: r.ci_high,
                n: r.n,
                by_seed: vec![],
            });
        }
    }
    let mut paired = Vec::new();
    for r in old.paired {
        let metric = metric("", "own", &r.metric);
        if r.arm == r.minus {
            // What the right diff is worth in nats: a number of one arm, not a contrast.
            results.push(ResultRow {
                arm: r.arm,
                seeds: vec![],
                context: context.clone(),
                family: r.family,
                split: r.split,
                metric: format!("{metric}_nats"),
                value: r.value,
                ci_low: r.ci_low,
                ci_high: r.ci_high,
                n: r.n,
                by_seed: vec![],
            });
        } else {
            paired.push(PairedRow {
                arm: r.arm,
                minus: r.minus,
                family: r.family,
                split: r.split,
                context: context.clone(),
                metric,
                value: r.value,
                ci_low: r.ci_low,
                ci_high: r.ci_high,
                n: r.n,
                p: None,
                p_holm: None,
                verdict: "no verdict".into(),
                primary: false,
                minus_best: false,
            });
        }
    }
    let named: BTreeSet<&str> =
        results.iter().map(|r| r.arm.as_str()).chain(old.budgets.iter().map(|b| b.arm.as_str())).collect();
    let arms = ARMS
        .iter()
        .filter(|(arm, _)| named.contains(arm))
        .map(|(arm, trained)| ArmRow {
            arm: (*arm).to_owned(),
            method: arm.split('-').next().unwrap_or(arm).to_owned(),
            trained: *trained,
            permuted: false,
            input: String::new(),
            seeds: vec![],
            chosen: BTreeMap::new(),
        })
        .collect();
    let sections: BTreeSet<(String, bool, String)> = results
        .iter()
        .filter(|r| r.metric == "top1")
        .map(|r| (r.family.clone(), r.split != "test_value", r.split.clone()))
        .collect();
    let mut notes = old.notes;
    notes.extend(old.diagnostics.iter().map(|d| {
        format!(
            "{} on {}: {} distinct answers of {}, most often {:?} ({:.2}).",
            d.arm, d.family, d.distinct, d.n, d.most_frequent, d.most_frequent_share
        )
    }));
    Ok(Comparison {
        schema: Comparison::SCHEMA.into(),
        run: old.run,
        created_at: old.created_at,
        model: old.model,
        smoke: old.smoke,
        warnings: vec![NOTE.to_owned()],
        notes,
        primary: None,
        arms,
        results,
        negatives,
        paired,
        auroc: vec![],
        permutations: vec![],
        verdicts: sections
            .into_iter()
            .map(|(family, _, split)| Verdict {
                family,
                split,
                context: context.clone(),
                best_untrained: None,
                control: None,
                arms: vec![],
                sentence: String::new(),
            })
            .collect(),
        base: vec![],
        correlations: vec![],
        priors: vec![],
        budgets: old
            .budgets
            .into_iter()
            .map(|b| BudgetRow {
                arm: b.arm,
                seed: 1,
                footing: None,
                budget: Budget {
                    supervision_rows: b.supervision_rows,
                    trainable_parameters: b.trainable_parameters,
                    steps: b.steps,
                    rows_seen: b.rows_seen,
                    chosen_step: b.chosen_step,
                    train_tokens: b.train_tokens,
                    pretrain_tokens: b.pretrain_tokens,
                    train_flops: b.train_flops,
                    pretrain_flops: b.pretrain_flops,
                    collect_flops: b.collect_flops,
                    seconds: b.seconds,
                },
            })
            .collect(),
        trajectories: old
            .trajectories
            .into_iter()
            .map(|t| TrajectoryRow { arm: t.arm, seed: 1, points: t.points })
            .collect(),
        gates: old.gates,
        covariates: vec![],
        items: vec![],
    })
}

#[cfg(test)]
mod tests {
    use crate::comparison::read;

    /// Written by the build before this schema, shortened.
    const OLD: &str = include_str!("../tests/comparison_1.json");

    #[test]
    fn an_old_file_still_reads() {
        let c = read(OLD).unwrap();
        assert_eq!((c.schema.as_str(), c.run.as_str()), ("comparison/2", "quick"));
        assert!(c.warnings[0].contains("cannot fail") && c.warnings[0].contains("used the test set"));
        let value = |arm: &str, metric: &str| {
            c.result(arm, "topic", "test_value", "neutral", metric).map(|r| r.value)
        };
        assert_eq!(value("dit", "top1"), Some(0.84));
        assert_eq!(value("dit", "top1_swapped"), Some(0.0));
        assert_eq!(value("dit", "top1_corrected_on_test"), Some(0.97));
        assert_eq!(value("dit", "answer_nats"), Some(1.5));
        assert_eq!(value("dit", "gap_swap_nats"), Some(6.0));
        assert_eq!(value("prior", "top1"), Some(0.03));
        assert_eq!(c.negatives[0].carries, "zero");
        assert_eq!((c.paired.len(), c.paired[0].minus.as_str()), (1, "oracle-posttrained"));
        assert_eq!(
            c.arms.iter().map(|a| a.arm.as_str()).collect::<Vec<_>>(),
            ["prior", "oracle-posttrained", "dit"]
        );
        assert_eq!(c.trajectories[0].points[0].step, 16);
        assert_eq!(c.gates[0].statuses["learned"], 30);
        assert!(c.notes.iter().any(|n| n.contains("12 distinct answers of 32")));
        // What was read is written as the new schema and read again.
        let again = serde_json::to_string(&c).unwrap();
        assert_eq!(read(&again).unwrap(), c);
        assert!(read("{\"schema\":\"comparison/3\"}").unwrap_err().to_string().contains("comparison/3"));
        assert!(read("[]").is_err());
    }
}
