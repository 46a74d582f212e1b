//! `adapter show`: an adapter in words.

use registry::{AdapterRecord, Store};
use serde_json::{Value, json};
use serve::facts::{GATE_FILE, document, facts, points};

use crate::context::Context;
use crate::error::Result;
use crate::output::{folded, print, print_json, table, width};

pub(super) fn run(context: &Context<'_>, name: &str) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(name)?;
    if context.global.json {
        let gate = document(&store, &record, GATE_FILE);
        let points: Vec<Value> =
            points(&store, &record).iter().map(|(s, l)| json!({"step": s, "loss": l})).collect();
        return print_json(
            &json!({"schema": "adapter/1", "adapter": record, "seed": record.field("seed"), "gate": gate, "curve": points,
            "readings": reading(&store, &record)}),
        );
    }
    let facts = facts(&store, &record)?;
    let wide = facts.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
    let mut text = vec![format!("{}  {}", fence::shown(&record.behaviour), record.id)];
    for (key, value) in facts {
        let lines = match width() {
            Some(width) => folded(&fence::shown(&value), width.saturating_sub(wide + 4).max(20)),
            None => fence::shown(&value).into_owned(),
        };
        for (i, line) in lines.lines().enumerate() {
            text.push(format!("  {:wide$}  {}", if i == 0 { key.as_str() } else { "" }, line.trim_start()));
        }
    }
    for (title, lines) in [
        ("Training curve", curve(&store, &record)),
        ("Gate replies", gate_replies(&store, &record)),
        ("Readings", readings(&store, &record)),
    ] {
        if !lines.is_empty() {
            text.push(format!("\n{title}"));
            text.extend(lines.lines().map(|l| format!("  {l}")));
        }
    }
    print(&text.join("\n"))
}

/// The gate's replies, one line each: whether it shows, where, the prompt, the reply.
pub(super) fn gate_replies(store: &Store, r: &AdapterRecord) -> String {
    let gate = document(store, r, GATE_FILE).unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().replace('\n', " ");
    let rows: Vec<Vec<String>> = gate["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| {
            let shows = if i["hit"].as_bool().unwrap_or_default() { "yes" } else { "no" };
            let prompt = fence::turns::in_line(i["prompt"].as_str().unwrap_or_default());
            vec![text(&i["context"]), shows.to_owned(), prompt, text(&i["reply"])]
        })
        .collect();
    if rows.is_empty() { String::new() } else { table(&["where", "shows", "prompt", "reply"], &rows) }
}

/// The losses of the training as bars, and the first, the lowest and the last in numbers.
pub(super) fn curve(store: &Store, r: &AdapterRecord) -> String {
    let points = points(store, r);
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let lowest = points.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(last);
    let losses: Vec<f64> = points.iter().map(|p| p.1).collect();
    format!(
        "{}\nloss {:.3} at step {}, {:.3} at step {}; lowest {:.3} at step {}",
        bars(&losses),
        first.1,
        first.0,
        last.1,
        last.0,
        lowest.1,
        lowest.0
    )
}

/// Numbers as bars of one character each, at most 60: of more, means of neighbours.
fn bars(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let each = values.len().div_ceil(60).max(1);
    let means: Vec<f64> = values.chunks(each).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect();
    let (low, high) = means.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let place = |v: &f64| if high > low { ((v - low) / (high - low) * 7.0).round() as usize } else { 0 };
    means.iter().map(|v| BARS[place(v).min(7)]).collect()
}

/// The latest reading of an adapter that the store keeps, whole.
pub(super) fn reading(store: &Store, r: &AdapterRecord) -> Option<Value> {
    let latest = ::reading::readings_of(store, &r.weights).ok()?.pop()?;
    serde_json::to_value(latest).ok()
}

/// What readings said of an adapter: the lines of the latest verdict.
pub(super) fn readings(store: &Store, r: &AdapterRecord) -> String {
    let reading = reading(store, r).unwrap_or_default();
    let lines = ["does", "evidence", "against"].map(|line| reading["verdict"][line].as_str());
    lines.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_rise_with_their_numbers() {
        assert_eq!(bars(&[0.0, 7.0, 3.5]), "▁█▅");
        assert_eq!(bars(&[2.0; 3]), "▁▁▁");
        assert_eq!(bars(&vec![1.0; 130]).chars().count(), 44);
    }
}
