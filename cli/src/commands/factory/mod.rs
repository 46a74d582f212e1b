//! `factory submit|run|gate|status|logs|cancel|retry|pause|resume|limit|slurm|plan`.

mod gate;
pub(crate) mod jobs;
mod plan;
mod run;
mod slurm;
mod status;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use factory::queue::NewJob;
use factory::{Queue, SubmitOptions, Submitted};
use lm::Outline;
use oracle_posttrain::intervention::Spec;
use recipes::{Behaviour, Recipe};
use registry::Store;
use serde_json::json;

use super::intervention;
use super::recipe;
use super::settings::Settling;
use crate::args::{FactoryCommand, SubmitArgs};
use crate::context::{Context, now_ms};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json};

pub(crate) use gate::GateArgs;
pub(crate) use run::{Job, finish, work};
use sweep::Sweep;

pub(crate) fn run(context: &Context<'_>, command: &FactoryCommand) -> Result {
    match command {
        FactoryCommand::Submit(args) => submit(context, args),
        FactoryCommand::Run { pack, workers, drain } => run::run(context, *pack, *workers, *drain),
        FactoryCommand::Gate(args) => gate::run(context, args),
        FactoryCommand::Status { watch } => status::status(context, *watch),
        FactoryCommand::Logs { job } => status::logs(context, job),
        FactoryCommand::Cancel { prefix } => {
            let (cancelled, asked) = Queue::new(&mut context.existing_store()?).cancel(prefix, now_ms())?;
            if cancelled + asked == 0 {
                return Err(CommandError::new(
                    Kind::NotFound,
                    format!("no open job's label begins with {prefix:?}"),
                )
                .hint("labels are a family and a value, e.g. topic/cats"));
            }
            if asked > 0 {
                context.say(&format!("{} of them run and end at their next step", count(asked, "job")));
            }
            changed(context, "cancelled", cancelled + asked)
        }
        FactoryCommand::Retry { prefix } => {
            let n = Queue::new(&mut context.existing_store()?).retry(prefix, now_ms())?;
            if n == 0 && !prefix.is_empty() {
                return Err(CommandError::new(
                    Kind::NotFound,
                    format!("no dead or cancelled job whose label begins with {prefix:?} can run again"),
                )
                .hint("what it needs may be dead itself: lorafab factory status, factory logs"));
            }
            changed(context, "queued again", n)
        }
        FactoryCommand::Pause => pause(context, true),
        FactoryCommand::Resume => pause(context, false),
        FactoryCommand::Limit { tag, most, none } => limit(context, tag.as_deref(), *most, *none),
        FactoryCommand::Slurm(command) => slurm::run(context, command),
        FactoryCommand::Plan { check, pack } => plan::run(context, *check, *pack),
    }
}

/// The jobs of a submission, and the recipes that their adapters will carry.
#[derive(Default)]
struct Work {
    recipes: Vec<Recipe>,
    jobs: Vec<NewJob>,
}

/// Everything that is asked for, checked and held to its cap. Of the model only its outline is read.
fn plan_work(
    args: &SubmitArgs,
    store: Option<&Store>,
    outline: Option<&Outline>,
    settling: &mut Settling,
) -> Result<Work> {
    let (mut work, mut named) = (Work::default(), Vec::new());
    let needs_both = |path: &Path| {
        let what = format!("{}: its jobs name adapters of a store, and there is none", path.display());
        CommandError::new(Kind::NotFound, what).hint("make one with: lorafab factory submit topic")
    };
    let options = SubmitOptions {
        priority: args.priority,
        max_attempts: args.attempts,
        tags: args.tag.clone(),
        needs: vec![],
        max_flops: args.cap.cap().flops,
    };
    if let Some((_, name)) = jobs::twice(&args.work) {
        return Err(CommandError::new(Kind::Usage, format!("{name:?} is given twice")));
    }
    for name in &args.work {
        let path = Path::new(name);
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let file = matches!(kind, "json" | "toml") && path.exists();
        let text = if file { fence::read_text(path, fence::open::SMALL)? } else { String::new() };
        if kind == "json" || Spec::is_one(&text) {
            let (store, outline) = store.zip(outline).ok_or_else(|| needs_both(path))?;
            let label = path.file_stem().unwrap_or_default().to_string_lossy();
            let spec = intervention::read(path)?;
            work.jobs.push(intervention::job(
                store,
                outline,
                spec,
                args.cap.cap(),
                &BTreeMap::new(),
                &label,
                &options,
            )?);
        } else if jobs::is_one(&text) {
            let (store, outline) = store.zip(outline).ok_or_else(|| needs_both(path))?;
            jobs::plan(store, outline, path, &text, settling, &mut work)?;
        } else {
            named.push(recipe::load(name)?);
        }
    }
    if let Some(outline) = outline {
        named = settling.resolve(outline, named)?;
    }
    let sweep = Sweep::parse(&args.set)?;
    let (named, behaviours) = match args.splits.as_slice() {
        [] => sweep.expand(named, args.seed, |r, seed| {
            ::recipes::first(r.expand(seed), args.limit.unwrap_or(usize::MAX))
        })?,
        &[a, b, c, d] => {
            sweep.expand(named, args.seed, |r, seed| ::recipes::select(r.expand(seed), [a, b, c, d]))?
        }
        other => {
            let what = format!("--splits: {} numbers were given", other.len());
            return Err(CommandError::new(Kind::Usage, what)
                .hint("give four: train, validation, held-out values, held-out categories"));
        }
    };
    if let Some(outline) = outline {
        factory::hold_to_cap(outline, &behaviours, options.max_flops)?;
    }
    let digest = outline.map_or_else(String::new, Outline::digest);
    let stored = store.map_or(Ok(Vec::new()), |s| factory::references_in(s, &digest, &behaviours))?;
    work.jobs.extend(factory::jobs(&behaviours, &digest, &stored, &options)?);
    work.recipes.extend(named);
    settling.hold_named_to(&work.recipes)?;
    Ok(work)
}

