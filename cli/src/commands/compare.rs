//! `compare run|report`.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use compare::{
    Comparison, Reader, Readers, RunInputs, Supervision, assemble, same_supervision, score_items, to_csv,
    to_html, to_json, to_terminal,
};
use registry::{Store, write_atomic};

use super::readers::{find, supervision};
use crate::args::CompareCommand;
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

pub(crate) fn run(context: &Context<'_>, command: &CompareCommand) -> Result {
    let mut store = context.existing_store()?;
    match command {
        CompareCommand::Run { run, seed } => {
            watch_signals();
            let base = context.base()?;
            let s = supervision(&store, &base, &[], None, false, *seed)?;
            let mut found: Vec<Reader> = Vec::new();
            for family in ["dit", "oracle-posttrained", "oracle-pretrained", "oracle-scratch"] {
                // The pretrained arm is what the post-trained one was made from.
                let parent = found
                    .iter()
                    .find(|r| family == "oracle-pretrained" && r.record.family == "oracle-posttrained")
                    .and_then(|r| r.record.parents.first());
                match find(&store, &base, parent.map(String::as_str), &[family]) {
                    Ok(reader) => found.push(reader),
                    Err(e) if e.kind == Kind::NotFound => {
                        context.say(&format!("no {family} in the store: that arm is left out"));
                    }
                    Err(e) => return Err(e),
                }
            }
            if !same_supervision(&found.iter().collect::<Vec<_>>()) {
                context.say("warning: these readers were trained on different episodes or seeds, so their arms are not comparable; train them again on the store as it is");
            }
            let comparison =
                score(context, &mut store, &s, &found.iter().collect::<Vec<_>>(), run, false, *seed, &STOP)?;
            if context.global.json {
                print_json(&to_json(&comparison))
            } else {
                print(&to_terminal(&comparison))
            }
        }
        CompareCommand::Report { run, csv, html } => {
            let comparison = filed(&store, run.as_deref())?;
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

/// A reader by its id.
pub(crate) fn from_record(store: &Store, base: &lm::BaseModel, id: &str) -> Result<Reader> {
    Ok(compare::readers::from_record(store, base, store.adapter(id)?)?)
}

/// A run's comparison, as filed.
pub(crate) fn filed(store: &Store, run: Option<&str>) -> Result<Comparison> {
    let path = report_of(store, run)?;
    serde_json::from_str(&fs_err::read_to_string(&path)?)
        .map_err(|e| CommandError::new(Kind::Environment, format!("{}: {e}", path.display())))
}

/// The file of a run's comparison: the one named, or the newest.
fn report_of(store: &Store, run: Option<&str>) -> Result<PathBuf> {
    let mut known: Vec<(std::time::SystemTime, String, PathBuf)> = Vec::new();
    for entry in fs_err::read_dir(store.root().join("runs"))? {
        let entry = entry?;
        let path = entry.path().join("comparison.json");
        if let Ok(meta) = fs_err::metadata(&path) {
            known.push((meta.modified()?, entry.file_name().to_string_lossy().into_owned(), path));
        }
    }
    known.sort();
    let names: Vec<&str> = known.iter().map(|(_, name, _)| name.as_str()).collect();
    let missing = |what: String| {
        let hint = if names.is_empty() {
            "make one with: lorafab quickstart, or lorafab compare run".to_owned()
        } else {
            format!("there are {}", names.join(", "))
        };
        CommandError::new(Kind::NotFound, format!("{what} in {}", store.root().display())).hint(hint)
    };
    let chosen = match run {
        Some(run) => known
            .iter()
            .find(|(_, name, _)| name == run)
            .ok_or_else(|| missing(format!("no comparison {run:?}"))),
        None => known.last().ok_or_else(|| missing("no comparison".into())),
    };
    chosen.map(|(_, _, path)| path.clone())
}

/// Scores the readers and files the run: `config.json`, `items.jsonl`, `comparison.json`, `report.html`.
pub(crate) fn score(
    context: &Context<'_>,
    store: &mut Store,
    s: &Supervision<'_>,
    readers: &[&Reader],
    run: &str,
    smoke: bool,
    seed: u64,
    stop: &AtomicBool,
) -> Result<Comparison> {
    let folder = store.run_dir(run)?;
    let of = |arm: compare::Arm| readers.iter().find(|r| r.budget.arm == arm);
    let oracle = |arm: compare::Arm| of(arm).map(|r| r.oracle()).transpose();
    // A pretrained oracle was adjusted to system prompts. Diffs are another population; it looks at them through the lens
    // of its post-trained successor, which knows their moments and none of their labels.
    let mut pretrained = oracle(compare::Arm::OraclePretrained)?;
    let mut looked = None;
    if let Some(own) = &mut pretrained {
        let next = oracle(compare::Arm::OraclePosttrained)?;
        if let Some(next) = next.filter(|next| next.lens.collector == own.lens.collector) {
            own.lens = next.lens;
            looked = Some(
                "oracle-pretrained looks at diffs through moments of the training diffs (no labels); collecting those is in no budget of its own.",
            );
        } else {
            looked = Some(
                "oracle-pretrained looks at diffs through moments of system prompts: without a post-trained oracle there are none of diffs.",
            );
        }
    }
    let episodes = s.test();
    if episodes.is_empty() {
        return Err(CommandError::new(Kind::NotFound, "the store has no held-out adapters to test on")
            .hint("make some with: lorafab factory submit topic; lorafab factory run"));
    }
    let statuses =
        s.records.iter().map(|(k, r)| (k.clone(), r.field("status").unwrap_or_default())).collect();
    let inputs = RunInputs {
        base: s.base,
        diffs: &s.diffs,
        statuses: &statuses,
        episodes: &episodes,
        readers: Readers {
            dit: of(compare::Arm::Dit).map(|r| &r.adapter),
            oracle_pretrained: pretrained,
            oracle_posttrained: oracle(compare::Arm::OraclePosttrained)?,
            oracle_scratch: oracle(compare::Arm::OracleScratch)?,
        },
        seed,
        stop,
    };
    let items = score_items(inputs, &mut |arm| {
        context.say(&format!("asking {} {} test questions under each control", arm.name(), episodes.len()));
    })
    .map_err(compare::readers::Error::from)?;
    let model = format!("{} ({:?})", s.base.name, s.base.decoder.precision());
    let asked: BTreeSet<&String> =
        episodes.iter().filter_map(|e| s.records.get(&e.behaviour)).map(|r| &r.id).collect();
    let config = serde_json::json!({
        "schema": "run/2", "run": run, "seed": seed, "smoke": smoke, "base": s.base.digest(), "collectors": readers.iter().filter_map(|r| Some((r.budget.arm, &r.lens.as_ref()?.collector))).collect::<std::collections::BTreeMap<_, _>>(),
        "readers": readers.iter().map(|r| &r.record.id).collect::<Vec<_>>(), "asked": asked, "episodes": s.episodes,
        "adapters": s.records.values().map(|r| (&r.behaviour, &r.id)).collect::<std::collections::BTreeMap<_, _>>(),
    });
    let lines: Vec<String> = items.iter().map(|i| serde_json::to_string(i).unwrap_or_default()).collect();
    store.file_run(run, &config)?;
    write_atomic(&folder.join("items.jsonl"), lines.join("\n").as_bytes())?;
    let mut comparison = assemble(run, model, jiff::Timestamp::now().to_string(), smoke, s, readers, &items);
    if let Some(looked) = looked {
        comparison.notes.push(looked.to_owned());
    }
    write_atomic(&folder.join("report.html"), to_html(&comparison).as_bytes())?;
    write_atomic(&folder.join("comparison.json"), to_json(&comparison).to_string().as_bytes())?;
    if std::io::stderr().is_terminal() {
        context.say(&format!("the same with pictures: {}", folder.join("report.html").display()));
    }
    Ok(comparison)
}
