//! The list of adapters: filtered by the language of `--where`, sorted by any column, paged.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Html;
use page::{escape, table};
use registry::Filter;
use registry::commit::short;

use crate::facts::{figure, time};
use crate::frame::{Answer, Wrong, address, document, pages, query, with_store};
use crate::site::Shared;

/// Adapters of a page.
const EACH: usize = 50;
/// Conditions of a filter: each is looked for among all adapters.
const MOST: usize = 24;

/// Columns: field, head (numbers marked), whether the first click sorts it from above.
const COLUMNS: [(&str, &str, bool); 8] = [
    ("behaviour", "behaviour", false),
    ("family", "family", false),
    ("split", "split", false),
    ("status", "status", false),
    ("rank", "#rank", false),
    ("gate_on", "#shows", true),
    ("gate_off", "#leaks", true),
    ("created", "#made", true),
];

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Answer {
    let text = |key: &str| asked.get(key).map_or("", |v| v.trim()).to_owned();
    let (condition, sort) = (text("where"), text("sort"));
    let page = asked.get("page").and_then(|p| p.parse::<usize>().ok()).unwrap_or(1).clamp(1, 1_000_000);
    let sort = if sort.is_empty() { "-created".to_owned() } else { sort };
    with_store(shared, move |store, _| {
        let (key, down) = registry::row::sorted_by(&sort);
        let key = key.as_str();
        if key.len() > 200 {
            return Err(Wrong::bad("sort: the name of a field is not that long"));
        }
        let known = Filter::all();
        let filtered = if condition.is_empty() { Ok(known.clone()) } else { filter(&condition) };
        // A condition that cannot be read or answered is said above the whole list, and stays in its field to be mended.
        let answered = filtered.and_then(|filter| {
            let asked = std::iter::once(key).filter(|key| !COLUMNS.iter().any(|c| c.0 == *key));
            store.check_keys(&filter, asked)?;
            Ok(filter)
        });
        let (filter, wrong) = match answered {
            Ok(filter) => (filter, String::new()),
            Err(e) => (known, format!("<p class=\"warning\">{}</p>", escape(&why(&e)))),
        };
        let mut keys: Vec<&str> = vec!["id"];
        keys.extend(COLUMNS.iter().map(|c| c.0));
        let part = |page: usize| store.window(&filter, (key, down), (page - 1) * EACH, EACH, &keys);
        let (mut page, mut found) = (page, part(page)?);
        let last = found.total.div_ceil(EACH).max(1);
        if page > last {
            page = last;
            found = part(page)?;
        }
        let heads: Vec<String> = COLUMNS
            .iter()
            .map(|(field, head, from_above)| {
                let (mark, name) =
                    head.strip_prefix('#').map_or(("", *head), |name| ("#", name));
                let next = match (*field == key, down) {
                    (true, false) => format!("-{field}"),
                    (false, _) if *from_above => format!("-{field}"),
                    _ => (*field).to_owned(),
                };
                let arrow = if *field == key { if down { " ↓" } else { " ↑" } } else { "" };
                let to = query(&[("where", &condition), ("sort", &next)]);
                format!("{mark}<a href=\"/adapters{to}\">{name}</a>{arrow}")
            })
            .collect();
        let rows: Vec<Vec<String>> = found
            .rows
            .iter()
            .map(|row| {
                let cell = |key: &str| row.get(key).map_or("", String::as_str);
                COLUMNS
                    .iter()
                    .map(|(field, ..)| match *field {
                        "behaviour" => {
                            let name = cell("behaviour");
                            let name = if name.is_empty() { short(cell("id")) } else { name };
                            format!("<a href=\"/adapter/{}\">{}</a>", address(cell("id")), escape(&cut(name)))
                        }
                        "created" => escape(&time(cell("created"))),
                        "gate_on" | "gate_off" => {
                            cell(field).parse::<f64>().map_or_else(|_| "–".to_owned(), figure)
                        }
                        "status" => escape(&cell("status").replace('_', " ")),
                        field => escape(&cut(cell(field))),
                    })
                    .collect()
            })
            .collect();
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        let body = format!(
            "<h1>Adapters</h1><form class=\"filter\" action=\"/adapters\" method=\"get\"><input name=\"where\" value=\"{}\" aria-label=\"condition\" placeholder=\"family = topic and gate_on &gt;= 0.8\"><input type=\"hidden\" name=\"sort\" value=\"{}\"><button>Filter</button></form>{wrong}\
             <p class=\"note\">{} of them; a condition looks at any column, tag or metric: <code>value like 'b*'</code>, <code>status in (weak, failed)</code>, <code>has sweep</code>. Shows: share of the gate's replies that show the behaviour; leaks: where they should not.</p>{}{}",
            escape(&condition),
            escape(&sort),
            found.total,
            table(&heads, &rows),
            pages("/adapters", &[("where", &condition), ("sort", &sort)], page, last)
        );
        Ok(Html(document("/adapters", "Adapters", &body)))
    })
    .await
}

/// A condition as a person types it: of the language of `--where`; a word alone is looked for in names.
fn filter(text: &str) -> registry::Result<Filter> {
    let word =
        !text.contains(['=', '<', '>', '(', ')', '\'', '"', '*']) && !text.contains(char::is_whitespace);
    if word {
        return Filter::all().and(&format!("behaviour like '*{text}*'"));
    }
    let filter = Filter::all().and(text)?;
    let conditions = filter.keys().len();
    if conditions > MOST {
        let what = format!("at most {MOST} conditions (it has {conditions})");
        return Err(registry::Error::Filter { expression: cut(text), what, at: 1 });
    }
    Ok(filter)
}

/// What is wrong with a condition, and what may have been meant.
fn why(e: &registry::Error) -> String {
    e.hint().map_or_else(|| e.to_string(), |hint| format!("{e}; {hint}"))
}

/// What a cell holds of a long text.
fn cut(text: &str) -> String {
    const MOST: usize = 120;
    if text.chars().count() <= MOST {
        text.to_owned()
    } else {
        text.chars().take(MOST).collect::<String>() + "…"
    }
}
