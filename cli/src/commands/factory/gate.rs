//! `factory gate`: an adapter from elsewhere put through a recipe's gate.

use clap::Args;
use factory::gate::{Floors, GATE_FILE, GateItem, GateResult, Side, gate};
use recipes::{Behaviour, Polarity, Recipe};
use registry::{AdapterRecord, Evaluation, Filter, Role, Status, Store};
use serde_json::json;

use super::super::readers::{made_at_precision, say_precisions};
use super::super::recipe;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, table};
use crate::progress::beside;

#[derive(Debug, Args)]
#[command(
    after_help = "The result is filed with an adapter that had none: its status, the metrics gate_on, gate_floor, gate_near, gate_off, and all replies.\nOne that was gated when it was made keeps that. Exit code 1: it failed."
)]
pub(crate) struct GateArgs {
    /// Id, alias or behaviour
    pub(crate) adapter: String,
    /// Recipe whose gate it is: a built-in name, or a file
    #[arg(long)]
    pub(crate) recipe: String,
    /// Value that it is to show; what it is filed under if that is of the recipe's family
    #[arg(long)]
    pub(crate) value: Option<String>,
    /// Its trigger word, if the family is gated; the one that it is filed with
    #[arg(long)]
    pub(crate) trigger: Option<String>,
}

pub(super) fn run(context: &Context<'_>, args: &GateArgs) -> Result {
    let recipe = recipe::load(&args.recipe)?;
    let mut store = context.existing_store()?;
    let record = store.adapter(&args.adapter).map_err(|e| {
        let error = CommandError::from(e);
        let folder = std::path::Path::new(&args.adapter).is_dir();
        if folder {
            error.hint(format!("take it in first: lorafab adapter import {}", args.adapter))
        } else {
            error
        }
    })?;
    // All that can be wrong is said before a model is loaded.
    let behaviour = behaviour(&record, &recipe, args)?;
    made_at_precision(&context.outline()?, &record)?;
    let base = context.base()?;
    say_precisions(context, base.precision, [made_at_precision(&base, &record)?]);
    let adapter = factory::load_adapter(&store, &base, &record)?;
    let prompts = behaviour.gate.on.len() + behaviour.gate.near.len() + behaviour.gate.off.len();
    context.say(&format!("{prompts} replies with the adapter, and without it"));
    let found = beside(context.global.quiet, "gating", || {
        gate(&base, &[(&behaviour, &adapter)], &mut Floors::default())
    })?
    .remove(0);
    let ceiling = ceiling(&store, &base.digest(), &recipe.name)?;
    let fresh = record.status == Status::Untested || record.evaluations.contains_key(GATE_FILE);
    if fresh {
        let by = format!("{} {}", recipe.name, recipe.version);
        store.evaluate(
            &record.id,
            &Evaluation {
                name: GATE_FILE,
                document: &found.document(&behaviour),
                status: found.status,
                metrics: &found.metrics(),
                tags: &[("gated_by", Some(&by)), ("gate_value", Some(&behaviour.value))],
            },
        )?;
    }
    show(context, &record, &behaviour, &found, ceiling, fresh)?;
    if found.status == Status::Failed {
        return Err(CommandError::new(
            Kind::Negative,
            format!("{} does not pass the gate of {}", record.behaviour, recipe.name),
        ));
    }
    Ok(())
}

