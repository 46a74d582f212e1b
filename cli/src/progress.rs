//! One status line on stderr: rewritten in place on a terminal, a line every ten seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

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

/// `3m05s`.
pub(crate) fn minutes(seconds: f64) -> String {
    format!("{}m{:02}s", seconds as u64 / 60, seconds as u64 % 60)
}
