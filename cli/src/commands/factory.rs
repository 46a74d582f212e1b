//! `factory submit|run|status|cancel|retry|plan`.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use factory::{Event, Queue, RunOptions, RunSummary};
use lm::BaseModel;
use recipes::{Behaviour, Kind, Polarity};
use registry::{Filter, Store};
use serde_json::json;

use super::recipe;
use crate::args::FactoryCommand;
use crate::context::{Context, STOP, gone, now_ms, owner, watch_signals};
use crate::error::{CommandError, Kind as ErrorKind, Result};
use crate::output::{count, print, print_json, table, tell};

pub(crate) fn run(context: &Context<'_>, command: &FactoryCommand) -> Result {
    match command {
        FactoryCommand::Submit { recipes, limit, seed, dry_run } => {
            let recipes = recipes.iter().map(|name| recipe::load(name)).collect::<Result<Vec<_>>>()?;
            let behaviours: Vec<Behaviour> = recipes
                .iter()
                .flat_map(|r| ::recipes::first(r.expand(*seed), limit.unwrap_or(usize::MAX)))
                .collect();
            let (new, known) = if *dry_run {
                (behaviours.len(), 0)
            } else {
                factory::submit(&mut context.store()?, &context.base()?, &recipes, &behaviours, now_ms())?
            };
            if context.global.json {
                return print_json(
                    &json!({"schema": "factory-submit/1", "queued": new, "already_known": known, "dry_run": dry_run}),
                );
            }
            if *dry_run {
                return print(&format!("{} would be queued; nothing was", count(new, "adapter")));
            }
            print(&format!("queued {}, {known} already known", count(new, "job")))?;
            if new > 0 {
                context.say("next: lorafab factory run");
            }
            Ok(())
        }
        FactoryCommand::Run { pack, workers } => {
            watch_signals();
            let base = context.base()?;
            let summary = work(context, &base, *pack, *workers)?;
            if summary.for_other_bases > 0 && summary.committed + summary.failed == 0 {
                return Err(CommandError::new(
                    ErrorKind::Usage,
                    format!(
                        "{} wait for another base model or precision",
                        count(summary.for_other_bases, "open job")
                    ),
                )
                .hint("pass the --model and --precision that they were submitted with, or cancel them"));
            }
            if context.global.json {
                print_json(
                    &json!({"schema": "factory-run/1", "committed": summary.committed, "failed": summary.failed, "tokens": summary.tokens, "seconds": summary.seconds, "for_other_bases": summary.for_other_bases}),
                )?;
            } else {
                let rate = summary.committed as f64 / summary.seconds.max(1e-9) * 3600.0;
                print(&format!(
                    "{} made, {} failed, {:.0} s, {rate:.0} adapters an hour",
                    count(summary.committed, "adapter"),
                    count(summary.failed, "job"),
                    summary.seconds
                ))?;
            }
            finish(&summary)?;
            if summary.committed > 0 {
                context.say("next: lorafab adapter list, or lorafab dit train");
            }
            Ok(())
        }
        FactoryCommand::Status => {
            let mut store = context.existing_store()?;
            let status = Queue::new(&mut store).status()?;
            if context.global.json {
                return print_json(
                    &json!({"schema": "factory-status/1", "states": status.states, "families": status.families, "dead": status.dead}),
                );
            }
            let states = ["queued", "leased", "running", "retry_wait", "succeeded", "cancelled", "dead"];
            let rows: Vec<Vec<String>> = status
                .families
                .iter()
                .map(|(family, counts)| {
                    std::iter::once(family.clone())
                        .chain(states.map(|s| counts.get(s).map_or("–".into(), ToString::to_string)))
                        .collect()
                })
                .collect();
            print(&table(
                &["family", ">queued", ">leased", ">running", ">retry", ">succeeded", ">cancelled", ">dead"],
                &rows,
            ))?;
            for (label, reason) in &status.dead {
                context.say(&format!("dead: {label}: {reason}"));
            }
            Ok(())
        }
        FactoryCommand::Cancel { prefix } => {
            let n = Queue::new(&mut context.existing_store()?).cancel(prefix, now_ms())?;
            if n == 0 {
                return Err(CommandError::new(
                    ErrorKind::NotFound,
                    format!("no open job's label begins with {prefix:?}"),
                )
                .hint("labels are a family and a value, e.g. topic/cats"));
            }
            changed(context, "cancelled", n)
        }
        FactoryCommand::Retry { prefix } => {
            let n = Queue::new(&mut context.existing_store()?).retry(prefix, now_ms())?;
            changed(context, "queued again", n)
        }
        FactoryCommand::Plan => plan(context),
    }
}

fn changed(context: &Context<'_>, what: &str, jobs: usize) -> Result {
    if context.global.json {
        return print_json(&json!({"schema": "factory-change/1", "change": what, "jobs": jobs}));
    }
    print(&format!("{what}: {}", count(jobs, "job")))
}

