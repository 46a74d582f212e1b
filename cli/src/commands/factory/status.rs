//! `factory status|logs`: what the queue holds, who works on it, what happened to a job.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use factory::queue::{Logged, Look, QueueStatus};
use factory::{Queue, State};
use serde_json::json;

use crate::context::{Context, STOP, now_ms, watch_signals};
use crate::error::Result;
use crate::output::{count, print, print_as_it_is, print_json, table};

/// Time between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(2);

pub(super) fn status(context: &Context<'_>, watch: bool) -> Result {
    let mut store = context.existing_store()?;
    if watch {
        watch_signals();
    }
    loop {
        let now = now_ms();
        let Look { status, open, per_hour, minutes_left } = Queue::new(&mut store).look(now)?;
        if context.global.json {
            let value = json!({"schema": "factory-status/1", "states": status.states, "families": status.families, "dead": status.dead,
                "waiting": status.waiting, "paused": status.paused, "limits": status.limits, "workers": status.workers,
                "ended_per_hour": per_hour, "minutes_left": minutes_left});
            if watch {
                // One line an observation, for programs that follow.
                print_as_it_is(&value.to_string())?;
            } else {
                print_json(&value)?;
            }
        } else {
            let text = describe(&status, open, per_hour, minutes_left, now);
            if watch && std::io::stdout().is_terminal() {
                let _ = write!(anstream::stdout(), "\x1b[H\x1b[2J");
            }
            print(&text)?;
        }
        if !watch || open == 0 || STOP.load(Ordering::Relaxed) {
            return Ok(());
        }
        std::thread::sleep(EVERY);
    }
}

fn describe(status: &QueueStatus, open: usize, per_hour: f64, minutes_left: Option<f64>, now: i64) -> String {
    let rows: Vec<Vec<String>> = status
        .families
        .iter()
        .map(|(family, counts)| {
            let cells = State::ALL.map(|s| counts.get(s.name()).map_or("–".into(), ToString::to_string));
            std::iter::once(family.clone()).chain(cells).collect()
        })
        .collect();
    let head = ["family", ">queued", ">leased", ">running", ">retry", ">succeeded", ">cancelled", ">dead"];
    let mut out = table(&head, &rows);
    let mut line = |text: String| {
        out.push('\n');
        out.push_str(&text);
    };
    if status.paused {
        line("paused: nothing new is begun (lorafab factory resume)".into());
    }
    for limit in &status.limits {
        line(format!("limit: at most {} of {} at once", limit.most, limit.tag));
    }
    if status.waiting.for_needs > 0 {
        line(format!("{} for other jobs to end", waits(status.waiting.for_needs)));
    }
    if status.waiting.for_backoff > 0 {
        line(format!("{} before another attempt", waits(status.waiting.for_backoff)));
    }
    if open > 0 {
        let left = minutes_left.map_or("–".into(), |m| format!("{m:.0} min left"));
        line(format!("{} open, {per_hour:.0} an hour in the last 5 minutes, {left}", count(open, "job")));
    }
    for w in &status.workers {
        let rate =
            if w.tokens_per_sec > 0.0 { format!("  {:.0} tok/s", w.tokens_per_sec) } else { String::new() };
        let seen = (now - w.seen_ms) / 1000;
        line(format!("worker {}: {}{rate}  {} done  seen {seen} s ago", w.owner, w.doing, w.done));
    }
    for (label, reason) in &status.dead {
        line(format!("dead: {label}: {reason}"));
    }
    let more = status.states.get("dead").copied().unwrap_or(0).saturating_sub(status.dead.len());
    if more > 0 {
        line(format!("and {more} more dead jobs"));
    }
    out
}

fn waits(n: usize) -> String {
    format!("{} wait{}", count(n, "job"), if n == 1 { "s" } else { "" })
}

pub(super) fn logs(context: &Context<'_>, name: &str) -> Result {
    let mut store = context.existing_store()?;
    let queue = Queue::new(&mut store);
    let job = queue.find(name)?;
    let log = queue.log(job.id)?;
    if context.global.json {
        return print_json(&json!({"schema": "factory-logs/1", "job": job, "log": log}));
    }
    print(&log.iter().map(entry).collect::<Vec<_>>().join("\n"))
}

fn entry(l: &Logged) -> String {
    let at = jiff::Timestamp::from_millisecond(l.at_ms).map_or_else(|_| "–".into(), |t| t.to_string());
    if l.to.is_empty() {
        return format!("{at}  {}", l.text);
    }
    let reason = if l.text.is_empty() { String::new() } else { format!(": {}", l.text) };
    let token = if l.token > 0 { format!(" (lease {})", l.token) } else { String::new() };
    format!("{at}  {}{token}{reason}", l.to)
}
