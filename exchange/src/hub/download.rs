//! Single files of a repository as it was at one commit, held against its listing.

use super::client::{Client, Remote};
use crate::{Error, Result};

/// A repository at one commit, to fetch files from.
pub(super) struct Download<'a> {
    client: &'a Client,
    remote: &'a Remote,
}

impl<'a> Download<'a> {
    /// Gets ready; nothing is sent.
    pub(super) fn new(client: &'a Client, remote: &'a Remote) -> Self {
        Self { client, remote }
    }

    /// The bytes of a file of the listing that is at most so large.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none, or it is not what the listing says; otherwise if it cannot be fetched.
    pub(super) fn get(&self, path: &str, most: u64) -> Result<Vec<u8>> {
        let refuse = |what: String| Error::Refused {
            path: format!("{}/{path}", self.client.place.repository()).into(),
            what,
        };
        let Some(entry) = self.remote.files.get(path) else {
            return Err(refuse("is not in the repository".into()));
        };
        if entry.size > most {
            return Err(refuse(format!("has {} bytes, more than {most}", entry.size)));
        }
        let commit = self.remote.commit.as_deref().unwrap_or_default();
        let bytes = self.client.file(commit, path, entry.size)?;
        if !entry.holds(&bytes) {
            return Err(refuse("is not what the repository's listing says".into()));
        }
        Ok(bytes)
    }
}
