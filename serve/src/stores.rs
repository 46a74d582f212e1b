//! Open stores, lent to one request at a time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use registry::{Result, Store};

/// Most that are kept open between requests.
const IDLE: usize = 4;

/// Stores of one folder.
#[derive(Debug)]
pub(crate) struct Stores {
    root: PathBuf,
    idle: Mutex<Vec<Store>>,
}

impl Stores {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), idle: Mutex::default() }
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// One that nobody else has.
    pub(crate) fn take(&self) -> Result<Store> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        idle.map_or_else(|| Store::open_to_watch(&self.root), Ok)
    }

    /// Gives one back. One that sees the store as it was when it was opened is closed.
    pub(crate) fn give(&self, store: Store) {
        if let Ok(mut idle) = self.idle.lock()
            && idle.len() < IDLE
            && !store.may_be_old()
        {
            idle.push(store);
        }
    }
}
