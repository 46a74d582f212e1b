//! Files of a folder that somebody named, where links may be: those of a Hugging Face cache, whose snapshots are links to blobs.

use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use crate::open::{error, read_own};

/// How far links of a folder may lead, of which this is the true place: within it; in a snapshot of a Hugging Face cache, whose
/// files are links to blobs, within that cache.
fn reach(folder: &Path) -> &Path {
    let kinds = ["models--", "datasets--", "spaces--"];
    let names = |place: &Path, begins: &dyn Fn(&str) -> bool| {
        place.file_name().and_then(|n| n.to_str()).is_some_and(begins)
    };
    folder
        .ancestors()
        .filter(|place| names(place, &|n| n == "snapshots"))
        .filter_map(Path::parent)
        .find(|repository| names(repository, &|n| kinds.iter().any(|k| n.starts_with(k))))
        .and_then(Path::parent)
        .unwrap_or(folder)
}

/// The bytes of a plain file of a folder, of at most so many. None if there is no such file.
///
/// # Errors
/// If it is a link that leads away, no plain file, or larger.
pub fn read(folder: &Path, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    let refuse = |what: String| error(&path, ErrorKind::InvalidInput, what);
    if let Err(e) = std::fs::symlink_metadata(&path) {
        return if e.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error(&path, e.kind(), &e)) };
    }
    // A folder on the way may be a link as well.
    let real: PathBuf = std::fs::canonicalize(&path)
        .map_err(|e| refuse(format!("is a link that cannot be followed: {e}")))?;
    let root = std::fs::canonicalize(folder).map_err(|e| error(folder, e.kind(), &e))?;
    if !real.starts_with(reach(&root)) {
        return Err(refuse(
            "is a link that leads out of its folder; links are followed within it, or within a Hugging Face cache".into(),
        ));
    }
    match read_own(&real, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            let said = e.to_string();
            let start = format!("{}: ", real.display());
            Err(refuse(said.strip_prefix(&start).unwrap_or(&said).to_owned()))
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_folder_or_the_cache_and_no_further() {
        let top = tempfile::tempdir().expect("test");
        let hub = top.path().join("hub");
        let snapshot = hub.join("models--o--n/snapshots/0123");
        let blobs = hub.join("models--o--n/blobs");
        for folder in [&snapshot, &blobs] {
            std::fs::create_dir_all(folder).expect("test");
        }
        std::fs::write(blobs.join("b"), "blob").expect("test");
        std::fs::write(top.path().join("secret"), "secret").expect("test");
        symlink("../../blobs/b", snapshot.join("good")).expect("test");
        symlink("../../../../secret", snapshot.join("up")).expect("test");
        symlink(top.path().join("secret"), snapshot.join("absolute")).expect("test");
        symlink("nothing", snapshot.join("broken")).expect("test");
        symlink("loop", snapshot.join("loop")).expect("test");
        std::fs::create_dir(snapshot.join("folder")).expect("test");
        rustix::fs::mkfifoat(rustix::fs::CWD, snapshot.join("pipe"), rustix::fs::Mode::RUSR).expect("test");
        assert_eq!(read(&snapshot, "good", 10).expect("test").expect("test"), b"blob");
        assert!(read(&snapshot, "absent", 10).expect("test").is_none());
        for (name, why) in [
            ("up", "leads out"),
            ("absolute", "leads out"),
            ("broken", "cannot be followed"),
            ("loop", "cannot be followed"),
            ("folder", "no plain file"),
            ("pipe", "no plain file"),
        ] {
            let said = read(&snapshot, name, 10).expect_err("test").to_string();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert!(read(&snapshot, "good", 3).is_err());
        // Seen through a link to the whole folder, too.
        symlink(&snapshot, top.path().join("mine")).expect("test");
        assert!(read(&top.path().join("mine"), "good", 10).expect("test").is_some());
        // The same outside of a cache: only what is inside.
        let plain = top.path().join("plain");
        std::fs::create_dir_all(plain.join("in")).expect("test");
        std::fs::write(plain.join("in/x"), "x").expect("test");
        symlink("in/x", plain.join("x")).expect("test");
        symlink(blobs.join("b"), plain.join("b")).expect("test");
        assert!(read(&plain, "x", 10).expect("test").is_some() && read(&plain, "b", 10).is_err());
    }
}
