//! `adapter list`.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use registry::names::nearest;
use registry::row::{self, Row};
use registry::{AdapterRecord, Filter, Listing, Store};
use serde_json::{Value, json};
use serve::facts::time;

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, csv, deliver, print, table};

#[derive(Debug, Args)]
#[command(
    after_help = "Filters:\n  family = topic and gate_on >= 0.5      numbers compare as numbers\n  value in (cats, dogs) or value like 'b*'\n  not (status = failed) and has note     joined by and, or, not; parentheses group\n  created >= 2026-01-31                  times as text\nKeys of filters, --sort, --columns and JSON are the same: columns (id, behaviour, family, value, category, split, role, status, rank, alpha, modules, base, seed, created, bytes, weights, spec_hash), tags (tag.KEY) and metrics.\nBehaviours made again: has sweep (training.rank = 4, tag.seed = 7), trainer = peft, has composition. Readers: without = refusal."
)]
pub(crate) struct ListArgs {
    /// Only this family, or behaviours that begin so, e.g. "topic" or "topic/b"
    #[arg(value_name = "FAMILY")]
    pub(crate) of: Option<String>,
    /// Only this family
    #[arg(short, long)]
    pub(crate) family: Option<String>,
    /// Only this gate status
    #[arg(long, value_parser = ["learned", "weak", "failed", "not_applicable", "untested"])]
    pub(crate) status: Option<String>,
    /// Only this role
    #[arg(long, value_parser = ["weight_diff", "dit_adapter", "oracle"])]
    pub(crate) role: Option<String>,
    /// Only this split
    #[arg(long, value_parser = ["train", "validation", "test_value", "test_category"])]
    pub(crate) split: Option<String>,
    /// Only with this tag, e.g. "reviewed=yes", or "reviewed" with any value
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) tag: Vec<String>,
    /// Condition over columns, tags and metrics, e.g. "value in (cats, dogs) and gate_on >= 0.5"
    #[arg(short = 'w', long = "where", visible_alias = "filter", value_name = "EXPR")]
    pub(crate) conditions: Vec<String>,
    /// Sort by these fields, comma-separated; "-" before one for descending, e.g. "-gate_on,value" or "-created"
    #[arg(short, long, visible_alias = "sort-by", value_delimiter = ',', allow_hyphen_values = true)]
    pub(crate) sort: Vec<String>,
    /// Show these fields instead, comma-separated
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// First N only; 0 for all (a terminal shows 50 without it)
    #[arg(short = 'n', long)]
    pub(crate) limit: Option<usize>,
    /// All, on a terminal too
    #[arg(short, long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// JSON lines: one object a line, of all fields or those of --columns
    #[arg(long, conflicts_with_all = ["csv", "json"])]
    pub(crate) jsonl: bool,
    /// Write the answer to this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Adapters that a terminal shows if nobody says how many.
const PAGE: usize = 50;

/// What a table shows, and how its columns are headed.
const STANDARD: [(&str, &str); 9] = [
    ("id", "id"),
    ("behaviour", "behaviour"),
    ("split", "split"),
    ("status", "status"),
    ("rank", ">rank"),
    ("gate_on", ">on"),
    ("gate_near", ">near"),
    ("gate_off", ">off"),
    ("created", "created"),
];

pub(super) fn run(context: &Context<'_>, args: &ListArgs) -> Result {
    let store = context.existing_store()?;
    let filter = filter(&store, args)?;
    let sort: Vec<(String, bool)> = args.sort.iter().map(|s| row::sorted_by(s)).collect();
    let asked = sort.iter().map(|(key, _)| key).chain(&args.columns).map(String::as_str);
    check_keys(&store, &filter, asked, args.family.as_deref())?;
    let people = !(context.global.json || args.jsonl || args.csv);
    let paged = people && args.output.is_none() && std::io::stdout().is_terminal();
    let limit = match args.limit {
        Some(0) => None,
        Some(n) => Some(n),
        None => (paged && !args.all).then_some(PAGE),
    };
    let standard: Vec<&str> = STANDARD.iter().map(|(key, _)| *key).collect();
    let columns: Vec<&str> =
        if args.columns.is_empty() { standard } else { args.columns.iter().map(String::as_str).collect() };
    // JSON has everything, and needs to know which fields are tags.
    let keys = if context.global.json || args.jsonl { &[][..] } else { &columns };
    let page = store.page(&filter, &Listing { sort, limit, natural: true }, keys)?;
    let file = args.output.as_deref();
    if context.global.json {
        let chosen = (!args.columns.is_empty()).then_some(&columns[..]);
        let items: Vec<Value> = page.rows.iter().map(|r| row::object(r, chosen)).collect();
        let answer = json!({"schema": "adapter-list/1", "total": page.total, "adapters": items});
        return deliver(file, &serde_json::to_string_pretty(&answer).unwrap_or_default());
    }
    if args.jsonl {
        let chosen = (!args.columns.is_empty()).then_some(&columns[..]);
        let lines: Vec<String> = page.rows.iter().map(|r| row::object(r, chosen).to_string()).collect();
        return deliver(file, &lines.join("\n"));
    }
    if args.csv {
        let head = std::iter::once(columns.iter().map(|c| Cow::from(*c)).collect());
        let cell = |r: &Row, key: &str| Cow::from(r.get(key).cloned().unwrap_or_default());
        let rows = page.rows.iter().map(|r| columns.iter().map(|key| cell(r, key)).collect());
        return deliver(file, &csv(head.chain(rows)));
    }
    let text =
        if args.columns.is_empty() { standard_table(&page.rows) } else { chosen_table(&page.rows, &columns) };
    match file {
        Some(_) => deliver(file, &fence::shown_lines(&text))?,
        None => print(&text)?,
    }
    if page.total == 0
        && let Some(hint) = none_of(&store, &filter)?
    {
        context.say(&hint);
    }
    let more = page.total - page.rows.len();
    context.say(&if more > 0 {
        format!("{} of {}; all with: --all or -n 0", page.rows.len(), count(page.total, "adapter"))
    } else {
        count(page.total, "adapter")
    });
    Ok(())
}

