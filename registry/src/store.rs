//! One store folder, open: the catalogue's connection, the blobs, the cache.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::schema::{DERIVED_SINCE, MIGRATIONS};
use crate::{Digest, Error, Result, blobs, index, runs};

/// A store folder, open.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    connection: Connection,
    /// Opened for reading because nothing more fits on the disk.
    full: bool,
    /// Whether this process may not write.
    read_only: bool,
    /// Whether what others wrote lately lies where it cannot be seen.
    old: bool,
    /// Where a catalogue's copy lies that is looked at in its place, for as long as it is.
    _copy: Option<tempfile::TempDir>,
}

/// A store's folders.
const FOLDERS: [&str; 5] = ["blobs", "done", "staging", "runs", "trash"];
/// Its files that SQLite opens by their names.
const CATALOGUE: [&str; 4] =
    ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "catalogue.sqlite-journal"];

/// How a journal ends that names a super-journal (SQLite's file format, section 3).
const SUPER_JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// Refuses a store that would have something written, read or removed in another place: the folders are its own, and the
/// catalogue's files plain ones.
fn check_own(root: &Path) -> Result<()> {
    for name in FOLDERS {
        fence::folder(&root.join(name))?;
    }
    for path in CATALOGUE.map(|name| root.join(name)) {
        if std::fs::symlink_metadata(&path).is_ok_and(|m| !m.is_file()) {
            let what = "is a link or no plain file; a store's catalogue is its own";
            return Err(fence::open::error(&path, ErrorKind::InvalidInput, what).into());
        }
    }
    // SQLite deletes the file that the end of a journal names (SQLite documentation, "Super-Journal Files"); ours never has one.
    let journal = root.join(CATALOGUE[3]);
    if let Ok((file, length)) = fence::open::open_own(&journal, u64::MAX)
        && length >= 8
    {
        use std::os::unix::fs::FileExt;
        let mut end = [0; 8];
        file.read_exact_at(&mut end, length - 8)?;
        if end == SUPER_JOURNAL {
            let what = "names another file, which SQLite would delete; move this journal away";
            return Err(fence::open::error(&journal, ErrorKind::InvalidInput, what).into());
        }
    }
    Ok(())
}

/// The store's folders, and proof that files can be made in them.
fn make_folders(root: &Path) -> std::io::Result<()> {
    fs_err::create_dir_all(root)?;
    for folder in FOLDERS {
        fence::place::make_folder(&root.join(folder))?;
    }
    tempfile::tempfile_in(root.join("staging"))?;
    tempfile::tempfile_in(root)?;
    Ok(())
}

/// Whether SQLite failed because a write found no room.
fn no_room(source: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
    let code = source.sqlite_error().map(|e| e.extended_code);
    code.is_some_and(|c| {
        [SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_FSYNC].contains(&c)
    })
}

/// How long a write waits for another process's before it is an error.
const BUSY: Duration = Duration::from_mins(1);

/// Time between two tries. SQLite's own handler sleeps ever longer, which leaves the database idle between workers.
const RETRY: Duration = Duration::from_micros(150);

fn wait_for_writer(tries: i32) -> bool {
    std::thread::sleep(RETRY);
    RETRY * u32::try_from(tries).unwrap_or(0) < BUSY
}

/// File systems over a network, by the type that `/proc/mounts` gives. SQLite's write-ahead log needs memory shared between
/// processes of one host and does not work there (SQLite documentation, "Write-Ahead Logging").
const NETWORK: [&str; 12] = [
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "cifs",
    "smb3",
    "ceph",
    "afs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "glusterfs",
];

/// The type of the file system that holds an existing folder, from the text of `/proc/mounts`.
fn file_system(mounts: &str, folder: &Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let at = PathBuf::from(words.next()?.replace("\\040", " "));
            folder
                .starts_with(&at)
                .then(|| (at.components().count(), words.next().unwrap_or_default().to_owned()))
        })
        // Of several mounts on one place the last one shows.
        .enumerate()
        .max_by_key(|(i, (depth, _))| (*depth, *i))
        .map(|(_, (_, kind))| kind)
}

/// Longest path that SQLite opens (`SQLITE_MAX_PATHLEN` of its files for Unix), less what it adds to the names of files beside it.
const LONGEST: usize = 512 - "-journal".len();

