//! Errors at the edge: one sentence, its causes, a hint, and a documented exit code.

use std::path::Path;
use std::process::ExitCode;

use fence::shown;

use crate::args::Global;
use crate::hint::spelled;
use crate::output::{tell, tell_as_it_is};

/// What a failed command says. The kind decides the exit code.
#[derive(Debug, Clone)]
pub(crate) struct CommandError {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

/// Exit codes, as `lorafab --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 1: it ran, and the outcome is negative.
    Negative,
    /// 2: usage, recipe or configuration.
    Usage,
    /// 3: not found or ambiguous.
    NotFound,
    /// 5: a file, the disk, the network or the model.
    Environment,
    /// 130: interrupted.
    Interrupted,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Negative => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Environment => 5,
            Self::Interrupted => 130,
        }
    }
}

pub(crate) type Result<T = ()> = std::result::Result<T, CommandError>;

impl CommandError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn from_error(kind: Kind, error: &dyn std::error::Error) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(e) = next {
            let text = e.to_string();
            if !error.to_string().contains(&text) {
                causes.push(text);
            }
            next = e.source();
        }
        Self { kind, message: error.to_string(), causes, hint: None }
    }
}

impl From<lm::Error> for CommandError {
    fn from(e: lm::Error) -> Self {
        let hint = if let lm::Error::Source { hint, .. } = &e { Some(hint.clone()) } else { None };
        let kind = if matches!(e, lm::Error::Request(_)) { Kind::Usage } else { Kind::Environment };
        Self { hint, ..Self::from_error(kind, &e) }
    }
}

/// What to do about a full disk.
const FULL: &str = "free some space and run the same command again: what is finished is safe";

impl From<exchange::Error> for CommandError {
    fn from(e: exchange::Error) -> Self {
        match &e {
            exchange::Error::Hub { trouble, .. } => {
                let (kind, hint) = crate::commands::hub::advice(*trouble);
                Self { hint: hint.map(str::to_owned), ..Self::from_error(kind, &e) }
            }
            exchange::Error::Refused { .. } => Self::from_error(Kind::Usage, &e),
            _ => match e {
                exchange::Error::Store(e) => e.into(),
                // Full disks and the like: what the store's own errors say of them.
                exchange::Error::Io(e) => registry::Error::Io(e).into(),
                other => Self::from_error(Kind::Environment, &other),
            },
        }
    }
}

impl From<registry::Error> for CommandError {
    fn from(e: registry::Error) -> Self {
        let kind = match &e {
            registry::Error::NotFound { .. }
            | registry::Error::Ambiguous { .. }
            | registry::Error::NotInTrash { .. } => Kind::NotFound,
            registry::Error::Filter { .. }
            | registry::Error::BadName(_)
            | registry::Error::Sort { .. }
            | registry::Error::NoField { .. }
            | registry::Error::NotANumber { .. }
            | registry::Error::BadTag { .. }
            | registry::Error::InUse { .. }
            | registry::Error::MadeAgain { .. }
            | registry::Error::LikeAnId(_) => Kind::Usage,
            _ => Kind::Environment,
        };
        let hint = match &e {
            registry::Error::NotFound { id, suggestion } => Some(if Path::new(id).exists() {
                format!("{id} is a file or folder; take it in with: lorafab adapter import {id}")
            } else if suggestion.starts_with("; it is a family") {
                format!("list them with: lorafab adapter list {}", id.trim_end_matches('/'))
            } else {
                "list what there is with: lorafab adapter list".to_owned()
            }),
            registry::Error::Ambiguous { .. } => {
                Some("name one by its id, or by the whole behaviour (family/value)".to_owned())
            }
            registry::Error::Filter { .. } => {
                Some("for example: --where \"value in (cats, dogs) and gate_on >= 0.5\"".to_owned())
            }
            registry::Error::NoField { .. } | registry::Error::OlderSchema { .. } => e.hint(),
            registry::Error::NewerSchema { .. } => {
                Some("use the lorafab that made this store, or another --store".to_owned())
            }
            registry::Error::HiddenLog(_) => {
                Some("ask its owner for the right to read catalogue.sqlite-wal and -shm".to_owned())
            }
            registry::Error::Busy { .. } => {
                Some("see which process holds it (lorafab factory status); run the same command again".to_owned())
            }
            registry::Error::NetworkDisk { .. } => Some(
                "keep the store on a local disk (--store DIR) and share work through: lorafab factory slurm".to_owned(),
            ),
            registry::Error::NotInTrash { found, .. } if *found > 1 => Some("give more of the id".to_owned()),
            registry::Error::LongPath { .. } => Some("name a shorter place with --store DIR".to_owned()),
            registry::Error::ReadOnly(_) => Some("copy it, or name another with --store DIR".to_owned()),
            registry::Error::Full(_) => Some(FULL.to_owned()),
            registry::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => Some(FULL.to_owned()),
            registry::Error::BadCatalogue(_) => Some(
                "move the file away; lorafab registry rebuild then brings the adapters back from their receipts"
                    .to_owned(),
            ),
            registry::Error::Rebuilt { .. } => {
                Some("remove or mend those receipts; lorafab registry check lists them".to_owned())
            }
            registry::Error::Damaged { .. } => {
                Some("find what else is damaged with: lorafab adapter verify".to_owned())
            }
            _ => None,
        };
        Self { hint, ..Self::from_error(kind, &e) }
    }
}

