//! What docs/src/explanation/reading.md prints of readings stands in the committed files: every line, and every share of its prose; so
//! do the lines and shares of the README.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use reading::many::{Line, Many};
use reading::{Reading, html, to_terminal};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn committed<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read_to_string(root().join("results/reading").join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/src/explanation/reading.md")).unwrap()
}

/// The README's section about a reading.
fn short() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once("## One adapter, read\n").unwrap();
    after.split("\n## ").next().unwrap().to_owned()
}

/// `N of M` of a text.
fn shares(text: &str) -> Vec<(usize, usize)> {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let number = |w: &str| w.parse().ok();
    words.windows(3).filter(|w| w[1] == "of").filter_map(|w| Some((number(w[0])?, number(w[2])?))).collect()
}

#[test]
fn the_tutorials_reading_is_the_committed_one() {
    let whole = to_terminal(&committed::<Reading>("tutorial.json"));
    let printed: BTreeSet<&str> = whole.lines().map(str::trim).collect();
    let tutorial = std::fs::read_to_string(root().join("docs/src/tutorial/your-own-adapter.md")).unwrap();
    let (_, shown) = tutorial.split_once("$ lorafab read").unwrap();
    let quoted = shown.lines().skip(1).take_while(|l| l.is_empty() || l.starts_with("    "));
    let quoted: Vec<&str> = quoted.map(str::trim).filter(|l| !l.is_empty()).collect();
    assert!(quoted.len() > 10, "{} lines are quoted", quoted.len());
    for line in quoted {
        assert!(printed.contains(line), "not in the committed reading: {line:?}");
    }
}

#[test]
fn the_readings_that_are_printed_are_the_committed_ones() {
    let mut printed = BTreeSet::new();
    printed.extend(to_terminal(&committed::<Reading>("tulips.json")).lines().map(|l| l.trim().to_owned()));
    printed.extend(committed::<Many>("readings.json").to_terminal().lines().map(|l| l.trim().to_owned()));
    for (text, least) in [(page(), 30), (short(), 4)] {
        let (_, shown) = text.split_once("$ lorafab read").unwrap();
        let quoted: Vec<&str> = shown.lines().filter(|l| l.starts_with("    ")).map(str::trim).collect();
        let quoted: Vec<&str> = quoted.into_iter().filter(|l| !l.is_empty() && !l.starts_with('$')).collect();
        assert!(quoted.len() > least, "{} lines are quoted", quoted.len());
        for line in quoted {
            assert!(printed.contains(line), "not in the committed readings: {line:?}");
        }
    }
    for line in to_terminal(&committed::<Reading>("tulips.json")).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn every_share_of_the_prose_can_be_counted_in_the_committed_lines() {
    let many: Many = committed("readings.json");
    let mut known = BTreeSet::new();
    let mut counted: BTreeMap<(&str, &str), [usize; 4]> = BTreeMap::new();
    for Line { subject, value, nothing, methods, .. } in &many.lines {
        let family = subject.split('/').next().unwrap();
        for m in methods {
            for of in ["", family] {
                let n = counted.entry((m.method.as_str(), of)).or_default();
                n[0] += usize::from(value.is_some());
                n[1] += usize::from(m.right);
                n[2] += usize::from(m.right && m.against.stands_out());
                n[3] += usize::from(*nothing && m.against.stands_out());
            }
        }
    }
    for ((method, family), [carrying, first, named, alarms]) in counted {
        known.extend([(first, carrying), (named, carrying)]);
        if family.is_empty() {
            let share = &many.shares[method];
            assert_eq!((share.first, share.named, share.carrying), (first, named, carrying), "{method}");
            assert_eq!(share.alarms, alarms, "{method}");
            known.insert((share.alarms, share.nothing));
        }
    }
    let peft: Many = committed("peft.json");
    let duds: Vec<&Line> = peft.lines.iter().filter(|l| l.subject.contains("dud")).collect();
    known.insert((duds.iter().filter(|l| l.answer.is_some()).count(), duds.len()));
    assert!(peft.lines.iter().any(|l| l.subject == "./bees" && l.answer.as_deref() == Some("bees")));
    for (text, least) in [(page(), 6), (short(), 1)] {
        let prose: String = text.lines().filter(|l| !l.starts_with("    ")).collect::<Vec<_>>().join("\n");
        let found = shares(&prose);
        assert!(found.len() > least, "{} shares", found.len());
        for share in found {
            assert!(known.contains(&share), "{share:?} is printed and not in the committed readings");
        }
    }
}

#[test]
fn the_committed_page_is_made_from_the_committed_readings() {
    let page = std::fs::read_to_string(root().join("results/reading/report.html")).unwrap();
    assert_eq!(html::many(&committed("readings.json")), page);
}

/// After a change of the page: `cargo test -p reading --test readme -- --ignored`.
#[test]
#[ignore = "writes the committed page anew"]
fn write_the_committed_page() {
    std::fs::write(root().join("results/reading/report.html"), html::many(&committed("readings.json")))
        .unwrap();
}

#[test]
fn shares_are_found_in_prose() {
    assert_eq!(shares("names 68 of 70, and one of 3; 2 of those"), [(68, 70)]);
}
