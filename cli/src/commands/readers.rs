//! What `dit`, `oracle` and `compare` share: the store's adapters as supervision, readers by name, one question by hand.

use std::fmt::Write;

use ::readers::{Arm, Reader, Supervision, episode_options, from_record, newest_of_each};
use lm::{Adapter, BaseModel, Outline, Precision};
use recipes::Split;
use registry::{AdapterRecord, Filter, Role, Store};
use serde_json::json;

use crate::args::AskArgs;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

/// Episodes about the store's adapters of these families (all if none is named), and the adapters.
pub(crate) fn supervision<'a>(
    store: &Store,
    base: &'a BaseModel,
    families: &[String],
    seed: u64,
) -> Result<Supervision<'a>> {
    let made = newest_of_each(store, &base.digest())?;
    Supervision::of_adapters(store, base, made, families, episode_options(false), false, seed).map_err(|e| {
        match e {
            ::readers::Error::Empty(_) => CommandError::from(e).hint(MAKE_SOME),
            other => other.into(),
        }
    })
}

/// What to do when the store lacks adapters or readers.
pub(crate) const MAKE_SOME: &str =
    "make some with: lorafab factory submit topic --limit 120, then lorafab factory run";

/// An arm of the default comparison, as `dit train` and `oracle ...` make its reader.
pub(crate) fn default_arm(name: &str) -> Result<Arm> {
    let arms = ::compare::Arms::parse("default arms", ::compare::DEFAULT)?;
    arms.arms
        .into_iter()
        .find(|a| a.name == name)
        .ok_or_else(|| CommandError::new(Kind::NotFound, format!("the default comparison has no arm {name}")))
}

/// Longest answer to a question asked by hand.
pub(crate) const ANSWER_TOKENS: usize = 32;

/// Asks one adapter one question through a reader of these families: `answer(store, base, reader, diff, question)`.
pub(crate) fn ask(
    context: &Context<'_>,
    args: &AskArgs,
    families: &[&str],
    answer: impl FnOnce(&Store, &BaseModel, &Reader, &Adapter, &str) -> Result<String>,
) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(&args.adapter)?;
    if let Some(name) = &args.reader {
        check_kind(&store.adapter(name)?, families)?;
    }
    let base = context.base()?;
    let made = made_at_precision(&base, &record)?;
    let diff = ::factory::load_adapter(&store, &base, &record)?;
    let reader = find(&store, &base, args.reader.as_deref(), families)?;
    let trained = made_at_precision(&base, &reader.record)?;
    say_precisions(context, base.precision, [made, trained]);
    let answer = answer(&store, &base, &reader, &diff, &args.question)?;
    if answer.is_empty() {
        context.say(&format!(
            "the answer of {} is empty: it ends before its first word",
            reader.record.behaviour
        ));
    }
    if context.global.json {
        let mut found = json!({"schema": "ask/1", "adapter": record.id, "reader": reader.record.id,
            "question": args.question, "answer": answer});
        if [made, trained] != [base.precision; 2] {
            found["precision"] =
                json!({"here": base.precision, "made_with": {record.id: made, reader.record.id: trained}});
        }
        return print_json(&found);
    }
    print(&answer)
}

/// The precision that an adapter or a reader was made at, for this base model. It is used at others, too: the products of a machine
/// without bf16 differ from those it was made with by roundings.
///
/// # Errors
/// If it was made for another base model.
pub(crate) fn made_at_precision(base: &Outline, record: &AdapterRecord) -> Result<Precision> {
    record.lineage.get("base").and_then(|b| base.precision_of(b)).ok_or_else(|| {
        CommandError::new(Kind::Usage, format!("{} was made for another base model", record.behaviour))
            .hint("pass the --model that it was made with")
    })
}

/// Says once what is used at another precision than it was made at.
pub(crate) fn say_precisions(
    context: &Context<'_>,
    here: Precision,
    made: impl IntoIterator<Item = Precision>,
) {
    if let Some(other) = made.into_iter().find(|p| *p != here) {
        context.say(&format!(
            "note: made with {} products, used with {}: answers can differ in a word from those with {0}",
            other.name(),
            here.name()
        ));
    }
}

/// The reader of that id, or the newest of those families; one that a smoke run made only where there is no other.
pub(crate) fn find(store: &Store, base: &BaseModel, id: Option<&str>, families: &[&str]) -> Result<Reader> {
    let record = match id {
        Some(id) => store.adapter(id)?,
        None => newest(store, base, families)?,
    };
    check_kind(&record, families)?;
    made_at_precision(base, &record)?;
    Ok(from_record(store, base, record)?)
}

/// Refuses what is no reader of these families; no model is needed.
fn check_kind(record: &AdapterRecord, families: &[&str]) -> Result {
    if record.role == Role::WeightDiff {
        return Err(CommandError::new(Kind::Usage, format!("{} is not a reader", record.behaviour))
            .hint("list readers with: lorafab reader list"));
    }
    if !families.contains(&record.family.as_str()) {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{} is no reader for this: wanted {}", record.behaviour, families.join(" or ")),
        )
        .hint("list readers with: lorafab reader list"));
    }
    Ok(())
}

fn newest(store: &Store, base: &BaseModel, families: &[&str]) -> Result<AdapterRecord> {
    let own = base.digest();
    let any = Precision::ALL.map(|p| base.digest_at(p));
    store
        .adapters(&Filter::all())?
        .into_iter()
        .filter(|r| {
            families.contains(&r.family.as_str()) && r.lineage.get("base").is_some_and(|b| any.contains(b))
        })
        .max_by_key(|r| {
            let smoke = r.tags.contains_key(::readers::reader::SMOKE);
            (!smoke, r.lineage.get("base") == Some(&own), r.created_at.clone())
        })
        .ok_or_else(|| {
            CommandError::new(
                Kind::NotFound,
                format!("no {} in the store for this base model", families.join(" or ")),
            )
            .hint("train one with: lorafab dit train, lorafab oracle pretrain, lorafab oracle posttrain")
        })
}

/// How many episodes of each use there are, for people, and what is left out.
pub(crate) fn describe(s: &Supervision<'_>) -> String {
    let n = |split| s.of(split).len();
    format!(
        "{} adapters; {} training, {} validation and {} test episodes{}",
        s.diffs.len(),
        n(Split::Train),
        n(Split::Validation),
        s.test().len(),
        left_out(&s.left_out)
    )
}

/// Adapters that cannot be used, each on a line of its own, which begins with a line break.
pub(crate) fn left_out(list: &[(String, String)]) -> String {
    const MOST: usize = 10;
    let mut out = String::new();
    for (behaviour, what) in list.iter().take(MOST) {
        let _ = write!(out, "\nwarning: {} is left out: {}", fence::shown(behaviour), fence::shown(what));
    }
    if list.len() > MOST {
        let _ = write!(out, "\nwarning: and {} more", list.len() - MOST);
    }
    out
}
