//! Pushing: what the repository lacks, in commits of less than a hundred files, then the index as JSON lines and as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::client::{Client, Mode, Remote, line_of_file, line_of_large, sha256};
use super::download::Download;
use super::index::{INDEX, MAX_INDEX, merge};
use super::lfs::Large;
use super::{Progress, Trouble};
use crate::dataset::{CARD, TABLE};
use crate::peft::{Content, contents};
use crate::{Error, Result, dataset};
use registry::{AdapterRecord, Store, blobs};

/// Files of one commit: 33 adapters of three.
const COMMIT_FILES: usize = 99;
/// How often a commit is tried again because somebody else's came before it.
const RACES: usize = 10;
/// What the Hub asks to see of a file before it says how to send it.
const SAMPLE: usize = 512;

/// A file to be sent.
#[derive(Debug, Clone)]
struct Outgoing<'a> {
    path: String,
    content: Content<'a>,
    size: u64,
}

impl Outgoing<'_> {
    fn bytes(&self, root: &Path) -> Result<Vec<u8>> {
        match &self.content {
            Content::Made(bytes) => Ok(bytes.clone()),
            Content::Blob(digest) => Ok(blobs::get(root, digest)?),
        }
    }
}

/// What a push would send.
#[derive(Debug, Serialize)]
pub struct PushPlan<'a> {
    /// Adapters chosen.
    pub adapters: usize,
    /// Those of them that are there as they are here.
    pub already_there: usize,
    /// Files to send, the index aside.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Commits, the index's with them.
    pub commits: usize,
    /// Files that the repository will have.
    pub files_after: usize,
    #[serde(skip)]
    records: &'a [AdapterRecord],
    /// Files of each commit; the last one of an adapter is marked.
    #[serde(skip)]
    batches: Vec<Vec<(Outgoing<'a>, bool)>>,
    /// The merged index, if it differs from the one there.
    #[serde(skip)]
    index: Option<String>,
}

/// What a push did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// Whether the repository was made.
    pub created: bool,
    /// Adapters that are whole there now and were not before.
    pub sent: usize,
    /// Files sent, the index aside.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Commits made.
    pub commits: usize,
    /// Whether the index was changed.
    pub index_updated: bool,
}

/// Compares adapters with a repository as it was found. Only the index may be fetched for it.
///
/// # Errors
/// If a file of the store is damaged, or the repository's index is none.
pub fn push_plan<'a>(
    store: &Store,
    records: &'a [AdapterRecord],
    client: &Client,
    remote: &Remote,
) -> Result<PushPlan<'a>> {
    let mut plan = PushPlan {
        adapters: records.len(),
        already_there: 0,
        files: 0,
        bytes: 0,
        commits: 0,
        files_after: 0,
        records,
        batches: Vec::new(),
        index: None,
    };
    let mut after: BTreeSet<String> =
        remote.files.keys().cloned().chain([INDEX, TABLE, CARD].map(str::to_owned)).collect();
    for record in records {
        client.stopped()?;
        let mut missing = Vec::new();
        for (name, content) in contents(record)? {
            let path = format!("{}/{name}", dataset::folder(&record.id));
            let size = match &content {
                Content::Made(bytes) => bytes.len() as u64,
                Content::Blob(digest) => blobs::size(store.root(), digest)?,
            };
            let file = Outgoing { path, content, size };
            // Only what could be the same is read.
            let same = match remote.files.get(&file.path) {
                Some(entry) => entry.size == size && entry.holds(&file.bytes(store.root())?),
                None => false,
            };
            after.insert(file.path.clone());
            if !same {
                missing.push(file);
            }
        }
        if missing.is_empty() {
            plan.already_there += 1;
            continue;
        }
        plan.files += missing.len();
        plan.bytes += missing.iter().map(|f| f.size).sum::<u64>();
        // An adapter's files stay together where they fit; the weights come first, and with the index last none is named before
        // it is whole.
        let room = plan.batches.last().map_or(0, |b| COMMIT_FILES - b.len());
        if missing.len() > room {
            plan.batches.push(Vec::new());
        }
        let last = missing.len() - 1;
        for (i, file) in missing.into_iter().enumerate() {
            if plan.batches.last().is_none_or(|b| b.len() == COMMIT_FILES) {
                plan.batches.push(Vec::new());
            }
            plan.batches.last_mut().expect("invariant: one was pushed").push((file, i == last));
        }
    }
    plan.index = merged(records, client, remote)?;
    plan.commits = plan.batches.len() + usize::from(plan.index.is_some());
    plan.files_after = after.len();
    Ok(plan)
}

/// The repository's index with our adapters, if that is another than it has.
fn merged(records: &[AdapterRecord], client: &Client, remote: &Remote) -> Result<Option<String>> {
    let old = if remote.files.contains_key(INDEX) {
        Some(Download::new(client, remote).get(INDEX, MAX_INDEX)?)
    } else {
        None
    };
    let refuse = |what: String| Error::Refused {
        path: INDEX.into(),
        what: format!("of {} {what}; nothing was sent: mend or remove it there first", client.place),
    };
    let text =
        String::from_utf8(old.clone().unwrap_or_default()).map_err(|_| refuse("is not UTF-8".into()))?;
    let new = merge(&text, records).map_err(refuse)?;
    Ok((old != Some(new.clone().into_bytes())).then_some(new))
}

