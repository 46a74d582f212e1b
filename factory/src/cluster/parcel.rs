//! Finished adapters in the shared folder: written aside, complete when their folder appears.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use registry::{Digest, NewAdapter, write_atomic};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const ADAPTER: &str = "adapter.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const RECEIPT: &str = "receipt.json";

/// Proof that a folder is whole.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receipt {
    schema: String,
    spec_hash: String,
    files: BTreeMap<String, Digest>,
    /// Which attempt made it, and where: explains differences between machines, decides nothing.
    made_by: String,
}

/// What the shared folder holds of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A whole adapter.
    Done,
    /// Word that it cannot be made.
    Failed,
    /// Nothing, or something that is not whole.
    Missing,
}

fn place(shared: &Path, spec_hash: &str) -> PathBuf {
    let name = registry::file_name(spec_hash);
    shared.join("done").join(&name[..2]).join(&*name)
}

fn failure(shared: &Path, spec_hash: &str) -> PathBuf {
    shared.join("failed").join(format!("{}.json", registry::file_name(spec_hash)))
}

/// Looks without reading the bytes of adapters.
pub fn look(shared: &Path, spec_hash: &str) -> Found {
    if place(shared, spec_hash).join(RECEIPT).exists() {
        Found::Done
    } else if failure(shared, spec_hash).exists() {
        Found::Failed
    } else {
        Found::Missing
    }
}

/// Puts a finished adapter there. Returns whether it is the one that stands: another attempt may have been first.
pub(super) fn put(shared: &Path, attempt: &str, adapter: &NewAdapter) -> Result<bool> {
    let target = place(shared, &adapter.spec_hash);
    let staging =
        shared.join("staging").join(format!("{}.{attempt}", registry::file_name(&adapter.spec_hash)));
    if staging.exists() {
        fs_err::remove_dir_all(&staging).map_err(registry::Error::from)?;
    }
    let mut files = BTreeMap::new();
    let mut write = |name: &str, bytes: &[u8]| -> Result<()> {
        files.insert(name.to_owned(), Digest::of(bytes));
        Ok(write_atomic(&staging.join(name), bytes)?)
    };
    let text = serde_json::to_string(adapter).expect("invariant: plain data");
    write(ADAPTER, text.as_bytes())?;
    write(WEIGHTS, &adapter.weights)?;
    for (name, bytes) in &adapter.extra_files {
        write(name, bytes)?;
    }
    let receipt = Receipt {
        schema: "parcel/1".into(),
        spec_hash: adapter.spec_hash.clone(),
        files,
        made_by: attempt.into(),
    };
    let text = serde_json::to_string(&receipt).expect("invariant: plain data");
    write_atomic(&staging.join(RECEIPT), text.as_bytes())?;
    let parent = target.parent().expect("invariant: it was joined");
    fs_err::create_dir_all(shared.join("done")).map_err(registry::Error::from)?;
    fence::place::make_folder(parent).map_err(registry::Error::from)?;
    // A rename onto a folder that is not empty fails: then another attempt was first.
    let first = fs_err::rename(&staging, &target).is_ok();
    if first {
        let sync = |p: &Path| fs_err::File::open(p).and_then(|f| f.sync_all());
        sync(parent).map_err(registry::Error::from)?;
    } else {
        fs_err::remove_dir_all(&staging).map_err(registry::Error::from)?;
        if !target.join(RECEIPT).exists() {
            return Err(Error::Parcel { path: target, what: "is in the way and no finished adapter".into() });
        }
    }
    Ok(first)
}

/// Reads a finished adapter, every byte checked against the receipt.
pub(super) fn get(shared: &Path, spec_hash: &str) -> Result<NewAdapter> {
    let folder = place(shared, spec_hash);
    let bad = |what: String| Error::Parcel { path: folder.clone(), what };
    let io = |e: std::io::Error| Error::Store(registry::Error::from(e));
    let text = fence::open::read_own_text(&folder.join(RECEIPT), fence::open::SMALL).map_err(io)?;
    let receipt: Receipt = serde_json::from_str(&text).map_err(|e| bad(format!("{RECEIPT}: {e}")))?;
    if receipt.spec_hash != spec_hash {
        return Err(bad(format!("its receipt is for {}", receipt.spec_hash)));
    }
    let mut files = BTreeMap::new();
    for (name, digest) in &receipt.files {
        let plain = fence::Plain::new(name).ok_or_else(|| bad(format!("{name:?} is no plain file name")))?;
        let bytes = fence::open::read_own(&plain.beneath(&folder), 4 << 30).map_err(io)?;
        if Digest::of(&bytes) != *digest {
            return Err(bad(format!("{name} is not what its receipt says")));
        }
        files.insert(name.clone(), bytes);
    }
    let mut take = |name: &str| files.remove(name).ok_or_else(|| bad(format!("{name} is missing")));
    let mut adapter: NewAdapter =
        serde_json::from_slice(&take(ADAPTER)?).map_err(|e| bad(format!("{ADAPTER}: {e}")))?;
    adapter.weights = take(WEIGHTS)?;
    if adapter.spec_hash != spec_hash {
        return Err(bad(format!("its adapter is of {}", adapter.spec_hash)));
    }
    adapter.extra_files = files;
    Ok(adapter)
}

/// Moves a folder that is not whole out of the way.
pub(super) fn set_aside(shared: &Path, spec_hash: &str, now_ms: i64) -> Result<()> {
    let aside = shared.join("staging").join(format!("{}.damaged-{now_ms}", registry::file_name(spec_hash)));
    Ok(fs_err::rename(place(shared, spec_hash), aside).map_err(registry::Error::from)?)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    label: String,
    reason: String,
}

/// Leaves word that a job cannot be done.
pub(super) fn put_failure(shared: &Path, spec_hash: &str, label: &str, reason: &str) -> Result<()> {
    let text = serde_json::to_string(&Failure { label: label.into(), reason: reason.into() })
        .expect("invariant: plain data");
    Ok(write_atomic(&failure(shared, spec_hash), text.as_bytes())?)
}

/// Why a job cannot be done.
pub(super) fn get_failure(shared: &Path, spec_hash: &str) -> Result<String> {
    let path = failure(shared, spec_hash);
    let text = fence::open::read_own_text(&path, fence::open::SMALL).map_err(registry::Error::from)?;
    let found: Failure =
        serde_json::from_str(&text).map_err(|e| Error::Parcel { path, what: e.to_string() })?;
    Ok(found.reason)
}

/// Takes the word back, once the queue knows it.
pub(super) fn forget_failure(shared: &Path, spec_hash: &str) -> Result<()> {
    Ok(fs_err::remove_file(failure(shared, spec_hash)).map_err(registry::Error::from)?)
}
