//! The rules of ARCHITECTURE.md that can be checked: who may depend on whom, and that libraries neither print nor read
//! the environment.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

const CRATES: [(&str, &[&str]); 16] = [
    ("fence", &[]),
    ("page", &[]),
    ("lm", &["fence"]),
    ("recipes", &["fence"]),
    ("registry", &["fence"]),
    ("exchange", &["fence", "lm", "registry"]),
    ("factory", &["fence", "lm", "recipes", "registry"]),
    ("readers", &["fence", "lm", "recipes", "registry", "factory"]),
    ("dit", &["fence", "lm", "recipes", "registry", "factory", "readers"]),
    ("oracle_posttrain", &["fence", "lm", "recipes", "registry", "factory", "readers"]),
    (
        "reading",
        &["fence", "page", "lm", "recipes", "registry", "factory", "readers", "dit", "oracle_posttrain"],
    ),
    (
        "compare",
        &["fence", "page", "lm", "recipes", "registry", "factory", "readers", "dit", "oracle_posttrain"],
    ),
    ("study", &["fence", "page", "lm", "recipes", "registry", "factory", "readers", "compare"]),
    ("serve", &["page", "recipes", "registry", "factory", "reading", "compare"]),
    (
        "cli",
        &[
            "fence",
            "page",
            "serve",
            "lm",
            "recipes",
            "registry",
            "exchange",
            "factory",
            "readers",
            "dit",
            "oracle_posttrain",
            "reading",
            "compare",
            "study",
        ],
    ),
    ("python", &["fence", "registry", "exchange", "reading", "compare"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn crates_depend_only_downwards() {
    for (name, allowed) in CRATES {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let normal = manifest.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap();
        for (other, _) in CRATES {
            let used = normal.lines().any(|l| {
                l.starts_with(&format!("{other}.workspace")) || l.starts_with(&format!("{other} ="))
            });
            assert!(!used || allowed.contains(&other), "{name} must not depend on {other}");
        }
    }
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn libraries_neither_print_nor_read_the_environment_and_files_stay_short() {
    for (name, _) in CRATES {
        let mut files = Vec::new();
        sources(&root().join(name).join("src"), &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            assert!(code.lines().count() <= 800, "{} is over 800 lines", file.display());
            if name != "cli" {
                for word in ["println!", "eprintln!", "print!(", "dbg!", "std::env::var", "SystemTime"] {
                    assert!(!code.contains(word), "{} uses {word}", file.display());
                }
            }
        }
    }
}
