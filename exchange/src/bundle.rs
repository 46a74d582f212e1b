//! Bundles: adapters with everything that belongs to them in one plain tar file, `manifest.json` first, then `blobs/<digest>`.
//!
//! A bundle from elsewhere is read with suspicion: nothing but plain files of exactly these names, each named in the manifest and
//! equal to its digest, within limits that are known before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::peft::{self, OWN};
use crate::{Error, IfExists, Result};
use registry::check_name;
use registry::commit::{files, identity};
use registry::{AdapterRecord, Digest, Store};

const SCHEMA: &str = "bundle/1";
const MANIFEST: &str = "manifest.json";
/// Most adapters of a bundle.
pub const MAX_ADAPTERS: usize = 10_000;
/// Largest manifest: of so many adapters.
const MAX_MANIFEST: u64 = 64 << 20;
/// Largest record of an adapter: a reader's, which names ten thousand parents or holds the texts it was trained on.
pub(crate) const MAX_RECORD: usize = 16 << 20;
/// Largest bundle.
const MAX_BUNDLE: u64 = 1 << 40;
/// Largest file of an adapter.
pub(crate) const MAX_FILE: u64 = 4 << 30;

#[derive(Debug, Serialize)]
struct Manifest {
    schema: String,
    adapters: Vec<AdapterRecord>,
}

/// The same as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    schema: String,
    #[serde(borrow)]
    adapters: Vec<&'a serde_json::value::RawValue>,
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
    let text = serde_json::to_vec_pretty(&manifest).expect("invariant: plain data");
    // What is written can be read.
    self::manifest(&text).and_then(|_| records.iter().try_for_each(check_record)).map_err(|what| {
        Error::Refused { path: path.into(), what: format!("would be a bundle that cannot be read: {what}") }
    })?;
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
    put(MANIFEST, &text)?;
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

/// Files of an adapter by their names, its weights among them.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>>;

