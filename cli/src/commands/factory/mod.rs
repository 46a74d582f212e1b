//! `factory submit|run|status|logs|cancel|retry|pause|resume|limit|slurm|plan`.

mod jobs;
mod plan;
mod run;
mod slurm;
mod status;

use std::path::{Path, PathBuf};

use factory::{Queue, SubmitOptions};
use oracle_posttrain::intervention::Spec;
use recipes::{Behaviour, Recipe};
use serde_json::json;

use super::intervention::{self, Queueing};
use super::recipe;
use crate::args::{FactoryCommand, SubmitArgs};
use crate::context::{Context, now_ms};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json};

pub(crate) use run::{Job, finish, work};

pub(crate) fn run(context: &Context<'_>, command: &FactoryCommand) -> Result {
    match command {
        FactoryCommand::Submit(args) => submit(context, args),
        FactoryCommand::Run { pack, workers, drain } => run::run(context, *pack, *workers, *drain),
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

/// What the files of a submission are.
#[derive(Default)]
struct Work {
    recipes: Vec<Recipe>,
    interventions: Vec<(String, Spec)>,
    jobs: Vec<(PathBuf, String)>,
}

fn sort(names: &[String]) -> Result<Work> {
    let mut work = Work::default();
    for name in names {
        let path = Path::new(name);
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let text = if matches!(kind, "json" | "toml") && path.is_file() {
            fs_err::read_to_string(path)?
        } else {
            String::new()
        };
        if kind == "json" || Spec::is_one(&text) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            work.interventions.push((stem, intervention::read(path)?));
        } else if jobs::is_one(&text) {
            work.jobs.push((path.to_owned(), text));
        } else {
            work.recipes.push(recipe::load(name)?);
        }
    }
    Ok(work)
}

fn submit(context: &Context<'_>, args: &SubmitArgs) -> Result {
    let work = sort(&args.work)?;
    let behaviours: Vec<Behaviour> = work
        .recipes
        .iter()
        .flat_map(|r| ::recipes::first(r.expand(args.seed), args.limit.unwrap_or(usize::MAX)))
        .collect();
    let done = if args.dry_run {
        let new = behaviours.len() + work.interventions.len();
        factory::Submitted { new, ..factory::Submitted::default() }
    } else {
        // Of the model only its outline is read: work is held to its cap before any weight is loaded.
        let outline = context.outline()?;
        let mut store = context.store()?;
        let mut queued = Vec::new();
        for (label, spec) in work.interventions {
            let queueing = Queueing {
                label: &label,
                tags: args.tag.clone(),
                priority: args.priority,
                max_attempts: args.attempts,
                needs: vec![],
            };
            queued.push(intervention::job(&store, &outline, spec, args.cap.cap(), queueing)?);
        }
        let options = SubmitOptions {
            priority: args.priority,
            max_attempts: args.attempts,
            tags: args.tag.clone(),
            needs: vec![],
            max_flops: args.cap.cap().flops,
        };
        let mut done = factory::submit(&mut store, &outline, &work.recipes, &behaviours, &options, now_ms())?;
        done.add(Queue::new(&mut store).submit(&queued, now_ms())?);
        for (path, text) in &work.jobs {
            done.add(jobs::submit(&mut store, &outline, path, text)?);
        }
        done
    };
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-submit/1", "queued": done.new + done.again, "already_known": done.known - done.again,
            "already_made": done.already_made, "dry_run": args.dry_run}),
        );
    }
    if args.dry_run {
        return print(&format!("{} would be queued; nothing was", count(done.new, "adapter")));
    }
    print(&format!(
        "queued {}, {} already known",
        count(done.new + done.again, "job"),
        done.known - done.again
    ))?;
    if done.new + done.again > 0 {
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
