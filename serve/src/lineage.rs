//! What an adapter was made from and what was made from it, as a picture with links.

use std::fmt::Write;

use page::escape;
use registry::commit::short;
use registry::{AdapterRecord, Filter, Listing, Result, Store};

use crate::frame::address;

/// Boxes of a column; of more, the last says how many.
const MOST: usize = 8;
/// A box in pixels, and what lies between two of them.
const BOX: (f64, f64) = (230.0, 26.0);
const GAP: (f64, f64) = (60.0, 10.0);

/// A box.
struct Node {
    text: String,
    title: String,
    link: Option<String>,
}

/// The picture; empty where nothing is known of either side.
pub(crate) fn picture(store: &Store, record: &AdapterRecord) -> Result<String> {
    let (up, down) = store.lineage(&record.id)?;
    let node = |id: &str, kind: &str| -> Node {
        if let Some(run) = id.strip_prefix(registry::query::RUN) {
            return Node {
                text: format!("run {run}"),
                title: format!("{kind} in {run}"),
                link: Some(format!("/run/{}", address(run))),
            };
        }
        let page = store.page(&Filter::all().equals("id", id), &Listing::default(), &["behaviour"]);
        match page.ok().and_then(|mut p| p.rows.pop()).and_then(|mut row| row.remove("behaviour")) {
            Some(text) => {
                let link = Some(format!("/adapter/{}", address(id)));
                Node { text, title: format!("{kind} {id}"), link }
            }
            None => Node { text: format!("{kind} {}", short(id)), title: format!("{kind} {id}"), link: None },
        }
    };
    // Of many only those that are shown are looked up.
    let side = |of: Vec<(&str, &str)>| -> Vec<Node> {
        let shown = if of.len() > MOST { MOST - 1 } else { of.len() };
        let mut nodes: Vec<Node> = of[..shown].iter().map(|(id, kind)| node(id, kind)).collect();
        if shown < of.len() {
            let text = format!("and {} more", of.len() - shown);
            nodes.push(Node { text, title: String::new(), link: None });
        }
        nodes
    };
    let from = side(up.iter().filter(|e| e.child == record.id).map(|e| (&*e.parent, &*e.kind)).collect());
    let into = side(down.iter().filter(|e| e.parent == record.id).map(|e| (&*e.child, &*e.kind)).collect());
    if from.is_empty() && into.is_empty() {
        return Ok(String::new());
    }
    let rows = from.len().max(into.len()).max(1) as f64;
    let height = rows * (BOX.1 + GAP.1) + GAP.1;
    let width = 3.0 * BOX.0 + 2.0 * GAP.0 + 2.0;
    let mut out = format!(
        "<div class=\"scroll\"><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" class=\"own\" role=\"img\" aria-label=\"lineage\">"
    );
    let own = Node { text: record.behaviour.clone(), title: record.id.clone(), link: None };
    let middle = (BOX.0 + GAP.0, (height - BOX.1) / 2.0);
    let mut put = |node: &Node, (x, y): (f64, f64), class: &str| {
        let text: String = if node.text.chars().count() > 30 {
            node.text.chars().take(29).chain(['…']).collect()
        } else {
            node.text.clone()
        };
        let drawn = format!(
            "<rect {class}x=\"{:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{}\" rx=\"4\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text><title>{}</title>",
            x + 1.0,
            BOX.0,
            BOX.1,
            x + 9.0,
            y + 17.0,
            escape(&text),
            escape(&node.title)
        );
        let _ = match &node.link {
            Some(link) => write!(out, "<a href=\"{link}\">{drawn}</a>"),
            None => write!(out, "<g>{drawn}</g>"),
        };
    };
    let places = |n: usize, x: f64| {
        let top = 0.5 * (height - n as f64 * (BOX.1 + GAP.1) + GAP.1);
        (0..n).map(move |i| (x, top + i as f64 * (BOX.1 + GAP.1)))
    };
    let mut lines = String::new();
    for (node, at) in from.iter().zip(places(from.len(), 0.0)) {
        put(node, at, "class=\"soft\" ");
        let _ = write!(lines, "{}", line((at.0 + BOX.0, at.1), middle));
    }
    for (node, at) in into.iter().zip(places(into.len(), 2.0 * (BOX.0 + GAP.0))) {
        put(node, at, "class=\"soft\" ");
        let _ = write!(lines, "{}", line((middle.0 + BOX.0, middle.1), at));
    }
    put(&own, middle, "class=\"self\" ");
    Ok(out + &lines + "</svg></div>")
}

/// From the right side of one box to the left side of another.
fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    format!(
        "<line class=\"soft\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{x2:.1}\" y2=\"{:.1}\"/>",
        x1 + 1.0,
        y1 + BOX.1 / 2.0,
        y2 + BOX.1 / 2.0
    )
}