/// Looks at an adapter and its files; says why it is not to be taken in.
pub type Look<'a> = &'a (dyn Fn(&AdapterRecord, Files<'_>) -> Result<(), String> + Sync);

/// Where each blob of a bundle begins, and how long it is.
type Places = BTreeMap<Digest, (u64, u64)>;

/// A bundle that was read whole and found good, on its way into a store. Its files stay where they are until then.
#[derive(Debug)]
pub struct Bundle {
    path: std::path::PathBuf,
    file: std::fs::File,
    adapters: Vec<AdapterRecord>,
    places: Places,
}

impl Bundle {
    /// Reads and checks a bundle, without a store; `look` is shown each adapter.
    ///
    /// # Errors
    /// One sentence about the first thing that is wrong.
    pub fn read(path: &Path, look: Look<'_>) -> Result<Self> {
        let (file, _) = fence::open::open(path, MAX_BUNDLE)?;
        let (adapters, places) = read(path, &mut std::io::BufReader::new(&file))?;
        let bundle = Self { path: path.into(), file, adapters, places };
        let mut seen = BTreeSet::new();
        let check = |record: &AdapterRecord, first: bool| -> Result<()> {
            let refuse = |what: String| Error::Refused {
                path: path.into(),
                what: format!("{}: {what}", record.behaviour),
            };
            check_record(record).map_err(refuse)?;
            let found = bundle.places[&record.weights].1;
            if found != record.weights_bytes {
                return Err(refuse(format!(
                    "says that its weights have {} bytes; they have {found}",
                    record.weights_bytes
                )));
            }
            if !first {
                return Ok(());
            }
            let files = |name: &str| -> Result<Option<Vec<u8>>> {
                let digest =
                    if name == OWN[0] { Some(&record.weights) } else { record.extra_files.get(name) };
                digest.map(|d| bundle.blob(d)).transpose()
            };
            let config = peft::adapter_config(&record.peft);
            let weights = bundle.blob(&record.weights)?;
            peft::check_alone(path, config.as_bytes(), &weights, record)?;
            look(record, &files).map_err(refuse)
        };
        // Many records of one file are looked at once.
        let firsts: Vec<(&AdapterRecord, bool)> = bundle
            .adapters
            .iter()
            .map(|r| {
                let same = (r.weights.clone(), r.extra_files.clone(), format!("{:?} {}", r.peft, r.family));
                (r, seen.insert(same))
            })
            .collect();
        let looked: Vec<Result<()>> = firsts.into_par_iter().map(|(r, first)| check(r, first)).collect();
        // Of several faults always the same one is told.
        looked.into_iter().collect::<Result<()>>()?;
        Ok(bundle)
    }

    /// A file's bytes, as they are now.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let refuse = |what: String| Error::Refused { path: self.path.clone(), what };
        let (offset, length) = self.places[digest];
        let mut bytes = Vec::new();
        let room = usize::try_from(length).ok().and_then(|n| bytes.try_reserve_exact(n).ok().map(|()| n));
        let n =
            room.ok_or_else(|| refuse(format!("file {digest} has {length} bytes, more than fit in memory")))?;
        bytes.resize(n, 0);
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Takes its adapters into a store.
    ///
    /// # Errors
    /// If the store refuses. If the disk fills up on the way, the adapters before are there, and doing it again adds the others.
    pub fn take_in(self, store: &mut Store) -> Result<Unbundled> {
        let mut out = Unbundled::default();
        let mut there = BTreeSet::new();
        for record in &self.adapters {
            for digest in files(record) {
                if there.insert(digest) && store.put_blob(&self.blob(digest)?)? != *digest {
                    return Err(Error::Refused {
                        path: self.path,
                        what: format!("file {digest} changed while it was read"),
                    });
                }
            }
            let added = store.admit(record)?;
            if added { out.added.push(record.id.clone()) } else { out.known.push(record.id.clone()) }
        }
        Ok(out)
    }
}

/// Largest rank of an adapter.
const MAX_RANK: usize = 4096;

/// Whether a record's specification hash is that of its specification: by it a store knows what it need not make.
fn made_from(record: &AdapterRecord) -> bool {
    // An adapter of the factory is the same whatever words its recipe has beside its behaviour (`factory::AdapterSpec::hash`).
    let mut spec = record.spec.clone();
    if let Some(digest) = spec.pointer_mut("/behaviour/recipe_digest") {
        *digest = "".into();
    }
    [&record.spec, &spec].into_iter().any(|s| !s.is_null() && registry::spec_hash(s) == record.spec_hash)
}

/// Checks a record from elsewhere: the fields that come to be paths, terminal output or keys, and that its id is that of its files.
pub(crate) fn check_record(record: &AdapterRecord) -> Result<(), String> {
    // What it is called and filed under is one line. What it was made from (`spec`) may hold any text.
    let mut named = serde_json::to_value(AdapterRecord { spec: serde_json::Value::Null, ..record.clone() })
        .expect("invariant: plain data");
    let mut left = vec![named.take()];
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
            if text.len() > 10_000 || text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
                let shown: String = text.chars().take(40).collect();
                return Err(format!("holds a name with control characters or over 10,000 long: {shown:?}"));
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
    if record.behaviour.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(format!(
            "its behaviour {:?} could be taken for the beginning of an id",
            record.behaviour
        ));
    }
    if identity(&record.spec_hash, &record.weights, &record.extra_files) != record.id {
        return Err("its id is not that of its files".into());
    }
    if !made_from(record) {
        return Err("its spec_hash is not that of its spec".into());
    }
    let behaviour = &record.spec["behaviour"];
    if behaviour.is_object() {
        for (key, own) in [("id", &record.behaviour), ("family", &record.family), ("value", &record.value)] {
            if behaviour[key] != own.as_str() {
                return Err(format!("its {key} is not that of the behaviour that it was made for"));
            }
        }
    }
    if !(1..=MAX_RANK).contains(&record.peft.r) || record.peft.target_modules.is_empty() {
        return Err(format!("its rank {} is none, or it has no target module", record.peft.r));
    }
    if record.metrics.values().any(|v| !v.is_finite()) || !record.peft.lora_alpha.is_finite() {
        return Err("holds a number that is none".into());
    }
    Ok(())
}

/// The adapters of the manifest, and where every file lies that it names.
fn read(path: &Path, input: &mut dyn Read) -> Result<(Vec<AdapterRecord>, Places)> {
    let refuse = |what: String| Error::Refused { path: path.into(), what };
    let mut archive = tar::Archive::new(input);
    let mut adapters: Option<Vec<AdapterRecord>> = None;
    let mut wanted: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut places = BTreeMap::new();
    let entries =
        archive.entries().map_err(|e| refuse(format!("is not a readable tar file: {e}")))?.raw(true);
    for entry in entries {
        let mut entry = entry.map_err(|e| refuse(format!("is not a readable tar file: {e}")))?;
        let name: String = String::from_utf8_lossy(&entry.path_bytes()).chars().take(200).collect();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(refuse(format!(
                "entry {name:?} is no plain file: links and folders have no place in a bundle"
            )));
        }
        let size = entry.header().entry_size().map_err(|e| refuse(format!("entry {name:?}: {e}")))?;
        // The size that is declared is the most that is read.
        let most = if adapters.is_none() { Some(MAX_MANIFEST) } else { None };
        let digest = name.strip_prefix("blobs/").and_then(|d| Digest::try_from(d.to_owned()).ok());
        let blob = digest.and_then(|d| wanted.remove_entry(&d));
        let most = match (most, &blob) {
            (Some(_), _) if name != MANIFEST => {
                return Err(refuse(format!("begins with {name:?}, not with {MANIFEST}")));
            }
            (Some(most), _) => most,
            (None, Some((_, most))) => *most,
            (None, None) => {
                return Err(refuse(format!(
                    "entry {name:?} is not named in the manifest, or is there twice"
                )));
            }
        };
        if size > most {
            return Err(refuse(format!("entry {name:?} has {size} bytes, more than {most}")));
        }
        let cut = |e: &dyn std::fmt::Display| refuse(format!("entry {name:?} cannot be read: {e}"));
        let Some((digest, _)) = blob else {
            let mut text = Vec::new();
            entry.by_ref().take(size).read_to_end(&mut text).map_err(|e| cut(&e))?;
            let found = manifest(&text).map_err(&refuse)?;
            for record in &found {
                wanted.extend(files(record).map(|d| (d.clone(), MAX_FILE)));
                wanted.insert(record.weights.clone(), record.weights_bytes.min(MAX_FILE));
            }
            adapters = Some(found);
            continue;
        };
        let offset = entry.raw_file_position();
        let mut hasher = blake3::Hasher::new();
        let n = std::io::copy(&mut entry.by_ref().take(size), &mut hasher).map_err(|e| cut(&e))?;
        if n != size {
            return Err(refuse(format!("entry {name:?} is cut short")));
        }
        if hasher.finalize().to_hex().as_str() != digest.as_str() {
            return Err(refuse(format!("entry {name:?} is not what its name says")));
        }
        places.insert(digest, (offset, size));
    }
    let Some(adapters) = adapters else { return Err(refuse("is an empty tar file".into())) };
    match wanted.into_keys().next() {
        Some(missing) => Err(refuse(format!("file {missing} is missing"))),
        None => Ok((adapters, places)),
    }
}

