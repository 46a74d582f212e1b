//! What the README prints of the committed runs stands in their files: every line of its report, and every number of its prose.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Sections of the README and the folder of `results/` that each is about.
const SECTIONS: [(&str, &str); 3] = [
    ("What a full run says", "quickstart"),
    ("At the same cost", "budgets"),
    ("Behaviours that do not fire", "gates"),
];

fn committed(run: &str) -> (String, compare::Comparison) {
    let text = std::fs::read_to_string(root().join(format!("results/{run}/comparison.json"))).unwrap();
    let comparison = compare::read(&text).unwrap();
    (text, comparison)
}

/// A section of the README.
fn section(title: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once(&format!("## {title}\n")).unwrap();
    after.split("\n## ").next().unwrap().to_owned()
}

/// Every number of a JSON value as the README would print it: two decimals, without its sign.
fn numbers(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Number(n) => {
            let x = n.as_f64().unwrap().abs();
            out.insert(format!("{x:.2}"));
            out.insert(format!("{x:.1}"));
            out.insert(format!("{x:.3}"));
        }
        Value::Array(list) => list.iter().for_each(|v| numbers(v, out)),
        Value::Object(map) => map.values().for_each(|v| numbers(v, out)),
        _ => {}
    }
}

/// Decimal numbers of a text, with a zero before the point.
fn decimals(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let digit = |j: usize| chars.get(j).is_some_and(char::is_ascii_digit);
        if chars[i] == '.' && digit(i + 1) {
            let begin = (0..i).rev().take_while(|&j| digit(j)).last().unwrap_or(i);
            let end = (i + 1..chars.len()).take_while(|&j| digit(j)).last().unwrap();
            // A version or a paper's number has a letter, a point or a digit's point around it.
            let alone = begin == 0 || !(chars[begin - 1].is_alphanumeric() || chars[begin - 1] == '.');
            if alone && (chars.get(end + 1) != Some(&'.') || !digit(end + 2)) {
                let text: String = chars[begin..=end].iter().collect();
                out.push(if text.starts_with('.') { format!("0{text}") } else { text });
            }
            i = end;
        }
        i += 1;
    }
    out
}

#[test]
fn lines_of_the_report_in_the_readme_are_those_of_the_committed_run() {
    for (title, run) in SECTIONS {
        let (_, comparison) = committed(run);
        let printed: BTreeSet<String> =
            compare::to_terminal(&comparison).lines().map(|l| l.trim().to_owned()).collect();
        let quoted: Vec<String> = section(title)
            .lines()
            .filter(|l| l.starts_with("    ") && !l.trim_start().starts_with('$'))
            .map(|l| l.trim().to_owned())
            .filter(|l| !l.is_empty())
            .collect();
        assert!(quoted.len() > 5, "the README quotes {} lines of {run}", quoted.len());
        for line in quoted {
            assert!(printed.contains(&line), "not in the committed report of {run}: {line:?}");
        }
    }
}

#[test]
fn every_number_of_the_readmes_prose_stands_in_the_committed_run() {
    for (title, run) in SECTIONS {
        let (text, _) = committed(run);
        let mut known = BTreeSet::new();
        numbers(&serde_json::from_str(&text).unwrap(), &mut known);
        let section = section(title);
        let prose: String = section.lines().filter(|l| !l.starts_with("    ")).collect::<Vec<_>>().join("\n");
        let found = decimals(&prose);
        assert!(found.len() > 5, "the README's prose about {run} has {} numbers", found.len());
        for number in found {
            assert!(known.contains(&number), "{number} is in the README and not in the committed {run}");
        }
    }
}

#[test]
fn the_committed_pages_are_made_from_the_committed_numbers_and_all_are_small() {
    for (_, run) in SECTIONS {
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
    for (_, run) in SECTIONS {
        let (_, comparison) = committed(run);
        std::fs::write(root().join(format!("results/{run}/report.html")), compare::to_html(&comparison))
            .unwrap();
    }
}

#[test]
fn decimals_are_found_with_and_without_a_zero_and_versions_are_not_numbers() {
    assert_eq!(
        decimals("top-1 .84 [.68, 0.97], +.28; arXiv 2510.05092"),
        ["0.84", "0.68", "0.97", "0.28", "2510.05092"]
    );
    assert_eq!(decimals("v1.2.3 and x.5"), Vec::<String>::new());
}