impl From<recipes::Error> for CommandError {
    fn from(e: recipes::Error) -> Self {
        Self::from_error(Kind::Usage, &e)
            .hint("the format is described in recipes/README.md; lorafab recipe show topic prints an example")
    }
}

impl From<factory::Error> for CommandError {
    fn from(e: factory::Error) -> Self {
        match e {
            factory::Error::Model(e) => e.into(),
            factory::Error::Store(e) => e.into(),
            factory::Error::Recipe(e) => e.into(),
            e @ factory::Error::NoJob(_) => Self::from_error(Kind::NotFound, &e)
                .hint("jobs are named by label, e.g. topic/cats; see: lorafab factory status"),
            e @ factory::Error::ManyJobs { .. } => Self::from_error(Kind::NotFound, &e)
                .hint("name one by its id or specification hash: lorafab factory logs HASH"),
            e @ (factory::Error::Manifest { .. }
            | factory::Error::OtherBase { .. }
            | factory::Error::Settings { .. }
            | factory::Error::Untunable { .. }) => Self::from_error(Kind::Usage, &e),
            e @ factory::Error::TooCostly { .. } => Self::from_error(Kind::Usage, &e)
                .hint("fewer steps or shorter rows in the recipe, or a higher cap with --max-tflop"),
            e @ factory::Error::NoReference(_) => Self::from_error(Kind::Usage, &e)
                .hint("submit a trained family with it, e.g.: lorafab factory submit topic random"),
            other => Self::from_error(Kind::Environment, &other),
        }
    }
}

/// Why a job failed: what the environment does may pass, what is wrong stays wrong.
impl From<CommandError> for factory::Failed {
    fn from(e: CommandError) -> Self {
        use factory::Failure::{Permanent, Retryable};
        Self {
            interrupted: e.kind == Kind::Interrupted,
            failure: if e.kind == Kind::Environment { Retryable } else { Permanent },
            reason: std::iter::once(e.message).chain(e.causes).collect::<Vec<_>>().join(": "),
        }
    }
}

impl From<readers::Wrong> for CommandError {
    fn from(e: readers::Wrong) -> Self {
        Self::from_error(Kind::Usage, &e)
    }
}

impl From<readers::Error> for CommandError {
    fn from(e: readers::Error) -> Self {
        match e {
            readers::Error::Model(lm::Error::Interrupted) => {
                Self::new(Kind::Interrupted, "stopped; finished adapters and readers are safe")
                    .hint("run the same command again to go on")
            }
            readers::Error::Model(e) => e.into(),
            readers::Error::Store(e) => e.into(),
            readers::Error::Factory(e) => e.into(),
            readers::Error::Recipe(e) => e.into(),
            readers::Error::Arm(e) => e.into(),
            other => Self::from_error(Kind::NotFound, &other),
        }
    }
}

impl From<study::Error> for CommandError {
    fn from(e: study::Error) -> Self {
        match e {
            study::Error::Wrong(e) => e.into(),
            study::Error::Io(e) => e.into(),
            study::Error::Store(e) => e.into(),
            study::Error::Factory(e) => e.into(),
            e @ study::Error::Verify(_) => Self::from_error(Kind::Negative, &e),
            e @ study::Error::Underpowered(_) => Self::from_error(Kind::Usage, &e)
                .hint("give it more test adapters, or register it all the same with --underpowered"),
            e @ study::Error::Seen(_) => Self::from_error(Kind::Usage, &e).hint(
                "give the study another salt or name what was looked at under looked_at; or register it all the same with --again, and the report says so",
            ),
            other => Self::from_error(Kind::Usage, &other),
        }
    }
}

impl From<std::io::Error> for CommandError {
    fn from(e: std::io::Error) -> Self {
        Self::from_error(Kind::Environment, &e)
    }
}

/// A sentence at a length for people: what it quotes may be a whole file.
fn brief(text: &str) -> String {
    const LONGEST: usize = 1500;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{} ... ({} bytes more)", &text[..at], text.len() - at),
    }
}

/// Prints an error on stderr, as text or as JSON, and returns its exit code. Without options (they could not be read) it is JSON.
pub(crate) fn report(error: &CommandError, global: Option<&Global>) -> ExitCode {
    let hint = error.hint.as_ref().map(|h| global.map_or_else(|| h.clone(), |g| spelled(g, h)));
    let causes: Vec<String> = error.causes.iter().map(|c| brief(c)).collect();
    let error = &CommandError { message: brief(&error.message), causes, ..error.clone() };
    if global.is_none_or(|g| g.json) {
        let hints: Vec<&String> = hint.iter().collect();
        let value = serde_json::json!({"error": {"code": error.kind.code(), "message": error.message, "causes": error.causes, "hints": hints}});
        tell_as_it_is(&value.to_string());
    } else {
        tell(&format!("error: {}", shown(&error.message)));
        for cause in &error.causes {
            tell(&format!("  caused by: {}", shown(cause)));
        }
        if let Some(hint) = &hint {
            tell(&format!("\nhint: {}", shown(hint)));
        }
    }
    ExitCode::from(error.kind.code())
}