/// Sends what a plan says. Killed at any moment, a new plan has what is left.
///
/// # Errors
/// One sentence about the first thing that failed; what was committed before is there.
pub fn push(
    store: &Store,
    plan: &PushPlan<'_>,
    client: &Client,
    remote: &Remote,
    public: bool,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Pushed> {
    let mut done = Pushed::default();
    if plan.commits == 0 {
        return Ok(done);
    }
    if client.options.token.is_none() {
        let what = format!("{} cannot be written without a token", client.place);
        return Err(client.error(Trouble::Right, &what));
    }
    if remote.commit.is_none() {
        client.create(remote.exists, public)?;
        done.created = !remote.exists;
        // A new repository has one branch only; one that is there and cannot be seen fails here.
        let mut found = client.look()?;
        if found.commit.is_none() {
            client.create(true, public)?;
            found = client.look()?;
        }
        if found.commit.is_none() {
            let what = format!("{} was made, and cannot be seen: the token may not read it", client.place);
            return Err(client.error(Trouble::Right, &what));
        }
    }
    let mut at =
        Progress { done: 0, adapters: plan.adapters - plan.already_there, bytes_done: 0, bytes: plan.bytes };
    progress(at);
    for (i, batch) in plan.batches.iter().enumerate() {
        let summary = format!("lorafab: adapters, part {} of {}", i + 1, plan.batches.len());
        let files: Vec<Outgoing<'_>> = batch.iter().map(|(f, _)| f.clone()).collect();
        let lines = prepare(store, client, &files, &mut |bytes| {
            at.bytes_done += bytes;
            progress(at);
        })?;
        let mut races = 0;
        while !client.commit(&summary, &lines, None)? {
            races += 1;
            lost_race(client, races)?;
        }
        at.done += batch.iter().filter(|(_, last)| *last).count();
        done.commits += 1;
        done.files += batch.len();
        progress(at);
    }
    (done.sent, done.bytes) = (at.done, plan.bytes);
    push_index(store, plan.records, client, &mut done)?;
    Ok(done)
}

/// Somebody else's commit came first: tries again after a while, but not for ever.
fn lost_race(client: &Client, races: usize) -> Result<()> {
    if races >= RACES {
        let what = format!("committing: {} changes faster than it can be written", client.place);
        return Err(client.error(Trouble::Network, &what));
    }
    client.wait(client.backoff(races as u32))
}

/// Merges the index that is there now, and puts it there, with the same as a table and, where there is none, a card, unless somebody else's commit came in between: then it is merged again.
fn push_index(store: &Store, records: &[AdapterRecord], client: &Client, done: &mut Pushed) -> Result<()> {
    let mut races = 0;
    loop {
        races += 1;
        let remote = client.look()?;
        let Some(index) = merged(records, client, &remote)? else { return Ok(()) };
        let (table, card) = dataset::beside(&index)?;
        let mut made = vec![(INDEX, index.into_bytes()), (TABLE, table)];
        // A card that is there is somebody's own.
        if !remote.files.contains_key(CARD) {
            made.push((CARD, card.into_bytes()));
        }
        let files: Vec<Outgoing<'_>> = made
            .into_iter()
            .map(|(path, bytes)| Outgoing {
                path: path.into(),
                size: bytes.len() as u64,
                content: Content::Made(bytes),
            })
            .collect();
        let lines = prepare(store, client, &files, &mut |_| {})?;
        if client.commit("lorafab: index", &lines, remote.commit.as_deref())? {
            done.commits += 1;
            done.index_updated = true;
            return Ok(());
        }
        lost_race(client, races)?;
    }
}

/// Sends large files to their storage and returns the lines of a commit; `sent` is told of bytes that need not be sent any more.
fn prepare(
    store: &Store,
    client: &Client,
    files: &[Outgoing<'_>],
    sent: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<serde_json::Value>> {
    let root = store.root().to_owned();
    let mut facts = Vec::new();
    for file in files {
        client.stopped()?;
        let bytes = file.bytes(&root)?;
        facts.push((sha256(&bytes), bytes[..bytes.len().min(SAMPLE)].to_vec()));
    }
    let asked: Vec<(&str, u64, &[u8])> =
        files.iter().zip(&facts).map(|(f, (_, sample))| (f.path.as_str(), f.size, &sample[..])).collect();
    let modes = client.modes(&asked)?;
    let by_path: BTreeMap<&str, &Outgoing<'_>> = files.iter().map(|f| (f.path.as_str(), f)).collect();
    let large: Vec<Large<'_>> = files
        .iter()
        .zip(&facts)
        .filter(|(f, _)| modes[&f.path] == Mode::Large)
        .map(|(f, (sha256, _))| Large { path: &f.path, sha256, size: f.size })
        .collect();
    if !large.is_empty() {
        client.upload(&large, &|file| by_path[file.path].bytes(&root), &mut |file| sent(file.size))?;
    }
    let mut lines = Vec::new();
    for (file, (sha256, _)) in files.iter().zip(&facts) {
        lines.push(match modes[&file.path] {
            Mode::Large => line_of_large(&file.path, sha256, file.size),
            Mode::Regular => {
                sent(file.size);
                line_of_file(&file.path, &file.bytes(&root)?)
            }
        });
    }
    Ok(lines)
}
