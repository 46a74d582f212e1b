//! Fetching single files with `hf-hub`, into a folder that is removed again.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};

use super::Trouble;
use super::client::{Client, Remote};
use crate::{Error, Result};
use registry::Store;

/// A repository at one commit, to fetch files from.
pub(super) struct Download<'a> {
    client: &'a Client,
    remote: &'a Remote,
    repo: ApiRepo,
    folder: tempfile::TempDir,
}

impl<'a> Download<'a> {
    /// Gets ready; what is fetched lies in the store's staging folder.
    pub(super) fn new(client: &'a Client, remote: &'a Remote, store: &Store) -> Result<Self> {
        let staging = std::path::absolute(store.root().join("staging"))?;
        let folder = tempfile::Builder::new().prefix("hub-").tempdir_in(staging)?;
        let api = ApiBuilder::new()
            .with_cache_dir(folder.path().to_owned())
            .with_endpoint(client.options.endpoint.clone())
            .with_token(client.token())
            .with_progress(false)
            .build()
            .map_err(|e| client.error(Trouble::Network, &format!("reaching the Hub: {e}")))?;
        let commit = remote.commit.as_deref().unwrap_or_default();
        Ok(Self { client, remote, repo: api.repo(client.at(commit)), folder })
    }

    /// The bytes of a file of the listing that is at most so large.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none, or it is not what the listing says; otherwise if it cannot be fetched.
    pub(super) fn get(&self, path: &str, most: u64) -> Result<Vec<u8>> {
        let refuse = |what: String| Error::Refused { path: path.into(), what };
        let Some(entry) = self.remote.files.get(path) else {
            return Err(refuse("is not in the repository".into()));
        };
        if entry.size > most {
            return Err(refuse(format!("has {} bytes, more than {most}", entry.size)));
        }
        if entry.size == 0 {
            // The Hub's answer to a request for the first byte of nothing is no file.
            return Ok(Vec::new());
        }
        let place = self.fetch(path)?;
        let bytes = fs_err::read(&place)?;
        // The bytes, and the link to them that `hf-hub` makes.
        fs_err::remove_file(fs_err::canonicalize(&place)?)?;
        fs_err::remove_file(&place)?;
        if !entry.holds(&bytes) {
            return Err(refuse("is not what the repository's listing says".into()));
        }
        Ok(bytes)
    }

    fn fetch(&self, path: &str) -> Result<PathBuf> {
        let patience = self.client.options.patience;
        let mut n = 0;
        loop {
            n += 1;
            self.client.stopped()?;
            let error = match self.repo.download(path) {
                Ok(place) => return Ok(place),
                Err(e) => e,
            };
            let final_answer = matches!(&error, ApiError::RequestError(e)
                if matches!(**e, ureq::Error::StatusCode(s) if s < 500 && s != 429 && s != 408));
            if final_answer || n >= patience.tries {
                let trouble = if final_answer { Trouble::Absent } else { Trouble::Network };
                let what = format!("fetching {path}: {error}");
                return Err(self.client.error(trouble, &what));
            }
            if matches!(error, ApiError::InvalidResume) {
                for entry in fs_err::read_dir(self.folder.path())? {
                    fs_err::remove_dir_all(entry?.path())?;
                }
            }
            self.client.wait(self.client.backoff(n))?;
        }
    }
}
