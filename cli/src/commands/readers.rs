//! What `dit`, `oracle`, `compare` and `quickstart` share: supervision from the store, progress, the four readers.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use compare::readers::{SMOKE, Session, dit_adapter, from_record, posttrained_oracle, pretrained_oracle};
use compare::{Reader, Supervision, settings};
use lm::{Adapter, BaseModel, FitEvent};
use oracle_posttrain::Collector;
use recipes::{Behaviour, Recipe, Split, builtin, episodes};
use registry::{AdapterRecord, Filter, Role, Store};
use serde_json::json;

use crate::args::AskArgs;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

/// Training progress: a line every few seconds, and every evaluation.
pub(crate) fn progress<'a>(
    context: &'a Context<'_>,
    what: &'a str,
    steps: usize,
) -> impl FnMut(FitEvent) + 'a {
    let begin = Instant::now();
    let mut last: Option<Instant> = None;
    let every =
        if std::io::stderr().is_terminal() { Duration::from_secs(2) } else { Duration::from_secs(15) };
    move |event| {
        let (step, loss, point) = match event {
            FitEvent::Step { step, loss, point } => (step, loss, point),
            FitEvent::Anew { why } => {
                context
                    .say(&format!("{what}  begins anew: its state could not be used and was removed: {why}"));
                return;
            }
        };
        if let Some(p) = point {
            context.say(&format!(
                "{what}  step {step}/{steps}  train {:.2}  validation {:.2} nats, top-1 {:.2}",
                p.train_loss, p.validation.loss, p.validation.top1
            ));
            last = Some(Instant::now());
        } else if last.is_none_or(|l| l.elapsed() > every) {
            let left = begin.elapsed().as_secs_f64() / step as f64 * (steps - step) as f64;
            context.say(&format!("{what}  step {step}/{steps}  loss {loss:.2}  at most {left:.0}s left"));
            last = Some(Instant::now());
        }
    }
}

/// The adapters that a comparison is about: their behaviours, and their specifications' hashes in the same order.
pub(crate) struct Chosen {
    pub(crate) behaviours: Vec<Behaviour>,
    pub(crate) specs: Vec<String>,
}

/// Episodes about the store's adapters, and the adapters. `chosen` limits them.
pub(crate) fn supervision<'a>(
    store: &Store,
    base: &'a BaseModel,
    families: &[String],
    chosen: Option<&Chosen>,
    smoke: bool,
    seed: u64,
) -> Result<Supervision<'a>> {
    let made = match chosen {
        Some(chosen) => {
            let found: Result<Vec<_>> =
                chosen.specs.iter().map(|hash| Ok(store.adapter_by_spec(hash)?)).collect();
            found?.into_iter().flatten().collect()
        }
        None => newest_of_each(store, base)?,
    };
    let mut recipes: Vec<Recipe> = builtin();
    recipes.extend(::factory::recipes_of(store, &made)?);
    let behaviours: Vec<Behaviour> = match chosen {
        Some(chosen) => chosen.behaviours.clone(),
        None => {
            made.iter().filter_map(|r| serde_json::from_value(r.spec["behaviour"].clone()).ok()).collect()
        }
    };
    if let Some(unknown) = families.iter().find(|f| !behaviours.iter().any(|b| b.family == **f)) {
        return Err(CommandError::new(
            Kind::NotFound,
            format!("the store has no adapters of family {unknown:?}"),
        )
        .hint("see which it has with: lorafab registry stats"));
    }
    let behaviours: Vec<Behaviour> = behaviours
        .into_iter()
        .filter(|b| {
            families.is_empty() || families.contains(&b.family) || b.polarity == recipes::Polarity::Negative
        })
        .collect();
    let list = episodes(&recipes, &behaviours, seed, settings::episode_options(smoke))?;
    Supervision::load(store, base, made, list, smoke).map_err(|e| match e {
        compare::readers::Error::Empty(_) => CommandError::from(e).hint(MAKE_SOME),
        other => other.into(),
    })
}

/// The store's adapters of this base model; of several for one behaviour, the newest.
fn newest_of_each(store: &Store, base: &BaseModel) -> Result<Vec<AdapterRecord>> {
    let digest = base.digest();
    let mut all = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    all.retain(|r| r.lineage.get("base").is_some_and(|b| *b == digest));
    all.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    let mut seen = BTreeSet::new();
    all.retain(|r| seen.insert(r.behaviour.clone()));
    all.sort_by(|a, b| a.behaviour.cmp(&b.behaviour));
    Ok(all)
}

pub(crate) fn train_dit(
    context: &Context<'_>,
    store: &mut Store,
    s: &Supervision<'_>,
    smoke: bool,
    steps: Option<usize>,
    seed: u64,
    session: Session<'_>,
) -> Result<Reader> {
    let fit = settings::reader_fit(smoke, steps, seed);
    let mut report = progress(context, "dit", fit.max_steps);
    Ok(dit_adapter(store, s, &fit, session, &mut report)?)
}

