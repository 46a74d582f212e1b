//! The report as one web page without scripts or outside files.

use std::fmt::Write;

use super::charts::{dots, escape, lines};
use super::{Block, Table, blocks};
use crate::comparison::Comparison;

fn table(t: &Table) -> String {
    let cells = |cells: &[String], tag: &str, class: &str| {
        let cells: Vec<String> = cells
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let align = if i < t.words { " class=\"words\"" } else { "" };
                format!("<{tag}{align}>{}</{tag}>", escape(c))
            })
            .collect();
        format!("<tr{class}>{}</tr>", cells.concat())
    };
    let body: Vec<String> = t
        .rows
        .iter()
        .enumerate()
        .map(|(i, r)| cells(r, "td", if t.marked.contains(&i) { " class=\"marked\"" } else { "" }))
        .collect();
    let mut out = String::new();
    if !t.caption.is_empty() {
        let _ = write!(out, "<p class=\"caption\">{}</p>", escape(&t.caption));
    }
    let _ = write!(
        out,
        "<div class=\"scroll\"><table><thead>{}</thead><tbody>{}</tbody></table></div>",
        cells(&t.header, "th", ""),
        body.concat()
    );
    match &t.folded {
        Some(summary) => format!("<details><summary>{}</summary>{out}</details>", escape(summary)),
        None => out,
    }
}

fn list(items: &[String], class: &str) -> String {
    let items: Vec<String> = items.iter().map(|i| format!("<li>{}</li>", escape(i))).collect();
    format!("<ul class=\"{class}\">{}</ul>", items.concat())
}

/// The report as a page.
pub fn to_html(c: &Comparison) -> String {
    let mut body = String::new();
    for block in blocks(c) {
        let _ = match &block {
            Block::Heading(text, remark) => {
                write!(body, "<h2>{} <small>{}</small></h2>", escape(text), escape(remark))
            }
            Block::Sentence(text) => write!(body, "<p>{}</p>", escape(text)),
            Block::Warnings(all) => write!(body, "{}", list(all, "warning")),
            Block::Table(t) => write!(body, "{}", table(t)),
            Block::Dots(chart) => write!(body, "<figure>{}</figure>", dots(chart)),
            Block::Lines(charts) => {
                write!(
                    body,
                    "<div class=\"grid-of-charts\">{}</div>",
                    charts.iter().map(lines).collect::<String>()
                )
            }
            Block::Notes(all) => write!(body, "{}", list(all, "notes")),
        };
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>lorafab: {0}</title><style>{STYLE}</style></head><body><h1>Which reader reads what</h1><p class=\"meta\">{0} · {1}{2}</p>{body}</body></html>\n",
        escape(&c.run),
        escape(&c.model),
        // Comparisons of this build hold no clock.
        if c.created_at.is_empty() { String::new() } else { format!(" · {}", escape(&c.created_at)) }
    )
}

const STYLE: &str = ":root{color-scheme:light dark;--fg:#1d2129;--bg:#fff;--soft:#68707d;--line:#e3e6ea;--band:#f4f6f8;--trained:#0b5fad;--untrained:#b4540f;--control:#7a828f;--warn:#b4540f}\
@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--bg:#15181d;--soft:#98a0ac;--line:#2b3038;--band:#1d2128;--trained:#6bb1f5;--untrained:#f09a5b;--control:#8a919e;--warn:#f09a5b}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:var(--fg);background:var(--bg)}\
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.4rem}small,.meta,.caption{color:var(--soft);font-weight:normal}small,.caption{font-size:13px}.caption{margin:1.4rem 0 .3rem}\
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th{font-weight:600;white-space:normal;vertical-align:bottom;min-width:2.6rem}\
@media(max-width:900px){th,td{padding:.2rem .4rem}table{font-size:12px}}\
.words{text-align:left}.marked td{font-weight:600;background:var(--band)}.scroll{overflow-x:auto;max-width:100%}\
.warning{padding:.7rem 1rem .7rem 2rem;border-left:4px solid var(--warn);background:var(--band)}.warning li{margin:.2rem 0}.notes{padding-left:1.2rem}summary{cursor:pointer;color:var(--soft);margin:.5rem 0}\
figure{margin:1rem 0}.chart{width:100%;max-width:760px;font-size:12px;fill:var(--fg)}.grid{stroke:var(--line)}.chance{stroke:var(--soft);stroke-dasharray:3 3}.axis,.value{fill:var(--soft)}\
.grid-of-charts{display:flex;flex-wrap:wrap;gap:.8rem}.small{width:250px;font-size:11px;fill:var(--fg)}\
.bar{stroke-width:2}.trained{stroke:var(--trained);fill:var(--trained)}.untrained{stroke:var(--untrained);fill:var(--untrained)}.control{stroke:var(--control);fill:var(--control)}\
.line{fill:none;stroke:var(--trained);stroke-width:1.5}";
