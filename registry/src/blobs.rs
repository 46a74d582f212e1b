//! Content-addressed files, written so that a crash leaves either nothing or the whole file.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A blake3 digest in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(extend("pattern" = "^[0-9a-f]{64}$"))]
pub struct Digest(String);

impl Digest {
    /// Digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// The hex text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let hex = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex { Ok(Self(text)) } else { Err(format!("{text:?} is not a blake3 digest")) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file whose bytes are on the disk beside their place, and which appears there by one rename.
pub(crate) struct Staged<'a> {
    path: &'a Path,
    temp: tempfile::NamedTempFile,
}

impl<'a> Staged<'a> {
    pub(crate) fn write(path: &'a Path, bytes: &[u8]) -> Result<Self> {
        let folder = folder_of(path);
        fs_err::create_dir_all(folder)?;
        let named = |e: std::io::Error| named(path, &e);
        // As any file: who else may read it is the umask's affair.
        let shared = std::fs::Permissions::from_mode(0o666);
        let mut temp = tempfile::Builder::new().permissions(shared).tempfile_in(folder).map_err(named)?;
        temp.write_all(bytes).map_err(named)?;
        temp.as_file().sync_all().map_err(named)?;
        Ok(Self { path, temp })
    }

    /// Puts the file in its place; a power cut may take it back until [`settle`] was called.
    pub(crate) fn place(self) -> Result<()> {
        self.temp.persist(self.path).map_err(|e| named(self.path, &e.error))?;
        Ok(())
    }

    /// Puts the file in its place, durably.
    pub(crate) fn publish(self) -> Result<()> {
        let path = self.path;
        self.place()?;
        settle(path)
    }
}

/// The folder that a file is in: of a name alone, the one we are in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a file's place durable.
pub(crate) fn settle(path: &Path) -> Result<()> {
    fs_err::File::open(folder_of(path))?.sync_all()?;
    Ok(())
}

fn named(path: &Path, e: &std::io::Error) -> std::io::Error {
    std::io::Error::new(e.kind(), format!("writing {}: {e}", path.display()))
}

/// Writes a file durably: temporary file beside it, sync, rename, sync of the folder.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    Staged::write(path, bytes)?.publish()
}

fn path_of(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs").join(&digest.0[..2]).join(&digest.0)
}

/// Length of a blob's file, unread.
pub fn size(root: &Path, digest: &Digest) -> Result<u64> {
    Ok(fs_err::metadata(path_of(root, digest))?.len())
}

/// Whether a blob is there, unread.
pub(crate) fn present(root: &Path, digest: &Digest) -> bool {
    path_of(root, digest).exists()
}

/// Stores bytes under their digest; bytes already there are success.
pub(crate) fn put(root: &Path, bytes: &[u8]) -> Result<Digest> {
    let digest = Digest::of(bytes);
    let path = path_of(root, &digest);
    // A file of the right length may still be damaged; `verify` finds that, and a rewrite here mends it.
    if !path.exists() || get(root, &digest).is_err() {
        fence::place::make_folder(folder_of(&path))?;
        write_atomic(&path, bytes)?;
    } else if let Ok(file) = fs_err::OpenOptions::new().append(true).open(&path) {
        // Young again: garbage collection takes it for part of a commit in progress.
        let _ = file.file().set_modified(jiff::Timestamp::now().into());
    }
    Ok(digest)
}

/// Most bytes of a blob.
const MOST: u64 = 4 << 30;

/// A blob's file: plain, in a folder of its own.
fn read(path: &Path) -> Result<Vec<u8>> {
    fence::folder(folder_of(path))?;
    Ok(fence::open::read_own(path, MOST)?)
}

/// Reads bytes and checks them against their digest.
pub fn get(root: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let path = path_of(root, digest);
    let bytes = read(&path)?;
    let found = Digest::of(&bytes);
    if &found == digest {
        Ok(bytes)
    } else {
        Err(Error::Damaged { digest: digest.0.clone(), path, found: found.0 })
    }
}
