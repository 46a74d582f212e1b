//! Comparisons: which there are, what each says, how its readers were trained.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path as FilePath;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use compare::Comparison;
use compare::runs::{Run, all};
use page::{curve_of, escape, table};

use crate::facts::time;
use crate::frame::{Answer, Wrong, address, document, query, with_store};
use crate::site::Shared;

/// The run of a name.
pub(crate) fn find(root: &FilePath, name: &str) -> Result<Run, Wrong> {
    // The names are those of folders that were listed: no name leads anywhere else.
    let runs = all(root).map_err(|e| Wrong::broken(e.to_string()))?;
    runs.into_iter()
        .find(|run| run.name == name)
        .ok_or_else(|| Wrong::not_found(format!("there is no comparison {name:?} in this store")))
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Answer {
    with_store(shared, |_, shared| {
        let mut runs = all(shared.stores.root()).map_err(|e| Wrong::broken(e.to_string()))?;
        runs.reverse();
        let rows: Vec<Vec<String>> = runs
            .iter()
            .map(|run| {
                let link = format!("<a href=\"/run/{}\">{}</a>", address(&run.name), escape(&run.name));
                match run.comparison() {
                    Ok(c) => {
                        let remark =
                            if c.smoke { "smoke run: its numbers mean nothing".to_owned() } else { c.model.clone() };
                        vec![link, time(&run.made.to_string()), c.arms.len().to_string(), escape(&remark)]
                    }
                    Err(e) => vec![escape(&run.name), time(&run.made.to_string()), "–".into(), escape(&e)],
                }
            })
            .collect();
        let list = if rows.is_empty() {
            "<p>None yet; make one with <code>lorafab quickstart</code> or <code>lorafab compare run</code>.</p>".to_owned()
        } else {
            table(&["run", "made", "#arms", "model"], &rows)
        };
        Ok(Html(document("/runs", "Comparisons", &format!("<h1>Comparisons</h1>{list}"))))
    })
    .await
}

/// One run: its report's beginning, links to all of it and to its answers, its trainings.
pub(crate) async fn report(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Answer {
    with_store(shared, move |_, shared| {
        let run = find(shared.stores.root(), &name)?;
        let c = run.comparison().map_err(Wrong::broken)?;
        let place = format!("/run/{}", address(&run.name));
        let mut body = format!(
            "<h1>{}</h1><p class=\"note\">{} · made {}</p><p><a href=\"{place}/report\">The whole report</a> · <a href=\"{place}/items\">its answers one by one</a></p>",
            escape(&run.name),
            escape(&c.model),
            time(&run.made.to_string())
        );
        if !c.warnings.is_empty() {
            let all: Vec<String> = c.warnings.iter().map(|w| format!("<li>{}</li>", escape(w))).collect();
            let _ = write!(body, "<ul class=\"warning\">{}</ul>", all.concat());
        }
        for v in &c.verdicts {
            let _ = write!(
                body,
                "<h2>{}</h2><p>{}</p>",
                escape(&compare::warnings::title(&v.family, &v.split, &v.context)),
                escape(&v.sentence)
            );
            let rows: Vec<Vec<String>> = c
                .arms
                .iter()
                .filter_map(|arm| {
                    let of = |metric| c.result(&arm.arm, &v.family, &v.split, &v.context, metric);
                    let top = of("top1")?;
                    let misses = query(&[
                        ("arm", &arm.arm),
                        ("family", &v.family),
                        ("split", &v.split),
                        ("context", &v.context),
                        ("carries", "1"),
                        ("wrong", "1"),
                    ]);
                    Some(vec![
                        escape(&arm.arm),
                        format!("{:.2} [{:.2}, {:.2}]", top.value, top.ci_low, top.ci_high),
                        top.n.to_string(),
                        format!("<a href=\"{place}/items{misses}\">misses</a>"),
                    ])
                })
                .collect();
            if !rows.is_empty() {
                body += &table(&["arm", "#top-1 [95% CI]", "#adapters", ""], &rows);
            }
        }
        body += &trainings(&c);
        Ok(Html(document("/runs", &run.name, &body)))
    })
    .await
}

/// The report as the file that `compare report --html` writes.
pub(crate) async fn whole(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let made = with_store(shared, move |store, shared| {
        let run = find(shared.stores.root(), &name)?;
        let c = run.filled(|c| shared.kept.items(&run, c, store)).map_err(Wrong::broken)?;
        Ok(Html(compare::to_html(&c)))
    });
    made.await.into_response()
}

/// How readers came along while they were trained, seed by seed.
fn trainings(c: &Comparison) -> String {
    let mut arms: BTreeMap<&str, Vec<&compare::comparison::TrajectoryRow>> = BTreeMap::new();
    for row in c.trajectories.iter().filter(|r| r.points.len() > 1) {
        arms.entry(&row.arm).or_default().push(row);
    }
    if arms.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<h2>Trainings</h2><p class=\"note\">Mean reciprocal rank of the right answer on validation adapters while a reader is trained; the step with the highest is kept.</p>",
    );
    for (arm, rows) in arms {
        let _ = write!(out, "<h3>{}</h3>", escape(arm));
        for row in rows {
            let points: Vec<(f64, f64)> =
                row.points.iter().map(|p| (p.step as f64, p.validation.mrr)).collect();
            out += &curve_of(
                &format!("{arm}, seed {}", row.seed),
                &points,
                "step",
                &format!("MRR, seed {}", row.seed),
            );
        }
    }
    out
}