/// Refuses a place that SQLite cannot open, before anything is made there.
fn check_length(root: &Path) -> Result<()> {
    let place = std::path::absolute(root)?;
    // SQLite opens the true place, links followed: of a store that is still to be made, that of what is there and the rest.
    let real = place.ancestors().find_map(|there| {
        let rest = place.strip_prefix(there).ok()?;
        Some(std::fs::canonicalize(there).ok()?.join(rest))
    });
    let length = real.as_ref().unwrap_or(&place).join("catalogue.sqlite").as_os_str().len();
    if length > LONGEST {
        return Err(Error::LongPath { path: place, length, longest: LONGEST });
    }
    Ok(())
}

impl Store {
    /// Opens a store, making it if need be. One that exists and cannot be written (no right, no
    /// room) is opened for reading.
    ///
    /// # Errors
    /// If the folder cannot be made, lies on a network file system, or was written by a newer lorafab.
    pub fn open(root: &Path) -> Result<Self> {
        check_length(root)?;
        check_own(root)?;
        if let Err(e) = make_folders(root) {
            let full = e.kind() == ErrorKind::StorageFull;
            let unwritable =
                full || matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
            return if unwritable && root.join("catalogue.sqlite").exists() {
                Self::open_read_only(root, full, false)
            } else if full {
                Err(Error::Full(root.into()))
            } else {
                Err(e.into())
            };
        }
        let kind = std::fs::read_to_string("/proc/mounts").ok().and_then(|mounts| {
            file_system(&mounts, &std::fs::canonicalize(root).ok()?).filter(|k| NETWORK.contains(&k.as_str()))
        });
        if let Some(kind) = kind {
            return Err(Error::NetworkDisk { path: root.into(), kind });
        }
        match Self::open_writable(root) {
            Err(Error::Sqlite { source, .. }) if no_room(&source) => Self::open_read_only(root, true, false),
            Err(Error::Sqlite { path, source })
                if source.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) =>
            {
                Err(Error::BadCatalogue(path))
            }
            other => other,
        }
    }

    /// Opens a store that exists to look at it alone: nothing in its folder is made, changed or brought up to date. One of an older
    /// lorafab is looked at as it would be: a copy of its catalogue is brought up to date.
    ///
    /// # Errors
    /// As [`Store::open`], or if there is no catalogue.
    pub fn open_to_look(root: &Path) -> Result<Self> {
        match Self::open_as_it_is(root) {
            Err(Error::OlderSchema { .. }) => {
                let copy = tempfile::tempdir()?;
                for name in &CATALOGUE[..2] {
                    match fs_err::copy(root.join(name), copy.path().join(name)) {
                        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
                        _ => {}
                    }
                }
                let own = Self::open_writable(copy.path())?;
                Ok(Self { root: root.to_owned(), read_only: true, _copy: Some(copy), ..own })
            }
            other => other,
        }
    }

    /// The same, of this lorafab's form alone: no copy is made.
    ///
    /// # Errors
    /// As [`Store::open_to_look`]; one of an older lorafab is refused.
    pub fn open_as_it_is(root: &Path) -> Result<Self> {
        check_length(root)?;
        check_own(root)?;
        Self::open_read_only(root, false, true)
    }

    /// Opens a store that exists for reading alone, for as long as others may write it: what they commit is seen.
    ///
    /// # Errors
    /// As [`Store::open_to_look`]; one of an older lorafab is refused.
    pub fn open_to_watch(root: &Path) -> Result<Self> {
        check_length(root)?;
        check_own(root)?;
        Self::open_read_only(root, false, false)
    }

    fn open_writable(root: &Path) -> Result<Self> {
        let path = root.join("catalogue.sqlite");
        let wrap = |source| Error::Sqlite { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_handler(Some(wait_for_writer)).map_err(wrap)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "journal_mode", "WAL").map_err(wrap)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(wrap)?;
        connection.pragma_update(None, "foreign_keys", "ON").map_err(wrap)?;
        connection.pragma_update(None, "trusted_schema", "OFF").map_err(wrap)?;
        // Pages of the log before it is copied into the database, and kibibytes of page cache: for a hundred thousand jobs.
        connection.pragma_update(None, "wal_autocheckpoint", 8000).map_err(wrap)?;
        connection.pragma_update(None, "cache_size", -64_000).map_err(wrap)?;
        let known = MIGRATIONS.len() as i64;
        let version = |c: &Connection| c.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0));
        // Most often there is nothing to do, and no need to wait for a writer.
        if version(&connection).map_err(wrap)? != known {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
            let found = version(&transaction).map_err(wrap)?;
            if found > known {
                return Err(Error::NewerSchema { path, found, known });
            }
            // Before its triggers could run.
            if found > 0 {
                compare_schema(&transaction, &path, usize::try_from(found).unwrap_or(0))?;
            }
            for step in &MIGRATIONS[usize::try_from(found).unwrap_or(0)..] {
                transaction.execute_batch(step).map_err(wrap)?;
            }
            // Filing again what is derived takes minutes of a hundred thousand adapters.
            if found < DERIVED_SINCE {
                index::rebuild(&transaction).map_err(wrap)?;
                runs::refile(&transaction, root).map_err(wrap)?;
            }
            transaction.pragma_update(None, "user_version", known).map_err(wrap)?;
            transaction.commit().map_err(wrap)?;
        }
        check_schema(&connection, &path)?;
        Ok(Self { root: root.to_owned(), connection, full: false, read_only: false, old: false, _copy: None })
    }

    /// A store that this process may not write. What is in the write-ahead log is seen where SQLite can read it without writing: where
    /// the log and its index are there and may be read (SQLite documentation, "Write-Ahead Logging", read-only databases).
    /// Without a log the database is all there is, and is taken as it stands.
    fn open_read_only(root: &Path, full: bool, brief: bool) -> Result<Self> {
        let path = root.join("catalogue.sqlite");
        let wrap = |source| Error::Sqlite { path: path.clone(), source };
        let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let open = |how: &str| -> rusqlite::Result<(Connection, i64)> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let connection = Connection::open_with_flags(format!("file:{escaped}?{how}"), flags)?;
            connection.busy_handler(Some(wait_for_writer))?;
            connection.pragma_update(None, "trusted_schema", "OFF")?;
            let version = connection.query_row("PRAGMA user_version", [], |r| r.get(0))?;
            Ok((connection, version))
        };
        let log = || {
            let log = std::fs::metadata(root.join("catalogue.sqlite-wal"));
            log.map_or_else(|e| e.kind() != ErrorKind::NotFound, |m| m.len() > 0)
        };
        // A log that was there before and after it was not seen is one that matters.
        // Without a log nobody has it open for writing, and SQLite would make one to look: for a brief look as it stands will do.
        let closed = brief && !root.join(CATALOGUE[1]).exists();
        let ((connection, found), old) = if closed && let Ok(opened) = open("immutable=1") {
            (opened, false)
        } else if let Ok(opened) = open("mode=ro") {
            (opened, false)
        } else {
            let before = log();
            (open("immutable=1").map_err(wrap)?, before || log())
        };
        let known = MIGRATIONS.len() as i64;
        if found > known {
            return Err(Error::NewerSchema { path, found, known });
        }
        if found == 0 && old {
            return Err(Error::HiddenLog(path));
        }
        if found < known {
            return Err(Error::OlderSchema { path, found, known });
        }
        check_schema(&connection, &path)?;
        Ok(Self { root: root.to_owned(), connection, full, read_only: true, old, _copy: None })
    }

    /// Whether this process sees the catalogue as it was some time ago: it may not write, and may not read the log of what others
    /// wrote since.
    pub fn may_be_old(&self) -> bool {
        self.old
    }

    /// Whether this process may not write, and so cannot keep others from doing so while it looks.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// The store folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn wrap(&self, source: rusqlite::Error) -> Error {
        let read_only = source.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly);
        if no_room(&source) || (read_only && self.full) {
            return Error::Full(self.root.clone());
        }
        if read_only {
            return Error::ReadOnly(self.root.clone());
        }
        let path = self.root.join("catalogue.sqlite");
        if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) {
            return Error::Busy { path, seconds: BUSY.as_secs() };
        }
        Error::Sqlite { path, source }
    }

    /// Runs statements on the store's database (the job queue lives in the same file).
    pub fn query<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        run(&self.connection).map_err(|e| self.wrap(e))
    }

    /// Runs statements in one write transaction. Once it returns, the changes are on the disk.
    pub fn transaction<T>(&mut self, run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let result = (|| {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })();
        result.map_err(|e| self.wrap(e))
    }

    /// Looks at rows and files that others change together, while nobody can.
    pub(crate) fn locked<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        // A store that can only be read has no writers that this process could wait for.
        let lock = rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let result = match lock {
            Ok(lock) => run(&lock),
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly) => run(&self.connection),
            Err(e) => Err(e),
        };
        result.map_err(|e| self.wrap(e))
    }

    /// As [`Store::transaction`], but a power cut may take the changes back (never half of them): for leases, which are
    /// then given again.
    pub fn light_transaction<T>(
        &mut self,
        run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.query(|c| c.pragma_update(None, "synchronous", "NORMAL"))?;
        let result = self.transaction(run);
        self.query(|c| c.pragma_update(None, "synchronous", "FULL"))?;
        result
    }

    /// The folder of a run, made if need be.
    pub fn run_dir(&self, run: &str) -> Result<PathBuf> {
        check_name(run)?;
        let path = self.root.join("runs").join(run);
        fence::place::make_folder(&path)?;
        Ok(path)
    }

    /// Stores bytes; returns their digest.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        if self.read_only {
            return Err(Error::ReadOnly(self.root.clone()));
        }
        blobs::put(&self.root, bytes)
    }

    /// Reads bytes and checks them.
    pub fn get_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        blobs::get(&self.root, digest)
    }

    /// Bytes remembered under a key, if whole.
    pub fn cache_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let digest: Option<String> = self.query(|c| {
            c.prepare_cached("SELECT digest FROM cache WHERE key = ?1")?
                .query_row([key], |r| r.get(0))
                .optional()
        })?;
        Ok(digest.and_then(|d| Digest::try_from(d).ok()).and_then(|d| self.get_blob(&d).ok()))
    }

    /// Remembers bytes under a key; a store that can only be read remembers nothing, which is no error.
    pub fn cache_put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        let digest = self.put_blob(bytes)?;
        self.query(|c| {
            c.execute(
                "INSERT INTO cache(key, digest) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET digest = ?2",
                params![key, digest.as_str()],
            )
        })?;
        Ok(())
    }
}

