//! Large files: asked for in one batch, sent beside each other to the storage that the answer names, in one piece or in parts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::Trouble;
use super::client::{Call, Client, MAX_ANSWER};
use crate::Result;

const MEDIA: &str = "application/vnd.git-lfs+json";

/// A large file, known by its digest.
#[derive(Debug, Clone)]
pub(super) struct Large<'a> {
    pub(super) path: &'a str,
    pub(super) sha256: &'a str,
    pub(super) size: u64,
}

/// Gives the bytes of a large file.
pub(super) type Read<'a> = &'a (dyn Fn(&Large<'_>) -> Result<Vec<u8>> + Sync);

/// What a thread that panicked held is whole; its panic goes on when the threads are joined.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// Sends those files that the storage lacks; `sent` is told of each that is there now. Files of one content are sent once.
    pub(super) fn upload(
        &self,
        files: &[Large<'_>],
        read: Read<'_>,
        sent: &mut (dyn FnMut(&Large<'_>) + Send),
    ) -> Result<()> {
        let mut by_digest: BTreeMap<&str, Vec<&Large<'_>>> = BTreeMap::new();
        for file in files {
            by_digest.entry(file.sha256).or_default().push(file);
        }
        let first: Vec<&Large<'_>> = by_digest.values().map(|same| same[0]).collect();
        let actions = self.batch(&first)?;
        let work = Mutex::new(first.iter().zip(&actions));
        let (sent, failed) = (Mutex::new(sent), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..self.options.uploads.clamp(1, first.len().max(1)) {
                scope.spawn(|| {
                    while lock(&failed).is_none() {
                        let Some((file, action)) = lock(&work).next() else { return };
                        match self.one(file, action, read) {
                            Ok(()) => {
                                let mut sent = lock(&sent);
                                by_digest[file.sha256].iter().for_each(|f| sent(f));
                            }
                            Err(e) => drop(lock(&failed).get_or_insert(e)),
                        }
                    }
                });
            }
        });
        let failed = lock(&failed).take();
        failed.map_or(Ok(()), Err)
    }

    /// What is to be done about each file, in the same order.
    fn batch(&self, files: &[&Large<'_>]) -> Result<Vec<Value>> {
        let what = "asking where large files go";
        let objects: Vec<Value> = files.iter().map(|f| json!({"oid": f.sha256, "size": f.size})).collect();
        let body = json!({"operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256", "objects": objects,
            "ref": {"name": self.revision()}})
        .to_string();
        let url = self.large_files();
        let answer = self.succeed(&Call {
            method: "POST",
            url: &url,
            what,
            writes: true,
            once: false,
            headers: vec![("accept".into(), MEDIA.into()), ("content-type".into(), MEDIA.into())],
            body: Some(body.as_bytes()),
            limit: MAX_ANSWER,
        })?;
        let answer = self.parse(what, &answer)?;
        let objects: BTreeMap<&str, &Value> = answer["objects"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|o| Some((o["oid"].as_str()?, o)))
            .collect();
        files
            .iter()
            .map(|f| {
                let Some(object) = objects.get(f.sha256) else {
                    let text = format!("{what}: no answer about {}", f.path);
                    return Err(self.error(Trouble::Network, &text));
                };
                match object["error"]["message"].as_str() {
                    None => Ok(object["actions"].clone()),
                    Some(why) => {
                        Err(self.error(Trouble::Network, &format!("{}: refused by the Hub: {why}", f.path)))
                    }
                }
            })
            .collect()
    }

    fn one(&self, file: &Large<'_>, actions: &Value, read: Read<'_>) -> Result<()> {
        if actions["upload"].is_null() {
            return Ok(());
        }
        let bytes = read(file)?;
        let mut actions = actions.clone();
        for n in 1.. {
            match self.put(file, &actions["upload"], &bytes) {
                Ok(()) => break,
                Err(e) if n >= self.options.patience.tries => return Err(e),
                Err(_) => self.wait(self.backoff(n))?,
            }
            // Asked again: addresses are good for some minutes only, and what seemed lost may have arrived.
            actions = self.batch(&[file])?.remove(0);
            if actions["upload"].is_null() {
                return Ok(());
            }
        }
        if actions["verify"].is_null() {
            return Ok(());
        }
        let body = json!({"oid": file.sha256, "size": file.size}).to_string();
        self.act(file, "verifying", ("POST", false), &actions["verify"], Some(MEDIA), body.as_bytes())
            .map(drop)
    }

    fn put(&self, file: &Large<'_>, action: &Value, bytes: &[u8]) -> Result<()> {
        let part = &action["header"]["chunk_size"];
        let Some(part) = part.as_u64().or_else(|| part.as_str()?.parse().ok()) else {
            return self.act(file, "uploading", ("PUT", true), action, None, bytes).map(drop);
        };
        let malformed = || {
            self.error(
                Trouble::Network,
                &format!("uploading {}: the Hub's plan of parts is malformed", file.path),
            )
        };
        let mut addresses: Vec<(usize, &str)> = action["header"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(number, address)| Some((number.parse().ok()?, address.as_str()?)))
            .collect();
        addresses.sort_unstable();
        if part == 0 || addresses.len() as u64 != file.size.div_ceil(part) {
            return Err(malformed());
        }
        let mut parts = Vec::new();
        for ((number, address), piece) in addresses.iter().zip(bytes.chunks(part as usize)) {
            let action = json!({"href": address});
            let answer = self.act(file, "uploading a part of", ("PUT", false), &action, None, piece)?;
            let tag = answer.header("etag").filter(|t| !t.is_empty()).ok_or_else(malformed)?;
            parts.push(json!({"partNumber": number, "etag": tag}));
        }
        let body = json!({"oid": file.sha256, "parts": parts}).to_string();
        let end = json!({"href": action["href"]});
        self.act(file, "completing", ("POST", false), &end, Some(MEDIA), body.as_bytes()).map(drop)
    }

    /// Does what an answer's action says. Its headers are sent, the token only to the Hub itself.
    fn act(
        &self,
        file: &Large<'_>,
        doing: &str,
        (method, once): (&'static str, bool),
        action: &Value,
        media: Option<&str>,
        body: &[u8],
    ) -> Result<super::client::Answer> {
        let what = format!("{doing} {}", file.path);
        let Some(url) = action["href"].as_str() else {
            return Err(self.error(Trouble::Network, &format!("{what}: the Hub names no address")));
        };
        let mut headers: Vec<(String, String)> = action["header"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        if let Some(media) = media {
            headers.retain(|(n, _)| !["accept", "content-type"].contains(&n.to_ascii_lowercase().as_str()));
            headers.extend([("accept".into(), media.into()), ("content-type".into(), media.into())]);
        }
        self.succeed(&Call {
            method,
            url,
            what: &what,
            writes: true,
            once,
            headers,
            body: Some(body),
            limit: MAX_ANSWER,
        })
    }
}
