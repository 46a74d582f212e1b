//! Names from elsewhere as parts of paths.

use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

use crate::open::error;

/// A name that is one plain component of a path: no separator, not hidden, nothing that a file system or a terminal takes for
/// more than letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain<'a>(&'a str);

impl<'a> Plain<'a> {
    /// Letters, digits, `-`, `_` and `.`, not `.` first, at most 100.
    pub fn new(name: &'a str) -> Option<Self> {
        let good = !name.is_empty()
            && name.len() <= 100
            && !name.starts_with('.')
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
        good.then_some(Self(name))
    }

    /// Its place beneath a root.
    pub fn beneath(self, root: &Path) -> PathBuf {
        root.join(self.0)
    }
}

/// Whether a folder is there as itself: not a link to another.
///
/// # Errors
/// If something else is there.
pub fn folder(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(error(path, e.kind(), &e)),
        Ok(found) if found.is_dir() => Ok(true),
        Ok(found) if found.is_symlink() => {
            Err(error(path, ErrorKind::InvalidInput, "is a link; a folder of its own belongs there"))
        }
        Ok(_) => Err(error(path, ErrorKind::InvalidInput, "is no folder")),
    }
}

/// Makes a folder beneath one that exists, if it is not there as itself.
///
/// # Errors
/// If something else is there, or it cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    if folder(path)? {
        return Ok(());
    }
    match fs_err::create_dir(path) {
        // Another process made it.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => folder(path).map(drop),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folders_are_folders_of_their_own() {
        let top = tempfile::tempdir().expect("folder");
        let at = |name: &str| top.path().join(name);
        make_folder(&at("own")).expect("made");
        make_folder(&at("own")).expect("there");
        std::os::unix::fs::symlink("own", at("link")).expect("link");
        std::fs::write(at("file"), "").expect("file");
        assert!(!folder(&at("absent")).expect("absent") && folder(&at("own")).expect("own"));
        for (name, why) in [("link", "is a link"), ("file", "is no folder")] {
            assert!(folder(&at(name)).expect_err(name).to_string().contains(why));
            assert!(make_folder(&at(name)).is_err());
        }
    }

    proptest! {
        /// Whatever a name is, its place is a child of the root.
        #[test]
        fn a_plain_name_stays_beneath(name in "[a-zA-Z0-9./~\\\\\u{0}\u{202e}-]{0,12}") {
            if let Some(plain) = Plain::new(&name) {
                let place = plain.beneath(Path::new("/root"));
                prop_assert_eq!(place.parent(), Some(Path::new("/root")));
                prop_assert_eq!(place.components().count(), 3);
            }
        }
    }
}
