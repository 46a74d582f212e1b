//! The report as one web page without scripts or outside files: what was asked and what came out first, then each section
//! with its pictures and the differences that its verdict rests on, then what the terminal prints as well.

mod arms;
mod confusion;
mod doses;
mod figures;
mod glance;
mod items;
mod meanings;
mod opening;
mod pieces;
mod section;

pub use pieces::block;

use std::fmt::Write;

use page::{document, escape};

use super::{Block, negatives, notes, sections, tables, training};
use crate::comparison::Comparison;

/// A part of the page: its heading and what is below it, as HTML.
struct Part {
    title: String,
    remark: String,
    body: String,
}

/// The report as a page.
pub fn to_html(c: &Comparison) -> String {
    let parts = parts(c);
    let mut body = opening::opening(c);
    let links: Vec<String> = parts
        .iter()
        .enumerate()
        .map(|(i, p)| format!("<a href=\"#part{}\">{}</a>", i + 1, escape(&p.title)))
        .collect();
    let _ = write!(body, "<nav aria-label=\"Parts of this page\">{}</nav>", links.join(" "));
    for (i, p) in parts.iter().enumerate() {
        let remark = if p.remark.is_empty() {
            String::new()
        } else {
            format!(" <small>{}</small>", escape(&p.remark))
        };
        let _ = write!(
            body,
            "<section id=\"part{}\"><h2>{}{remark}</h2>{}</section>",
            i + 1,
            escape(&p.title),
            p.body
        );
    }
    document(&format!("lorafab: {}", c.run), &body)
}

/// All parts in order; a comparison has those of which it holds anything.
fn parts(c: &Comparison) -> Vec<Part> {
    let mut out = Vec::new();
    out.extend(glance::glance(c));
    out.extend(arms::legend(c));
    out.extend(c.verdicts.iter().map(|v| section::section(c, v)));
    out.extend(confusion::confusion(c));
    out.extend(items::items(c));
    for (blocks, pictures) in [
        (negatives::negatives(c), String::new()),
        (tables::base(c), String::new()),
        (tables::gates(c), String::new()),
        (tables::correlations(c), doses::pictures(c) + &figures::leaks(c)),
        (training::budgets(c), String::new()),
        (training::trajectories(c), figures::trainings(c)),
        (sections::exploratory(c), String::new()),
        (tables::arms(c), String::new()),
        (notes(c), String::new()),
    ] {
        out.extend(part(&blocks, &pictures));
    }
    out
}

/// Blocks that begin with a heading, with pictures before the rest.
fn part(blocks: &[Block], pictures: &str) -> Option<Part> {
    let (first, rest) = blocks.split_first()?;
    let Block::Heading(title, remark) = first else { return None };
    let mut body = pictures.to_owned();
    for block in rest {
        body += &pieces::block(block);
    }
    Some(Part { title: title.clone(), remark: remark.clone(), body })
}
