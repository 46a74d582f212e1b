//! Pulling: the index first, then adapter by adapter what the store lacks.
//!
//! Nothing there is trusted. Only paths made from checked names are asked for, sizes are known before anything is fetched, and an
//! adapter enters the store when all its files are here and are what its record, its id and the PEFT format say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::client::{Client, Remote};
use super::download::Download;
use super::index::{INDEX, Line, MAX_INDEX, read};
use super::{Progress, Trouble};
use crate::bundle::{Look, MAX_FILE, MAX_RECORD, check_record};
use crate::peft::{OWN, check_alone};
use crate::{Error, Result, dataset};
use registry::{AdapterRecord, Digest, Filter, Store};

/// Largest PEFT configuration.
const MAX_CONFIG: u64 = 1 << 20;

/// An adapter that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its id in the index.
    pub id: String,
    /// Its behaviour there.
    pub behaviour: String,
    /// What is wrong with it.
    pub why: String,
}

/// What a pull did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// Adapters taken in.
    pub added: Vec<String>,
    /// Adapters that the store had.
    pub known: Vec<String>,
    /// Adapters of which the store has its own, made from the same specification with other bytes.
    pub made_otherwise: Vec<String>,
    /// Adapters that were refused; the store is without them.
    pub refused: Vec<Refusal>,
}

/// Reads the index: the adapters that the store lacks, and the ids of those it has.
///
/// # Errors
/// If there is no repository or no index, or the index is none.
fn wanted(store: &Store, client: &Client, remote: &Remote) -> Result<(Vec<Line>, Vec<String>)> {
    let Some(_) = &remote.commit else {
        let what = format!(
            "there is no {} at revision {}, or the token may not see it",
            client.place,
            client.revision()
        );
        return Err(client.error(Trouble::Absent, &what));
    };
    if !remote.files.contains_key(INDEX) {
        let what = format!("{} has no {INDEX}: it is no collection of adapters", client.place);
        return Err(client.error(Trouble::Absent, &what));
    }
    let refuse = |what: String| Error::Refused {
        path: INDEX.into(),
        what: format!("of {} {what}; nothing was taken in", client.place),
    };
    let bytes = Download::new(client, remote).get(INDEX, MAX_INDEX)?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8".into()))?;
    let lines = read(&text).map_err(refuse)?;
    let here: BTreeSet<String> = store.adapters(&Filter::all())?.into_iter().map(|r| r.id).collect();
    let (known, wanted): (Vec<Line>, Vec<Line>) =
        lines.into_iter().map(|(l, _)| l).partition(|l| here.contains(&l.id));
    Ok((wanted, known.into_iter().map(|l| l.id).collect()))
}

/// Adapters that a pull would fetch, those that the store has, and the bytes of the weights.
///
/// # Errors
/// As [`pull`].
pub fn pull_plan(store: &Store, client: &Client, remote: &Remote) -> Result<(Vec<String>, Vec<String>, u64)> {
    let (wanted, known) = wanted(store, client, remote)?;
    let bytes = wanted.iter().map(|l| l.weights_bytes).fold(0, u64::saturating_add);
    Ok((wanted.into_iter().map(|l| l.id).collect(), known, bytes))
}

/// Takes in every adapter of the repository that the store lacks; `look` is shown each one. One that is not what it
/// should be is refused, and the others still come.
///
/// # Errors
/// If the repository has no index, or one that is none: then the store is as it was. If the network or the disk fails, the
/// adapters before are there, and the same pull again fetches the others.
pub fn pull(
    store: &mut Store,
    client: &Client,
    remote: &Remote,
    look: Look<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pulled> {
    let (wanted, known) = wanted(store, client, remote)?;
    let mut out = Pulled { known, ..Pulled::default() };
    let mut at = Progress {
        adapters: wanted.len(),
        bytes: wanted.iter().map(|l| l.weights_bytes).fold(0, u64::saturating_add),
        ..Progress::default()
    };
    let download = Download::new(client, remote);
    for line in wanted {
        progress(at);
        client.stopped()?;
        match adapter(store, &download, &line, look) {
            Ok(true) => out.added.push(line.id),
            Ok(false) => out.made_otherwise.push(line.id),
            Err(
                e @ (Error::Refused { .. }
                | Error::Store(registry::Error::BadName(_) | registry::Error::Json { .. })),
            ) => {
                let why = client.fit(&e.to_string());
                out.refused.push(Refusal { id: line.id, behaviour: line.behaviour, why });
            }
            Err(e) => return Err(e),
        }
        at.done += 1;
        at.bytes_done = at.bytes_done.saturating_add(line.weights_bytes);
    }
    progress(at);
    Ok(out)
}

/// Fetches, checks and takes in one adapter. `false` if the store made one from the same specification itself.
fn adapter(store: &mut Store, download: &Download<'_>, line: &Line, look: Look<'_>) -> Result<bool> {
    // Made from the id, never taken from the index.
    let folder = dataset::folder(&line.id);
    let path = |name: &str| format!("{folder}/{name}");
    let card = path(OWN[2]);
    let refuse = |what: String| Error::Refused { path: card.clone().into(), what };
    let record: AdapterRecord = serde_json::from_slice(&download.get(&card, MAX_RECORD as u64)?)
        .map_err(|source| registry::Error::Json { what: card.clone(), source })?;
    check_record(&record).map_err(refuse)?;
    if record.id != line.id
        || record.weights != line.weights_blake3
        || record.weights_bytes != line.weights_bytes
        || record.behaviour != line.behaviour
    {
        return Err(refuse("is not about the adapter that the index names".into()));
    }
    if store.adapter_by_spec(&record.spec_hash)?.is_some() {
        return Ok(false);
    }
    let config = download.get(&path(OWN[1]), MAX_CONFIG)?;
    let fetch = |name: &str, digest: &Digest, most: u64| -> Result<Vec<u8>> {
        let bytes = download.get(&path(name), most)?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        Err(Error::Refused {
            path: path(name).into(),
            what: "is not the file that lorafab.json names: its digest differs".into(),
        })
    };
    let weights = fetch(OWN[0], &record.weights, record.weights_bytes.min(MAX_FILE))?;
    if weights.len() as u64 != record.weights_bytes {
        return Err(refuse("says another size of its weights than they have".into()));
    }
    check_alone(Path::new(&folder), &config, &weights, &record)?;
    let mut files = BTreeMap::from([(OWN[0].to_owned(), weights)]);
    for (name, digest) in &record.extra_files {
        files.insert(name.clone(), fetch(name, digest, MAX_FILE)?);
    }
    look(&record, &|name| Ok(files.get(name).cloned())).map_err(refuse)?;
    for bytes in files.values() {
        store.put_blob(bytes)?;
    }
    Ok(store.admit(&record)?)
}
