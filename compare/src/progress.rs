//! What a reader's training says while it runs.

use std::time::{Duration, Instant};

use lm::FitEvent;

/// Lines about one training: every evaluation, and every few seconds between them.
pub struct Progress<'a> {
    what: &'a str,
    begin: Instant,
    last: Option<Instant>,
    say: &'a mut dyn FnMut(String),
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("what", &self.what).finish_non_exhaustive()
    }
}

/// Pause between lines.
const EVERY: Duration = Duration::from_secs(10);

impl<'a> Progress<'a> {
    /// Of one training.
    pub fn new(what: &'a str, say: &'a mut dyn FnMut(String)) -> Self {
        Self { what, begin: Instant::now(), last: None, say }
    }

    /// One event.
    pub fn tell(&mut self, event: &FitEvent) {
        let what = self.what;
        match event {
            FitEvent::Anew { why } => {
                (self.say)(format!(
                    "{what}  begins anew: its state could not be used and was removed: {why}"
                ));
            }
            FitEvent::Step { step, of, point: Some(p), .. } => {
                (self.say)(format!(
                    "{what}  step {step}/{of}  train {:.2}  validation {:.2} nats, top-1 {:.2}",
                    p.train_loss, p.validation.loss, p.validation.top1
                ));
                self.last = Some(Instant::now());
            }
            FitEvent::Step { step, of, loss, .. } if self.last.is_none_or(|l| l.elapsed() > EVERY) => {
                let left =
                    self.begin.elapsed().as_secs_f64() / *step as f64 * of.saturating_sub(*step) as f64;
                (self.say)(format!("{what}  step {step}/{of}  loss {loss:.2}  at most {left:.0}s left"));
                self.last = Some(Instant::now());
            }
            FitEvent::Step { .. } => {}
        }
    }
}