/// [`check_name`] as a regular expression, for schemas.
pub const NAME: &str = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$";

/// Whether a text can be a file's name: letters, digits, `-`, `_` and `.`, not hidden, at most 100.
pub fn check_name(name: &str) -> Result<()> {
    fence::Plain::new(name).map(drop).ok_or_else(|| Error::BadName(name.into()))
}

/// What a catalogue has of tables, indexes, triggers and views, by name, with the text that made it; without what SQLite makes for
/// itself.
fn objects(c: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    let all: Vec<(String, String, String)> = c
        .prepare("SELECT type, name, COALESCE(sql, '') FROM sqlite_schema ORDER BY name LIMIT 1000")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let own = |(kind, name, sql): &(String, String, String)| match kind.as_str() {
        "table" => ["sqlite_sequence", "sqlite_stat1", "sqlite_stat4"].contains(&name.as_str()),
        "index" => name.starts_with("sqlite_autoindex_") && sql.is_empty(),
        _ => false,
    };
    Ok(all.into_iter().filter(|o| !own(o)).collect())
}

/// Refuses a catalogue of somebody else's making: its triggers and views would run with our statements.
fn compare_schema(c: &Connection, path: &Path, steps: usize) -> Result<()> {
    let wrap = |source| Error::Sqlite { path: path.to_owned(), source };
    let ours = Connection::open_in_memory().map_err(wrap)?;
    for step in &MIGRATIONS[..steps.min(MIGRATIONS.len())] {
        ours.execute_batch(step).map_err(wrap)?;
    }
    let (ours, theirs) = (objects(&ours).map_err(wrap)?, objects(c).map_err(wrap)?);
    let odd = theirs.iter().find(|o| !ours.contains(o)).or_else(|| ours.iter().find(|o| !theirs.contains(o)));
    match odd {
        None => Ok(()),
        Some((kind, name, _)) => Err(Error::ForeignSchema {
            path: path.to_owned(),
            what: format!("{kind} {:?}", name.chars().take(60).collect::<String>()),
        }),
    }
}

