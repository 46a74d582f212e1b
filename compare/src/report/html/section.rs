//! One family in one split and context: its sentence, its pictures, its numbers and the differences that its verdict rests on.

use super::Part;
use super::figures;
use super::pieces::{block, table};
use crate::comparison::{Comparison, PairedRow, Verdict};
use crate::report::{Block, Table, p_value, sections, signed};

/// The differences that a verdict rests on: trained arms minus the best without training, and minus the best control.
pub(super) fn differences<'a>(c: &'a Comparison, v: &'a Verdict) -> Vec<&'a PairedRow> {
    let best = v.best_untrained.as_ref().map(|b| b.arm.as_str());
    let control = v.control.as_ref().map(|b| b.arm.as_str());
    let rests = |r: &&PairedRow| {
        let against = Some(r.minus.as_str());
        r.family == v.family
            && r.split == v.split
            && r.context == v.context
            && r.metric == "top1"
            && v.arms.iter().any(|a| a.arm == r.arm)
            && (r.minus_best || against == best || against == control)
    };
    c.paired.iter().filter(rests).collect()
}

fn difference_table(c: &Comparison, v: &Verdict) -> Option<Table> {
    let mut found = differences(c, v);
    if found.is_empty() {
        return None;
    }
    let is = |best: Option<&crate::comparison::Best>, arm: &str| best.is_some_and(|b| b.arm == arm);
    found.sort_by_key(|r| !is(v.best_untrained.as_ref(), &r.minus));
    let rows = found
        .iter()
        .map(|r| {
            let role = match (is(v.best_untrained.as_ref(), &r.minus), is(v.control.as_ref(), &r.minus)) {
                (true, true) => "best without training, and best control",
                (true, false) => "best without training",
                _ => "best control",
            };
            let declared = if r.primary { " (declared beforehand)" } else { "" };
            vec![
                r.arm.clone(),
                format!("{}, {role}", r.minus),
                format!("{}{declared}", r.verdict),
                signed(r.value, r.ci_low, r.ci_high),
                r.n.to_string(),
                p_value(r.p),
                p_value(r.p_holm),
            ]
        })
        .collect();
    Some(Table {
        header: ["arm", "minus", "verdict", "difference [95% CI]", "n", "p", "p (Holm)"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        caption: "The paired differences of top-1 that the verdict rests on, each on the same adapters."
            .into(),
        words: 3,
        ..Table::default()
    })
}

pub(super) fn section(c: &Comparison, v: &Verdict) -> Part {
    let mut out = Part { title: String::new(), remark: String::new(), body: String::new() };
    let mut pictures = Some(figures::of_section(c, v));
    for b in sections::section(c, v) {
        match b {
            Block::Heading(title, remark) => (out.title, out.remark) = (title, remark),
            Block::Table(t) => {
                let first = pictures.take();
                out.body += first.as_deref().unwrap_or_default();
                out.body += &table(&t);
                if first.is_some() {
                    out.body += &difference_table(c, v).map_or_else(String::new, |t| table(&t));
                }
            }
            other => out.body += &block(&other),
        }
    }
    out
}
