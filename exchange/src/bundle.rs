//! Bundles: adapters with everything that belongs to them in one plain tar file, `manifest.json` first, then `blobs/<digest>`.
//!
//! A bundle from elsewhere is read with suspicion: nothing but plain files of exactly these names, each named in the manifest and
//! equal to its digest, within limits that are known before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::peft::OWN;
use crate::{Error, IfExists, Result};
use registry::check_name;
use registry::commit::{files, identity};
use registry::{AdapterRecord, Digest, Store};

const SCHEMA: &str = "bundle/1";
const MANIFEST: &str = "manifest.json";
/// Largest manifest: about 10,000 adapters.
const MAX_MANIFEST: u64 = 256 << 20;
/// Largest file of an adapter.
pub(crate) const MAX_FILE: u64 = 4 << 30;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: String,
    adapters: Vec<AdapterRecord>,
}

/// What reading a bundle did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unbundled {
    /// Adapters taken in.
    pub added: Vec<String>,
    /// Adapters that the store had.
    pub known: Vec<String>,
}

/// Writes a bundle: the same adapters give the same bytes.
///
/// # Errors
/// If a file cannot be read or written, or is damaged.
pub fn export(store: &Store, records: &[AdapterRecord], path: &Path, if_exists: IfExists) -> Result<()> {
    if path.exists() && if_exists == IfExists::Fail {
        return Err(Error::Refused {
            path: path.into(),
            what: "already exists; pass --force to replace it".into(),
        });
    }
    let manifest = Manifest { schema: SCHEMA.into(), adapters: records.to_vec() };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder)?;
    let shared = std::fs::Permissions::from_mode(0o666);
    let temp = tempfile::Builder::new().permissions(shared).tempfile_in(folder)?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(temp.as_file()));
    let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        Ok(tar.append_data(&mut header, name, bytes)?)
    };
    put(MANIFEST, &serde_json::to_vec_pretty(&manifest).expect("invariant: plain data"))?;
    let digests: BTreeSet<&Digest> = records.iter().flat_map(files).collect();
    for digest in digests {
        put(&format!("blobs/{digest}"), &store.get_blob(digest)?)?;
    }
    let mut writer = tar.into_inner()?;
    std::io::Write::flush(&mut writer)?;
    drop(writer);
    temp.as_file().sync_all()?;
    temp.persist(path).map_err(|e| Error::Io(e.error))?;
    fs_err::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Looks at an adapter's weights; says why it is not to be taken in.
pub type Weigh<'a> = &'a dyn Fn(&AdapterRecord, &[u8]) -> Result<(), String>;

/// A bundle that was read whole and found good, on its way into a store.
#[derive(Debug)]
pub struct Bundle {
    adapters: Vec<AdapterRecord>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Bundle {
    /// Reads and checks a bundle, without a store; `weigh` looks at each adapter's weights.
    ///
    /// # Errors
    /// One sentence about the first thing that is wrong.
    pub fn read(path: &Path, weigh: Weigh<'_>) -> Result<Self> {
        let mut file = std::io::BufReader::new(fs_err::File::open(path)?);
        let (Manifest { adapters, .. }, blobs) = read(path, &mut file)?;
        for record in &adapters {
            let refuse = |what: String| Error::Refused {
                path: path.into(),
                what: format!("{}: {what}", record.behaviour),
            };
            check_record(record).map_err(refuse)?;
            let weights = &blobs[&record.weights];
            if weights.len() as u64 != record.weights_bytes {
                return Err(refuse(format!(
                    "says that its weights have {} bytes; they have {}",
                    record.weights_bytes,
                    weights.len()
                )));
            }
            weigh(record, weights).map_err(refuse)?;
        }
        Ok(Self { adapters, blobs })
    }

    /// Takes its adapters into a store.
    ///
    /// # Errors
    /// If the store refuses. If the disk fills up on the way, the adapters before are there, and doing it again adds the others.
    pub fn take_in(self, store: &mut Store) -> Result<Unbundled> {
        for bytes in self.blobs.values() {
            store.put_blob(bytes)?;
        }
        let mut out = Unbundled::default();
        for record in self.adapters {
            let added = store.admit(&record)?;
            if added { out.added.push(record.id) } else { out.known.push(record.id) }
        }
        Ok(out)
    }
}

/// Checks a record from elsewhere: the fields that come to be paths, terminal output or keys, and that its id is that of its files.
pub(crate) fn check_record(record: &AdapterRecord) -> Result<(), String> {
    // Whatever text it holds is shown on terminals some day.
    let mut left = vec![serde_json::to_value(record).expect("invariant: plain data")];
    while let Some(value) = left.pop() {
        let texts: Vec<String> = match value {
            serde_json::Value::String(s) => vec![s],
            serde_json::Value::Array(list) => {
                left.extend(list);
                vec![]
            }
            serde_json::Value::Object(map) => {
                let keys = map.keys().cloned().collect();
                left.extend(map.into_iter().map(|(_, v)| v));
                keys
            }
            _ => vec![],
        };
        for text in texts {
            if text.len() > 100_000 || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
                let shown: String = text.chars().take(40).collect();
                return Err(format!("holds a text with control characters or over 100,000 long: {shown:?}"));
            }
        }
    }
    for name in record.extra_files.keys() {
        check_name(name).map_err(|e| e.to_string())?;
        if OWN.contains(&name.as_str()) {
            return Err(format!(
                "has a further file called {name}, which an export would write over the adapter's own"
            ));
        }
    }
    if record.behaviour.is_empty() || record.family.is_empty() {
        return Err("has no name".into());
    }
    if record.metrics.values().any(|v| !v.is_finite())
        || !record.peft.lora_alpha.is_finite()
        || record.peft.r == 0
    {
        return Err("holds a number that is none".into());
    }
    if identity(&record.spec_hash, &record.weights, &record.extra_files) != record.id {
        return Err("its id is not that of its files".into());
    }
    Ok(())
}

