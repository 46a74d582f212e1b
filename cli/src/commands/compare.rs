//! `compare run|arms|report`; runs that are there have a file of their own (`runs.rs`).

use std::collections::BTreeMap;
use std::path::Path;

use ::compare::{Arms, Comparison, DEFAULT, Known, Plan, jobs};
use ::factory::pack::SWEEP;
use ::factory::{Craft, Job, Queue, State, SubmitOptions, recipes_of};
use ::readers::{Wrong, newest_with_remade, remade, sound};
use lm::{BaseModel, Outline};
use recipes::behaviour::{COMPOSITION, TRAINER};
use recipes::{Behaviour, Recipe, Split, builtin};
use registry::{AdapterRecord, Filter, NewAdapter, Role, Store};

use super::factory;
use super::reader::{Published, ReaderKind, Ways, label_of};
use super::readers::{MAKE_SOME, left_out};
use super::runs;
use crate::args::CompareCommand;
use crate::context::{Context, now_ms, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_as_it_is, print_json, table, write_out};

pub(crate) fn run(context: &Context<'_>, command: &CompareCommand) -> Result {
    match command {
        CompareCommand::Run { run, arms: file, seeds, filter, seed, tune, smoke } => {
            watch_signals();
            let run = run.as_deref().unwrap_or(if *tune { "tune" } else { "compare" });
            registry::check_name(run)?;
            let mut arms = read(file.as_deref())?;
            if *seeds == 0 {
                return Err(CommandError::new(Kind::Usage, "--seeds: 0 is too few; give at least 1"));
            }
            let mut store = context.existing_store()?;
            // No weight is loaded, and nothing written, before all is checked.
            let outline = context.outline()?;
            let made = adapters(context, &store, &outline, filter.as_deref(), *tune)?;
            let about = recipes_about(&store, &made)?;
            if file.is_none() {
                arms = arms.about(&about);
            }
            arms.check(&outline, &about).map_err(|e| match file {
                Some(file) => Wrong::at(file.display().to_string(), e.to_string()),
                None => e,
            })?;
            for (i, new) in settle(&store, &outline, &mut arms)? {
                arms.arms[i].reader = Some(store.commit_adapter(new)?.id);
            }
            say_mixed(context, &store, &arms, *smoke)?;
            let base = context.base()?;
            let arms = arms.with_seeds(*seeds);
            let arms = if *smoke { arms.smoke() } else { arms };
            let specs = made.iter().map(|r| r.spec_hash.clone()).collect();
            let plan = Plan { run, smoke: *smoke, seed: *seed, made: true };
            let list = jobs(&base, specs, &arms, plan, &SubmitOptions::default());
            let done = Queue::new(&mut store).submit(&list, now_ms())?;
            context.say(&format!("{} jobs, {} of them known already", list.len(), done.known));
            let report = list.last().map(|j| j.spec_hash.clone()).unwrap_or_default();
            finish(context, &mut store, &base, &report, run)
        }
        CompareCommand::Arms { show, file } => {
            let arms = read(file.as_deref())?;
            if *show {
                return if context.global.json {
                    print_json(&serde_json::to_value(&arms).unwrap_or_default())
                } else {
                    print(toml::to_string(&arms).unwrap_or_default().trim_end())
                };
            }
            methods(context)
        }
        CompareCommand::List => runs::list(context),
        CompareCommand::Items(args) => runs::items(context, args),
        CompareCommand::Rm { run, dry_run } => runs::rm(context, run.name(), *dry_run),
        CompareCommand::Report { run, csv, html } => {
            let store = context.existing_store()?;
            let run = runs::find(&store, run.name())?;
            let comparison = run
                .filled(|c| Ok(run.items(c, &run.scores()?, &store)))
                .map_err(|e| CommandError::new(Kind::Environment, e))?;
            if let Some(file) = html {
                write_out(file, ::compare::to_html(&comparison).as_bytes())?;
                return print(&file.display().to_string());
            }
            if *csv {
                print_as_it_is(
                    &::compare::to_csv(&comparison)
                        .split("\r\n")
                        .map(fence::shown)
                        .collect::<Vec<_>>()
                        .join("\r\n"),
                )
            } else {
                show(context, &comparison)
            }
        }
    }
}

/// The comparison on stdout.
pub(crate) fn show(context: &Context<'_>, comparison: &Comparison) -> Result {
    if context.global.json {
        print_json(&serde_json::to_value(comparison).unwrap_or_default())
    } else {
        print(&::compare::to_terminal(comparison))
    }
}

fn methods(context: &Context<'_>) -> Result {
    let methods = ::compare::method::METHODS;
    if context.global.json {
        let list: Vec<_> = methods
            .iter()
            .map(|m| serde_json::json!({"method": m.name(), "about": m.about(), "trained": m.trained()}))
            .collect();
        return print_json(&serde_json::json!({"schema": "methods/1", "methods": list}));
    }
    let rows: Vec<Vec<String>> = methods
        .iter()
        .map(|m| {
            let kind = if m.trained() { "trained" } else { "no training" };
            vec![m.name().to_owned(), kind.to_owned(), m.about().to_owned()]
        })
        .collect();
    print(&table(&["method", "needs", "what it does"], &rows))?;
    context.say("the default arms: lorafab compare arms --show; your own: lorafab compare run --arms FILE");
    Ok(())
}

