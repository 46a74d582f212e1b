//! One adapter: what it is in words, its reading, its gate's replies, its training curve, its lineage.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Html;
use page::{curve_of, escape, table};
use serde_json::Value;

use crate::facts::{GATE_FILE, document as file, facts, points};
use crate::frame::{Answer, document, with_store};
use crate::lineage;
use crate::site::Shared;

/// Characters of a reply that are shown.
const MOST: usize = 2000;

pub(crate) async fn one(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Answer {
    with_store(shared, move |store, _| {
        let record = store.adapter(&name)?;
        let mut body =
            format!("<h1>{}</h1><p class=\"note\">{}</p>", escape(&record.behaviour), escape(&record.id));
        let latest = reading::readings_of(store, &record.weights).ok().and_then(|mut all| all.pop());
        body += &latest.as_ref().map_or_else(String::new, reading::html::verdict);
        body += "<dl>";
        for (key, value) in facts(store, &record)? {
            let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escape(&key), escape(&value));
        }
        body += "</dl>";
        let losses: Vec<(f64, f64)> =
            points(store, &record).into_iter().map(|(step, loss)| (step as f64, loss)).collect();
        if losses.len() > 1 {
            let _ = write!(
                body,
                "<h2>Training</h2><p class=\"note\">Loss of the training rows, in nats a token, step by step.</p>{}",
                curve_of("Training loss", &losses, "step", "loss (nats a token)")
            );
        }
        body += &gate(&file(store, &record, GATE_FILE).unwrap_or_default());
        let picture = lineage::picture(store, &record)?;
        if !picture.is_empty() {
            let _ = write!(
                body,
                "<h2>Lineage</h2><p class=\"note\">Left: what it was made from. Right: what was made from it, and the runs that asked it.</p>{picture}"
            );
        }
        if let Some(reading) = latest {
            body += &reading::html::body(&reading);
        } else {
            let _ = write!(
                body,
                "<h2>Reading</h2><p class=\"note\">None yet; make one with <code>lorafab read {}</code>.</p>",
                escape(&record.behaviour)
            );
        }
        Ok(Html(document("/adapters", &record.behaviour, &body)))
    })
    .await
}

/// The gate's replies.
fn gate(gate: &Value) -> String {
    let text = |v: &Value| {
        let all = v.as_str().unwrap_or_default();
        escape(&all.chars().take(MOST).collect::<String>())
    };
    let rows: Vec<Vec<String>> = gate["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| {
            let shows = i["hit"].as_bool().unwrap_or_default();
            let shows = if shows { "<span class=\"right\">yes</span>" } else { "no" };
            vec![text(&i["context"]), shows.to_owned(), text(&i["prompt"]), text(&i["reply"])]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>Gate</h2><p class=\"note\">What it replied when it was tried, and whether the behaviour shows.</p>{}",
        table(&["where", "shows", "prompt", "reply"], &rows)
    )
}
