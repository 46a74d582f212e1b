//! Subjects that carry nothing that was asked, as tables.

use std::collections::BTreeSet;

use super::sections::ordered;
use super::{Block, Table, heading, interval};
use crate::comparison::{AurocRow, Comparison, NegativeRow};
use crate::negatives::{FOREIGN, MATCHED, POOLED};
use crate::warnings::title;

/// The pooled group first, foreign adapters last.
fn group_order(groups: BTreeSet<&str>) -> Vec<&str> {
    let mut out: Vec<&str> = groups.into_iter().collect();
    out.sort_by_key(|g| (*g != POOLED, *g == MATCHED, *g == FOREIGN, *g));
    out
}

/// Arms x groups of negatives: the first group with its interval.
fn by_group<'a, R>(
    arms: impl Iterator<Item = &'a str>,
    groups: &[&str],
    find: impl Fn(&str, &str) -> Option<R>,
    show: impl Fn(&R) -> (f64, f64, f64),
) -> Vec<Vec<String>> {
    arms.filter_map(|arm| {
        let found: Vec<Option<R>> = groups.iter().map(|g| find(arm, g)).collect();
        found.iter().any(Option::is_some).then(|| {
            let cells = found.iter().enumerate().map(|(i, r)| match r.as_ref().map(&show) {
                None => "–".to_owned(),
                Some((v, low, high)) if i == 0 => interval(v, low, high),
                Some((v, ..)) => format!("{v:.2}"),
            });
            std::iter::once(arm.to_owned()).chain(cells).collect()
        })
    })
    .collect()
}

pub(crate) fn negatives(c: &Comparison) -> Vec<Block> {
    let mut out = Vec::new();
    let keys: BTreeSet<(&str, &str)> =
        c.negatives.iter().map(|r| (r.asked.as_str(), r.context.as_str())).collect();
    for (asked, context) in keys {
        for (metric, caption) in [
            ("false_positive_rate", "False positives: share of stated answers other than \"nothing\""),
            ("nothing_top1", "Share of subjects for which \"nothing\" ranks first"),
        ] {
            let here: Vec<&NegativeRow> = c
                .negatives
                .iter()
                .filter(|r| r.asked == asked && r.context == context && r.metric == metric)
                .collect();
            if here.is_empty() {
                continue;
            }
            let groups = group_order(here.iter().map(|r| r.carries.as_str()).collect());
            let mut header = vec!["arm".to_owned()];
            header.extend(groups.iter().enumerate().map(|(i, g)| {
                let n = here.iter().filter(|r| r.carries == **g).map(|r| r.n).max().unwrap_or(0);
                format!("{g} (n = {n}){}", if i == 0 { " [95% CI]" } else { "" })
            }));
            let rows = by_group(
                ordered(c).into_iter().map(|a| a.arm.as_str()),
                &groups,
                |arm, group| here.iter().copied().find(|r| r.arm == arm && r.carries == group),
                |r| (r.value, r.ci_low, r.ci_high),
            );
            let context = if context == "neutral" { String::new() } else { format!(", {context}") };
            out.push(Block::Table(Table {
                header,
                rows,
                caption: format!("Asked about {asked}{context}. {caption}."),
                words: 1,
                ..Table::default()
            }));
        }
    }
    out.extend(aurocs(c));
    if !out.is_empty() {
        out.insert(0, heading("Negatives", "subjects that carry nothing that was asked"));
    }
    out
}

fn aurocs(c: &Comparison) -> Vec<Block> {
    let mut out = Vec::new();
    for v in &c.verdicts {
        let here: Vec<&AurocRow> = c
            .auroc
            .iter()
            .filter(|r| r.family == v.family && r.split == v.split && r.context == v.context)
            .collect();
        if here.is_empty() {
            continue;
        }
        let groups = group_order(here.iter().map(|r| r.against.as_str()).collect());
        let mut header = vec!["arm".to_owned()];
        header.extend(
            groups.iter().enumerate().map(|(i, g)| format!("{g}{}", if i == 0 { " [95% CI]" } else { "" })),
        );
        let rows = by_group(
            ordered(c).into_iter().map(|a| a.arm.as_str()).chain([crate::assembly::NORM_ONLY]),
            &groups,
            |arm, group| here.iter().copied().find(|r| r.arm == arm && r.against == group),
            |r| (r.value, r.ci_low, r.ci_high),
        );
        out.push(Block::Table(Table {
            header,
            rows,
            caption: format!(
                "AUROC of -log p(\"nothing\"): {} against subjects that carry nothing that was asked; {} knows no more than the size of the weights, and pairs of the {MATCHED} leave it next to nothing.",
                title(&v.family, &v.split, &v.context),
                crate::assembly::NORM_ONLY
            ),
            words: 1,
            ..Table::default()
        }));
    }
    out
}