fn read(file: Option<&Path>) -> Result<Arms> {
    match file {
        None => Ok(Arms::parse("default arms", DEFAULT)?),
        Some(path) => {
            Ok(Arms::parse(&path.display().to_string(), &fence::read_text(path, fence::open::SMALL)?)?)
        }
    }
}

/// The adapters that a comparison is about; of a tuning one, none that readers are tested on.
fn adapters(
    context: &Context<'_>,
    store: &Store,
    base: &Outline,
    filter: Option<&str>,
    tune: bool,
) -> Result<Vec<AdapterRecord>> {
    let wanted = filter.map(|text| Filter::all().and(text)).transpose()?;
    // Behaviours made again take part where the filter speaks of what sets them apart.
    let keys = wanted.as_ref().map(Filter::keys).unwrap_or_default();
    let keys: Vec<&str> = keys.iter().map(|k| k.strip_prefix("tag.").unwrap_or(k)).collect();
    let of_sweeps = keys.iter().any(|k| [SWEEP, "seed"].contains(k) || k.contains('.'));
    let spoken_of = |r: &AdapterRecord| match &r.spec["behaviour"]["variant"] {
        v if !v[COMPOSITION].is_null() => keys.contains(&COMPOSITION),
        v if !v[TRAINER].is_null() => keys.contains(&TRAINER),
        _ => of_sweeps,
    };
    let mut newest = newest_with_remade(store, &base.digest())?;
    newest.retain(|r| !remade(r) || spoken_of(r));
    let again = newest.iter().any(remade);
    let (mut made, bad) = sound(store, base, newest);
    if !bad.is_empty() {
        context.say(left_out(&bad).trim_start());
    }
    let test = [Split::TestValue, Split::TestCategory];
    made.retain(|r| !(tune && test.iter().any(|s| r.split.as_deref() == Some(s.name()))));
    let kept = match wanted {
        None => made,
        Some(filter) => {
            let wanted: std::collections::BTreeSet<String> =
                store.adapters(&filter)?.into_iter().map(|r| r.id).collect();
            made.into_iter().filter(|r| wanted.contains(&r.id)).collect()
        }
    };
    // Of a value that readers may be trained on there is nothing to test.
    let tests = |r: &AdapterRecord| test.iter().any(|s| r.split.as_deref() == Some(s.name()));
    let kept: Vec<AdapterRecord> = kept.into_iter().filter(|r| !remade(r) || tests(r)).collect();
    if kept.is_empty() {
        return Err(CommandError::new(Kind::NotFound, "no adapters to compare on").hint(MAKE_SOME));
    }
    let of = |splits: &[Split]| {
        // One made again is tested on, and nothing else.
        let counts = |r: &&AdapterRecord| splits == test || !remade(r);
        kept.iter().filter(counts).any(|r| splits.iter().any(|s| r.split.as_deref() == Some(s.name())))
    };
    for (splits, what) in [
        (&[Split::Train][..], "to train readers on"),
        (&[Split::Validation][..], "of the validation split, to choose and stop by"),
        (&test[..], "held out, to test on"),
    ] {
        if !(of(splits) || (tune && splits == test)) {
            let hint = if again && splits != test {
                "adapters made again only test readers: take plain ones too, as in --where \"not has sweep or training.rank = 4\""
            } else {
                MAKE_SOME
            };
            return Err(CommandError::new(Kind::NotFound, format!("no adapter is {what}")).hint(hint));
        }
    }
    Ok(kept)
}

fn recipes_about(store: &Store, made: &[AdapterRecord]) -> Result<Vec<Recipe>> {
    let mut known: BTreeMap<String, Recipe> = builtin().into_iter().map(|r| (r.name.clone(), r)).collect();
    known.extend(recipes_of(store, made)?.into_iter().map(|r| (r.name.clone(), r)));
    let families: std::collections::BTreeSet<&str> = made.iter().map(|r| r.family.as_str()).collect();
    Ok(known.into_values().filter(|r| families.contains(r.name.as_str())).collect())
}

/// Puts ids in place of the readers that arms name: one of the catalogue for this base (a name can move to another), or a folder
/// that fits it. Folders come back as what is to be filed, with their arm.
pub(crate) fn settle(store: &Store, base: &Outline, arms: &mut Arms) -> Result<Vec<(usize, NewAdapter)>> {
    let mut folders = Vec::new();
    for (i, known) in arms.known() {
        let wrong = |what: String| Wrong::at(format!("arm[{i}].reader"), what);
        let method = arms.arms[i].method.clone();
        let role = if method == "dit" { Role::DitAdapter } else { Role::Oracle };
        match known {
            Known::Named(name) => {
                let record = store.adapter(&name).map_err(|e| wrong(format!("{name:?}: {e}")))?;
                if record.role != role {
                    return Err(wrong(format!("{name:?} is no reader of the method {method}")).into());
                }
                if record.lineage.get("base").is_none_or(|b| *b != base.digest()) {
                    let what = format!("{name:?} was trained for another base model or precision");
                    return Err(wrong(what).into());
                }
                arms.arms[i].reader = Some(record.id);
            }
            Known::Folder(folder) => {
                let new = published(base, &folder, &method)
                    .map_err(|e| wrong(format!("{}: {}", folder.display(), e.message)))?;
                folders.push((i, new));
            }
        }
    }
    Ok(folders)
}

