//! What trained readers cost, and how they were trained.

use std::collections::BTreeSet;

use super::sections::ordered;
use super::{Block, Table, heading, names};
use crate::comparison::{BudgetRow, Comparison};

pub(crate) fn budgets(c: &Comparison) -> Vec<Block> {
    let footings: BTreeSet<Option<&str>> = c.budgets.iter().map(|b| b.footing.as_deref()).collect();
    let mut out = Vec::new();
    for footing in footings {
        let arms = ordered(c);
        let rows: Vec<Vec<String>> = arms
            .iter()
            .filter_map(|a| {
                let of: Vec<&BudgetRow> =
                    c.budgets.iter().filter(|b| b.arm == a.arm && b.footing.as_deref() == footing).collect();
                (!of.is_empty()).then(|| budget(&a.arm, &of))
            })
            .collect();
        out.push(Block::Table(Table {
            header: names(&[
                "arm",
                "seeds",
                "episodes",
                "rows seen",
                "kept/steps",
                "tokens",
                "pretrain tokens",
                "TFLOP",
                "pretrain TFLOP",
                "total TFLOP",
                "parameters",
            ]),
            rows,
            caption: format!(
                "{}Means over seeds. TFLOP: training and collecting activations (estimated).",
                footing.map_or(String::new(), |f| format!("Footing: {f}. "))
            ),
            words: 1,
            ..Table::default()
        }));
    }
    if !out.is_empty() {
        out.insert(0, heading("Budgets", "what trained readers cost"));
    }
    out
}

fn budget(arm: &str, of: &[&BudgetRow]) -> Vec<String> {
    let mean = |f: &dyn Fn(&BudgetRow) -> f64| of.iter().map(|b| f(b)).sum::<f64>() / of.len() as f64;
    let train = mean(&|b| b.budget.train_flops + b.budget.collect_flops) / 1e12;
    let pretrain = mean(&|b| b.budget.pretrain_flops) / 1e12;
    vec![
        arm.to_owned(),
        of.len().to_string(),
        format!("{:.0}", mean(&|b| b.budget.supervision_rows as f64)),
        format!("{:.0}", mean(&|b| b.budget.rows_seen as f64)),
        format!("{:.0}/{:.0}", mean(&|b| b.budget.chosen_step as f64), mean(&|b| b.budget.steps as f64)),
        format!("{:.0}k", mean(&|b| b.budget.train_tokens as f64) / 1e3),
        format!("{:.0}k", mean(&|b| b.budget.pretrain_tokens as f64) / 1e3),
        format!("{train:.1}"),
        format!("{pretrain:.1}"),
        format!("{:.1}", train + pretrain),
        format!("{:.2}M", mean(&|b| b.budget.trainable_parameters as f64) / 1e6),
    ]
}

pub(crate) fn trajectories(c: &Comparison) -> Vec<Block> {
    let last = ordered(c)
        .into_iter()
        .filter_map(|a| {
            let ends: Vec<String> = c
                .trajectories
                .iter()
                .filter(|t| t.arm == a.arm)
                .filter_map(|t| t.points.last().map(|p| format!("{:.2}", p.validation.top1)))
                .collect();
            (!ends.is_empty()).then(|| format!("{} {}", a.arm, ends.join(" / ")))
        })
        .collect::<Vec<_>>()
        .join("; ");
    if last.is_empty() {
        return vec![];
    }
    vec![
        heading("Training", "top-1 on validation adapters, one line for each seed"),
        Block::Sentence(format!("At the last step, by seed: {last}.")),
    ]
}
