//! Models and pickles from elsewhere, tried in a child of this program first (see `fence::trial`): their templates run there, their
//! tokenizers are built there, their objects are taken apart there. What came through is remembered until the files change.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use fence::open::SMALL;
use fence::trial::{Limits, Outcome, confine, run};
use lm::Outline;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};

/// First argument of a child.
pub(crate) const CHILD: &str = "--try-in-this-child";

const LIMITS: Limits = Limits { memory: 2 << 30, seconds: 8, answer: 1 << 20 };

/// What a child is given to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A model's description, tokenizer and template, and the names of its weights.
    Model,
    /// A pickle's objects.
    Pickle,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Pickle => "pickle",
        }
    }

    fn read(self, path: &Path, template: Option<&Path>) -> Result {
        match self {
            Self::Model => {
                let text =
                    template.map(|t| fence::read_text(t, SMALL)).transpose().map_err(lm::Error::from)?;
                Ok(Outline::probe(path, text.as_deref())?)
            }
            Self::Pickle => Ok(lm::pickled::probe(path)?),
        }
    }
}

/// Runs as a child, if these arguments are a child's.
pub(crate) fn child(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<ExitCode> {
    if arguments.nth(1)? != CHILD {
        return None;
    }
    // Silent: the parent says what there is to say.
    std::panic::set_hook(Box::new(|_| {}));
    let (kind, path, template) = (arguments.next()?, arguments.next()?, arguments.next());
    let what = [What::Model, What::Pickle].into_iter().find(|w| kind == w.name())?;
    let done = confine(LIMITS)
        .map_err(CommandError::from)
        .and_then(|()| what.read(Path::new(&path), template.as_deref().map(Path::new)));
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let said = json!({"message": e.message, "causes": e.causes, "hint": e.hint, "usage": e.kind == Kind::Usage});
            // Nobody listens if the parent gave up.
            let _ = crate::output::print_as_it_is(&said.to_string());
            ExitCode::from(5)
        }
    })
}

/// Tries a file or folder; a model with the chat template that takes the place of its own. Where no child can be had, the readers' own bounds are what there is.
pub(crate) fn tried(what: What, path: &Path, template: Option<&Path>) -> Result {
    let memo = stamp(what, path, template).map(|stamp| Context::cache_path().join("tried").join(stamp));
    if memo.as_ref().is_some_and(|m| m.exists()) {
        return Ok(());
    }
    let Ok(program) = std::env::current_exe() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args([CHILD, what.name()]).arg(path).args(template).env_clear();
    // On a machine of many cores their threads' own memory would fill the address space.
    command.envs([("MALLOC_ARENA_MAX", "2"), ("RAYON_NUM_THREADS", "2")]);
    match run(&mut command, LIMITS) {
        Err(_) => Ok(()),
        Ok(Outcome::Ended(true, _)) => {
            // A trial that is not remembered is made again.
            if let Some(memo) = memo {
                let _ = memo.parent().map(std::fs::create_dir_all);
                let _ = std::fs::write(memo, "");
            }
            Ok(())
        }
        Ok(Outcome::Ended(false, said)) => {
            let said: Value = serde_json::from_slice(&said).unwrap_or_default();
            let text = |v: &Value| v.as_str().map(str::to_owned);
            let Some(message) = text(&said["message"]) else {
                return Err(harmful(path, "cannot be read in a process with limits"));
            };
            let kind = if said["usage"] == true { Kind::Usage } else { Kind::Environment };
            let causes = said["causes"].as_array().into_iter().flatten().filter_map(text).collect();
            Err(CommandError { kind, message, causes, hint: text(&said["hint"]) })
        }
        Ok(Outcome::Died(why)) => Err(harmful(path, &why)),
    }
}

fn harmful(path: &Path, why: &str) -> CommandError {
    CommandError::new(
        Kind::Environment,
        format!("{}: what reads it {why}: it is damaged, or made to do harm", path.display()),
    )
}

/// A name for these files as they are: a change of any gives another.
fn stamp(what: What, path: &Path, template: Option<&Path>) -> Option<String> {
    let place = std::fs::canonicalize(path).ok()?;
    let mut files = vec![place.clone()];
    if place.is_dir() {
        let listed = std::fs::read_dir(&place).ok()?.take(10_000).map(|e| Some(e.ok()?.path()));
        files.extend(listed.collect::<Option<Vec<_>>>()?);
        files.sort();
    }
    if let Some(template) = template {
        files.push(std::fs::canonicalize(template).ok()?);
    }
    let mut all = format!("{} {} {}", env!("CARGO_PKG_VERSION"), what.name(), place.display());
    for file in files {
        let m = std::fs::metadata(&file).ok()?;
        let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        let _ = write!(all, "|{}:{}:{}:{}:{times:?}", file.display(), m.dev(), m.ino(), m.size());
    }
    // Another build may read other things.
    if let Ok(m) = std::env::current_exe().and_then(std::fs::metadata) {
        let _ = write!(all, "|{}:{}", m.ino(), m.ctime());
    }
    Some(registry::Digest::of(all.as_bytes()).to_string())
}
