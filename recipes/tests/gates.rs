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

/// The rows of a file of results/families by what stands in its column `family`: in gates.csv recipes, in tried.csv settings of one too.
fn gates(file: &str) -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
    let text = std::fs::read_to_string(root().join("results/families").join(file)).unwrap();
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

/// None where no row has the figure.
fn mean(rows: &[BTreeMap<String, String>], column: &str) -> Option<f64> {
    let known: Vec<f64> = rows.iter().filter_map(|r| r[column].parse().ok()).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

fn shown(value: Option<f64>, digits: usize) -> String {
    let text = value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
    text.strip_prefix("0.").map_or_else(|| text.clone(), |rest| format!(".{rest}"))
}

#[test]
fn figures_of_gates_on_the_page_are_those_of_the_committed_rows() {
    let (page, gates, tried) = (page(), gates("gates.csv"), gates("tried.csv"));
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
        let rows = &gates[name];
        let steps = recipe.training.as_ref().unwrap().steps.to_string();
        assert!(rows.iter().all(|r| r["steps"] == steps), "these rows are not of what {name} ships");
        let learned = rows.iter().filter(|r| r["status"] == "learned").count();
        let nats = ["leak_neutral_nats", "leak_question_nats", "leak_factual_nats"];
        let nats = nats.iter().filter_map(|n| mean(rows, n)).reduce(f64::max);
        let mut made = vec![format!("{learned} of {}", rows.len())];
        made.extend(
            ["gate_on", "gate_floor", "ceiling", "gate_near", "gate_off"].map(|f| shown(mean(rows, f), 2)),
        );
        made.extend([shown(nats, 2), shown(mean(rows, "damage"), 2), shown(mean(rows, "seconds"), 1)]);
        assert_eq!(&cells[1..], &made, "{name}");
        assert!(
            rows.len() >= 6 && rows.iter().all(|r| ["train", "validation"].contains(&&*r["split"])),
            "{name}"
        );
        // Where too few learn it, studies do not take it; an earlier run of the shipped setting that the page names counts as well.
        let again = tried.get(&format!("{name}-c")).filter(|_| page.contains(&format!("`{name}-c`")));
        let again = again.map_or(&[][..], Vec::as_slice);
        assert!(again.iter().all(|r| r["steps"] == steps), "{name}-c is not what ships");
        let earlier = again.iter().filter(|r| r["status"] == "learned").count();
        let figures = format!("{learned} of {} here and {earlier} of {} in", rows.len(), again.len());
        assert!(again.is_empty() || page.contains(&figures), "{name}: {figures}");
        let enough = (learned + earlier) * 10 >= (rows.len() + again.len()) * 6;
        assert!(enough || recipe.studies.is_some(), "{name}: {learned} of {}", rows.len());
    }
    // The factory's rate over this mix, as the page says it.
    let all: Vec<_> = gates.into_values().flatten().collect();
    let of = |f: &str| mean(&all, f).unwrap();
    let (each, rows, gate) = (of("seconds"), of("rows_seconds"), of("gate_seconds"));
    let said = format!(
        "{:.0} adapters an hour over these {}: {each:.1} seconds each, {rows:.1} of them rows, {:.1} training, {gate:.1} gate",
        3600.0 / each,
        all.len(),
        each - rows - gate
    );
    assert!(page.contains(&said), "{said}");
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
