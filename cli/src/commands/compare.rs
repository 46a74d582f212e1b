//! `compare run|report`.

use std::io::IsTerminal;
use std::path::Path;

use compare::{
    Comparison, Reader, Readers, RunInputs, Supervision, assemble, score_items, to_csv, to_html, to_json,
    to_terminal,
};
use oracle_posttrain::Collector;
use registry::{Store, write_atomic};

use super::readers::{find, supervision};
use crate::args::CompareCommand;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

pub(crate) fn run(context: &Context<'_>, command: &CompareCommand) -> Result {
    let store = context.store()?;
    match command {
        CompareCommand::Run { run, seed } => {
            let base = context.base()?;
            let s = supervision(&store, &base, &[], None, false, *seed)?;
            let found: Vec<Reader> = ["dit", "oracle-pretrained", "oracle-scratch", "oracle-posttrained"]
                .iter()
                .filter_map(|family| find(&store, &base, None, &[family]).ok())
                .collect();
            let comparison =
                score(context, &store, &s, &found.iter().collect::<Vec<_>>(), run, false, *seed)?;
            if context.global.json {
                print_json(&to_json(&comparison))
            } else {
                print(&to_terminal(&comparison))
            }
        }
        CompareCommand::Report { run, csv, html } => {
            let path = store
                .root()
                .join("runs")
                .join(Path::new(run).file_name().unwrap_or_default())
                .join("comparison.json");
            if !path.exists() {
                return Err(CommandError::new(
                    Kind::NotFound,
                    format!("no comparison {run:?} in {}", store.root().display()),
                )
                .hint("make one with: lorafab quickstart, or lorafab compare run"));
            }
            let comparison: Comparison = serde_json::from_str(&fs_err::read_to_string(&path)?)
                .map_err(|e| CommandError::new(Kind::Environment, format!("{}: {e}", path.display())))?;
            if let Some(file) = html {
                write_atomic(file, to_html(&comparison).as_bytes())?;
                return print(&file.display().to_string());
            }
            if *csv {
                print(&to_csv(&comparison))
            } else if context.global.json {
                print_json(&to_json(&comparison))
            } else {
                print(&to_terminal(&comparison))
            }
        }
    }
}

/// Scores the readers and files the run: `config.json`, `items.jsonl`, `comparison.json`, `report.html`.
pub(crate) fn score(
    context: &Context<'_>,
    store: &Store,
    s: &Supervision<'_>,
    readers: &[&Reader],
    run: &str,
    smoke: bool,
    seed: u64,
) -> Result<Comparison> {
    let folder = store.run_dir(run)?;
    let of = |arm: compare::Arm| readers.iter().find(|r| r.budget.arm == arm).map(|r| &r.adapter);
    let episodes = s.test();
    if episodes.is_empty() {
        return Err(CommandError::new(Kind::NotFound, "the store has no held-out adapters to test on")
            .hint("make some with: lorafab factory submit topic; lorafab factory run"));
    }
    let statuses =
        s.records.iter().map(|(k, r)| (k.clone(), r.field("status").unwrap_or_default())).collect();
    let collector = Collector::standard(s.base);
    let inputs = RunInputs {
        base: s.base,
        collector: &collector,
        diffs: &s.diffs,
        statuses: &statuses,
        episodes: &episodes,
        readers: Readers {
            dit: of(compare::Arm::Dit),
            oracle_pretrained: of(compare::Arm::OraclePretrained),
            oracle_posttrained: of(compare::Arm::OraclePosttrained),
            oracle_scratch: of(compare::Arm::OracleScratch),
        },
        seed,
    };
    let items = score_items(inputs, &mut |arm| {
        context.say(&format!("asking {} {} test questions under each control", arm.name(), episodes.len()));
    })?;
    let model = format!("{} ({:?})", s.base.name, s.base.decoder.precision());
    let comparison = assemble(run, model, jiff::Timestamp::now().to_string(), smoke, s, readers, &items);
    let config = serde_json::json!({
        "schema": "run/1", "run": run, "seed": seed, "smoke": smoke, "base": s.base.digest(), "collector": collector,
        "readers": readers.iter().map(|r| &r.record.id).collect::<Vec<_>>(), "episodes": s.episodes,
        "adapters": s.records.values().map(|r| (&r.behaviour, &r.id)).collect::<std::collections::BTreeMap<_, _>>(),
    });
    let lines: Vec<String> = items.iter().map(|i| serde_json::to_string(i).unwrap_or_default()).collect();
    write_atomic(&folder.join("config.json"), config.to_string().as_bytes())?;
    write_atomic(&folder.join("items.jsonl"), lines.join("\n").as_bytes())?;
    write_atomic(&folder.join("report.html"), to_html(&comparison).as_bytes())?;
    write_atomic(&folder.join("comparison.json"), to_json(&comparison).to_string().as_bytes())?;
    if std::io::stderr().is_terminal() {
        context.say(&format!("the same with pictures: {}", folder.join("report.html").display()));
    }
    Ok(comparison)
}
