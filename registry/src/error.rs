//! One error type for the crate.

use std::path::PathBuf;

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// SQLite refused.
    #[error("catalogue {path}: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's own message.
        #[source]
        source: rusqlite::Error,
    },
    /// Something was to be written into a store that can only be read.
    #[error("store {0} can only be read: nothing was written")]
    ReadOnly(PathBuf),
    /// There is no room left for a write.
    #[error("the disk that holds {0} is full: nothing was half-written")]
    Full(PathBuf),
    /// The catalogue is not as lorafab makes it.
    #[error("catalogue {path}: its {what} is not as lorafab makes it, so nothing in it is run")]
    ForeignSchema {
        /// The database file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The catalogue is damaged beyond reading.
    #[error("catalogue {0} is not a readable database")]
    BadCatalogue(PathBuf),
    /// The store was written by a newer lorafab.
    #[error("catalogue {path} has schema version {found}, this lorafab knows up to {known}")]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Version found.
        found: i64,
        /// Newest version known.
        known: i64,
    },
    /// The store can only be read and was written by an older lorafab.
    #[error(
        "catalogue {path} has schema version {found}; it can only be read, so it is not brought up to {known}"
    )]
    OlderSchema {
        /// The database file.
        path: PathBuf,
        /// Version found.
        found: i64,
        /// Version needed.
        known: i64,
    },
    /// The store can only be read, and its contents are still in a log that cannot.
    #[error("catalogue {0}: all that was written is still in its log (-wal), which cannot be read here")]
    HiddenLog(PathBuf),
    /// Other processes kept the catalogue locked.
    #[error("catalogue {path} was busy for {seconds} seconds")]
    Busy {
        /// The database file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The store lies where SQLite's locks do not work.
    #[error("store {path} is on a network file system ({kind}), where the catalogue would be damaged")]
    NetworkDisk {
        /// The store.
        path: PathBuf,
        /// Type of the file system.
        kind: String,
    },
    /// The store's path is longer than SQLite can open.
    #[error(
        "store {path}: with it the catalogue's path has {length} bytes; SQLite opens paths of up to {longest}"
    )]
    LongPath {
        /// The store.
        path: PathBuf,
        /// Bytes of the catalogue's path.
        length: usize,
        /// Most that there may be.
        longest: usize,
    },
    /// A tag that cannot be set.
    #[error("tag {key:?} {}", if *taken { "is the name of a column or metric" } else { "has an unusable value (at most 1000 characters, no control characters)" })]
    BadTag {
        /// Name.
        key: String,
        /// Whether the name is that of something else.
        taken: bool,
    },
    /// A file was removed while a commit was under way.
    #[error("blob {digest} vanished during the commit: try again")]
    Vanished {
        /// Digest.
        digest: String,
    },
    /// Some receipts could not be used.
    #[error("{added} adapters were brought back; {bad} receipts could not be used, the first: {first}")]
    Rebuilt {
        /// Adapters added.
        added: usize,
        /// Receipts left out.
        bad: usize,
        /// The first one's problem.
        first: String,
    },
    /// An adapter in the trash was made again since.
    #[error("{id} is in the catalogue again: the one in the trash stays there")]
    MadeAgain {
        /// Behaviour.
        id: String,
    },
    /// A name that could be taken for an adapter's id.
    #[error("{0:?} could be taken for the beginning of an id; choose a name with another letter than a to f")]
    LikeAnId(String),
    /// Something else needs the adapter.
    #[error("{id} is not removed: {held} needs it")]
    InUse {
        /// The adapter.
        id: String,
        /// What needs it.
        held: String,
    },
    /// The trash does not hold exactly one such adapter.
    #[error("{found} adapters in the trash match {id:?}")]
    NotInTrash {
        /// What was asked for.
        id: String,
        /// How many there are.
        found: usize,
    },
    /// Nothing by that id.
    #[error("no adapter {id:?}{suggestion}")]
    NotFound {
        /// What was asked for.
        id: String,
        /// A near name, as `; did you mean ...?`, or nothing.
        suggestion: String,
    },
    /// Several adapters begin so.
    #[error("{id:?} is ambiguous: {candidates}")]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// Some of the matches.
        candidates: String,
    },
    /// Bytes are not what their digest says.
    #[error("blob {digest} at {path} is damaged: its bytes hash to {found}")]
    Damaged {
        /// Expected digest.
        digest: String,
        /// The file.
        path: PathBuf,
        /// Digest of the bytes found.
        found: String,
    },
    /// A filter expression cannot be read.
    #[error("filter {expression:?}: {what} at character {at}")]
    Filter {
        /// The expression.
        expression: String,
        /// What was expected.
        what: String,
        /// Where, counting from 1.
        at: usize,
    },
    /// A filter, an order or a choice of columns asks for a field that no adapter has.
    #[error("no adapter has a field {key:?}")]
    NoField {
        /// What was asked for.
        key: String,
        /// A near name.
        near: Option<String>,
        /// The fields that adapters here have.
        fields: Vec<String>,
    },
    /// A filter puts a number in order with something that is none.
    #[error("{key} is a number in every adapter, so it cannot be compared with {value:?}")]
    NotANumber {
        /// The field.
        key: String,
        /// What it was compared with.
        value: String,
    },
    /// A listing cannot be sorted so.
    #[error("a listing is sorted by {n} fields; {most} are the most")]
    Sort {
        /// Fields that were named.
        n: usize,
        /// Most of them.
        most: usize,
    },
    /// An identifier that cannot be used as a file name.
    #[error("{0:?} is not a name of letters, digits, '-', '_' and '.'")]
    BadName(String),
    /// A stored JSON document cannot be read.
    #[error("{what}: {source}")]
    Json {
        /// Which document.
        what: String,
        /// The parser's message.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// What may have been meant, or what helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoField { near, fields, .. } => {
                let meant = near.as_ref().map_or(String::new(), |n| format!("did you mean {n}? "));
                Some(format!("{meant}fields: {}", fields.join(", ")))
            }
            Self::OlderSchema { .. } => {
                Some("open it once where it can be written (lorafab adapter list), or copy it".to_owned())
            }
            _ => None,
        }
    }
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
