//! One family in one split and context: its sentence, its pictures, its numbers and the differences that its verdict rests on.

use super::Part;
use super::figures;
use super::pieces::{block, table};
use crate::comparison::{Best, Comparison, PairedRow, Verdict};
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

/// These differences as tables, one for each arm that is subtracted: the best without training first.
fn difference_tables(c: &Comparison, v: &Verdict) -> Vec<Table> {
    let found = differences(c, v);
    let is = |best: Option<&Best>, arm: &str| best.is_some_and(|b| b.arm == arm);
    let mut against: Vec<&str> = Vec::new();
    for r in &found {
        if !against.contains(&r.minus.as_str()) {
            against.push(&r.minus);
        }
    }
    against.sort_by_key(|arm| !is(v.best_untrained.as_ref(), arm));
    let table = |minus: &str| {
        let role = match (is(v.best_untrained.as_ref(), minus), is(v.control.as_ref(), minus)) {
            (true, true) => "the best without training and the best control",
            (true, false) => "the best without training",
            _ => "the best control",
        };
        let rows = found.iter().filter(|r| r.minus == minus).map(|r| {
            let declared = if r.primary { " (declared beforehand)" } else { "" };
            vec![
                r.arm.clone(),
                format!("{}{declared}", r.verdict),
                signed(r.value, r.ci_low, r.ci_high),
                r.n.to_string(),
                p_value(r.p),
                p_value(r.p_holm),
            ]
        });
        Table {
            header: ["arm", "verdict", "difference [95% CI]", "n", "p", "p (Holm)"]
                .map(str::to_owned)
                .to_vec(),
            rows: rows.collect(),
            caption: format!(
                "What the verdict rests on: each trained reader's top-1 minus that of {minus}, {role}, on the same adapters."
            ),
            words: 2,
            ..Table::default()
        }
    };
    against.into_iter().map(table).collect()
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
                    out.body += &difference_tables(c, v).iter().map(table).collect::<String>();
                }
            }
            other => out.body += &block(&other),
        }
    }
    out
}
