//! Single files of a model on the Hub, into the Hugging Face cache's own layout (`blobs/`, `snapshots/<commit>/`, `refs/`).
//!
//! The crate `hf-hub`, whose cache this is, tells the token to whatever host an answer sends it on to. Here each address on the way is
//! asked by itself, and only the Hub is told. What was fetched before a kill lies in `blobs/*.part`, and the next try goes on from it.

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::CacheRepo;
use sha2::{Digest, Sha256};
use ureq::http::HeaderMap;

use crate::Result;
use crate::source::Secret;
use crate::web::{Broken, Certificates, agent, copy, next_stop, origin};

/// How often a file's address may be changed by answers.
const MAX_STOPS: usize = 10;

/// Why a file was not fetched.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The Hub has no such file.
    Absent,
    /// Anything else, in words without the token.
    Other(String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is no such file (404)"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

fn other(why: impl fmt::Display) -> Failed {
    Failed::Other(why.to_string())
}

/// A repository's files.
pub(crate) struct Fetch {
    agent: ureq::Agent,
    endpoint: String,
    token: Option<Secret>,
    repo: String,
    cache: CacheRepo,
}

/// Where a file is found, by the Hub's own answer.
struct Known {
    commit: String,
    etag: String,
    /// Whether the tag is the SHA-256 of the bytes.
    sha256: bool,
    /// How many bytes it has.
    size: Option<u64>,
}

/// Most bytes of a file of that name, whatever the Hub says.
fn most_of(file: &str) -> u64 {
    match Path::new(file).extension().and_then(|e| e.to_str()) {
        Some("safetensors") => 200 << 30,
        Some("pt") => 16 << 30,
        _ if ["tokenizer.json", "tokenizer.model"].contains(&file) => fence::open::TABLE,
        _ => fence::open::SMALL,
    }
}

/// Most bytes of a file whose size the Hub does not say: none is a model's weights.
const UNSAID: u64 = 256 << 20;

/// Digest of everything that is read, lower-case hex.
pub(crate) fn sha256(mut from: impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match from.read(&mut piece)? {
            0 => break,
            n => hasher.update(&piece[..n]),
        }
    }
    Ok(hasher.finalize().iter().fold(String::new(), |s, b| s + &format!("{b:02x}")))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

impl Known {
    /// Only the Hub's own answers say it, and what they say becomes names of files.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let commit = header(headers, "x-repo-commit")?;
        let linked = header(headers, "x-linked-etag");
        let etag = linked.or_else(|| header(headers, "etag"))?.trim_start_matches("W/").trim_matches('"');
        let name = |text: &str| {
            (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let sha256 = linked.is_some() && etag.len() == 64;
        let size = header(headers, "x-linked-size").and_then(|n| n.parse().ok());
        (name(commit) && name(etag)).then(|| Self { commit: commit.into(), etag: etag.into(), sha256, size })
    }
}

impl Fetch {
    pub(crate) fn new(
        endpoint: &str,
        certificates: &Certificates,
        token: Option<Secret>,
        repo: &str,
        cache: CacheRepo,
    ) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { agent: agent(certificates)?, endpoint, token, repo: repo.into(), cache })
    }

    /// A file of the newest revision: from the cache, or fetched into it. Of several processes one fetches, and the others wait and find
    /// the file.
    pub(crate) fn get(&self, file: &str) -> Result<PathBuf, Failed> {
        if let Some(path) = self.cache.get(file) {
            return Ok(path);
        }
        let mut url = format!("{}/{}/resolve/main/{file}", self.endpoint, self.repo);
        let mut known: Option<Known> = None;
        let mut lock: Option<std::fs::File> = None;
        for _ in 0..=MAX_STOPS {
            let ours = origin(&url).is_some() && origin(&url) == origin(&self.endpoint);
            // Only who holds the lock knows how much is here.
            let part = known.as_ref().filter(|_| lock.is_some()).map(|k| self.part(k));
            let have = part.as_ref().and_then(|p| p.metadata().ok()).map_or(0, |m| m.len());
            let mut request = self.agent.get(&url).header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| ours) {
                request = request.header("authorization", format!("Bearer {}", token.0));
            }
            if have > 0 {
                request = request.header("range", format!("bytes={have}-"));
            }
            let response = request.call().map_err(other)?;
            let (head, body) = response.into_parts();
            if ours && known.is_none() {
                known = Known::of(&head.headers);
                if let Some(known) = &known {
                    lock = Some(self.lock(known)?);
                    if self.cache.blob_path(&known.etag).exists() {
                        return self.point(file, known);
                    }
                }
            }
            match (head.status.as_u16(), header(&head.headers, "location")) {
                (200 | 206, _) => {
                    let known =
                        known.as_ref().ok_or_else(|| other("the answer names no revision and no digest"))?;
                    let here = self.part(known).metadata().map_or(0, |m| m.len());
                    // Asked before the lock was had, when nobody knew what is here.
                    if have == 0 && here > 0 && part.is_none() {
                        continue;
                    }
                    return self.keep(file, known, &head.headers, body);
                }
                (300..=399, Some(to)) => {
                    url = next_stop(&url, to).ok_or_else(|| other("it is sent on to no address"))?;
                }
                (404, _) => return Err(Failed::Absent),
                // What lies here is not a beginning of the file.
                (416, _) if have > 0 => {
                    if let Some(part) = part {
                        fs_err::remove_file(part).map_err(other)?;
                    }
                }
                (status, _) => return Err(other(format!("answered with status {status}"))),
            }
        }
        Err(other(format!("it is sent on {MAX_STOPS} times")))
    }

    /// Where a file lies while it comes.
    fn part(&self, known: &Known) -> PathBuf {
        self.cache.blob_path(&known.etag).with_extension("part")
    }

    /// Held while a blob is fetched, beside the cache's own locks.
    fn lock(&self, known: &Known) -> Result<std::fs::File, Failed> {
        let blob = self.cache.blob_path(&known.etag);
        let repository =
            blob.parent().and_then(Path::parent).ok_or_else(|| other("the cache has no place"))?;
        let name = repository.file_name().ok_or_else(|| other("the cache has no place"))?;
        let folder = repository.with_file_name(".locks").join(name);
        fs_err::create_dir_all(&folder).map_err(other)?;
        let path = folder.join(format!("{}.lorafab.lock", known.etag));
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(other)?;
        file.lock().map_err(other)?;
        Ok(file)
    }

    /// Writes a file's bytes aside, checks them, and puts them in their place; the lock is held.
    fn keep(
        &self,
        file: &str,
        known: &Known,
        headers: &HeaderMap,
        body: ureq::Body,
    ) -> Result<PathBuf, Failed> {
        let blob = self.cache.blob_path(&known.etag);
        let part = self.part(known);
        fs_err::create_dir_all(blob.parent().unwrap_or(Path::new("."))).map_err(other)?;
        if part.symlink_metadata().is_ok_and(|m| !m.is_file()) {
            return Err(other(format!("{} is no plain file", part.display())));
        }
        let mut out = std::fs::OpenOptions::new().append(true).create(true).open(&part).map_err(other)?;
        let start = header(headers, "content-range")
            .and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok())
            .unwrap_or(0);
        if start != out.metadata().map_err(other)?.len() {
            if start > 0 {
                return Err(other("the answer begins elsewhere than was asked; run again"));
            }
            out.set_len(0).map_err(other)?;
        }
        let length = header(headers, "content-length").and_then(|l| l.parse::<u64>().ok());
        let said = known.size.or_else(|| start.checked_add(length?));
        let cap = most_of(file);
        if said.is_some_and(|n| n > cap) {
            return Err(other(format!(
                "it has {} bytes, more than the {cap} that such a file may have",
                said.unwrap_or(0)
            )));
        }
        let most = said.unwrap_or(cap.min(UNSAID)).saturating_sub(start);
        if length.is_some_and(|l| l > most) {
            return Err(other(format!(
                "{} bytes are to come, of {most} that were said",
                length.unwrap_or(0)
            )));
        }
        let mut body = body.into_with_config().limit(u64::MAX).reader();
        let copied = copy(&mut body, &mut out, most).map_err(|e| {
            // What came of a body without an end is no beginning of the file.
            if matches!(e, Broken::Long(_)) {
                let _ = out.set_len(start);
            }
            other(e)
        })?;
        if length.is_some_and(|l| l != copied) || known.size.is_some_and(|n| n != start + copied) {
            return Err(other("the connection was cut off"));
        }
        out.flush().and_then(|()| out.sync_all()).map_err(other)?;
        if known.sha256 {
            let found = sha256(fs_err::File::open(&part).map_err(other)?).map_err(other)?;
            if found != known.etag.to_lowercase() {
                fs_err::remove_file(&part).map_err(other)?;
                return Err(other("its bytes are not those that the Hub names"));
            }
        }
        fs_err::rename(&part, &blob).map_err(other)?;
        self.point(file, known)
    }

    /// Names a blob in the snapshot of its commit.
    fn point(&self, file: &str, known: &Known) -> Result<PathBuf, Failed> {
        let pointer = self.cache.pointer_path(&known.commit).join(file);
        fs_err::create_dir_all(pointer.parent().unwrap_or(Path::new("."))).map_err(other)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = Path::new(&up).join("blobs").join(&known.etag);
        match std::os::unix::fs::symlink(target, &pointer) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(other(e)),
            _ => {}
        }
        self.cache.create_ref(&known.commit).map_err(other)?;
        Ok(pointer)
    }
}
