//! `registry stats|check|gc|rebuild`.

use std::sync::Mutex;
use std::time::Duration;

use registry::Store;
use serde_json::json;

use crate::args::RegistryCommand;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};
use crate::progress::Bar;

pub(crate) fn run(context: &Context<'_>, command: &RegistryCommand) -> Result {
    let mut store = context.existing_store()?;
    match command {
        RegistryCommand::Stats => {
            let stats = store.stats()?;
            if context.global.json {
                return print_json(&json!({"schema": "registry-stats/1", "stats": stats}));
            }
            let rows: Vec<Vec<String>> = stats
                .by_family
                .iter()
                .map(|(family, counts)| {
                    let n = |s: &str| counts.get(s).map_or("–".into(), ToString::to_string);
                    vec![
                        family.clone(),
                        counts.values().sum::<usize>().to_string(),
                        n("learned"),
                        n("weak"),
                        n("failed"),
                        n("not_applicable"),
                        n("untested"),
                    ]
                })
                .collect();
            print(&table(
                &["family", ">adapters", ">learned", ">weak", ">failed", ">no gate", ">untested"],
                &rows,
            ))?;
            print(&format!(
                "{} adapters, {:.1} MB of weights, {} blobs of {:.1} MB",
                stats.adapters,
                stats.weights_bytes as f64 / 1e6,
                stats.blobs,
                stats.blob_bytes as f64 / 1e6
            ))
        }
        RegistryCommand::Check { repair } => check(context, &mut store, *repair),
        RegistryCommand::Gc { apply, keep_days } => gc(context, &mut store, *apply, *keep_days),
        RegistryCommand::Rebuild => {
            let added = store.rebuild_from_receipts()?;
            if context.global.json {
                return print_json(&json!({"schema": "registry-rebuild/1", "added": added}));
            }
            print(&format!("{} added from receipts", count(added, "adapter")))
        }
    }
}

fn check(context: &Context<'_>, store: &mut Store, repair: bool) -> Result {
    let mended = if repair { Some(store.repair()?) } else { None };
    let bar = Mutex::new(Bar::new(context.global.quiet, "hashing files"));
    // Several threads hash; one that finds the bar taken goes on.
    let report = store.check(&|done, all| {
        if let Ok(mut bar) = bar.try_lock() {
            bar.show(done, all);
        }
    })?;
    drop(bar);
    let rate = report.bytes as f64 / report.seconds.max(1e-9) / 1e9;
    if context.global.json {
        print_json(
            &json!({"schema": "registry-check/2", "report": report, "repaired": mended, "gigabytes_per_sec": rate}),
        )?;
    } else {
        if let Some(m) = &mended {
            let parts = [
                (m.rows, "row", "brought back from receipts"),
                (m.receipts, "receipt", "written again"),
                (m.replaced, "row", "replaced"),
                (m.filed, "adapter", "filed anew"),
                (m.jobs, "job", "put right"),
                (m.needs, "need", "of jobs that do not exist removed"),
                (m.aliases, "name", "put right"),
                (m.runs, "run", "filed anew"),
                (m.blobs, "damaged file", "removed"),
            ];
            let done: Vec<String> = parts
                .iter()
                .filter(|(n, ..)| *n > 0)
                .map(|(n, noun, what)| format!("{} {what}", count(*n, noun)))
                .collect();
            print(&format!("mended: {}", if done.is_empty() { "nothing".into() } else { done.join(", ") }))?;
            for alias in &m.dropped_aliases {
                print(&format!("removed: alias {}, which stood for {}", alias.name, alias.adapter))?;
            }
        }
        for p in &report.problems {
            print(&format!("{}: {}", fence::shown(&p.subject), fence::shown(&p.what)))?;
        }
        print(&format!(
            "{}, {}, {}, {} of {:.1} MB hashed at {rate:.1} GB/s: {}",
            count(report.adapters, "adapter"),
            count(report.receipts, "receipt"),
            count(report.jobs, "job"),
            count(report.blobs, "file"),
            report.bytes as f64 / 1e6,
            if report.problems.is_empty() {
                "all well".to_owned()
            } else {
                count(report.problems.len(), "problem")
            }
        ))?;
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    let mendable = report.problems.iter().filter(|p| p.repairable).count();
    let error = CommandError::new(
        Kind::Negative,
        format!("{} in the store", count(report.problems.len(), "problem")),
    );
    Err(match mendable {
        0 => error.hint("damaged adapters: lorafab adapter rm them, then submit their recipes again"),
        n => error.hint(format!("{n} can be mended with: lorafab registry check --repair")),
    })
}

fn gc(context: &Context<'_>, store: &mut Store, apply: bool, keep_days: u64) -> Result {
    let plan = store.gc_plan(Duration::from_hours(24 * keep_days))?;
    if apply {
        store.gc(&plan)?;
    }
    if context.global.json {
        return print_json(&json!({"schema": "registry-gc/1", "plan": plan, "applied": apply}));
    }
    print(&format!(
        "{}: {}, {}, {}, {:.1} MB",
        if apply { "removed" } else { "would remove" },
        count(plan.blobs.len(), "unnamed file"),
        count(plan.trash.len(), "trashed adapter"),
        count(plan.staging.len(), "leftover"),
        plan.bytes as f64 / 1e6
    ))?;
    if !apply && plan.bytes > 0 {
        context.say("carry it out with: lorafab registry gc --apply");
    }
    Ok(())
}
