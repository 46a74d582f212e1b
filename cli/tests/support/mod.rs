//! The binary in a sealed environment, on the tiny fixture model.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;

/// Folder of the tiny fixture model.
pub(crate) fn tiny() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny").display().to_string()
}

/// An environment with its own stores and caches.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments that choose the tiny model, then these.
    pub(crate) fn arguments(args: &[&str]) -> Vec<String> {
        let chosen = ["--model".to_owned(), tiny(), "--precision".to_owned(), "f32".to_owned()];
        chosen.into_iter().chain(args.iter().map(|a| (*a).to_owned())).collect()
    }

    /// The binary with exactly these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("lorafab").unwrap();
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("LORAFAB_STORE", self.path("store"))
            .env("LORAFAB_CACHE", self.path("cache"))
            .args(args);
        command
    }

    /// Runs on the tiny model, in a store of that name.
    pub(crate) fn in_store(&self, store: &str, args: &[&str]) -> Output {
        self.command(&[]).env("LORAFAB_STORE", self.path(store)).args(Self::arguments(args)).output().unwrap()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.in_store("store", args)
    }

    pub(crate) fn json_in(&self, store: &str, args: &[&str]) -> Value {
        let out = self.in_store(store, &[&["--json"], args].concat());
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        self.json_in("store", args)
    }

    /// Runs and asserts the exit code, and that the one error says all of `parts`.
    pub(crate) fn fails(&self, code: i32, parts: &[&str], args: &[&str]) {
        assert_error(&self.run(args), code, parts);
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts the exit code and one `error:` line with all of `parts`.
pub(crate) fn assert_error(output: &Output, code: i32, parts: &[&str]) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// As [`assert_error`], with nothing on stdout.
pub(crate) fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    assert_error(output, code, parts);
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}
