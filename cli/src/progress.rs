//! One status line on stderr: rewritten in place on a terminal, a line every ten seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use serve::facts::minutes;

use crate::output::tell;

pub(crate) struct StatusLine {
    quiet: bool,
    terminal: bool,
    last: Option<Instant>,
}

impl StatusLine {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), last: None }
    }

    /// Shows what `line` says, if it is time for it.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        let every = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if self.quiet || self.last.is_some_and(|l| l.elapsed() < every) {
            return;
        }
        self.last = Some(Instant::now());
        let line = line();
        if self.terminal {
            // A closed stderr is no reason to stop.
            let _ = write!(anstream::stderr(), "\r\x1b[2K{line}");
        } else {
            tell(&line);
        }
    }

    /// Takes the line off a terminal, for what is to stay there.
    pub(crate) fn clear(&mut self) {
        if self.last.is_some() && self.terminal {
            let _ = write!(anstream::stderr(), "\r\x1b[2K");
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        if self.last.is_some() && self.terminal {
            tell("");
        }
    }
}

/// How far a count is, as a line with a bar: `hashing files  [######......]  120/232  eta 0m03s`.
pub(crate) struct Bar {
    what: &'static str,
    begin: Instant,
    line: StatusLine,
}

impl Bar {
    /// Of a work that takes less than a moment nothing is seen: the first line comes when the first tenth of a second is over.
    pub(crate) fn new(quiet: bool, what: &'static str) -> Self {
        let mut line = StatusLine::new(quiet);
        // Elsewhere than on a terminal a short work says nothing.
        line.last = (!line.terminal).then(Instant::now);
        Self { what, begin: Instant::now(), line }
    }

    /// Shows that `done` of `all` are done, if it is time for it.
    pub(crate) fn show(&mut self, done: usize, all: usize) {
        let (what, seconds) = (self.what, self.begin.elapsed().as_secs_f64());
        if self.line.last.is_none() && seconds < 0.1 {
            return;
        }
        self.line.show(|| bar(what, done, all, seconds));
    }
}

impl Drop for Bar {
    /// It leaves nothing on a terminal.
    fn drop(&mut self) {
        self.line.clear();
        self.line.last = None;
    }
}

fn bar(what: &str, done: usize, all: usize, seconds: f64) -> String {
    const WIDTH: usize = 24;
    let filled = (WIDTH * done / all.max(1)).min(WIDTH);
    let left = if done == 0 {
        String::new()
    } else {
        format!("  eta {}", minutes(seconds / done as f64 * all.saturating_sub(done) as f64))
    };
    format!("{what}  [{}{}]  {done}/{all}{left}", "#".repeat(filled), ".".repeat(WIDTH - filled))
}

/// A work that cannot be counted: a line every ten seconds (on a terminal every second) says that it goes on, and for how long it has.
pub(crate) fn beside<T>(quiet: bool, what: &str, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            let mut line = StatusLine::new(quiet);
            line.last = (!line.terminal).then(Instant::now);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                if begin.elapsed() > Duration::from_secs(1) {
                    line.show(|| format!("{what}  {}", minutes(begin.elapsed().as_secs_f64())));
                }
            }
            line.clear();
            line.last = None;
        });
        // The thread ends whatever becomes of the work.
        let _over = Over(&over);
        work()
    })
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_far_it_is_and_how_long_it_will_take() {
        assert_eq!(bar("hashing", 0, 8, 1.0), format!("hashing  [{}]  0/8", ".".repeat(24)));
        let half = format!("hashing  [{}{}]  4/8  eta 0m10s", "#".repeat(12), ".".repeat(12));
        assert_eq!(bar("hashing", 4, 8, 10.0), half);
        assert!(bar("nothing", 0, 0, 1.0).ends_with("0/0"));
        assert_eq!(beside(true, "work", || 7), 7);
    }
}
