//! Blocks of the report as HTML: tables whose columns are explained below them, lists, sentences.

use std::fmt::Write;

use page::escape;

use super::meanings::meaning;
use crate::report::{Block, Table};

/// A block as HTML; headings are the page's own.
pub fn block(block: &Block) -> String {
    match block {
        Block::Heading(text, _) => format!("<h3>{}</h3>", escape(text)),
        Block::Sentence(text) => format!("<p>{}</p>", escape(text)),
        Block::Warnings(all) => format!("<div class=\"warning\">{}</div>", list(all)),
        Block::Table(t) => table(t),
        Block::Notes(all) => list(all),
    }
}

pub(super) fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|i| format!("<li>{}</li>", escape(i))).collect();
    format!("<ul>{}</ul>", items.concat())
}

/// A number's cell: what follows the number (its interval, a word) may stand below it where there is no room beside it.
fn number(cell: &str) -> String {
    match cell.split_once(' ') {
        Some((value, rest)) => {
            format!(
                "<span class=\"est\">{} <small class=\"ci\">{}</small></span>",
                escape(value),
                escape(rest)
            )
        }
        None => escape(cell),
    }
}

/// A column's head, broken before what stands in brackets and not within.
fn head(text: &str) -> String {
    escape(text).replace("(n = ", "(n&nbsp;=&nbsp;").replace("[95% CI]", "[95%&nbsp;CI]")
}

/// A table with its caption and what its columns mean; folded where the report folds it.
pub(super) fn table(t: &Table) -> String {
    let heads: Vec<String> = t
        .header
        .iter()
        .enumerate()
        .map(|(i, h)| format!("{}{}", if i < t.words { "" } else { "#" }, head(h)))
        .collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = t
        .rows
        .iter()
        .enumerate()
        .map(|(r, cells)| {
            let marked = t.marked.contains(&r);
            let cell = |(i, cell): (usize, &String)| match i < t.words {
                true if marked => format!("<b>{}</b>", escape(cell)),
                true => escape(cell),
                false => number(cell),
            };
            cells.iter().enumerate().map(cell).collect()
        })
        .collect();
    let mut out = String::new();
    if !t.caption.is_empty() {
        let _ = write!(out, "<p class=\"caption\">{}</p>", escape(&t.caption));
    }
    let _ = write!(out, "<div class=\"keep\">{}</div>{}", page::table(&heads, &rows), columns(&t.header));
    match &t.folded {
        Some(summary) => format!("<details><summary>{}</summary>{out}</details>", escape(summary)),
        None => out,
    }
}

/// What columns mean, folded.
fn columns(header: &[String]) -> String {
    let items: Vec<String> = header
        .iter()
        .filter_map(|h| Some(format!("<li><b>{}</b>: {}.</li>", escape(h), escape(meaning(h)?))))
        .collect();
    if items.is_empty() {
        return String::new();
    }
    format!(
        "<details><summary>What the columns mean</summary><ul class=\"key\">{}</ul></details>",
        items.concat()
    )
}
