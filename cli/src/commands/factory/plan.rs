//! `factory plan`: what the open jobs will cost; `--check`: what the last plan's jobs did cost.

use factory::plan::{Cost, check, keep, memory, plan};
use serde_json::json;

use crate::context::{Context, now_ms};
use crate::error::{CommandError, Kind, Result};
use crate::memory::gb;
use crate::output::{count, print, print_json, table};

pub(super) fn run(context: &Context<'_>, compare: bool, pack: usize) -> Result {
    let mut store = context.existing_store()?;
    if compare {
        return checked(context, &mut store);
    }
    // A model that would have to be fetched is not fetched for a plan.
    let outline = context.outline_at_hand();
    let plan = plan(&mut store, outline.as_ref(), now_ms())?;
    keep(&mut store, &plan)?;
    let (total, measured) = (plan.total(), plan.measured());
    let (available, threads) =
        (context.available_memory(), std::thread::available_parallelism().map_or(1, usize::from));
    let mut needs = Vec::new();
    if let Some(outline) = &outline {
        for pack in [pack, 1] {
            needs.push((pack, memory(&mut store, outline, pack, threads)?));
        }
    }
    let need = needs.first().map(|(_, m)| m.peak());
    let free = available.as_ref().map(|a| a.bytes);
    let fits = need.zip(free).map(|(need, free)| need <= free as f64);
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-plan/2", "open_jobs": total.jobs, "tokens": total.tokens, "measured": measured,
            "hours": (total.seconds > 0.0).then_some(total.seconds / 3600.0), "bytes": (total.bytes > 0.0).then_some(total.bytes),
            "available_memory_bytes": free, "memory": needs.first().map(|(_, m)| m), "memory_bytes": need, "fits": fits,
            "pack": pack, "families": plan.families, "other_open_jobs": plan.others}),
        );
    }
    let others = match plan.others {
        0 => String::new(),
        n => format!("{} of other kinds or for other models, not planned", count(n, "open job")),
    };
    if total.jobs == 0 {
        return print(if others.is_empty() { "no open jobs" } else { &others });
    }
    let mut rows: Vec<Vec<String>> =
        plan.families.iter().map(|(family, f)| line(family, &f.cost, format!("{}", f.measured_on))).collect();
    rows.push(line("all", &total, String::new()));
    let mut lines =
        vec![table(&["family", ">jobs", ">thousand tokens", ">minutes", ">MB", ">measured on"], &rows)];
    if !measured {
        lines.push("families measured on 0 adapters: tokens are a guess at 40 a row, minutes at the rate of other families if there are any".into());
    }
    lines.push(if total.seconds > 0.0 {
        let guess = if measured { "" } else { ", in part a guess" };
        format!("one worker: {:.0} minutes, at the rate of finished adapters{guess}", total.seconds / 60.0)
    } else {
        "one worker: no adapter is finished here, so nobody knows".into()
    });
    if let (Some(need), Some(available), Some((_, model))) = (need, &available, needs.first()) {
        let free = available.bytes;
        let least = needs.last().map_or(0.0, |(_, m)| m.peak());
        let verdict = match fits {
            Some(true) => "it fits".to_owned(),
            _ if least <= free as f64 => {
                "it does NOT fit; fewer at once would: factory run --pack 1".to_owned()
            }
            _ => format!("it does NOT fit; one adapter at a time needs {}", gb(least)),
        };
        lines.push(format!(
            "memory: a worker with packs of {pack} needs about {} (the model alone {} while it loads, {} after), {} are free ({}): {verdict}",
            gb(need),
            gb(model.loading),
            gb(model.base),
            gb(free as f64),
            available.by.text()
        ));
    }
    if !others.is_empty() {
        lines.push(others);
    }
    print(&lines.join("\n"))?;
    context.say("after the run: lorafab factory plan --check");
    Ok(())
}

fn line(name: &str, c: &Cost, on: String) -> Vec<String> {
    let or_dash = |value: f64, text: String| if value > 0.0 { text } else { "–".to_owned() };
    vec![
        name.to_owned(),
        c.jobs.to_string(),
        format!("{:.0}", c.tokens / 1000.0),
        or_dash(c.seconds, format!("{:.1}", c.seconds / 60.0)),
        or_dash(c.bytes, format!("{:.1}", c.bytes / 1e6)),
        on,
    ]
}

fn checked(context: &Context<'_>, store: &mut registry::Store) -> Result {
    let Some(check) = check(store)? else {
        return Err(CommandError::new(Kind::NotFound, "no plan was made in this store")
            .hint("make one before the run with: lorafab factory plan"));
    };
    let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
    let (e, a) = (&check.expected, &check.actual);
    let ratios =
        [("tokens", e.tokens, a.tokens), ("seconds", e.seconds, a.seconds), ("bytes", e.bytes, a.bytes)];
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-plan-check/1", "planned_jobs": check.plan.jobs.len(), "finished_jobs": a.jobs,
            "expected": e, "actual": a, "expected_over_actual": ratios.map(|(name, e, a)| json!({"what": name, "ratio": ratio(e, a)}))}),
        );
    }
    let rows: Vec<Vec<String>> = ratios
        .iter()
        .map(|(name, e, a)| {
            let r = ratio(*e, *a).filter(|r| *r > 0.0).map_or("–".into(), |r| format!("{r:.2}"));
            vec![(*name).to_owned(), format!("{e:.0}"), format!("{a:.0}"), r]
        })
        .collect();
    print(&format!(
        "{}\n{} of {} planned have an adapter",
        table(&["", ">expected", ">actual", ">ratio"], &rows),
        a.jobs,
        count(check.plan.jobs.len(), "job")
    ))
}
