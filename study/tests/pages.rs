//! What README.md and the pages of studies print stands in the committed folders: every number of the prose (numbers.csv says which figure it
//! is), every line of a report, the README's table and picture. A page says its question, its design, what was found, and what it does not show.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use study::Folder;

#[path = "../../compare/tests/prose/mod.rs"]
mod prose;

use prose::decimals;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Folders under results/ that hold a study.
fn studies() -> Vec<(String, Folder)> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(root().join("results")).unwrap() {
        let path = entry.unwrap().path();
        if path.join("registration.json").exists() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            out.push((name, study::verify(&path).unwrap()));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

#[test]
fn every_committed_study_has_a_page_whose_numbers_and_lines_are_its_report_s() {
    for (name, folder) in studies() {
        let page = text(&format!("docs/src/studies/{name}.md"));
        let report = study::report::to_terminal(&folder);
        let printed: BTreeSet<&str> = report.lines().map(str::trim).collect();
        let quoted: Vec<&str> = page
            .lines()
            .filter(|l| l.starts_with("    ") && !l.trim_start().starts_with('$'))
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        assert!(quoted.len() > 3, "{name}: {} lines of the report", quoted.len());
        for line in quoted {
            assert!(printed.contains(line), "not in the report of {name}: {line:?}");
        }
        for primary in &folder.results.primaries {
            assert!(page.contains(&primary.says), "{name}: its page lacks {:?}", primary.says);
        }
        for part in ["## Question", "## Design", "## Found", "## What it does not show"] {
            assert!(page.contains(&format!("\n{part}\n")), "{name}: its page lacks {part:?}");
        }
        assert!(page.contains(".svg)"), "{name}: its page has no picture");
        let prose: Vec<&str> = page.lines().filter(|l| !l.starts_with("    ")).collect();
        numbers_are_measured(&name, &folder, &prose.join("\n"));
    }
}

/// The figure that a row of numbers.csv means, by the names that the committed files have for it.
fn measured(folder: &Folder, place: &str) -> f64 {
    let (study, r) = (&folder.registration.study, &folder.results);
    let primary = |name: &str| study.primaries.iter().find(|p| p.name == name).unwrap();
    let found = match place.split(';').collect::<Vec<_>>()[..] {
        // In which context, where it is not the neutral one.
        ["level", arm, of, metric, ref context @ ..] => [&r.groups, &r.families, &r.silent]
            .into_iter()
            .flatten()
            .find(|l| {
                let section = match context {
                    [context] => l.section == format!("test_value, {context}"),
                    _ => ["test_value", "negative", of].contains(&&*l.section),
                };
                (&*l.arm, &*l.of, &*l.metric) == (arm, of, metric) && section
            })
            .map(|l| l.value),
        ["primary", name, end] => r.primaries.iter().find(|p| p.name == name).and_then(|p| match end {
            "value" => p.value,
            "low" => p.low,
            "high" => p.high,
            _ => p.p_holm,
        }),
        ["lens", family] => r.lens.iter().find(|l| l.family == family).and_then(|l| l.test),
        ["cost", arm, seed, what] => {
            let of = |a: &&study::folder::ArmRow| a.arm == arm && a.seed.to_string() == seed;
            folder.arms.iter().find(of).map(|a| match what {
                "pretraining" => a.pretrain_tflop,
                "collecting" => a.collect_tflop,
                _ => a.train_tflop + a.pretrain_tflop + a.collect_tflop,
            })
        }
        // Mean of an adapter's metric over a group.
        ["nats", group, metric] => {
            let gates = study::adapters::gates(study, &folder.adapters);
            let of: Vec<f64> = gates
                .iter()
                .filter(|g| g.group == group)
                .filter_map(|g| g.means.get(metric))
                .copied()
                .collect();
            (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64)
        }
        ["mean", arm, metric, ref filters @ ..] => Some(mean_of(folder, arm, metric, filters)),
        ["power", name] => {
            let of = folder.registration.power.iter().find(|p| p.primary == name);
            of.and_then(|p| p.at.first()).map(|(_, share)| *share)
        }
        ["learned", family] => {
            let gates = study::adapters::gates(study, &folder.adapters);
            gates.iter().find(|g| g.family == family).map(|g| g.learned)
        }
        ["rule", "least"] => Some(study.rule.least),
        ["rule", "margin"] => Some(study.rule.margin),
        ["rule", "saturated"] => Some(study.rule.saturated),
        ["expected", name] => Some(primary(name).expected),
        ["than", name] => primary(name).than,
        ["weight", name, arm] => {
            let less = |t: &study::Term| t.arm == arm && t.weight < 0.0;
            primary(name).terms().into_iter().find(less).map(|t| t.weight)
        }
        _ => None,
    };
    found.unwrap_or_else(|| panic!("{place:?} is nothing that was measured"))
}

/// Mean of an arm's metric, seeds first, over the held-out gated adapters at neutral prompts that pass all filters: `over=P1` (families of
/// that primary), `group=`, `label=`, `status=`, `family!=` (the beginning of a family), `leak_question_nats<0.5` and `>=0.5`.
fn mean_of(folder: &Folder, arm: &str, metric: &str, filters: &[&str]) -> f64 {
    let study = &folder.registration.study;
    let nats = |row: &study::adapters::AdapterRow, name: &str| {
        row.metrics[study::adapters::METRICS.iter().position(|m| *m == name).unwrap()]
    };
    let mut shares = Vec::new();
    for (unit, answers) in &folder.items.rows {
        if (&*unit.kind, &*unit.split, &*unit.context) != ("positive", "test_value", "neutral") {
            continue;
        }
        let row = folder.adapters.iter().find(|a| a.adapter == unit.adapter).unwrap();
        if nats(row, "leak_neutral_nats").is_none() {
            continue;
        }
        let family = study.families.iter().find(|f| f.name() == unit.carries).unwrap();
        let passes = |filter: &&str| {
            if let Some((name, bound)) = filter.split_once(">=") {
                nats(row, name).unwrap() >= bound.parse().unwrap()
            } else if let Some((name, bound)) = filter.split_once('<') {
                nats(row, name).unwrap() < bound.parse().unwrap()
            } else {
                match filter.split_once('=').unwrap() {
                    ("over", name) => {
                        let primary = folder.results.primaries.iter().find(|p| p.name == name).unwrap();
                        primary.families.contains(&unit.carries)
                    }
                    ("group", name) => family.group == name,
                    ("label", name) => unit.label == name,
                    ("status", name) => row.status == name,
                    ("family!", name) => !unit.carries.starts_with(name),
                    _ => panic!("{filter:?} is no filter"),
                }
            }
        };
        if filters.iter().all(passes) {
            let columns = folder.items.columns.iter().zip(answers);
            let own = columns.filter(|(c, _)| c.arm == arm && c.metric == metric);
            let seeds: Vec<f64> = own.filter_map(|(_, a)| *a).collect();
            shares.push(seeds.iter().sum::<f64>() / seeds.len() as f64);
        }
    }
    shares.iter().sum::<f64>() / shares.len() as f64
}

/// The numbers of a page's prose are those of numbers.csv in their order, and each is what its row says was measured.
fn numbers_are_measured(page: &str, folder: &Folder, prose: &str) {
    let rows = text("study/tests/numbers.csv");
    let rows: Vec<[&str; 3]> = rows
        .lines()
        .skip(1)
        .map(|l| l.splitn(3, ',').collect::<Vec<_>>().try_into().unwrap())
        .filter(|r: &[&str; 3]| r[0] == page)
        .collect();
    let listed: Vec<&str> = rows.iter().map(|r| r[1]).collect();
    assert_eq!(decimals(prose), listed, "{page}: study/tests/numbers.csv lists its numbers");
    for [_, number, places] in rows {
        let digits = number.split_once('.').unwrap().1.len();
        for place in places.trim_matches('"').split('|') {
            let value = measured(folder, place).abs();
            assert_eq!(format!("{value:.digits$}"), number, "{page}: {place}");
        }
    }
}

/// The mean of an arm over a group's families as pages print it, and its interval.
fn level(folder: &Folder, arm: &str, of: &str, metric: &str, section: &str) -> Option<[String; 3]> {
    let found = folder
        .results
        .groups
        .iter()
        .find(|l| (&*l.arm, &*l.of, &*l.metric, &*l.section) == (arm, of, metric, section))?;
    Some([found.value, found.low, found.high].map(|x| format!("{x:.2}")))
}

/// Columns of the README's table.
const COLUMNS: [(&str, &str); 6] = [
    ("emitted everywhere", "top1_values"),
    ("emitted when asked", "top1_values"),
    ("never emitted", "top1_values"),
    ("gated", "top1_values"),
    ("all", "top1_values"),
    ("all", "exact_match"),
];

fn s1() -> Folder {
    study::verify(&root().join("results/s1")).unwrap()
}

#[test]
fn the_readmes_table_is_of_the_committed_study() {
    let folder = s1();
    let mut arms = 0;
    for line in text("README.md").lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let arm = cells[0].split('`').nth(1).unwrap();
        let right: Vec<String> = COLUMNS
            .iter()
            .map(|(of, metric)| {
                level(&folder, arm, of, metric, "test_value")
                    .map_or_else(|| "–".to_owned(), |[value, ..]| value.trim_start_matches('0').to_owned())
            })
            .collect();
        assert_eq!(cells[1..], right, "{arm}");
        arms += 1;
    }
    assert!(arms > 5, "{arms} arms");
}

