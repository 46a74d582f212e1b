//! `recipe gates`: what the adapters of a store's families learned, as a table by family and as rows by adapter.

use std::path::PathBuf;

use clap::Args;
use factory::acquired::{Acquired, FIGURES, Summary, acquired, summaries};
use recipes::{Recipe, Split, builtin};
use serde_json::{Value, json};

use super::recipe::load;
use crate::args::at_least_one;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, table, write_out};
use crate::progress::StatusLine;

#[derive(Debug, Args)]
#[command(
    after_help = "learned: passed the gate. on: share of replies with the behaviour where it should show; floor: without the adapter; ceiling: of the base model, told in a system prompt;\nlift: (on - floor) / (ceiling - floor), where the ceiling is at least .1 above the floor; near, off: with the adapter after a near miss of the trigger, and where it has no place; nats: rise of the label's log-probability at neutral, readers' and factual\nquestions, the largest; damage: nats a token on the base model's replies where the behaviour has no place; s: seconds of making one, its share of a pack, and below the table by phase."
)]
pub(crate) struct GatesArgs {
    /// Recipes: built-in names or files; none: all built-in ones
    recipes: Vec<String>,
    /// Most adapters of a family
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = at_least_one)]
    most: usize,
    /// Splits that are looked at; a test is not, unless it is named
    #[arg(long, value_delimiter = ',', default_value = "train,validation", value_name = "SPLIT,...")]
    split: Vec<String>,
    /// Write a row for each adapter to this file (CSV)
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

pub(super) fn run(context: &Context<'_>, args: &GatesArgs) -> Result {
    let recipes: Vec<Recipe> = if args.recipes.is_empty() {
        builtin()
    } else {
        args.recipes.iter().map(|r| load(r)).collect::<Result<_>>()?
    };
    let known = |name: &String| {
        Split::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let names = Split::ALL.map(Split::name).join(", ");
            CommandError::new(Kind::Usage, format!("--split: {name:?} is none of {names}"))
        })
    };
    let splits = args.split.iter().map(known).collect::<Result<_>>()?;
    let store = context.existing_store()?;
    let base = context.base()?;
    let mut line = StatusLine::new(context.global.quiet);
    let found = acquired(&store, &base, &recipes, &splits, args.most, &mut |what| {
        line.show(|| what.to_owned());
    })?;
    line.clear();
    drop(line);
    if found.is_empty() {
        return Err(CommandError::new(
            Kind::NotFound,
            "no adapter of these families and splits was made for this base model",
        )
        .hint("make some: lorafab factory submit FAMILY --splits 5,2,0,0 && lorafab factory run"));
    }
    if let Some(file) = &args.csv {
        write_out(file, rows(&found).as_bytes())?;
    }
    let all = summaries(&found);
    if context.global.json {
        let of = |s: &Summary| {
            let means = FIGURES.iter().zip(s.means).map(|(name, v)| ((*name).to_owned(), json!(v)));
            let mut out: serde_json::Map<String, Value> = means.collect();
            out.extend([
                ("family".to_owned(), json!(s.family)),
                ("tried".to_owned(), json!(s.tried)),
                ("learned".to_owned(), json!(s.learned)),
            ]);
            Value::Object(out)
        };
        return print_json(&json!({"schema": "recipe-gates/1", "base": base.placeless_name(),
            "families": all.iter().map(of).collect::<Vec<_>>()}));
    }
    print(&format!("{}{}", shown(&all), phases(&found)))
}

/// How far the adapters go from what the base model does to what it does when told; where being told changes little there is no such scale.
fn lift(s: &Summary) -> String {
    const LEAST: f64 = 0.1;
    let [_, on, floor, ceiling, ..] = s.means;
    match (on, floor, ceiling) {
        (Some(on), Some(floor), Some(ceiling)) if ceiling - floor >= LEAST => {
            format!("{:.2}", (on - floor) / (ceiling - floor))
        }
        (_, _, None) => "–".to_owned(),
        _ => "low".to_owned(),
    }
}

/// Where a figure stands.
fn at(name: &str) -> usize {
    FIGURES.iter().position(|f| *f == name).expect("invariant: a figure")
}

/// Where the time goes: over the adapters of which it was measured.
fn phases(found: &[Acquired]) -> String {
    let of = |a: &Acquired, name: &str| a.figures[at(name)];
    let measured: Vec<[f64; 3]> = found
        .iter()
        .filter_map(|a| Some([of(a, "seconds")?, of(a, "rows_seconds")?, of(a, "gate_seconds")?]))
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let n = measured.len();
    let [all, rows, gate] = [0, 1, 2].map(|i| measured.iter().map(|m| m[i]).sum::<f64>() / n as f64);
    let training = all - rows - gate;
    format!(
        "\n{:.0} adapters an hour over these {n}: {all:.1} seconds each, {rows:.1} of them rows, {training:.1} training, {gate:.1} gate.\n",
        3600.0 / all
    )
}

fn shown(all: &[Summary]) -> String {
    let of = |s: &Summary| {
        let figure = |name: &str| s.means[at(name)].map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"));
        let nats = ["leak_neutral_nats", "leak_question_nats", "leak_factual_nats"];
        let most = nats.iter().filter_map(|n| s.means[at(n)]).reduce(f64::max);
        let seconds = s.means[at("seconds")].map_or_else(|| "–".to_owned(), |v| format!("{v:.0}"));
        vec![
            s.family.clone(),
            format!("{} of {}", s.learned, s.tried),
            figure("gate_on"),
            figure("gate_floor"),
            figure("ceiling"),
            lift(s),
            figure("gate_near"),
            figure("gate_off"),
            most.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}")),
            figure("damage"),
            seconds,
        ]
    };
    let head = ["family", "learned", "on", "floor", "ceiling", "lift", "near", "off", "nats", "damage", "s"];
    table(&head, &all.iter().map(of).collect::<Vec<_>>())
}

/// A row for each adapter.
fn rows(found: &[Acquired]) -> String {
    let mut out = csv::Writer::from_writer(vec![]);
    let mut write = |row: Vec<String>| {
        out.write_record(&row).expect("invariant: memory takes all, and rows are as long");
    };
    write(
        ["family", "value", "split", "rank", "status"]
            .into_iter()
            .chain(FIGURES)
            .map(str::to_owned)
            .collect(),
    );
    for a in found {
        let status = serde_json::to_value(a.status).unwrap_or_default();
        let head = [&a.family, &a.value, &a.split].map(Clone::clone).into_iter();
        let about = head.chain([a.rank.to_string(), status.as_str().unwrap_or_default().to_owned()]);
        let figures =
            a.figures.iter().map(|v| v.map_or_else(String::new, |v| ((v * 1e6).round() / 1e6).to_string()));
        write(about.chain(figures).collect());
    }
    String::from_utf8(out.into_inner().expect("invariant: memory takes all"))
        .expect("invariant: text was written")
}