/// Works the queue empty with `workers` threads and shows progress.
pub(crate) fn work(
    context: &Context<'_>,
    base: &BaseModel,
    pack: usize,
    workers: usize,
) -> Result<RunSummary> {
    let path = context.store_path();
    let quiet = context.global.quiet;
    let owner = owner();
    let results: Vec<factory::Result<RunSummary>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers.max(1))
            .map(|_| {
                scope.spawn(|| {
                    let mut store = Store::open(&path)?;
                    let options =
                        RunOptions { pack: pack.max(1), owner: &owner, stop: &STOP, clock: now_ms, gone };
                    let mut progress = Progress::new(quiet);
                    factory::run(&mut store, base, options, &mut |event| progress.show(&event))
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a worker does not panic")).collect()
    });
    let mut total = RunSummary::default();
    for result in results {
        let one = result?;
        total.committed += one.committed;
        total.failed += one.failed;
        total.tokens += one.tokens;
        total.for_other_bases = one.for_other_bases;
        total.seconds = total.seconds.max(one.seconds);
    }
    total.stopped = STOP.load(Ordering::Relaxed);
    Ok(total)
}

/// The exit of a command that worked the queue.
pub(crate) fn finish(summary: &RunSummary) -> Result {
    if summary.stopped {
        return Err(CommandError::new(
            ErrorKind::Interrupted,
            "stopped before the queue was empty; finished adapters are safe",
        )
        .hint("run the same command again to go on"));
    }
    if summary.failed > 0 {
        return Err(CommandError::new(ErrorKind::Negative, format!("{} jobs failed", summary.failed))
            .hint("see why with: lorafab factory status"));
    }
    Ok(())
}

/// One status line, rewritten in place on a terminal, a line every ten seconds elsewhere.
struct Progress {
    quiet: bool,
    begin: Instant,
    last: Option<Instant>,
    done: usize,
    open: usize,
    /// Jobs of the pack in hand.
    pack: usize,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        Self { quiet, begin: Instant::now(), last: None, done: 0, open: 0, pack: 0 }
    }

    fn show(&mut self, event: &Event) {
        let terminal = std::io::stderr().is_terminal();
        match event {
            Event::Claimed { jobs, open } => (self.pack, self.open) = (jobs.len(), *open),
            Event::Committed { done, open, .. } => (self.done, self.open) = (*done, *open),
            Event::Failed { label, reason } => tell(&format!("failed: {label}: {reason}")),
            Event::Step { step, steps, loss, tokens_per_sec } => {
                let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
                if self.quiet || self.last.is_some_and(|l| l.elapsed() < every) {
                    return;
                }
                self.last = Some(Instant::now());
                // A pack in training counts for the share of its steps that are taken.
                let share = *step as f64 / (*steps).max(1) as f64;
                let done = self.done as f64 + self.pack as f64 * share;
                let left = (self.open as f64 - self.pack as f64 * share).max(0.0);
                let left = self.begin.elapsed().as_secs_f64() / done.max(1e-9) * left;
                let eta = format!("  eta {}m{:02}s", left as u64 / 60, left as u64 % 60);
                let line = format!(
                    "adapters {}/{}  step {step}/{steps}  loss {loss:.3}  {tokens_per_sec:.0} tok/s{eta}",
                    self.done,
                    self.done + self.open
                );
                if terminal {
                    // A closed stderr is no reason to stop.
                    let _ = write!(anstream::stderr(), "\r\x1b[2K{line}");
                } else {
                    tell(&line);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.last.is_some() && std::io::stderr().is_terminal() {
            tell("");
        }
    }
}

fn plan(context: &Context<'_>) -> Result {
    let mut store = context.existing_store()?;
    let made = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    let open: Vec<Behaviour> = Queue::new(&mut store)
        .jobs()?
        .into_iter()
        .filter(|j| {
            matches!(
                j.state,
                factory::State::Queued
                    | factory::State::RetryWait
                    | factory::State::Leased
                    | factory::State::Running
            )
        })
        .filter_map(|j| serde_json::from_value(j.spec["behaviour"].clone()).ok())
        .collect();
    let rate: Vec<(f64, f64)> = made
        .iter()
        .filter_map(|r| Some((*r.metrics.get("tokens")?, *r.metrics.get("seconds")?)))
        .filter(|(t, _)| *t > 0.0)
        .collect();
    let (tokens, seconds) = rate.iter().fold((0.0, 0.0), |(a, b), (t, s)| (a + t, b + s));
    let per_row = 40.0;
    let wanted: f64 = open
        .iter()
        .filter(|b| b.kind == Kind::Trained)
        .map(|b| {
            (b.training.steps * (b.training.on_rows + b.training.near_rows + b.training.off_rows)) as f64
                * per_row
        })
        .fold(0.0, |a, b| a + b);
    let hours = (seconds > 0.0).then(|| wanted / (tokens / seconds) / 3600.0);
    let positives = open.iter().filter(|b| b.polarity == Polarity::Positive).count();
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-plan/1", "open_jobs": open.len(), "positive": positives, "tokens_guess": wanted,
            "tokens_per_sec_measured": (seconds > 0.0).then(|| tokens / seconds), "hours": hours}),
        );
    }
    let time = hours.map_or("unknown: no adapter has been made here yet".into(), |h| {
        format!(
            "{:.0} minutes at the {:.0} tok/s measured on {} adapters",
            h * 60.0,
            tokens / seconds,
            rate.len()
        )
    });
    print(&format!(
        "{}, about {:.0} thousand training tokens (guessed at {per_row:.0} a row)\ntime: {time}",
        count(open.len(), "open job"),
        wanted / 1000.0
    ))
}
