//! The thread that keeps a worker's leases while it computes: heartbeats, the reaper, the worker's line in the status.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use registry::Store;

use crate::Result;
use crate::queue::{Beat, Job, Queue, WorkerLine};

/// A lease outlives three missed heartbeats.
pub(crate) const LEASE_MS: i64 = 60_000;
/// Time between heartbeats. Shorter than a lease would need: a request to cancel is seen by a heartbeat.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the flag that stops everything is looked at.
const TICK: Duration = Duration::from_millis(100);

/// What the worker and its keeper share.
#[derive(Debug)]
pub(crate) struct Keeper {
    held: Mutex<BTreeMap<i64, (i64, Beat)>>,
    line: Mutex<WorkerLine>,
    /// Set when everything is to stop, or a job worked on alone is to.
    pub(crate) halt: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    pub(crate) fn new(owner: &str, now_ms: i64) -> Self {
        let line = WorkerLine {
            owner: owner.into(),
            doing: "starting".into(),
            tokens_per_sec: 0.0,
            done: 0,
            started_ms: now_ms,
            seen_ms: now_ms,
        };
        Self { held: Mutex::default(), line: Mutex::new(line), halt: AtomicBool::new(false) }
    }

    /// Keeps the leases of these jobs from now on.
    pub(crate) fn hold(&self, jobs: &[Job]) {
        let mut held = lock(&self.held);
        *held = jobs.iter().map(|j| (j.id, (j.token, Beat::Held))).collect();
    }

    /// Lets one go.
    pub(crate) fn let_go(&self, job: &Job) {
        lock(&self.held).remove(&job.id);
    }

    /// What the last heartbeat said of a job.
    pub(crate) fn beat(&self, job: &Job) -> Beat {
        lock(&self.held).get(&job.id).map_or(Beat::Lost, |(_, beat)| *beat)
    }

    /// Says what the worker does.
    pub(crate) fn say(&self, doing: String, tokens_per_sec: f64, done: usize) {
        let mut line = lock(&self.line);
        (line.doing, line.tokens_per_sec, line.done) = (doing, tokens_per_sec, done);
    }

    /// Runs `work` beside a thread that keeps its leases. What the thread cannot write (another process holds the database for
    /// long, a full disk) it tries again; a lease that is lost meanwhile is found at the next heartbeat or at the commit.
    pub(crate) fn beside<T>(
        &self,
        store: &Path,
        stop: &AtomicBool,
        clock: fn() -> i64,
        gone: fn(&str) -> bool,
        work: impl FnOnce() -> T,
    ) -> Result<T> {
        // Opened here, so that a store that cannot be opened is the caller's error.
        let mut own = Store::open(store)?;
        std::thread::scope(|scope| {
            let (over, ended): (Sender<()>, Receiver<()>) = channel();
            let thread = scope.spawn(move || {
                let mut last: Option<Instant> = None;
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
                    if stop.load(Ordering::Relaxed) {
                        self.halt.store(true, Ordering::Relaxed);
                    }
                    if last.is_none_or(|l| l.elapsed() >= HEARTBEAT) {
                        last = Some(Instant::now());
                        let _ = self.tick(&mut own, clock(), gone);
                    }
                }
                let owner = lock(&self.line).owner.clone();
                let _ = Queue::new(&mut own).leave(&owner);
            });
            let out = work();
            drop(over);
            let _ = thread.join();
            Ok(out)
        })
    }

    fn tick(&self, store: &mut Store, now_ms: i64, gone: fn(&str) -> bool) -> Result<()> {
        let jobs: Vec<(i64, i64)> = lock(&self.held).iter().map(|(id, (token, _))| (*id, *token)).collect();
        let beats = Queue::new(store).heartbeat(&jobs, now_ms, LEASE_MS)?;
        for ((id, token), beat) in jobs.iter().zip(beats) {
            let mut held = lock(&self.held);
            // The job may have been let go, or claimed anew, since.
            if let Some(entry) = held.get_mut(id).filter(|(t, _)| t == token) {
                entry.1 = beat;
                if beat != Beat::Held && held.len() == 1 {
                    self.halt.store(true, Ordering::Relaxed);
                }
            }
        }
        let mut line = lock(&self.line).clone();
        line.seen_ms = now_ms;
        let mut queue = Queue::new(store);
        queue.tell(&line)?;
        queue.reap(now_ms, gone)?;
        Ok(())
    }
}