#[test]
fn the_readmes_other_numbers_stand_in_the_committed_study() {
    let (folder, readme) = (s1(), text("README.md"));
    let (_, after) = readme.split_once("## What the main study says\n").unwrap();
    let prose: Vec<&str> =
        after.split("\n## ").next().unwrap().lines().filter(|l| !l.starts_with('|')).collect();
    let prose = prose.join("\n");
    numbers_are_measured("README", &folder, &prose);
    assert!(prose.contains(&format!("{} held-out adapters", folder.results.test_adapters)), "{prose}");
    assert!(folder.results.primaries.iter().any(|p| prose.contains(&p.says)), "no verdict of the study");
}

#[test]
fn pictures_are_of_the_committed_studies() {
    for (name, folder) in studies() {
        let picture = text(&format!("docs/src/studies/{name}.svg"));
        let titles: Vec<&str> =
            picture.split("<g><title>").skip(1).map(|rest| rest.split("</title>").next().unwrap()).collect();
        // Those that S1's picture shows are eight arms in four groups.
        assert!(titles.len() > 8 && (name != "s1" || titles.len() == 32), "{name}: {} points", titles.len());
        for title in titles {
            let (what, numbers) = title.rsplit_once(": ").unwrap();
            let parts: Vec<&str> = what.split("; ").collect();
            let [arm, of, metric, section] = parts[..] else { panic!("{name}: {title}") };
            let [value, low, high] = level(&folder, arm, of, metric, section).unwrap();
            assert_eq!(
                numbers,
                format!("{value} [{low}, {high}]"),
                "python3 docs/picture.py draws {name} anew: {what}"
            );
        }
    }
    assert_eq!(
        text("docs/picture.svg"),
        text("docs/src/studies/s1.svg"),
        "python3 docs/picture.py writes both"
    );
}

#[test]
#[ignore = "writes results and reports of the committed studies anew, after a change of what is computed or shown"]
fn write_the_committed_studies() {
    let committed = std::fs::read_dir(root().join("results")).unwrap().map(|e| e.unwrap().path());
    for folder in committed.chain([root().join("study/tests/small")]) {
        if folder.join("registration.json").exists() {
            study::recompute(&folder).unwrap().write(&folder).unwrap();
        }
    }
}