/// The records of a manifest. Each is read by itself: a text takes many times its length as a tree.
fn manifest(text: &[u8]) -> Result<Vec<AdapterRecord>, String> {
    let unread = |e: serde_json::Error| format!("{MANIFEST}: {e}");
    let Written { schema, adapters } = serde_json::from_slice(text).map_err(unread)?;
    if schema != SCHEMA {
        return Err(format!(
            "has schema {:?}, this lorafab reads {SCHEMA:?}",
            schema.chars().take(60).collect::<String>()
        ));
    }
    if adapters.len() > MAX_ADAPTERS {
        return Err(format!("names {} adapters, more than {MAX_ADAPTERS}", adapters.len()));
    }
    adapters
        .iter()
        .map(|record| {
            let length = record.get().len();
            if length > MAX_RECORD {
                return Err(format!("{MANIFEST}: a record has {length} bytes, more than {MAX_RECORD}"));
            }
            serde_json::from_str(record.get()).map_err(unread)
        })
        .collect()
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
    use crate::tests::{new_adapter, weights};
    use registry::Filter;

    const FINE: Look<'_> = &|_, _| Ok(());

    fn import(store: &mut Store, path: &Path, look: Look<'_>) -> Result<Unbundled> {
        Bundle::read(path, look)?.take_in(store)
    }

    #[test]
    fn a_bundle_brings_adapters_into_another_store_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("a")).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", weights(1.0))).unwrap();
        let b = store.commit_adapter(new_adapter("topic/dogs", weights(2.0))).unwrap();
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
        let record = store.commit_adapter(new_adapter("topic/cats", weights(1.0))).unwrap();
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
        let n = record.weights_bytes as usize;
        refused(&with(&[(Regular, &name, &vec![9; n + 1])]), &format!("bytes, more than {n}"));
        refused(&with(&[(Regular, &name, &vec![9; n])]), "not what its name says");
        refused(&good[..100], "tar file");
        refused(&good[..good.len() / 2], "cut short");
        refused(b"\x1f\x8b\x08 gzip", "tar file");
        refused(&[], "empty");
        let changed = |change: &dyn Fn(&mut AdapterRecord)| {
            let mut r = record.clone();
            change(&mut r);
            hostile(&store, &r, &[])
        };
        refused(&changed(&|r| r.value = "a\u{1b}[2J".into()), "control characters");
        refused(&changed(&|r| r.spec_hash = "other".into()), "its id is not");
        refused(&changed(&|r| r.spec = serde_json::Value::Null), "its spec_hash is not");
        refused(&changed(&|r| r.id = "0".repeat(32)), "its id is not");
        refused(&changed(&|r| r.id = "../../x".into()), "is no id");
        refused(&changed(&|r| r.behaviour = "abcd1234".into()), "beginning of an id");
        refused(&changed(&|r| r.peft.r = 0), "its rank 0");
        refused(&changed(&|r| r.peft.r = 2), "has shape");
        refused(&changed(&|r| r.peft.target_modules = ["x_proj".to_owned()].into()), "x_proj");
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
