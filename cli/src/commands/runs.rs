//! `compare list|items|rm`: the runs that a store has.

use std::collections::BTreeMap;

use ::compare::Comparison;
use ::compare::runs::{Answer, Run};
use ::compare::scores::{Item, Kind as ItemKind};
use clap::Args;
use registry::Store;
use registry::names::nearest;
use serde_json::{Value, json};

use crate::args::RunName;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};

#[derive(Debug, Args)]
pub(crate) struct ItemsArgs {
    #[command(flatten)]
    pub(crate) run: RunName,
    /// Only this arm
    #[arg(short, long)]
    pub(crate) arm: Option<String>,
    /// Only about this adapter: a behaviour, or the beginning of some
    #[arg(long, value_name = "BEHAVIOUR")]
    pub(crate) adapter: Option<String>,
    /// Only of this split
    #[arg(long)]
    pub(crate) split: Option<String>,
    /// Only where the right answer does not come first
    #[arg(short, long)]
    pub(crate) wrong: bool,
    /// First N only; 0 for all
    #[arg(short = 'n', long, default_value_t = 50)]
    pub(crate) limit: usize,
}

/// The store's runs, the newest last.
fn all(store: &Store) -> Result<Vec<Run>> {
    Ok(::compare::runs::all(store.root())?)
}

/// Their names, the newest last.
pub(super) fn names(store: &Store) -> Result<Vec<String>> {
    Ok(all(store)?.into_iter().map(|run| run.name).collect())
}

/// The run of that name, or the newest.
pub(super) fn find(store: &Store, run: Option<&str>) -> Result<Run> {
    ::compare::runs::find(store.root(), run)?
        .map_err(|e| CommandError::new(Kind::NotFound, e.to_string()).hint(e.hint()))
}

fn read(run: &Run) -> Result<Comparison> {
    run.comparison().map_err(|e| CommandError::new(Kind::Environment, e))
}

pub(super) fn list(context: &Context<'_>) -> Result {
    let store = context.existing_store()?;
    let mut runs = all(&store)?;
    runs.reverse();
    let mut items = Vec::new();
    for run in &runs {
        // One that cannot be read is listed all the same: it may be removed.
        items.push((run, run.made.to_string(), read(run).map_err(|e| e.message)));
    }
    // Those that arms were held to: not those that readers were trained or chosen on.
    let adapters = |c: &Comparison| {
        let mut most: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for r in c.results.iter().filter(|r| r.split.starts_with("test")) {
            let n = most.entry((&r.family, &r.split)).or_default();
            *n = r.n.max(*n);
        }
        most.values().sum::<usize>()
    };
    if context.global.json {
        let list: Vec<Value> = items
            .iter()
            .map(|(run, made, read)| match read {
                Ok(c) => json!({"run": run.name, "made": made, "model": c.model, "smoke": c.smoke,
                    "arms": c.arms.iter().map(|a| &a.arm).collect::<Vec<_>>(), "adapters": adapters(c), "warnings": c.warnings}),
                Err(e) => json!({"run": run.name, "made": made, "unreadable": e}),
            })
            .collect();
        return print_json(&json!({"schema": "compare-list/1", "runs": list}));
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|(run, made, read)| {
            let made = made.get(..16).unwrap_or_default().replace('T', " ");
            match read {
                Ok(c) => {
                    let remark =
                        if c.smoke { "smoke run: its numbers mean nothing".into() } else { c.model.clone() };
                    vec![run.name.clone(), made, c.arms.len().to_string(), adapters(c).to_string(), remark]
                }
                Err(e) => vec![run.name.clone(), made, "–".into(), "–".into(), e.clone()],
            }
        })
        .collect();
    print(&table(&["run", "made", ">arms", ">adapters", "model"], &rows))?;
    context.say(&format!("{}; lorafab compare show RUN", count(rows.len(), "run")));
    Ok(())
}

