//! The report of a comparison: as text (one list of blocks), as a web page (the same blocks, with pictures), as CSV and JSON.

mod answer;
mod charts;
mod csv;
mod html;
mod negatives;
mod sections;
mod tables;
mod text;
mod training;

pub use charts::{Dot, Dots, Kind, dots};
pub use csv::to_csv;
pub use html::{block as block_to_html, to_html};
pub use text::{blocks as blocks_to_text, to_terminal};

use crate::comparison::Comparison;

/// The tidy JSON of a comparison.
pub fn to_json(comparison: &Comparison) -> serde_json::Value {
    serde_json::to_value(comparison).expect("invariant: plain data")
}

/// A table; rows that are marked stand out.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Heads of the columns.
    pub header: Vec<String>,
    /// Cells, as many in a row as there are heads.
    pub rows: Vec<Vec<String>>,
    /// Rows that stand out.
    pub marked: Vec<usize>,
    /// What marks and columns mean.
    pub caption: String,
    /// Long tables are folded on the page and cut in the terminal.
    pub folded: Option<String>,
    /// Columns of words, which are aligned left.
    pub words: usize,
}

impl Table {
    /// Leaves out columns that hold nothing: what no arm of an old file was asked.
    pub(crate) fn drop_empty_columns(&mut self) {
        let keep: Vec<bool> =
            (0..self.header.len()).map(|c| c == 0 || self.rows.iter().any(|r| r[c] != "–")).collect();
        for cells in self.rows.iter_mut().chain([&mut self.header]) {
            let mut at = keep.iter();
            cells.retain(|_| at.next().copied().unwrap_or(true));
        }
    }
}

/// A part of the report.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading and a remark beside it.
    Heading(String, String),
    /// A sentence.
    Sentence(String),
    /// What the reader must know first.
    Warnings(Vec<String>),
    /// A table.
    Table(Table),
    /// Remarks.
    Notes(Vec<String>),
}

/// What a remark begins with that is to be read first.
const WARNING: &str = "WARNING: ";

/// What decides whether a number means anything, wherever it was found out.
pub(crate) fn warnings(c: &Comparison) -> Vec<String> {
    let of_readers = c.notes.iter().filter_map(|n| n.strip_prefix(WARNING)).map(str::to_owned);
    c.warnings.iter().cloned().chain(of_readers).collect()
}

/// The last part of the report: how the numbers were made, and remarks.
pub(crate) fn notes(c: &Comparison) -> Vec<Block> {
    let mut notes = sections::RULES.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    if c.warnings.first().is_some_and(|w| w == crate::old::NOTE) {
        notes.clear();
    }
    notes.extend(c.notes.iter().filter(|n| !n.starts_with(WARNING)).cloned());
    if notes.is_empty() {
        return vec![];
    }
    vec![heading("Notes", ""), Block::Notes(notes)]
}

/// The report of the terminal in order: what was asked, warnings, the primary contrast, sections, negatives, base
/// activations, gates, what goes with a hit, budgets, trajectories, exploratory contrasts, arms, notes, where single answers are.
pub(crate) fn blocks(c: &Comparison) -> Vec<Block> {
    let mut out = sections::asked(c);
    let warnings = warnings(c);
    if !warnings.is_empty() {
        out.push(Block::Warnings(warnings));
    }
    out.extend(sections::primary(c));
    for verdict in &c.verdicts {
        out.extend(sections::section(c, verdict));
    }
    out.extend(negatives::negatives(c));
    out.extend(tables::base(c));
    out.extend(tables::gates(c));
    out.extend(tables::correlations(c));
    out.extend(training::budgets(c));
    out.extend(training::trajectories(c));
    out.extend(sections::exploratory(c));
    out.extend(tables::arms(c));
    out.extend(notes(c));
    if !c.items.is_empty() {
        out.push(Block::Sentence(format!(
            "Adapter by adapter, with what was answered instead: lorafab compare items {0} --wrong, or as a page: lorafab compare report {0} --html FILE",
            c.run
        )));
    }
    out
}

fn names(header: &[&str]) -> Vec<String> {
    header.iter().map(|s| (*s).to_owned()).collect()
}

fn heading(text: &str, remark: &str) -> Block {
    Block::Heading(text.to_owned(), remark.to_owned())
}

/// A figure with its interval.
pub fn interval(value: f64, low: f64, high: f64) -> String {
    format!("{value:.2} [{low:.2}, {high:.2}]")
}

/// A difference with its interval.
pub fn signed(value: f64, low: f64, high: f64) -> String {
    format!("{value:+.2} [{low:+.2}, {high:+.2}]")
}

/// A p value.
pub fn p_value(p: Option<f64>) -> String {
    match p {
        None => "–".into(),
        Some(p) if p < 0.001 => "<.001".into(),
        Some(p) => format!("{p:.3}"),
    }
}

#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
