//! `factory run`: works the queue and shows how far it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use factory::{Craft, Event, RunOptions, RunSummary};
use lm::BaseModel;
use registry::Store;
use serde_json::json;

use super::super::intervention::Intervening;
use crate::context::{Context, STOP, gone, now_ms, owner, watch_signals};
use crate::error::{CommandError, Kind as ErrorKind, Result};
use crate::output::{count, print, print_json, tell};
use crate::progress::{StatusLine, minutes};

/// How a command works the queue.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) pack: usize,
    pub(crate) workers: usize,
    pub(crate) drain: bool,
    pub(crate) crafts: &'a [&'a dyn Craft],
}

pub(super) fn run(context: &Context<'_>, pack: usize, workers: usize, drain: bool) -> Result {
    watch_signals();
    let base = context.base()?;
    let crafts = compare::crafts();
    let mut crafts: Vec<&dyn Craft> = crafts.iter().map(|c| c as &dyn Craft).collect();
    crafts.push(&Intervening);
    let summary = work(context, &base, Job { pack, workers, drain, crafts: &crafts })?;
    if summary.for_others > 0 && summary.committed + summary.finished + summary.failed == 0 {
        return Err(CommandError::new(
            ErrorKind::Usage,
            format!("{} wait for another base model or precision", count(summary.for_others, "open job")),
        )
        .hint("pass the --model and --precision that they were submitted with, or cancel them"));
    }
    if context.global.json {
        print_json(
            &json!({"schema": "factory-run/1", "committed": summary.committed, "finished": summary.finished, "failed": summary.failed,
            "tokens": summary.tokens, "seconds": summary.seconds, "for_other_bases": summary.for_others, "paused": summary.paused}),
        )?;
    } else {
        let rate = summary.committed as f64 / summary.seconds.max(1e-9) * 3600.0;
        let others = match summary.finished {
            0 => String::new(),
            n => format!(", {} done", count(n, "other job")),
        };
        print(&format!(
            "{} made{others}, {} failed, {:.0} s, {rate:.0} adapters an hour",
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

/// Works the queue empty with `workers` threads and shows progress. If one of them cannot go on, that is said at once; the others
/// finish what they hold, and its error is the command's.
pub(crate) fn work(context: &Context<'_>, base: &BaseModel, job: Job<'_>) -> Result<RunSummary> {
    let path = context.store_path();
    let names: Vec<String> = (0..job.workers.max(1)).map(owner).collect();
    let failed = AtomicBool::new(false);
    let one = |owner: &str| -> factory::Result<RunSummary> {
        let mut store = Store::open(&path)?;
        let options = RunOptions {
            pack: job.pack.max(1),
            owner,
            stop: &STOP,
            enough: &failed,
            clock: now_ms,
            gone,
            crafts: job.crafts,
            drain: job.drain,
        };
        let mut progress = Progress::new(context);
        factory::run(&mut store, base, options, &mut |event| progress.show(&event))
    };
    let heard = |owner: &str| {
        let result = one(owner);
        if let Err(e) = &result {
            failed.store(true, Ordering::Relaxed);
            if names.len() > 1 {
                tell(&format!("a worker has failed: {e}; the others finish what they hold and end"));
            }
        }
        result
    };
    let results: Vec<factory::Result<RunSummary>> = std::thread::scope(|scope| {
        let heard = &heard;
        let handles: Vec<_> = names.iter().map(|owner| scope.spawn(move || heard(owner))).collect();
        handles.into_iter().map(|h| h.join().expect("invariant: a worker does not panic")).collect()
    });
    let mut total = RunSummary::default();
    let mut error = None;
    for result in results {
        let one = match result {
            Ok(one) => one,
            Err(e) => {
                error.get_or_insert(e);
                continue;
            }
        };
        total.committed += one.committed;
        total.finished += one.finished;
        total.failed += one.failed;
        total.tokens += one.tokens;
        total.for_others = one.for_others;
        total.paused |= one.paused;
        total.seconds = total.seconds.max(one.seconds);
    }
    if let Some(e) = error {
        if total.committed + total.finished > 0 {
            tell(&format!(
                "made by the other workers: {}, {}",
                count(total.committed, "adapter"),
                count(total.finished, "other job")
            ));
        }
        return Err(e.into());
    }
    total.stopped = STOP.load(Ordering::Relaxed);
    Ok(total)
}

/// The exit of a command that worked the queue.
pub(crate) fn finish(summary: &RunSummary) -> Result {
    if summary.stopped {
        return Err(CommandError::new(
            ErrorKind::Interrupted,
            "stopped before the queue was empty; finished adapters are safe, unfinished ones go on where they were",
        )
        .hint("run the same command again to go on"));
    }
    if summary.paused {
        return Err(CommandError::new(ErrorKind::Negative, "the queue is paused, with open jobs in it")
            .hint("go on with: lorafab factory resume"));
    }
    if summary.failed > 0 {
        return Err(CommandError::new(
            ErrorKind::Negative,
            format!("{} failed", count(summary.failed, "job")),
        )
        .hint("see why with: lorafab factory status"));
    }
    Ok(())
}

/// How far the queue is, as a status line.
struct Progress<'a> {
    context: &'a Context<'a>,
    begin: Instant,
    line: StatusLine,
    done: usize,
    open: usize,
    /// Jobs of the pack in hand.
    pack: usize,
}

impl<'a> Progress<'a> {
    fn new(context: &'a Context<'a>) -> Self {
        let line = StatusLine::new(context.global.quiet);
        Self { context, begin: Instant::now(), line, done: 0, open: 0, pack: 0 }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Claimed { jobs, open } => (self.pack, self.open) = (jobs.len(), *open),
            Event::Committed { done, open, .. } | Event::Finished { done, open, .. } => {
                (self.done, self.open) = (*done, *open);
            }
            Event::Failed { label, reason } => tell(&format!("failed: {label}: {reason}")),
            Event::Said(line) => self.context.say(line),
            Event::Waiting { open, .. } => self.context.say(&format!(
                "nothing is ready: {} with other workers, waiting, or held back by a limit (see: lorafab factory status)",
                count(*open, "job")
            )),
            Event::Step { step, steps, loss, tokens_per_sec } => {
                let (done, open, pack, begin) = (self.done, self.open, self.pack as f64, self.begin);
                self.line.show(|| {
                    // A pack in training counts for the share of its steps that are taken.
                    let share = *step as f64 / (*steps).max(1) as f64;
                    let left = (open as f64 - pack * share).max(0.0);
                    let left = begin.elapsed().as_secs_f64() / (done as f64 + pack * share).max(1e-9) * left;
                    format!(
                        "jobs {done}/{}  step {step}/{steps}  loss {loss:.3}  {tokens_per_sec:.0} tok/s  eta {}",
                        done + open,
                        minutes(left)
                    )
                });
            }
        }
    }
}