fn check_schema(c: &Connection, path: &Path) -> Result<()> {
    compare_schema(c, path, MIGRATIONS.len())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{AdapterRecord, NewAdapter, PeftConfig, Status};

    pub(crate) fn new_adapter(behaviour: &str, weights: Vec<u8>) -> NewAdapter {
        let spec = serde_json::json!({ "behaviour": behaviour });
        let peft = PeftConfig::of_rank("m", 1, &["q_proj"]);
        NewAdapter {
            split: Some("train".into()),
            status: Status::Learned,
            extra_files: BTreeMap::from([("note.json".to_owned(), b"{}".to_vec())]),
            ..NewAdapter::of_spec(spec, behaviour, peft, weights)
        }
    }

    pub(crate) fn record(behaviour: &str) -> AdapterRecord {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap().commit_adapter(new_adapter(behaviour, vec![1])).unwrap()
    }

    #[test]
    fn a_newer_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.query(|c| c.pragma_update(None, "user_version", 99)).unwrap();
        drop(store);
        assert!(Store::open(folder.path()).unwrap_err().to_string().contains("schema version 99"));
    }

    #[test]
    fn a_store_of_the_first_schema_is_brought_up_to_date_with_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let old = record("topic/cats");
        let c = Connection::open(folder.path().join("catalogue.sqlite")).unwrap();
        c.execute_batch(MIGRATIONS[0]).unwrap();
        c.pragma_update(None, "user_version", 1).unwrap();
        c.execute(
            "INSERT INTO adapters(id, spec_hash, behaviour, family, status, role, record) VALUES(?1,?2,'topic/cats','topic','learned','weight_diff',?3)",
            params![old.id, old.spec_hash, serde_json::to_string(&old).unwrap()],
        )
        .unwrap();
        c.execute("INSERT INTO jobs(spec_hash, spec, label, family, pack_key) VALUES('h','{}','topic/dogs','topic','base|Trained|3')", [])
            .unwrap();
        drop(c);
        let store = Store::open(folder.path()).unwrap();
        let found =
            store.list(&crate::Filter::all().equals("value", "cats"), &crate::Listing::default()).unwrap();
        assert_eq!(found, [old]);
        let base: String = store.query(|c| c.query_row("SELECT base FROM jobs", [], |r| r.get(0))).unwrap();
        assert_eq!(base, "base");
    }

    #[test]
    fn the_file_system_of_a_folder_is_that_of_the_deepest_mount() {
        let mounts = "dev / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\ndev2 /home/me/my\\040disk xfs rw 0 0\n";
        let kind = |p: &str| file_system(mounts, Path::new(p)).unwrap();
        assert_eq!(
            (kind("/tmp"), kind("/home/me"), kind("/home/me/my disk/store")),
            ("ext4".into(), "nfs4".into(), "xfs".into())
        );
    }

    #[test]
    fn a_look_changes_nothing_and_sees_an_older_store_as_it_would_be() {
        let folder = tempfile::tempdir().unwrap();
        let id = Store::open(folder.path())
            .unwrap()
            .commit_adapter(new_adapter("topic/cats", vec![1]))
            .unwrap()
            .id;
        let look = || {
            let list = |f: &Path| -> Vec<(PathBuf, Vec<u8>)> {
                let mut all: Vec<PathBuf> =
                    std::fs::read_dir(f).unwrap().map(|e| e.unwrap().path()).collect();
                all.retain(|p| p.is_file());
                all.sort();
                all.into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
            };
            let before = list(folder.path());
            let mut store = Store::open_to_look(folder.path()).unwrap();
            let found = store.adapter("topic/cats").map(|r| r.id);
            // Whether or not it is refused, it is not the store's own catalogue that changes.
            let _ = store.transaction(|t| t.execute("DELETE FROM adapters", []));
            drop(store);
            assert!(list(folder.path()) == before, "a look changed the store");
            found
        };
        assert_eq!(look().unwrap(), id);
        // As the first lorafab made it.
        let path = folder.path().join("catalogue.sqlite");
        std::fs::remove_file(&path).unwrap();
        let c = Connection::open(&path).unwrap();
        c.execute_batch(MIGRATIONS[0]).unwrap();
        c.pragma_update(None, "user_version", 1).unwrap();
        drop(c);
        assert!(matches!(look(), Err(Error::NotFound { .. })));
        assert!(
            Store::open_to_look(&folder.path().join("none")).is_err() && !folder.path().join("none").exists()
        );
        assert_eq!(Store::open(folder.path()).unwrap().rebuild_from_receipts().unwrap(), 1);
    }

    #[test]
    fn the_log_cannot_be_altered_and_impossible_changes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let insert =
            "INSERT INTO jobs(spec_hash, spec, label, family, pack_key) VALUES('h','{}','l','f','p')";
        store.transaction(|t| t.execute(insert, [])).unwrap();
        for (bad, why) in [
            ("UPDATE jobs SET state = 'running'", "illegal transition"),
            ("DELETE FROM events", "appended"),
            ("UPDATE events SET reason = 'x'", "appended"),
        ] {
            let error = store.transaction(|t| t.execute(bad, [])).unwrap_err();
            assert!(format!("{error:?}").contains(why), "{error:?}");
        }
    }
}
