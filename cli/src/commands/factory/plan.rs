//! `factory plan`: what the open jobs will cost; `--check`: what the last plan's jobs did cost.

use factory::plan::{Cost, check, keep, plan};
use serde_json::json;

use crate::context::{Context, now_ms};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};

pub(super) fn run(context: &Context<'_>, compare: bool) -> Result {
    let mut store = context.existing_store()?;
    if compare {
        return checked(context, &mut store);
    }
    let plan = plan(&mut store, now_ms())?;
    keep(&mut store, &plan)?;
    let (total, measured) = (plan.total(), plan.measured());
    let memory = available_memory();
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-plan/2", "open_jobs": total.jobs, "tokens": total.tokens, "measured": measured,
            "hours": measured.then_some(total.seconds / 3600.0), "bytes": measured.then_some(total.bytes),
            "available_memory_bytes": memory, "families": plan.families}),
        );
    }
    if total.jobs == 0 {
        return print("no open jobs");
    }
    let or_dash = |known: bool, text: String| if known { text } else { "–".to_owned() };
    let mut rows: Vec<Vec<String>> = plan
        .families
        .iter()
        .map(|(family, f)| line(family, &f.cost, f.measured_on > 0, format!("{}", f.measured_on)))
        .collect();
    rows.push(line("all", &total, measured, String::new()));
    let mut out = table(&["family", ">jobs", ">thousand tokens", ">minutes", ">MB", ">measured on"], &rows);
    if !measured {
        out.push_str("\n– and tokens of families not measured yet: no adapter of theirs has been made here; tokens are a guess at 40 a row");
    }
    let time = format!("{:.0} minutes, at the rate of finished adapters", total.seconds / 60.0);
    out.push_str("\none worker: ");
    out.push_str(&or_dash(measured, time));
    if let Some(bytes) = memory {
        let free = bytes as f64 / f64::from(1 << 30);
        let line = format!("\nmemory free: {free:.1} GiB; a worker on the default model needs about 2");
        out.push_str(&line);
    }
    print(&out)?;
    context.say("after the run: lorafab factory plan --check");
    Ok(())
}

fn line(name: &str, c: &Cost, known: bool, on: String) -> Vec<String> {
    let or_dash = |text: String| if known { text } else { "–".to_owned() };
    vec![
        name.to_owned(),
        c.jobs.to_string(),
        format!("{:.0}", c.tokens / 1000.0),
        or_dash(format!("{:.1}", c.seconds / 60.0)),
        or_dash(format!("{:.1}", c.bytes / 1e6)),
        on,
    ]
}

/// What the kernel says can be had without swapping.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
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
