//! Opening files: plain ones only, without waiting, of a size within the cap of their kind.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Most bytes of a description: a configuration, a chat template, a file of jobs.
pub const SMALL: u64 = 16 << 20;
/// Most bytes of a vocabulary or of a table of names.
pub const TABLE: u64 = 256 << 20;

/// Smaller files may have holes.
const DENSE: u64 = 16 << 20;

/// An error that names the file.
pub fn error(path: &Path, kind: ErrorKind, what: impl std::fmt::Display) -> Error {
    Error::new(kind, format!("{}: {what}", path.display()))
}

fn opened(path: &Path, most: u64, flags: OFlags) -> Result<(File, u64)> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((flags | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
        .map_err(|e| match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            // What a link at the end of the path gives, and what a socket gives.
            Some(rustix::io::Errno::LOOP) => error(path, ErrorKind::InvalidInput, "is a link"),
            Some(rustix::io::Errno::NXIO) => error(path, ErrorKind::InvalidInput, "is no plain file"),
            _ => Error::new(e.kind(), format!("failed to open file `{}`: {e}", path.display())),
        })?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(error(path, ErrorKind::InvalidInput, "is no plain file"));
    }
    // What is mostly holes takes memory that it does not take of the disk. Some file systems say nothing of blocks: then the holes
    // themselves are looked for.
    let thin = found.len() > DENSE && found.blocks().saturating_mul(512) < found.len() / 32;
    if thin && begins_a_hole_before(&file, found.len())? {
        return Err(error(
            path,
            ErrorKind::InvalidInput,
            format!("says that it has {} bytes, and is mostly holes", found.len()),
        ));
    }
    if found.len() > most {
        let what = format!("has {} bytes, more than the {most} that such a file may have", found.len());
        return Err(error(path, ErrorKind::InvalidInput, what));
    }
    Ok((file, found.len()))
}

/// Whether there is a hole before the end. A file system that knows no holes has one at the end only.
fn begins_a_hole_before(file: &File, length: u64) -> Result<bool> {
    let hole = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(0));
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    // What cannot be looked into is taken at its word.
    Ok(hole.is_ok_and(|at| at < length))
}

/// Opens a plain file of at most `most` bytes that somebody named, following links; returns its length with it.
///
/// # Errors
/// If there is none, it is something else than a plain file, or larger.
pub fn open(path: &Path, most: u64) -> Result<(File, u64)> {
    opened(path, most, OFlags::empty())
}

/// The same of a file whose place was not named by the user: it may not be a link.
///
/// # Errors
/// As [`open`], or if it is a link.
pub fn open_own(path: &Path, most: u64) -> Result<(File, u64)> {
    opened(path, most, OFlags::NOFOLLOW)
}

fn all(path: &Path, (file, length): (File, u64), most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX)).map_err(|_| {
        error(path, ErrorKind::OutOfMemory, format!("has {length} bytes, more than fit in memory"))
    })?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| error(path, e.kind(), &e))?;
    if bytes.len() as u64 > most {
        return Err(error(path, ErrorKind::InvalidInput, "grows while it is read"));
    }
    Ok(bytes)
}

/// The bytes of a file as [`open`] opens it.
///
/// # Errors
/// As [`open`], or if it cannot be read.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    all(path, open(path, most)?, most)
}

/// The bytes of a file as [`open_own`] opens it.
///
/// # Errors
/// As [`open_own`], or if it cannot be read.
pub fn read_own(path: &Path, most: u64) -> Result<Vec<u8>> {
    all(path, open_own(path, most)?, most)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        error(
            path,
            ErrorKind::InvalidData,
            format!("is not UTF-8 after {} bytes", e.utf8_error().valid_up_to()),
        )
    })
}

/// The text of a file as [`open`] opens it.
///
/// # Errors
/// As [`read`], or if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    text(path, read(path, most)?)
}

/// The text of a file as [`open_own`] opens it.
///
/// # Errors
/// As [`read_own`], or if it is not UTF-8.
pub fn read_own_text(path: &Path, most: u64) -> Result<String> {
    text(path, read_own(path, most)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn only_plain_files_within_their_cap_are_read() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("good"), "good").expect("file");
        std::fs::write(at("bytes"), [0xff]).expect("file");
        symlink("good", at("link")).expect("link");
        mkfifoat(CWD, at("pipe"), Mode::RUSR | Mode::WUSR).expect("pipe");
        let _socket = UnixListener::bind(at("socket")).expect("socket");
        File::create(at("sparse")).and_then(|f| f.set_len(1 << 40)).expect("sparse");
        assert_eq!(read(&at("good"), 4).expect("read"), b"good");
        assert_eq!(read_text(&at("link"), 4).expect("read"), "good");
        let holes = read(&at("sparse"), u64::MAX).expect_err("holes").to_string();
        assert!(holes.contains("mostly holes"), "{holes}");
        File::create(at("sparse")).and_then(|f| f.set_len(1 << 20)).expect("sparse");
        for (name, why) in [
            ("absent", "absent"),
            ("pipe", "no plain file"),
            ("socket", "no plain file"),
            ("sparse", "more than the 4"),
            ("", "no plain file"),
        ] {
            let said = read(&at(name), 4).expect_err(name).to_string();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert!(read(Path::new("/dev/zero"), 4).expect_err("device").to_string().contains("no plain file"));
        assert!(read_own(&at("link"), 4).expect_err("link").to_string().contains("is a link"));
        assert!(read_text(&at("bytes"), 4).expect_err("bytes").to_string().contains("not UTF-8"));
    }
}
