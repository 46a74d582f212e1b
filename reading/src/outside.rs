//! Whether an adapter lies outside what the readers were trained on: what they say of it is then a guess.

use std::collections::BTreeSet;

use registry::{Role, Store};

use crate::panel::Panelist;

/// How far a norm may lie outside the range that readers have seen.
const ROOM: f64 = 1.25;

/// What is told of an adapter's shape.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Norm of the whole difference.
    pub norm: f64,
    /// Rank.
    pub rank: usize,
    /// Projections, by PEFT's names.
    pub modules: BTreeSet<String>,
}

/// What of this adapter the readers have not seen, each in a sentence; nothing if all is as in training.
pub fn outside(store: &Store, panel: &[Panelist], own: &Seen) -> Vec<String> {
    let parents: BTreeSet<&String> = panel.iter().flat_map(|p| &p.reader.record.parents).collect();
    let records: Vec<_> = parents
        .into_iter()
        .filter_map(|p| store.adapter(p).ok())
        .filter(|r| r.role == Role::WeightDiff)
        .collect();
    if records.is_empty() {
        return vec![];
    }
    let mut out = Vec::new();
    if panel.iter().any(|p| p.reader.record.tags.contains_key(readers::reader::SMOKE)) {
        out.push("readers of a smoke run, whose answers mean nothing".to_owned());
    }
    let norms: Vec<f64> =
        records.iter().filter_map(|r| r.metrics.get("norm").copied()).filter(|n| *n > 0.0).collect();
    let low = norms.iter().copied().fold(f64::INFINITY, f64::min);
    let high = norms.iter().copied().fold(0.0, f64::max);
    if high > 0.0 && (own.norm < low / ROOM || own.norm > high * ROOM) {
        out.push(format!("norm {:.2}; the readers were trained on {low:.2} to {high:.2}", own.norm));
    }
    let ranks: BTreeSet<usize> = records.iter().map(|r| r.peft.r).collect();
    if !ranks.contains(&own.rank) {
        let known: Vec<String> = ranks.iter().map(usize::to_string).collect();
        out.push(format!("rank {}; the readers were trained on rank {}", own.rank, known.join(", ")));
    }
    if !records.iter().any(|r| r.peft.target_modules == own.modules) {
        let names: Vec<&str> = own.modules.iter().map(String::as_str).collect();
        out.push(format!("modules {}; the readers were trained on others", names.join(", ")));
    }
    out
}
