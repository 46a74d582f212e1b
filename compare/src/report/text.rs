//! The report as text.

use std::fmt::Write;

use super::{Block, Table, blocks as of_comparison};
use crate::comparison::Comparison;

/// Rows of a folded table that the terminal shows.
const SHOWN: usize = 20;

fn table(t: &Table) -> String {
    let shown = if t.folded.is_some() { t.rows.len().min(SHOWN) } else { t.rows.len() };
    let rows = &t.rows[..shown];
    let widths: Vec<usize> = (0..t.header.len())
        .map(|c| rows.iter().chain([&t.header]).map(|r| r[c].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| -> String {
        let cells = cells.iter().enumerate().map(|(c, cell)| {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            if c < t.words { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    let mut out = String::new();
    if !t.caption.is_empty() {
        let _ = writeln!(out, "  {}", t.caption);
    }
    for cells in std::iter::once(&t.header).chain(rows) {
        let _ = writeln!(out, "{}", line(cells));
    }
    if shown < t.rows.len() {
        let _ = writeln!(out, "  and {} more in the web page and in the JSON", t.rows.len() - shown);
    }
    out
}

/// The report as text, without the pictures.
pub fn to_terminal(c: &Comparison) -> String {
    format!("Comparison {} on {}\n{}", c.run, c.model, blocks(&of_comparison(c)))
}

/// Blocks as text.
pub fn blocks(all: &[Block]) -> String {
    let mut out = String::new();
    let mut after_table = false;
    for block in all {
        let _ = match block {
            Block::Heading(text, remark) if remark.is_empty() => write!(out, "\n{text}\n"),
            Block::Heading(text, remark) => write!(out, "\n{text} ({remark})\n"),
            Block::Sentence(text) => writeln!(out, "  {text}"),
            Block::Warnings(all) => all.iter().try_fold((), |(), w| writeln!(out, "  WARNING: {w}")),
            Block::Table(t) => write!(out, "{}{}", if after_table { "\n" } else { "" }, table(t)),
            Block::Notes(all) => all.iter().try_fold((), |(), n| writeln!(out, "  {n}")),
        };
        after_table = matches!(block, Block::Table(_));
    }
    out
}