fn filter(store: &Store, args: &ListArgs) -> Result<Filter> {
    let mut filter = Filter::all();
    let quick =
        [("family", &args.family), ("status", &args.status), ("role", &args.role), ("split", &args.split)];
    for (key, value) in quick {
        if let Some(value) = value {
            filter = filter.equals(key, value);
        }
    }
    for tag in &args.tag {
        filter = match tag.split_once('=') {
            Some((key, value)) => filter.equals(&format!("{}{key}", AdapterRecord::TAG), value),
            None => filter.begins(&format!("{}{tag}", AdapterRecord::TAG), ""),
        };
    }
    for condition in &args.conditions {
        filter = filter.and(condition)?;
    }
    let Some(of) = &args.of else { return Ok(filter) };
    let one = |filter: &Filter| -> Result<bool> {
        Ok(store.page(filter, &Listing { limit: Some(1), ..Listing::default() }, &["id"])?.total > 0)
    };
    // A family, else the beginning of a behaviour, else a value.
    let choices = [
        Filter::all().equals("family", of.trim_end_matches('/')),
        Filter::all().begins("behaviour", of),
        Filter::all().equals("value", of),
    ];
    for (choice, with) in choices.iter().zip([
        filter.clone().equals("family", of.trim_end_matches('/')),
        filter.clone().begins("behaviour", of),
        filter.equals("value", of),
    ]) {
        if one(choice)? {
            return Ok(with);
        }
    }
    Err(no_family(store, of)?)
}

/// The error that no adapter is of a family, with the nearest one.
fn no_family(store: &Store, family: &str) -> Result<CommandError> {
    let families = store.field_values("family", 50)?;
    let error = CommandError::new(Kind::NotFound, format!("no adapter is of family {family:?}"));
    if std::path::Path::new(family).exists() {
        return Ok(error.hint(format!(
            "{family} is a file or folder; take an adapter in with: lorafab adapter import {family}; another store is named with --store DIR"
        )));
    }
    let near = nearest(family, families.iter().map(String::as_str), 1);
    let meant = near.first().map_or(String::new(), |n| format!("did you mean {n}? "));
    Ok(error.hint(format!("{meant}families here: {}", families.join(", "))))
}

/// What an empty or odd answer may come from: a family or key that no adapter of the store has, numbers compared with a word.
pub(super) fn check_keys<'a>(
    store: &Store,
    filter: &'a Filter,
    asked: impl Iterator<Item = &'a str>,
    family: Option<&str>,
) -> Result {
    if let Some(family) = family
        && !store.field_values("family", 1000)?.iter().any(|f| f == family)
        && !store.field_names()?.is_empty()
    {
        return Err(no_family(store, family)?);
    }
    Ok(store.check_keys(filter, asked)?)
}

/// Why nothing passes, where a condition asks for a value that no adapter has in that field.
fn none_of(store: &Store, filter: &Filter) -> Result<Option<String>> {
    const SHOWN: usize = 12;
    for (key, value) in filter.asked_for() {
        let known = store.field_values(key, 1000)?;
        if known.is_empty() || known.iter().any(|k| k == value) {
            continue;
        }
        let near = nearest(value, known.iter().map(String::as_str), 1);
        let meant = near.first().map_or(String::new(), |n| format!("did you mean {n}? "));
        let values = known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if known.len() > SHOWN { ", ..." } else { "" };
        return Ok(Some(format!("no adapter has {key} = {value}: {meant}there is {values}{more}")));
    }
    let percent = filter.patterns().iter().any(|p| p.contains('%'));
    Ok(percent.then(|| "in a pattern * stands for any text, and % for itself".to_owned()))
}

fn standard_table(rows: &[Row]) -> String {
    let cell = |row: &Row, key: &str| match (key, row.get(key)) {
        (_, None) => "–".to_owned(),
        ("id", Some(text)) => registry::commit::short(text).to_owned(),
        ("created", Some(text)) => time(text),
        (key, Some(text)) if key.starts_with("gate_") => {
            text.parse::<f64>().map_or_else(|_| text.clone(), |x| format!("{x:.2}"))
        }
        (_, Some(text)) => text.clone(),
    };
    let heads = STANDARD.map(|(_, head)| head);
    let rows: Vec<Vec<String>> =
        rows.iter().map(|r| STANDARD.iter().map(|(key, _)| cell(r, key)).collect()).collect();
    table(&heads, &rows)
}

fn chosen_table(rows: &[Row], columns: &[&str]) -> String {
    let cell = |r: &Row, key: &str| r.get(key).map_or("–".into(), |v| v.replace('\n', " "));
    let rows: Vec<Vec<String>> =
        rows.iter().map(|r| columns.iter().map(|key| cell(r, key)).collect()).collect();
    table(columns, &rows)
}
