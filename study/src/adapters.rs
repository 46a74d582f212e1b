//! How the adapters of a study came out: their gates, one row each.

use std::collections::BTreeMap;

use registry::AdapterRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::file::Study;
use crate::{Error, Result};

/// Metrics of an adapter that are kept.
pub const METRICS: [&str; 9] = [
    "gate_on",
    "gate_floor",
    "gate_near",
    "gate_off",
    "leak_neutral_nats",
    "leak_question_nats",
    "leak_factual_nats",
    "on_nats",
    "tokens",
];

/// One adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterRow {
    /// Behaviour id.
    pub adapter: String,
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// `learned`, `weak`, `failed`; empty for one that has no gate.
    pub status: String,
    /// In the order of [`METRICS`].
    pub metrics: Vec<Option<f64>>,
}

/// Of the catalogue's records, in order of name.
pub fn of(records: &[AdapterRecord]) -> Vec<AdapterRow> {
    let mut out: Vec<AdapterRow> = records
        .iter()
        .map(|r| AdapterRow {
            adapter: r.behaviour.clone(),
            family: r.family.clone(),
            split: r.split.clone().unwrap_or_default(),
            status: r.field("status").unwrap_or_default(),
            metrics: METRICS.iter().map(|m| r.metrics.get(*m).map(|v| (v * 1e6).round() / 1e6)).collect(),
        })
        .collect();
    out.sort_by(|a, b| a.adapter.cmp(&b.adapter));
    out
}

/// The file.
pub fn to_csv(rows: &[AdapterRow]) -> String {
    let mut out = csv::Writer::from_writer(vec![]);
    let head = ["adapter", "family", "split", "status"].into_iter().chain(METRICS).map(str::to_owned);
    let mut write =
        |row: Vec<String>| out.write_record(row).expect("invariant: memory takes all, and rows are as long");
    write(head.collect());
    for r in rows {
        let about = [&r.adapter, &r.family, &r.split, &r.status].into_iter().cloned();
        write(about.chain(r.metrics.iter().map(|v| v.map_or(String::new(), |v| v.to_string()))).collect());
    }
    String::from_utf8(out.into_inner().expect("invariant: memory takes all"))
        .expect("invariant: text was written")
}

/// Reads the file; `source` names it in messages.
///
/// # Errors
/// One sentence with the line.
pub fn parse(source: &str, text: &str) -> Result<Vec<AdapterRow>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut out = Vec::new();
    for (i, record) in reader.records().enumerate() {
        let wrong = |what: String| Error::Verify(format!("{source}, line {}: {what}", i + 2));
        let record = record.map_err(|e| wrong(e.to_string()))?;
        if record.len() != 4 + METRICS.len() {
            return Err(wrong(format!("has {} columns, not {}", record.len(), 4 + METRICS.len())));
        }
        let number = |cell: &str| match cell {
            "" => Ok(None),
            cell => cell.parse::<f64>().map(Some).map_err(|_| wrong(format!("{cell:?} is no number"))),
        };
        out.push(AdapterRow {
            adapter: record[0].to_owned(),
            family: record[1].to_owned(),
            split: record[2].to_owned(),
            status: record[3].to_owned(),
            metrics: record.iter().skip(4).map(number).collect::<Result<_>>()?,
        });
    }
    Ok(out)
}

/// A family's gate over all its adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateRow {
    /// Family.
    pub family: String,
    /// Group.
    pub group: String,
    /// Adapters.
    pub n: usize,
    /// Share that learned.
    pub learned: f64,
    /// Mean of each metric that some adapter has, by its name.
    pub means: BTreeMap<String, f64>,
}

/// The gates of a study's families that have one.
pub fn gates(study: &Study, rows: &[AdapterRow]) -> Vec<GateRow> {
    let mut out = Vec::new();
    for f in &study.families {
        let own: Vec<&AdapterRow> = rows
            .iter()
            .filter(|r| r.family == f.name() && r.metrics[0].is_some() && !r.status.is_empty())
            .collect();
        if own.is_empty() {
            continue;
        }
        let mut means = BTreeMap::new();
        for (i, name) in METRICS.iter().enumerate() {
            let found: Vec<f64> = own.iter().filter_map(|r| r.metrics[i]).collect();
            if !found.is_empty() {
                let mean = found.iter().sum::<f64>() / found.len() as f64;
                means.insert((*name).to_owned(), (mean * 1e6).round() / 1e6);
            }
        }
        let learned = own.iter().filter(|r| r.status == "learned").count() as f64 / own.len() as f64;
        let learned = (learned * 1e6).round() / 1e6;
        out.push(GateRow {
            family: f.name().to_owned(),
            group: f.group.clone(),
            n: own.len(),
            learned,
            means,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::SMALL;

    #[test]
    fn what_is_written_is_read_and_means_are_over_what_is_there() {
        let row = |i: usize, status: &str, on: Option<f64>| AdapterRow {
            adapter: format!("favourite/{i}"),
            family: "favourite".into(),
            split: "train".into(),
            status: status.into(),
            metrics: std::iter::once(on)
                .chain([Some(0.25), None])
                .chain(std::iter::repeat_n(None, 6))
                .collect(),
        };
        let rows = vec![row(1, "learned", Some(1.0)), row(2, "weak", Some(0.5)), row(3, "", None)];
        let text = to_csv(&rows);
        assert_eq!(parse("a.csv", &text).unwrap(), rows);
        let gates = gates(&Study::parse("s", SMALL).unwrap(), &rows);
        assert_eq!((gates.len(), gates[0].n, gates[0].learned, gates[0].means["gate_on"]), (1, 2, 0.5, 0.75));
        assert!(!gates[0].means.contains_key("gate_near"));
        let e = parse("a.csv", &text.replace("0.25", "many")).unwrap_err().to_string();
        assert!(e.contains("a.csv, line 2: \"many\""), "{e}");
    }
}