/// An answer's fields.
fn json_of(answer: &Answer<'_>) -> Value {
    let Item { adapter, carries, context, split, family, question_id, label, reply, answer_nats, .. } =
        answer.item;
    json!({"arm": answer.scores.arm, "seed": answer.scores.seed, "adapter": adapter, "carries": carries, "context": context,
        "split": split, "family": family, "question": question_id, "label": label, "first": answer.first, "place": answer.place,
        "right": answer.right(), "reply": reply, "answer_nats": answer_nats})
}

pub(super) fn items(context: &Context<'_>, args: &ItemsArgs) -> Result {
    let store = context.existing_store()?;
    let run = find(&store, args.run.name())?;
    let all = run.scores().map_err(|e| CommandError::new(Kind::Environment, e))?;
    if let Some(arm) = &args.arm
        && !all.iter().any(|s| s.arm == *arm)
    {
        let names: std::collections::BTreeSet<&str> = all.iter().map(|s| s.arm.as_str()).collect();
        let near = nearest(arm, names.iter().copied(), 1);
        let meant = near.first().map_or(String::new(), |n| format!("did you mean {n}? "));
        let hint = format!("{meant}arms here: {}", names.into_iter().collect::<Vec<_>>().join(", "));
        return Err(
            CommandError::new(Kind::NotFound, format!("run {:?} has no arm {arm:?}", run.name)).hint(hint)
        );
    }
    let wanted = |option: &Option<String>, value: &str| option.as_deref().is_none_or(|o| o == value);
    let found: Vec<Answer<'_>> = all
        .iter()
        .filter(|s| wanted(&args.arm, &s.arm))
        .flat_map(|s| s.items.iter().map(move |item| Answer::of(s, item)))
        .filter(|a| wanted(&args.split, &a.item.split))
        .filter(|a| args.adapter.as_ref().is_none_or(|start| a.item.adapter.starts_with(start.as_str())))
        .filter(|a| !(args.wrong && a.right()))
        .collect();
    let shown = if args.limit == 0 { found.len() } else { args.limit.min(found.len()) };
    if context.global.json {
        let items: Vec<Value> = found[..shown].iter().map(json_of).collect();
        return print_json(
            &json!({"schema": "compare-items/1", "run": run.name, "total": found.len(), "items": items}),
        );
    }
    let rows: Vec<Vec<String>> = found[..shown]
        .iter()
        .map(|a| {
            let subject = match a.scores.kind(a.item) {
                ItemKind::Base => "(no adapter)".to_owned(),
                _ => a.item.adapter.clone(),
            };
            vec![
                a.scores.arm.clone(),
                a.scores.seed.to_string(),
                subject,
                a.item.split.clone(),
                a.item.question_id.to_string(),
                a.item.label.clone(),
                a.first.unwrap_or("–").to_owned(),
                a.place.map_or("–".into(), |p| p.to_string()),
                a.item.reply.clone().unwrap_or("–".into()).replace('\n', " "),
            ]
        })
        .collect();
    print(&table(
        &["arm", ">seed", "adapter", "split", ">question", "label", "first", ">place", "says"],
        &rows,
    ))?;
    context.say("first, place: by the scores as they are, before the corrections that the report applies");
    let more = if shown < found.len() { "; all with -n 0" } else { "" };
    context.say(&format!("{shown} of {}{more}", count(found.len(), "answer")));
    Ok(())
}

pub(super) fn rm(context: &Context<'_>, name: Option<&str>, dry_run: bool) -> Result {
    let mut store = context.existing_store()?;
    let Some(name) = name else {
        return Err(CommandError::new(Kind::Usage, "name the run that is to go")
            .hint("list them with: lorafab compare list"));
    };
    registry::check_name(name)?;
    let run = find(&store, Some(name))?;
    if !dry_run {
        store.remove_run(&run.name)?;
    }
    if context.global.json {
        return print_json(&json!({"schema": "compare-rm/1", "run": run.name, "dry_run": dry_run}));
    }
    print(&format!("{} {}", if dry_run { "would be removed:" } else { "removed:" }, run.folder.display()))
}