/// What the adapter is to show.
fn behaviour(record: &AdapterRecord, recipe: &Recipe, args: &GateArgs) -> Result<Behaviour> {
    let wrong = |what: String, hint: &str| Err(CommandError::new(Kind::Usage, what).hint(hint));
    if record.role != Role::WeightDiff {
        return wrong(
            format!("{} is a reader, which has no behaviour to gate", record.behaviour),
            "name an adapter",
        );
    }
    if recipe.polarity == Polarity::Negative {
        return wrong(
            format!(
                "the recipe {:?} is of adapters that carry nothing: there is nothing to gate",
                recipe.name
            ),
            "recipes: lorafab recipe list",
        );
    }
    let own = Some(&record.value).filter(|_| record.family == recipe.name);
    // What an earlier gate asked for, if that was this recipe's.
    let of_this = |by: &&String| by.split(' ').next() == Some(recipe.name.as_str());
    let before = record.tags.get("gated_by").filter(of_this).and_then(|_| record.tags.get("gate_value"));
    let Some(value) = args.value.as_ref().or(own).or(before) else {
        return wrong(
            format!("{}: which value of {} is it to show?", record.behaviour, recipe.name),
            "pass --value",
        );
    };
    let recipe = recipe.with_value(value)?;
    let trigger = args.trigger.as_ref().or(record.tags.get("trigger").filter(|_| recipe.trigger.is_some()));
    if recipe.trigger.is_some() && trigger.is_none() {
        return wrong(format!("the recipe {:?} is gated: by which word?", recipe.name), "pass --trigger");
    }
    Ok(recipe.behaviour_of(value, trigger.map(String::as_str), 1)?)
}

/// The largest share among the factory's own adapters of the family, and of how many.
fn ceiling(store: &Store, base: &str, family: &str) -> Result<Option<(f64, usize)>> {
    let mut made = store.adapters(&Filter::all().equals("family", family))?;
    made.retain(|r| r.evaluations.is_empty() && r.lineage.get("base").is_some_and(|b| b == base));
    let on: Vec<f64> = made.iter().filter_map(|r| r.metrics.get("gate_on").copied()).collect();
    Ok(on.iter().copied().reduce(f64::max).map(|most| (most, on.len())))
}

fn show(
    context: &Context<'_>,
    record: &AdapterRecord,
    behaviour: &Behaviour,
    found: &GateResult,
    ceiling: Option<(f64, usize)>,
    filed: bool,
) -> Result {
    if context.global.json {
        return print_json(
            &json!({"schema": "factory-gate/1", "adapter": record.id, "behaviour": record.behaviour,
            "family": behaviour.family, "value": behaviour.value, "filed": filed,
            "ceiling": ceiling.map(|(share, of)| json!({"share": share, "adapters": of})), "gate": found.document(behaviour)}),
        );
    }
    let named = |side: Side| match side {
        Side::On => "on",
        Side::Near => "near",
        Side::Off => "off",
    };
    let rows: Vec<Vec<String>> = found
        .items
        .iter()
        .map(|GateItem { context, prompt, reply, base_reply, hit }| {
            let mark = if *hit { "yes" } else { "no" };
            let line = |text: &str| short(&text.split_whitespace().collect::<Vec<_>>().join(" "));
            let base = base_reply.as_deref().map_or_else(|| "–".into(), line);
            vec![named(*context).into(), mark.into(), line(prompt), line(reply), base]
        })
        .collect();
    let share = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), |x| format!("{x:.2}"));
    let ceiling = ceiling.map_or_else(
        || "ceiling – (no adapter of the family is here)".to_owned(),
        |(share, n)| format!("ceiling {share:.2} (best of {n} of the family)"),
    );
    let mut lines = vec![
        table(&["side", "hit", "prompt", "reply", "without the adapter"], &rows),
        format!(
            "on {:.2}, near {}, off {}\nfloor {:.2} (without the adapter), {ceiling}",
            found.on,
            share(found.near),
            share(found.off),
            found.floor
        ),
    ];
    if let Some(nats) = &found.nats {
        let all: Vec<String> = nats.metrics().map(|(name, v)| format!("{name} {v:.2}")).collect();
        lines.push(all.join(", "));
    }
    let status = serde_json::to_value(found.status).unwrap_or_default();
    lines.push(format!("{} on {}: {}", record.behaviour, behaviour.id, status.as_str().unwrap_or_default()));
    print(&lines.join("\n"))?;
    if filed {
        context.say(&format!("filed with it; see it with: lorafab adapter show {}", record.behaviour));
    } else {
        context.say("not filed: it was gated when it was made, and keeps that");
    }
    Ok(())
}

/// A cell of a table of which three fit beside each other into 80 columns.
fn short(text: &str) -> String {
    const MOST: usize = 20;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", text[..at].trim_end()),
    }
}