/// Says where an arm's reader, named and not made here, was made by a smoke run, or was shown other supervision than another such reader.
fn say_mixed(context: &Context<'_>, store: &Store, arms: &Arms, smoke: bool) -> Result {
    let named = arms.known().into_iter().filter_map(|(i, _)| arms.arms[i].reader.clone());
    let records = named.map(|id| Ok(store.adapter(&id)?)).collect::<Result<Vec<AdapterRecord>>>()?;
    for warning in ::compare::warnings::mixed(records.iter(), smoke) {
        context.say(&format!("warning: {warning}"));
    }
    Ok(())
}

/// A reader's folder in the PEFT format, as published ones come, on its way into the catalogue. An oracle that does not say how it
/// looks is shown what its arm says.
fn published(base: &Outline, folder: &Path, method: &str) -> Result<NewAdapter> {
    let method = if method == "dit" { ReaderKind::Dit } else { ReaderKind::Oracle };
    let ways = Ways { method: Some(method), layers: None, bare: true };
    Published::of_folder(base, folder, ways)?.into_new(base, &label_of(folder))
}

/// Queues a comparison of adapters that are still to be made; returns the specification hash of its report.
pub(crate) fn submit(
    store: &mut Store,
    base: &BaseModel,
    behaviours: &[Behaviour],
    arms: &Arms,
    plan: Plan<'_>,
) -> Result<String> {
    let specs = ::factory::specs(behaviours, &base.digest(), &[])?;
    let hashes = specs.iter().map(::factory::AdapterSpec::hash).collect();
    let list = jobs(base, hashes, arms, plan, &SubmitOptions::default());
    Queue::new(store).submit(&list, now_ms())?;
    Ok(list.last().map(|j| j.spec_hash.clone()).unwrap_or_default())
}

/// Works the queue until the report is there, and prints it.
pub(crate) fn finish(
    context: &Context<'_>,
    store: &mut Store,
    base: &BaseModel,
    report: &str,
    run: &str,
) -> Result {
    work_to(context, store, base, report, (run, 8))?;
    show(context, &filed(store, Some(run))?)?;
    let page = store.root().join("runs").join(run).join("report.html");
    context.say(&format!("the same with pictures: {}", page.display()));
    Ok(())
}

/// Works the queue until the report of a run is there, in packs of so many adapters.
pub(crate) fn work_to(
    context: &Context<'_>,
    store: &mut Store,
    base: &BaseModel,
    report: &str,
    (run, pack): (&str, usize),
) -> Result {
    let known = Queue::new(store).find(report)?;
    if known.state == State::Succeeded && job_of(store, run).as_deref() != Some(report) {
        // Its files were removed, or another comparison was filed under the same name since.
        Queue::new(store).again(&known, now_ms())?;
    }
    let crafts = ::compare::crafts();
    let crafts: Vec<&dyn Craft> = crafts.iter().map(|c| c as &dyn Craft).collect();
    let summary =
        factory::work(context, base, factory::Job { pack, workers: 1, drain: false, crafts: &crafts })?;
    if summary.stopped || summary.paused {
        return factory::finish(&summary);
    }
    succeeded(&Queue::new(store).find(report)?)
}

/// What became of a comparison's job, as an error if it did not succeed.
fn succeeded(job: &Job) -> Result {
    match job.state {
        State::Succeeded => Ok(()),
        State::Dead => Err(CommandError::new(
            Kind::Negative,
            format!("{} failed: {}", job.label, job.error.as_deref().unwrap_or("no reason is known")),
        )
        .hint("see its history with: lorafab factory logs; try again with: lorafab factory retry")),
        state => Err(CommandError::new(Kind::Negative, format!("{} is {}", job.label, state.name()))
            .hint("go on with: lorafab factory run")),
    }
}

/// The job whose report a run's folder holds, if all of it is there.
fn job_of(store: &Store, run: &str) -> Option<String> {
    filed(store, Some(run)).ok()?;
    let path = store.root().join("runs").join(run).join("config.json");
    let config: serde_json::Value =
        serde_json::from_str(&fence::open::read_own_text(&path, fence::open::TABLE).ok()?).ok()?;
    Some(config["job"].as_str()?.to_owned())
}

/// A run's comparison, as filed.
pub(crate) fn filed(store: &Store, run: Option<&str>) -> Result<Comparison> {
    let path = runs::find(store, run)?.report();
    ::compare::read(&fence::open::read_own_text(&path, fence::open::TABLE)?)
        .map_err(|e| CommandError::new(Kind::Environment, format!("{}: {e}", path.display())))
}
