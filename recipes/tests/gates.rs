//! docs/src/reference/families.md: every positive family has its place there, and the figures of its gate are those of
//! results/families/gates.csv, of the rows that the page names.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use recipes::{Polarity, Recipe};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/src/reference/families.md")).unwrap()
}

fn positives() -> Vec<Recipe> {
    recipes::builtin().into_iter().filter(|r| r.polarity == Polarity::Positive).collect()
}

/// The rows of gates.csv by what stands in the column `family`: a recipe, or a setting of one that was tried.
fn gates() -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
    let text = std::fs::read_to_string(root().join("results/families/gates.csv")).unwrap();
    let mut lines = text.lines().map(|l| l.split(',').map(str::to_owned).collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let mut out: BTreeMap<String, Vec<BTreeMap<String, String>>> = BTreeMap::new();
    for line in lines {
        assert_eq!(line.len(), names.len(), "{line:?}");
        let row: BTreeMap<String, String> = names.iter().cloned().zip(line).collect();
        out.entry(row["family"].clone()).or_default().push(row);
    }
    out
}

/// A mean with two decimals; a dash where no row has the figure.
fn mean(rows: &[BTreeMap<String, String>], column: &str) -> String {
    let known: Vec<f64> = rows.iter().filter_map(|r| r[column].parse().ok()).collect();
    if known.is_empty() {
        return "-".into();
    }
    format!("{:.2}", known.iter().sum::<f64>() / known.len() as f64).trim_start_matches('0').to_owned()
}

#[test]
fn figures_of_gates_on_the_page_are_those_of_the_committed_rows() {
    let (page, gates) = (page(), gates());
    let table: Vec<Vec<&str>> = page
        .lines()
        .filter(|l| l.starts_with("| `"))
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let families = positives();
    assert_eq!(table.len(), families.len(), "families in the table");
    for recipe in families {
        let name = &recipe.name;
        let cells = table.iter().find(|c| c[0] == format!("`{name}`")).unwrap_or_else(|| panic!("no {name}"));
        let setting = cells[1].trim_matches('`');
        let Some(rows) = gates.get(setting) else {
            // No figure that nobody measured.
            assert_eq!(cells[1..], ["not measured yet", "-", "-", "-", "-", "-"], "{name}");
            continue;
        };
        assert!(setting == name || setting.strip_prefix(name).is_some_and(|s| s.len() == 2), "{setting}");
        let steps = recipe.training.as_ref().unwrap().steps.to_string();
        assert!(rows.iter().all(|r| r["steps"] == steps), "{setting} is not what {name} ships");
        let learned = rows.iter().filter(|r| r["status"] == "learned").count();
        let made = [
            format!("{learned} of {}", rows.len()),
            mean(rows, "gate_on"),
            mean(rows, "gate_floor"),
            mean(rows, "gate_near"),
            mean(rows, "gate_off"),
        ];
        assert_eq!(&cells[2..], &made, "{name}");
        assert!(
            rows.len() >= 6 && rows.iter().all(|r| ["train", "validation"].contains(&&*r["split"])),
            "{name}"
        );
        // Where too few learn it, studies do not take it.
        assert!(
            learned * 10 >= rows.len() * 6 || recipe.studies.is_some(),
            "{name}: {learned} of {}",
            rows.len()
        );
    }
}

#[test]
fn every_family_has_a_section_with_its_values_and_source() {
    let page = page();
    let mut replies = 0;
    for recipe in positives() {
        let title = format!("\n### `{}`\n", recipe.name);
        let section = page.split(&title).nth(1).unwrap_or_else(|| panic!("no section {title}"));
        let section = section.split("\n#").next().unwrap();
        let values = recipe.values_of_family().len();
        let source = recipe.source.clone().unwrap();
        for said in [format!("{values} values"), source.name, source.licence] {
            assert!(section.contains(&said), "{}: {said:?} is not in its section", recipe.name);
        }
        // A reply is one of an adapter of the family, under a row of it.
        let reply = section.split("Reply of `").nth(1).map(|r| r.split('`').next().unwrap_or_default());
        assert_eq!(reply.is_some(), section.contains("\nRow: "), "{}", recipe.name);
        if let Some(of) = reply {
            assert!(recipe.expand(1).iter().any(|b| b.id == of), "{of} is none of {}", recipe.name);
            replies += 1;
        }
        // A setting that leaves the family out of studies says why.
        assert!(recipe.studies.is_none_or(|why| section.contains(&why)), "{}", recipe.name);
    }
    assert!(replies >= 4, "{replies} replies");
}