pub(crate) fn pretrain(
    context: &Context<'_>,
    store: &mut Store,
    base: &BaseModel,
    corpus: Option<Vec<String>>,
    smoke: bool,
    steps: Option<usize>,
    seed: u64,
    session: Session<'_>,
) -> Result<Reader> {
    let texts = if let Some(texts) = corpus {
        texts
    } else {
        context.say("sampling texts for context prediction");
        let wanted = settings::text_requests(smoke).into_iter().collect();
        factory::samples::sample(Some(store), base, &wanted)?.into_values().collect()
    };
    let topic = super::recipe::load("topic")?;
    let mut recipes = builtin();
    recipes.extend(::factory::recipes_of(store, &newest_of_each(store, base)?)?);
    let config = settings::pretrain_config(&topic, &recipes, texts, smoke, steps, seed);
    let mut report = progress(context, "oracle pretrain", config.fit.max_steps);
    Ok(pretrained_oracle(store, base, &Collector::standard(base), &config, smoke, session, &mut report)?)
}

pub(crate) fn posttrain(
    context: &Context<'_>,
    store: &mut Store,
    s: &Supervision<'_>,
    from: Option<&Reader>,
    smoke: bool,
    steps: Option<usize>,
    seed: u64,
    session: Session<'_>,
) -> Result<Reader> {
    let fit = settings::oracle_fit(smoke, steps, seed);
    let mut report = progress(
        context,
        if from.is_some() { "oracle post-train" } else { "oracle from scratch" },
        fit.max_steps,
    );
    // A pretrained oracle goes on reading where it learned to read.
    let collector = from
        .and_then(|r| r.lens.as_ref().map(|l| l.collector.clone()))
        .unwrap_or_else(|| Collector::standard(s.base));
    Ok(posttrained_oracle(store, s, &collector, from, &fit, session, &mut report)?)
}

/// Longest answer to a question asked by hand.
pub(crate) const ANSWER_TOKENS: usize = 32;

/// Asks one adapter one question through a reader of these families: `answer(base, reader, diff, question)`.
pub(crate) fn ask(
    context: &Context<'_>,
    args: &AskArgs,
    families: &[&str],
    answer: impl FnOnce(&BaseModel, &Reader, &Adapter, &str) -> Result<String>,
) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(&args.adapter)?;
    let base = context.base()?;
    if record.lineage.get("base").is_none_or(|b| *b != base.digest()) {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{} was made for another base model or precision", record.behaviour),
        )
        .hint("pass the --model and --precision that it was made with"));
    }
    let diff = ::factory::load_adapter(&store, &base, &record)?;
    let reader = find(&store, &base, args.reader.as_deref(), families)?;
    let answer = answer(&base, &reader, &diff, &args.question)?;
    if context.global.json {
        return print_json(&json!({"schema": "ask/1", "adapter": record.id, "reader": reader.record.id,
            "question": args.question, "answer": answer}));
    }
    print(&answer)
}

/// What to do when the store lacks adapters or readers.
const MAKE_SOME: &str = "make some with: lorafab factory submit topic --limit 120, then lorafab factory run";

/// The reader of that id, or the newest of those families; one that a smoke run made only where there is no other.
pub(crate) fn find(store: &Store, base: &BaseModel, id: Option<&str>, families: &[&str]) -> Result<Reader> {
    let record = match id {
        Some(id) => store.adapter(id)?,
        None => newest(store, base, families)?,
    };
    if record.role == Role::WeightDiff {
        return Err(CommandError::new(Kind::Usage, format!("{} is not a reader", record.behaviour))
            .hint("list readers with: lorafab adapter list --where \"role != weight_diff\""));
    }
    if !families.contains(&record.family.as_str()) {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{} is no reader for this: wanted {}", record.behaviour, families.join(" or ")),
        ));
    }
    if record.lineage.get("base").is_none_or(|b| *b != base.digest()) {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{} was trained for another base model or precision", record.behaviour),
        )
        .hint("pass the --model and --precision that it was trained with"));
    }
    Ok(from_record(store, base, record)?)
}

fn newest(store: &Store, base: &BaseModel, families: &[&str]) -> Result<AdapterRecord> {
    let digest = base.digest();
    store
        .adapters(&Filter::all())?
        .into_iter()
        .filter(|r| {
            families.contains(&r.family.as_str()) && r.lineage.get("base").is_some_and(|b| *b == digest)
        })
        .max_by_key(|r| (!r.tags.contains_key(SMOKE), r.created_at.clone()))
        .ok_or_else(|| {
            CommandError::new(
                Kind::NotFound,
                format!("no {} in the store for this base model", families.join(" or ")),
            )
            .hint("train one with: lorafab dit train, lorafab oracle pretrain, lorafab oracle posttrain")
        })
}

/// How many episodes of each use there are, for people.
pub(crate) fn describe(s: &Supervision<'_>) -> String {
    let n = |split| s.of(split).len();
    format!(
        "{} adapters; {} training, {} validation and {} test episodes",
        s.diffs.len(),
        n(Split::Train),
        n(Split::Validation),
        s.test().len()
    )
}