/// The manifest and every file that it names.
fn read(path: &Path, input: &mut dyn Read) -> Result<(Manifest, BTreeMap<Digest, Vec<u8>>)> {
    let refuse = |what: String| Error::Refused { path: path.into(), what };
    let mut archive = tar::Archive::new(input);
    let mut manifest: Option<Manifest> = None;
    let mut wanted: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut blobs = BTreeMap::new();
    let entries =
        archive.entries().map_err(|e| refuse(format!("is not a readable tar file: {e}")))?.raw(true);
    for entry in entries {
        let mut entry = entry.map_err(|e| refuse(format!("is not a readable tar file: {e}")))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(100).collect();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(refuse(format!(
                "entry {shown:?} is no plain file: links and folders have no place in a bundle"
            )));
        }
        let size = entry.header().entry_size().map_err(|e| refuse(format!("entry {shown:?}: {e}")))?;
        // The size that is declared is the most that is read.
        let mut take = |most: u64| -> Result<Vec<u8>> {
            if size > most {
                return Err(refuse(format!("entry {shown:?} has {size} bytes, more than {most}")));
            }
            let mut bytes = Vec::new();
            let n = entry
                .by_ref()
                .take(size)
                .read_to_end(&mut bytes)
                .map_err(|e| refuse(format!("entry {shown:?}: {e}")))?;
            if n as u64 == size { Ok(bytes) } else { Err(refuse(format!("entry {shown:?} is cut short"))) }
        };
        if manifest.is_none() {
            if name != MANIFEST {
                return Err(refuse(format!("begins with {shown:?}, not with {MANIFEST}")));
            }
            let found: Manifest = serde_json::from_slice(&take(MAX_MANIFEST)?)
                .map_err(|e| refuse(format!("{MANIFEST}: {e}")))?;
            if found.schema != SCHEMA {
                return Err(refuse(format!("has schema {:?}, this lorafab reads {SCHEMA:?}", found.schema)));
            }
            for record in &found.adapters {
                wanted.extend(files(record).map(|d| (d.clone(), MAX_FILE)));
                wanted.insert(record.weights.clone(), record.weights_bytes.min(MAX_FILE));
            }
            manifest = Some(found);
            continue;
        }
        let digest = name.strip_prefix("blobs/").and_then(|d| Digest::try_from(d.to_owned()).ok());
        let Some((digest, most)) = digest.and_then(|d| wanted.remove_entry(&d)) else {
            return Err(refuse(format!("entry {shown:?} is not named in the manifest, or is there twice")));
        };
        let bytes = take(most)?;
        if Digest::of(&bytes) != digest {
            return Err(refuse(format!("entry {shown:?} is not what its name says")));
        }
        blobs.insert(digest, bytes);
    }
    let Some(manifest) = manifest else { return Err(refuse("is an empty tar file".into())) };
    match wanted.into_keys().next() {
        Some(missing) => Err(refuse(format!("file {missing} is missing"))),
        None => Ok((manifest, blobs)),
    }
}

/// For fuzzing: whether bytes are a bundle.
#[doc(hidden)]
pub fn readable(bytes: &[u8]) -> bool {
    read(Path::new("bundle"), &mut &bytes[..]).is_ok()
}

#[cfg(test)]
mod tests {
    use tar::EntryType::{Directory, Link, Regular, Symlink};

