//! What the pages under docs/src print of the committed comparisons stands in their files: every line of a report, every number of the
//! prose. The README is short. (What it prints is of a study: study/tests/pages.rs.)
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod prose;

use prose::decimals;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Pages under docs/src and the folder of `results/` that each is about.
const PAGES: [(&str, &str); 3] = [
    ("explanation/full-run.md", "quickstart"),
    ("explanation/same-cost.md", "budgets"),
    ("explanation/behaviours-that-do-not-fire.md", "gates"),
];

/// Most bytes of README.md.
const SHORT: usize = 6000;

fn committed(run: &str) -> (String, compare::Comparison) {
    let text = std::fs::read_to_string(root().join(format!("results/{run}/comparison.json"))).unwrap();
    let comparison = compare::read(&text).unwrap();
    (text, comparison)
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs/src").join(name)).unwrap()
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// Every number of a JSON value as a page would print it: two decimals, without its sign.
fn numbers(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Number(n) => {
            let x = n.as_f64().unwrap().abs();
            out.insert(format!("{x:.2}"));
            out.insert(format!("{x:.1}"));
            out.insert(format!("{x:.3}"));
        }
        Value::Array(list) => list.iter().for_each(|v| numbers(v, out)),
        // Single answers are so many that any number would be among them.
        Value::Object(map) => map.iter().filter(|(k, _)| *k != "items").for_each(|(_, v)| numbers(v, out)),
        _ => {}
    }
}

#[test]
fn lines_of_the_reports_on_the_pages_are_those_of_the_committed_runs() {
    for (name, run) in PAGES {
        let (_, comparison) = committed(run);
        let printed: BTreeSet<String> =
            compare::to_terminal(&comparison).lines().map(|l| l.trim().to_owned()).collect();
        let quoted: Vec<String> = page(name)
            .lines()
            .filter(|l| l.starts_with("    ") && !l.trim_start().starts_with('$'))
            .map(|l| l.trim().to_owned())
            .filter(|l| !l.is_empty())
            .collect();
        assert!(quoted.len() > 5, "{name} quotes {} lines of {run}", quoted.len());
        for line in quoted {
            assert!(printed.contains(&line), "not in the committed report of {run}: {line:?}");
        }
    }
}

#[test]
fn every_number_of_the_pages_prose_stands_in_the_committed_run() {
    for (name, run) in PAGES {
        let (text, _) = committed(run);
        let mut known = BTreeSet::new();
        numbers(&serde_json::from_str(&text).unwrap(), &mut known);
        let page = page(name);
        let prose: String = page.lines().filter(|l| !l.starts_with("    ")).collect::<Vec<_>>().join("\n");
        let found = decimals(&prose);
        assert!(found.len() > 5, "the prose of {name} has {} numbers", found.len());
        for number in found {
            assert!(known.contains(&number), "{number} is on {name} and not in the committed {run}");
        }
    }
}

#[test]
fn the_committed_pages_are_made_from_the_committed_numbers_and_all_are_small() {
    for (_, run) in PAGES {
        let (text, comparison) = committed(run);
        let page = std::fs::read_to_string(root().join(format!("results/{run}/report.html"))).unwrap();
        assert_eq!(compare::to_html(&comparison), page, "{run}");
        assert!(text.len() <= 1_000_000, "{run}: {} bytes", text.len());
    }
}

/// After a change of the page: `cargo test -p compare --test readme -- --ignored`.
#[test]
#[ignore = "writes the committed pages anew"]
fn write_the_committed_pages() {
    for (_, run) in PAGES {
        let (_, comparison) = committed(run);
        std::fs::write(root().join(format!("results/{run}/report.html")), compare::to_html(&comparison))
            .unwrap();
    }
}

#[test]
fn the_readme_is_short_and_keeps_its_two_commands() {
    let readme = readme();
    assert!(readme.len() < SHORT, "README.md has {} bytes", readme.len());
    for command in ["    cargo run --release -- quickstart ", "    cargo test --release --workspace "] {
        assert!(readme.lines().any(|l| l.starts_with(command)), "{command}");
    }
}

fn pages(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, out);
        } else if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
}

#[test]
fn every_page_is_in_the_books_table_of_contents() {
    let mut all = Vec::new();
    pages(&root().join("docs/src"), &mut all);
    let summary = page("SUMMARY.md");
    assert!(all.len() > 15, "{all:?}");
    for path in &all {
        let name = path.strip_prefix(root().join("docs/src")).unwrap().to_str().unwrap();
        assert!(
            name == "SUMMARY.md" || summary.contains(&format!("({name})")),
            "{name} is not in SUMMARY.md"
        );
    }
}
