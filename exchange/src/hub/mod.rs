//! A collection of adapters on the Hugging Face Hub: one repository laid out as [`crate::dataset`] writes it.
//!
//! What the Hub recommends decides how: below 100,000 files a repository, 10,000 entries a folder and 100 files a commit
//! (<https://huggingface.co/docs/hub/repositories-recommendations>). So adapters lie in two-level folders, at most 33 of three
//! files each go into one commit, and the index comes last: it never names an adapter that is not whole.
//!
//! What has to be sent is decided by comparing contents with the repository's own listing, so that a push goes on from any
//! machine, wherever it was killed. The crate `hf-hub` cannot push, and tells the
//! token to whatever host an answer sends it on to; so the protocol is spoken here, after its public descriptions:
//!
//! - huggingface/huggingface_hub, `src/huggingface_hub/_commit_api.py` and `lfs.py`: preupload, the commit's lines, `parentCommit`
//!   (answered with 412 if somebody was faster), large files in one piece or in parts;
//! - `hf_api.py` and `utils/_errors.py` there: creating, revisions, branches, pages of a listing, `X-Error-Code`. That a revision
//!   can be asked for with `expand=sha` is from memory: without it the answer is longer and says the same;
//! - git-lfs/git-lfs, `docs/api/batch.md`, as `lfs.py` uses it.

mod client;
mod download;
mod index;
mod lfs;
mod pull;
mod push;

use std::fmt;
use std::time::Duration;

pub use client::{Client, Remote};
pub use pull::{Pulled, Refusal, pull, pull_plan};
pub use push::{PushPlan, Pushed, push, push_plan};

/// For tests of the schema: whether a text is an index.
#[doc(hidden)]
pub fn is_index(text: &str) -> bool {
    index::read(text).is_ok()
}

use crate::{Error, Result};

/// The public Hub.
pub const PUBLIC: &str = "https://huggingface.co";

/// A token that is never shown.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes a token, if it can be one: what would not fit into a header is none.
    pub fn new(text: &str) -> Option<Self> {
        let good = !text.is_empty() && text.len() <= 1000 && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

/// Kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// A data set, which is what a collection is.
    Dataset,
    /// A model.
    Model,
}

impl RepoKind {
    /// `dataset` or `model`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Model => "model",
        }
    }

    /// What stands before a repository's name in addresses outside the API.
    fn prefix(self) -> &'static str {
        match self {
            Self::Dataset => "datasets/",
            Self::Model => "",
        }
    }
}

/// A branch of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    kind: RepoKind,
    organisation: String,
    name: String,
    revision: String,
}

impl Place {
    /// `ORGANISATION/NAME` at a branch, tag or commit.
    ///
    /// # Errors
    /// If they are not names that the Hub gives.
    pub fn new(kind: RepoKind, repository: &str, revision: &str) -> Result<Self> {
        let part = |p: &str| {
            (1..=96).contains(&p.len())
                && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && !p.starts_with(['-', '.'])
                && !p.ends_with(['-', '.'])
                && !p.contains("..")
                && !p.contains("--")
        };
        let Some((organisation, name)) = repository.split_once('/').filter(|(o, n)| part(o) && part(n))
        else {
            return Err(Error::Hub {
                trouble: Trouble::Name,
                what: format!("{repository:?} is not a repository's name, ORGANISATION/NAME"),
            });
        };
        if revision.len() > 200 || !revision.split('/').all(part) {
            return Err(Error::Hub {
                trouble: Trouble::Name,
                what: format!("{revision:?} is not the name of a revision"),
            });
        }
        Ok(Self { kind, organisation: organisation.into(), name: name.into(), revision: revision.into() })
    }

    /// `ORGANISATION/NAME`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.organisation, self.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.repository())
    }
}

/// How long a request is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries in all.
    pub tries: u32,
    /// First wait; every further one is twice as long.
    pub first: Duration,
    /// Longest wait. A server that asks for more ends the command.
    pub longest: Duration,
}

impl Default for Patience {
    /// Two minutes of trouble, or as many waits of ten minutes as the Hub asks for and tries allow.
    fn default() -> Self {
        Self { tries: 8, first: Duration::from_secs(1), longest: Duration::from_mins(10) }
    }
}

/// How the Hub is reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address of the Hub, without a slash at the end.
    pub endpoint: String,
    /// Token, where there is one.
    pub token: Option<Token>,
    /// Whom a connection trusts; the system's own if empty.
    pub certificates: lm::web::Certificates,
    /// How long a request is tried again.
    pub patience: Patience,
    /// Uploads at the same time.
    pub uploads: usize,
    /// Asked before every request: whether to stop.
    pub stop: fn() -> bool,
}

/// What is wrong with the Hub, for whoever chooses a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A name that cannot be one.
    Name,
    /// A token is missing, or lacks a right.
    Right,
    /// There is no such thing.
    Absent,
    /// The network, or a server that does not answer as it should.
    Network,
    /// It was told to stop.
    Stopped,
}

/// How far a push or pull is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Adapters that are whole at their destination, of those that were not.
    pub done: usize,
    /// Adapters that were not.
    pub adapters: usize,
    /// Bytes sent or fetched.
    pub bytes_done: u64,
    /// Bytes to send or fetch.
    pub bytes: u64,
}
