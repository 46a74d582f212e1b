//! A comparison's answers one by one: the misses of an arm, and what all arms said of one adapter, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::response::Html;
use compare::Comparison;
use compare::items::SectionItems;
use compare::runs::{Answer as Said, Run};
use compare::scores::{Kind, Scores};
use page::{escape, table};
use registry::Store;

use crate::frame::{Answer, Wrong, address, document, pages, query, with_store};
use crate::runs::find;
use crate::site::Shared;

/// Answers of a page.
const EACH: usize = 50;
/// Candidates that are shown of an answer.
const TOP: usize = 5;

/// The answers of the run that was looked at last: reading them takes longer than all else.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Option<Of>>);

#[derive(Debug)]
struct Of {
    run: String,
    made: jiff::Timestamp,
    scores: Arc<Vec<Scores>>,
    /// What the report shows of them, where its file does not hold it: made once, for that takes memory.
    items: Option<Vec<SectionItems>>,
}

impl Kept {
    pub(crate) fn of(&self, run: &Run) -> Result<Arc<Vec<Scores>>, String> {
        self.with(run, |of| Arc::clone(&of.scores))
    }

    /// Adapter by adapter.
    pub(crate) fn items(
        &self,
        run: &Run,
        c: &Comparison,
        store: &Store,
    ) -> Result<Vec<SectionItems>, String> {
        self.with(run, |of| of.items.get_or_insert_with(|| run.items(c, &of.scores, store)).clone())
    }

    fn with<T>(&self, run: &Run, look: impl FnOnce(&mut Of) -> T) -> Result<T, String> {
        let mut kept = self.0.lock().map_err(|_| "answers cannot be kept")?;
        if let Some(of) = kept.as_mut().filter(|k| k.run == run.name && k.made == run.made) {
            return Ok(look(of));
        }
        // One run at a time is held, and read by one request at a time.
        *kept = None;
        let scores = Arc::new(run.scores()?);
        Ok(look(kept.insert(Of { run: run.name.clone(), made: run.made, scores, items: None })))
    }
}

/// A list to choose from.
fn choice(name: &str, label: &str, values: &BTreeSet<&str>, chosen: &str) -> String {
    let mut out = format!("<label>{label} <select name=\"{name}\"><option value=\"\">all</option>");
    for v in values {
        let mark = if *v == chosen { " selected" } else { "" };
        let _ = write!(out, "<option{mark}>{}</option>", escape(v));
    }
    out + "</select></label>"
}

fn subject(s: &Said<'_>) -> String {
    if s.scores.kind(s.item) == Kind::Base { "(no adapter)".to_owned() } else { s.item.adapter.clone() }
}

