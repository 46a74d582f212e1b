//! Opening the files of a folder that somebody named.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

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
pub(super) fn read(folder: &Path, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    let refuse = |what: String| Error::Refused { path: path.clone(), what };
    let place: PathBuf = match fs_err::symlink_metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
        Ok(found) if found.is_symlink() => {
            let real = std::fs::canonicalize(&path)
                .map_err(|e| refuse(format!("is a link that cannot be followed: {e}")))?;
            if !real.starts_with(reach(&fs_err::canonicalize(folder)?)) {
                return Err(refuse(
                    "is a link that leads out of its folder; links are followed within it, or within a Hugging Face cache".into(),
                ));
            }
            real
        }
        Ok(_) => path.clone(),
    };
    match fence::open::read_own(&place, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
            let said = e.to_string();
            let start = format!("{}: ", place.display());
            Err(refuse(said.strip_prefix(&start).unwrap_or(&said).to_owned()))
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_folder_or_the_cache_and_no_further() {
        let top = tempfile::tempdir().unwrap();
        let hub = top.path().join("hub");
        let snapshot = hub.join("models--o--n/snapshots/0123");
        let blobs = hub.join("models--o--n/blobs");
        for folder in [&snapshot, &blobs] {
            fs_err::create_dir_all(folder).unwrap();
        }
        fs_err::write(blobs.join("b"), "blob").unwrap();
        fs_err::write(top.path().join("secret"), "secret").unwrap();
        symlink("../../blobs/b", snapshot.join("good")).unwrap();
        symlink("../../../../secret", snapshot.join("up")).unwrap();
        symlink(top.path().join("secret"), snapshot.join("absolute")).unwrap();
        symlink("nothing", snapshot.join("broken")).unwrap();
        symlink("loop", snapshot.join("loop")).unwrap();
        fs_err::create_dir(snapshot.join("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, snapshot.join("pipe"), rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(read(&snapshot, "good", 10).unwrap().unwrap(), b"blob");
        assert!(read(&snapshot, "absent", 10).unwrap().is_none());
        for (name, why) in [
            ("up", "leads out"),
            ("absolute", "leads out"),
            ("broken", "cannot be followed"),
            ("loop", "cannot be followed"),
            ("folder", "no plain file"),
            ("pipe", "no plain file"),
        ] {
            let said = read(&snapshot, name, 10).unwrap_err().to_string();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert!(read(&snapshot, "good", 3).is_err());
        // Seen through a link to the whole folder, too.
        symlink(&snapshot, top.path().join("mine")).unwrap();
        assert!(read(&top.path().join("mine"), "good", 10).unwrap().is_some());
        // The same outside of a cache: only what is inside.
        let plain = top.path().join("plain");
        fs_err::create_dir_all(plain.join("in")).unwrap();
        fs_err::write(plain.join("in/x"), "x").unwrap();
        symlink("in/x", plain.join("x")).unwrap();
        symlink(blobs.join("b"), plain.join("b")).unwrap();
        assert!(read(&plain, "x", 10).unwrap().is_some() && read(&plain, "b", 10).is_err());
    }
}
