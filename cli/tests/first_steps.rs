//! What the documents tell people to type: the README's commands run (in smoke size), and every other one can be typed.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};

use support::{Place, text};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The command lines of a document's blocks of code, as words, without comments; several commands of one line apart.
fn commands(document: &str) -> Vec<Vec<String>> {
    let (mut inside, mut ours) = (false, false);
    let mut out = Vec::new();
    for line in document.lines() {
        if line.starts_with("```") {
            inside = !inside;
            // Blocks of other languages have no commands.
            ours = inside && ["```", "```sh", "```console"].contains(&line.trim());
            continue;
        }
        let indented = line.strip_prefix("    ").filter(|_| !inside);
        let Some(line) = indented.or_else(|| ours.then_some(line)) else { continue };
        let line = line.strip_prefix("$ ").unwrap_or(line);
        let first = line.split_whitespace().next().unwrap_or_default();
        if !["lorafab", "cargo", "pip", "python/wheel"].contains(&first) {
            continue;
        }
        // shlex takes a comment for one.
        let words = shlex::split(line).unwrap_or_else(|| panic!("{line}: its quotes are open"));
        let one = |words: &[String]| words.iter().take_while(|w| !w.starts_with('>')).cloned().collect();
        out.extend(words.split(|w| ["&&", "|", ";"].contains(&w.as_str())).map(one));
    }
    out
}

/// What runs a program of ours.
fn ours(words: &[String]) -> Option<Vec<&str>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["lorafab", ref rest @ ..] | ["cargo", "run", "--release", "--", ref rest @ ..] => {
            Some(rest.to_vec())
        }
        _ => None,
    }
}

#[test]
fn the_readmes_commands_run() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.len() < 6000, "README.md has {} bytes, of which 6000 are read", readme.len());
    let place = Place::new();
    let mut run = Vec::new();
    for words in commands(&readme) {
        let line = words.join(" ");
        let Some(mut args) = ours(&words) else {
            // Those take the network or this very test, and are run where the gate is.
            let known = [
                "cargo test --release --workspace",
                "cargo install --locked --path cli",
                "pip install maturin",
                "python/wheel --out .",
                "pip install lorafab-*.whl",
            ];
            assert!(known.contains(&line.as_str()), "{line}: nobody runs this");
            continue;
        };
        if args[0] == "quickstart" {
            args.push("--smoke");
        }
        // The smoke store has fewer.
        let there =
            args.contains(&"topic/tulips").then(|| place.json(&["adapter", "list", "topic", "-n", "1"]));
        let there = there.map(|found| found["adapters"][0]["behaviour"].as_str().unwrap().to_owned());
        let args: Vec<&str> =
            args.iter().map(|a| if *a == "topic/tulips" { there.as_deref().unwrap() } else { a }).collect();
        let out = place.run(&args);
        assert!(out.status.success(), "{line}: {}", text(&out.stderr));
        assert!(!out.stdout.is_empty(), "{line} says nothing");
        run.push(args[0].to_owned());
    }
    assert_eq!(run, ["quickstart", "--version", "read"]);
}

#[test]
fn every_command_of_the_documents_can_be_typed() {
    let mut documents =
        vec![root().join("README.md"), root().join("recipes/README.md"), root().join("python/README.md")];
    for folder in ["tutorial", "how-to", "explanation", "reference"] {
        let files = std::fs::read_dir(root().join("docs/src").join(folder)).unwrap();
        documents
            .extend(files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    let place = Place::new();
    let (mut typed, mut wrong) = (0, Vec::new());
    for path in documents {
        for words in commands(&std::fs::read_to_string(&path).unwrap()) {
            let Some(args) = ours(&words) else { continue };
            // With --help behind it a command is taken apart, and does nothing.
            let out = place.run(&[&args[..], &["--help"]].concat());
            typed += 1;
            if !out.status.success() {
                wrong.push(format!("{}: {}: {}", path.display(), words.join(" "), text(&out.stderr)));
            }
        }
    }
    assert!(typed > 100, "{typed} commands");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