    use super::*;
    use crate::tests::new_adapter;
    use registry::Filter;

    const FINE: Weigh<'_> = &|_, _| Ok(());

    fn import(store: &mut Store, path: &Path, weigh: Weigh<'_>) -> Result<Unbundled> {
        Bundle::read(path, weigh)?.take_in(store)
    }

    #[test]
    fn a_bundle_brings_adapters_into_another_store_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("a")).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1, 2, 3])).unwrap();
        let b = store.commit_adapter(new_adapter("topic/dogs", vec![4])).unwrap();
        let a = store.tag(&a.id, &[("note", Some("x"))]).unwrap();
        let (one, two) = (folder.path().join("one.tar"), folder.path().join("two.tar"));
        export(&store, &[a.clone(), b.clone()], &one, IfExists::Fail).unwrap();
        export(&store, &[a.clone(), b.clone()], &two, IfExists::Fail).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let mut other = Store::open(&folder.path().join("b")).unwrap();
        let done = import(&mut other, &one, FINE).unwrap();
        assert_eq!(done.added, [a.id.clone(), b.id.clone()]);
        assert_eq!(other.adapters(&Filter::all()).unwrap(), [a, b]);
        assert_eq!(import(&mut other, &one, FINE).unwrap().known.len(), 2);
        assert!(other.check(&|_, _| {}).unwrap().problems.is_empty());
    }

    /// A tar file with these entries after a good manifest.
    fn hostile(store: &Store, record: &AdapterRecord, entries: &[(tar::EntryType, &str, &[u8])]) -> Vec<u8> {
        let manifest = Manifest { schema: SCHEMA.into(), adapters: vec![record.clone()] };
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |kind: tar::EntryType, name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            // Written by hand: the library refuses to write such names.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, bytes).unwrap();
        };
        put(Regular, MANIFEST, &serde_json::to_vec(&manifest).unwrap());
        for (kind, name, bytes) in entries {
            put(*kind, name, bytes);
        }
        for digest in files(record) {
            put(Regular, &format!("blobs/{digest}"), &store.get_blob(digest).unwrap());
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn hostile_bundles_are_refused_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("a")).unwrap();
        let record = store.commit_adapter(new_adapter("topic/cats", vec![1, 2, 3])).unwrap();
        let mut other = Store::open(&folder.path().join("b")).unwrap();
        let path = folder.path().join("x.tar");
        let mut refused = |bytes: &[u8], part: &str| {
            std::fs::write(&path, bytes).unwrap();
            let error = import(&mut other, &path, FINE).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\u{1b}'), "{part}: {error}");
            assert!(other.adapters(&Filter::all()).unwrap().is_empty());
            assert_eq!(other.stats().unwrap().blobs, 0);
        };
        let good = hostile(&store, &record, &[]);
        let with = |entries: &[(tar::EntryType, &str, &[u8])]| hostile(&store, &record, entries);
        refused(&with(&[(Regular, "../../etc/passwd", b"x")]), "not named in the manifest");
        refused(&with(&[(Regular, "/etc/passwd", b"x")]), "not named in the manifest");
        refused(&with(&[(Regular, "blobs/\u{1b}[31m", b"x")]), "not named");
        refused(&with(&[(Symlink, "blobs/link", b"")]), "no plain file");
        refused(&with(&[(Link, "blobs/link", b"")]), "no plain file");
        refused(&with(&[(Directory, "blobs/", b"")]), "no plain file");
        let name = format!("blobs/{}", record.weights);
        refused(&with(&[(Regular, &name, b"other")]), "bytes, more than 3");
        refused(&with(&[(Regular, &name, &[9, 9, 9])]), "not what its name says");
        refused(&good[..good.len() / 2], "tar file");
        refused(b"\x1f\x8b\x08 gzip", "tar file");
        refused(&[], "empty");
        let changed = |change: &dyn Fn(&mut AdapterRecord)| {
            let mut r = record.clone();
            change(&mut r);
            hostile(&store, &r, &[])
        };
        refused(&changed(&|r| r.value = "a\u{1b}[2J".into()), "control characters");
        refused(&changed(&|r| r.spec_hash = "other".into()), "its id is not");
        refused(
            &changed(&|r| r.extra_files = [("../x".to_owned(), r.extra_files["note.json"].clone())].into()),
            "not a name",
        );
        std::fs::write(&path, &good).unwrap();
        let heavy = import(&mut other, &path, &|_, _| Err("is too heavy".into())).unwrap_err();
        assert!(heavy.to_string().contains("topic/cats: is too heavy"), "{heavy}");
        assert_eq!(import(&mut other, &path, FINE).unwrap().added.len(), 1);
    }
}