/// At most `limit` behaviours of each recipe, spread over its splits and categories.
fn expand(recipes: &[Recipe], seed: u64, limit: Option<usize>) -> Vec<Behaviour> {
    recipes.iter().flat_map(|r| ::recipes::first(r.expand(seed), limit.unwrap_or(usize::MAX))).collect()
}

fn submit(context: &Context<'_>, args: &SubmitArgs) -> Result {
    let mut settling = Settling::new(context, args.settings.as_deref())?;
    let done = if args.dry_run {
        // A look makes no store; and where there is none, no model is needed to know that all is new.
        let mut store = if context.has_catalogue() { Some(context.store_to_look()?) } else { None };
        let outline = if store.is_some() { Some(context.outline()?) } else { None };
        let jobs = plan_work(args, store.as_ref(), outline.as_ref(), &mut settling)?.jobs;
        if let Some(outline) = &outline {
            settling.say(context, outline);
        }
        if let Some(store) = &mut store {
            Queue::new(store).preview(&jobs)?
        } else {
            let new = jobs.iter().map(|j| &j.spec_hash).collect::<BTreeSet<_>>().len();
            Submitted { new, known: jobs.len() - new, ..Submitted::default() }
        }
    } else {
        let outline = context.outline()?;
        let mut store = context.store()?;
        let work = plan_work(args, Some(&store), Some(&outline), &mut settling)?;
        settling.say(context, &outline);
        factory::remember(&store, &work.recipes)?;
        Queue::new(&mut store).submit(&work.jobs, now_ms())?
    };

    let (queued, known) = (done.new - done.already_made + done.again, done.known - done.again);
    let ended = done.dead + done.cancelled;
    let hint = (ended > 0).then_some("dead and cancelled jobs run again only after: lorafab factory retry");
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-submit/2", "queued": queued, "already_known": known, "already_made": done.already_made,
            "dead": done.dead, "cancelled": done.cancelled, "hints": hint.iter().map(|h| context.spelled(h)).collect::<Vec<_>>(), "dry_run": args.dry_run,
            "settings": settling.used()}),
        );
    }
    let (jobs, made) = (count(queued, "job"), done.already_made);
    let ended = if ended > 0 {
        format!(" ({} dead, {} cancelled)", done.dead, done.cancelled)
    } else {
        String::new()
    };
    let known = format!("{made} already made, {known} already known{ended}");
    let line = if args.dry_run {
        format!("{jobs} would be queued, {known}; nothing was changed")
    } else {
        format!("queued {jobs}, {known}")
    };
    print(&line)?;
    if let Some(hint) = hint {
        context.say(hint);
    }
    if queued > 0 && !args.dry_run {
        context.say("next: lorafab factory run");
    }
    Ok(())
}

fn pause(context: &Context<'_>, paused: bool) -> Result {
    let mut store = context.existing_store()?;
    let changed = Queue::new(&mut store).pause(paused)?;
    if context.global.json {
        return print_json(&json!({"schema": "factory-pause/1", "paused": paused, "changed": changed}));
    }
    print(match (paused, changed) {
        (true, true) => "paused: nothing new is begun, what runs goes on",
        (true, false) => "it was paused already",
        (false, true) => "resumed",
        (false, false) => "it was not paused",
    })
}

fn limit(context: &Context<'_>, tag: Option<&str>, most: Option<i64>, none: bool) -> Result {
    let mut store = context.existing_store()?;
    let mut queue = Queue::new(&mut store);
    if let Some(tag) = tag {
        if most.is_none() && !none {
            return Err(CommandError::new(Kind::Usage, format!("how many jobs of {tag:?} may run at once?"))
                .hint("give a number, or --none to lift the limit"));
        }
        queue.limit(tag, most)?;
    }
    let limits = queue.limits()?;
    if context.global.json {
        return print_json(&json!({"schema": "factory-limits/1", "limits": limits}));
    }
    if limits.is_empty() {
        return print("no limits");
    }
    let lines: Vec<String> = limits
        .iter()
        .map(|l| format!("{}: at most {} at once", l.tag, count(l.most as usize, "job")))
        .collect();
    print(&lines.join("\n"))
}

fn changed(context: &Context<'_>, what: &str, jobs: usize) -> Result {
    if context.global.json {
        return print_json(&json!({"schema": "factory-change/1", "change": what, "jobs": jobs}));
    }
    print(&format!("{what}: {}", count(jobs, "job")))
}
