//! The top of the page: the question, of what, the answer, and what limits it.

use std::collections::BTreeSet;
use std::fmt::Write;

use page::escape;

use super::pieces::list;
use crate::comparison::Comparison;
use crate::report::{Block, answer, sections, warnings};

pub(super) fn opening(c: &Comparison) -> String {
    let mut out = format!("<h1>Which reader reads what?</h1><p class=\"meta\">{}</p>", escape(&about(c)));
    for block in sections::asked(c) {
        if let Block::Sentence(text) = block {
            let _ = write!(out, "<p>{}</p>", escape(&text));
        }
    }
    let mut said = Vec::new();
    if c.smoke {
        said.push("None: a smoke run's numbers mean nothing.".to_owned());
    }
    said.extend(answer::answer(c));
    for block in sections::primary(c) {
        match block {
            Block::Heading(text, remark) => said.push(format!("{text}, {remark}: ")),
            Block::Sentence(text) => {
                if let Some(last) = said.last_mut() {
                    *last += &text;
                }
            }
            _ => {}
        }
    }
    let said: Vec<String> = said.iter().map(|s| format!("<p>{}</p>", escape(s))).collect();
    let _ = write!(out, "<div class=\"verdict\">{}</div>", said.concat());
    let warnings = warnings(c);
    if !warnings.is_empty() {
        let _ = write!(
            out,
            "<div class=\"warning\"><p><b>What limits these numbers</b></p>{}</div>",
            list(&warnings)
        );
    }
    out
}

/// Run, model, date where there is one, and seeds: comparisons of this build hold no clock.
fn about(c: &Comparison) -> String {
    let seeds: BTreeSet<u64> = c
        .arms
        .iter()
        .filter(|a| a.trained)
        .flat_map(|a| a.seeds.iter().copied())
        .filter(|s| *s != 0)
        .collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let mut out = vec![format!("Run {}", c.run), format!("model {}", c.model)];
    if !c.created_at.is_empty() {
        out.push(c.created_at.clone());
    }
    if !seeds.is_empty() {
        out.push(format!("reader seed{} {}", if seeds.len() == 1 { "" } else { "s" }, seeds.join(", ")));
    }
    out.join(" \u{b7} ")
}