fn mark(s: &Said<'_>) -> &'static str {
    if s.right() { "<span class=\"right\">right</span>" } else { "<span class=\"wrong\">wrong</span>" }
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Answer {
    with_store(shared, move |_, shared| {
        let run = find(shared.stores.root(), &name)?;
        let all = shared.kept.of(&run).map_err(Wrong::broken)?;
        let text = |key: &str| asked.get(key).map_or("", |v| v.trim());
        let (arm, family, split, context) = (text("arm"), text("family"), text("split"), text("context"));
        let (adapter, carries, wrong) = (text("adapter"), text("carries"), text("wrong"));
        let wanted = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        let found: Vec<Said<'_>> = all
            .iter()
            .filter(|s| wanted(arm, &s.arm))
            .flat_map(|s| s.items.iter().map(move |item| Said::of(s, item)))
            .filter(|a| wanted(split, &a.item.split) && wanted(family, &a.item.family))
            .filter(|a| wanted(context, &a.item.context))
            .filter(|a| carries.is_empty() || a.scores.kind(a.item) == Kind::Positive)
            .filter(|a| a.item.adapter.contains(adapter))
            .filter(|a| wrong.is_empty() || !a.right())
            .collect();
        let last = found.len().div_ceil(EACH).max(1);
        let page = text("page").parse::<usize>().unwrap_or(1).clamp(1, last);
        let place = format!("/run/{}", address(&run.name));
        let rows: Vec<Vec<String>> = found
            .iter()
            .skip((page - 1) * EACH)
            .take(EACH)
            .map(|a| {
                let to = query(&[("adapter", &a.item.adapter), ("family", &a.item.family)]);
                vec![
                    escape(&a.scores.arm),
                    a.scores.seed.to_string(),
                    format!("<a href=\"{place}/adapter{to}\">{}</a>", escape(&subject(a))),
                    escape(&a.item.family),
                    escape(&a.item.context),
                    escape(&a.item.label),
                    escape(a.first.unwrap_or("–")),
                    a.place.map_or_else(|| "–".to_owned(), |p| p.to_string()),
                    escape(a.item.reply.as_deref().unwrap_or("–")),
                    mark(a).to_owned(),
                ]
            })
            .collect();
        let names = |of: &dyn Fn(&Scores) -> Vec<&str>| -> BTreeSet<String> {
            all.iter().flat_map(|s| of(s).into_iter().map(str::to_owned).collect::<Vec<_>>()).collect()
        };
        let arms = names(&|s| vec![&s.arm]);
        let families = names(&|s| s.items.iter().map(|i| i.family.as_str()).collect());
        let splits = names(&|s| s.items.iter().map(|i| i.split.as_str()).collect());
        let contexts = names(&|s| s.items.iter().map(|i| i.context.as_str()).collect());
        let refs = |set: &BTreeSet<String>, name: &str, label: &str, chosen: &str| {
            choice(name, label, &set.iter().map(String::as_str).collect(), chosen)
        };
        let checked = |set: &str| if set.is_empty() { "" } else { " checked" };
        let body = format!(
            "<h1>Answers of {}</h1><form class=\"filter\" action=\"{place}/items\" method=\"get\">{}{}{}{}<label>adapter <input name=\"adapter\" value=\"{}\"></label><label><input type=\"checkbox\" name=\"carries\" value=\"1\"{}> only of what carries the family</label><label><input type=\"checkbox\" name=\"wrong\" value=\"1\"{}> misses only</label><button>Filter</button></form>\
             <p class=\"note\">{} answers. First and place are by the scores as they are, before the corrections that the <a href=\"{place}\">report</a> applies.</p>{}{}",
            escape(&run.name),
            refs(&arms, "arm", "arm", arm),
            refs(&families, "family", "question about", family),
            refs(&splits, "split", "split", split),
            refs(&contexts, "context", "context", context),
            escape(adapter),
            checked(carries),
            checked(wrong),
            found.len(),
            table(
                &["arm", "#seed", "adapter", "asked about", "context", "label", "first", "#place", "says", ""],
                &rows
            ),
            pages(
                &format!("{place}/items"),
                &[
                    ("arm", arm),
                    ("family", family),
                    ("split", split),
                    ("context", context),
                    ("adapter", adapter),
                    ("carries", carries),
                    ("wrong", wrong),
                ],
                page,
                last
            )
        );
        Ok(Html(document("/runs", &format!("Answers of {}", run.name), &body)))
    })
    .await
}

/// What every arm said of one adapter, question by question, with the candidates that came first.
pub(crate) async fn of_adapter(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Answer {
    with_store(shared, move |store, shared| {
        let run = find(shared.stores.root(), &name)?;
        let all = shared.kept.of(&run).map_err(Wrong::broken)?;
        let text = |key: &str| asked.get(key).map_or("", |v| v.trim());
        let (adapter, family) = (text("adapter"), text("family"));
        let mut questions: BTreeMap<(&str, &str, usize), Vec<Said<'_>>> = BTreeMap::new();
        for scores in all.iter() {
            for item in scores.items.iter().filter(|i| i.adapter == adapter) {
                if family.is_empty() || item.family == family {
                    let key = (item.family.as_str(), item.context.as_str(), item.question_id);
                    questions.entry(key).or_default().push(Said::of(scores, item));
                }
            }
        }
        if questions.is_empty() {
            return Err(Wrong::not_found(format!("{} asked nothing about {adapter:?}", run.name)));
        }
        let link = match store.adapter(adapter) {
            Ok(r) => format!("<a href=\"/adapter/{}\">{}</a>", address(&r.id), escape(adapter)),
            Err(_) => escape(adapter),
        };
        let mut body = format!(
            "<h1>{link} in <a href=\"/run/{}\">{}</a></h1><p class=\"note\">What every arm and control said, side by side; the candidates with the highest scores as they are.</p>",
            address(&run.name),
            escape(&run.name)
        );
        for ((family, context, question), said) in questions {
            let label = said.first().map_or("", |s| s.item.label.as_str());
            let _ = write!(
                body,
                "<h2>Asked about {}, phrasing {question}, {}: the answer is {}</h2>",
                escape(family),
                escape(context),
                escape(label)
            );
            let rows: Vec<Vec<String>> = said
                .iter()
                .map(|s| {
                    let top: Vec<String> = s
                        .top(TOP)
                        .into_iter()
                        .map(|(c, v)| format!("<span class=\"word\">{} <small>{v:.2}</small></span>", escape(c)))
                        .collect();
                    vec![
                        escape(&s.scores.arm),
                        s.scores.seed.to_string(),
                        mark(s).to_owned(),
                        s.place.map_or_else(|| "–".to_owned(), |p| p.to_string()),
                        top.join(" "),
                        escape(s.item.reply.as_deref().unwrap_or("–")),
                    ]
                })
                .collect();
            body += &table(&["arm", "#seed", "", "#place", "highest", "says"], &rows);
        }
        Ok(Html(document("/runs", adapter, &body)))
    })
    .await
}
