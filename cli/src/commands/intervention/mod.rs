//! `intervention check|run|show`: collecting, computing and injecting as data.

mod job;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use lm::{Adapter, BaseModel, Outline, Precision};
use oracle_posttrain::intervention::{self, Cap, Outputs, Plan, Spec, Step, Surroundings};
use oracle_posttrain::lens::MOMENTS_FILE;
use readers::Reader;
use registry::{AdapterRecord, Digest, Store};
use serde_json::{Value, json};

use super::readers::{ANSWER_TOKENS, find, made_at_precision, say_precisions};
use crate::args::{CapArgs, InterventionCommand};
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_as_it_is, print_json, table, write_out};
use crate::progress::beside;

pub(super) use job::{Intervening, job};

pub(crate) fn run(context: &Context<'_>, command: &InterventionCommand) -> Result {
    match command {
        InterventionCommand::Check { spec, cap } => {
            // Of the model only its outline is read: what is wrong is said before any weight is loaded.
            let outline = context.outline()?;
            let store = context.existing_store();
            let ready = prepare(store.as_ref(), &outline, read(spec)?, cap.cap(), &ToCome::new())?;
            ready.say_precisions(context, outline.precision);
            let (cost, digest) = (ready.plan.cost(), ready.plan.digest());
            if context.global.json {
                return print_json(&json!({"schema": "intervention-check/1", "digest": digest, "cost": cost,
                    "adapters": ready.records.keys().collect::<Vec<_>>(), "spec": ready.plan.spec()}));
            }
            print(&format!(
                "{} steps, {} tokens, {:.1} GFLOP, {:.1} kB; digest {digest}",
                ready.plan.spec().steps.len(),
                cost.tokens,
                cost.flops / 1e9,
                cost.bytes / 1e3
            ))
        }
        InterventionCommand::Run { spec, cap, vectors } => {
            let store = context.existing_store();
            let spec = read(spec)?;
            let outline = context.outline()?;
            let ready = prepare(store.as_ref(), &outline, spec, cap.cap(), &ToCome::new())?;
            ready.say_precisions(context, outline.precision);
            if let Some(file) = vectors.as_deref().filter(|_| ready.plan.spec().out.is_empty()) {
                return Err(CommandError::new(
                    Kind::Usage,
                    format!("{}: the spec's out names no vectors to write", file.display()),
                )
                .hint("list their ids, e.g. \"out\": [\"d\"]"));
            }
            watch_signals();
            let base = context.base()?;
            let run = || ready.run(store.as_ref(), &base, &STOP);
            let outputs = beside(context.global.quiet, "running the intervention", run)?;
            if let Some(file) = vectors {
                write_out(file, &to_safetensors(&outputs)?)?;
            }
            let found = to_json(&outline, &ready, &outputs)?;
            if context.global.json { print_json(&found) } else { print(&to_text(&found)) }
        }
        InterventionCommand::Show { adapter, question, reader, cap } => {
            let store = context.existing_store()?;
            let record = store.adapter(adapter)?;
            let base = context.base()?;
            let reader = find(
                &store,
                &base,
                reader.as_deref(),
                &["oracle-posttrained", "oracle-scratch", "oracle-imported"],
            )?;
            let spec = question_spec(&store, &base, &record, &reader, question)?;
            // One that `intervention run` would refuse is not shown either.
            prepare(Ok(&store), &base, spec.clone(), cap.cap(), &ToCome::new())?;
            print_as_it_is(&serde_json::to_string_pretty(&spec).expect("invariant: plain data"))
        }
    }
}

/// The spec that `oracle ask` stands for.
fn question_spec(
    store: &Store,
    base: &BaseModel,
    record: &AdapterRecord,
    reader: &Reader,
    question: &str,
) -> Result<Spec> {
    let lens = oracle_posttrain::lens_of_reader(store, base, reader)?;
    let moments = reader.record.extra_files.get(MOMENTS_FILE);
    let moments = moments.map(registry::Digest::as_str);
    Ok(lens.spec(&record.id, &reader.record.id, moments, question, ANSWER_TOKENS))
}

/// Refuses a question that costs an oracle more than an intervention may.
pub(super) fn hold_question_to_cap(
    store: &Store,
    base: &BaseModel,
    record: &AdapterRecord,
    reader: &Reader,
    question: &str,
    cap: Cap,
) -> Result {
    if reader.record.extra_files.contains_key(MOMENTS_FILE) {
        let spec = question_spec(store, base, record, reader, question)?;
        return prepare(Ok(store), base, spec, cap, &ToCome::new()).map(drop);
    }
    // A published one is no such spec; it reads the question and answers it.
    let tokens = base.prompt(question)?.len() + ANSWER_TOKENS;
    let flops = tokens as f64 * base.architecture.layer_flops(base.architecture.layers.len());
    if flops > cap.flops {
        let what = format!(
            "question: its {tokens} tokens cost {flops:.1e} FLOPs, more than the cap of {:.1e}",
            cap.flops
        );
        return Err(CommandError::new(Kind::Usage, what).hint(COSTLY));
    }
    Ok(())
}

/// What to do about a cap.
const COSTLY: &str = "raise it with --max-tflop or --max-mb, if that is meant";

/// Reads a spec's file: a plain one, and no more of it than a spec may have.
pub(super) fn read(path: &Path) -> Result<Spec> {
    let wrong = |what: String| {
        CommandError::new(Kind::Usage, format!("{}: {what}", path.display()))
            .hint("see one with: lorafab intervention show ADAPTER QUESTION")
    };
    // Its own sentence says how long one may be.
    let text = fence::read_text(path, fence::open::SMALL).map_err(|e| wrong_file(&e))?;
    Spec::parse(&text).map_err(|e| wrong(e.to_string()))
}

/// A file that cannot be read; the message names it.
fn wrong_file(e: &std::io::Error) -> CommandError {
    let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::Environment } else { Kind::Usage };
    CommandError::new(kind, e.to_string()).hint("see one with: lorafab intervention show ADAPTER QUESTION")
}

/// A spec that can be run, with what it names.
pub(super) struct Ready {
    pub(super) plan: Plan,
    records: BTreeMap<String, AdapterRecord>,
    stored: BTreeMap<String, Vec<Vec<f32>>>,
    /// Adapters made at another precision than they are used at.
    made_at: BTreeMap<String, Precision>,
}

/// The store, or why there is none: a spec that names nothing in it needs none.
pub(super) type Shelf<'a> = std::result::Result<&'a Store, &'a CommandError>;

fn open(shelf: Shelf<'_>) -> Result<&Store> {
    shelf.map_err(Clone::clone)
}

/// Adapters that earlier jobs will have made, by behaviour: their specifications' hashes.
pub(super) type ToCome = BTreeMap<String, String>;

/// How a spec names an adapter that is still to be made.
const BY_SPEC: &str = "spec:";

/// Checks a spec against the store and the model's outline. Adapters may be named as elsewhere (id, its beginning, alias,
/// behaviour), or by behaviour if they are to come; from here on they go by their ids, or their specifications'.
pub(super) fn prepare(
    store: Shelf<'_>,
    outline: &Outline,
    mut spec: Spec,
    cap: Cap,
    to_come: &ToCome,
) -> Result<Ready> {
    let mut records = BTreeMap::new();
    let mut made_at = BTreeMap::new();
    let mut adapters = BTreeSet::new();
    for (i, step) in spec.steps.iter_mut().enumerate() {
        let model = match step {
            Step::Forward(s) => &mut s.model,
            Step::Generate(s) => &mut s.model,
            _ => continue,
        };
        for (a, name) in model.adapters.iter_mut().enumerate() {
            let at = format!("steps[{i}].model.adapters[{a}]");
            if let Some(hash) = to_come.get(name) {
                *name = format!("{BY_SPEC}{hash}");
                adapters.insert(name.clone());
                continue;
            }
            let record = match name.strip_prefix(BY_SPEC) {
                None => open(store)?.adapter(name).map_err(CommandError::from),
                Some(hash) => open(store)?.adapter_by_spec(hash)?.ok_or_else(|| {
                    CommandError::new(
                        Kind::NotFound,
                        format!("no adapter was made from specification {hash}"),
                    )
                }),
            };
            let record = record.map_err(|e| CommandError { message: format!("{at}: {}", e.message), ..e })?;
            let made = made_at_precision(outline, &record)
                .map_err(|e| CommandError { message: format!("{at}: {}", e.message), ..e })?;
            if made != outline.precision {
                made_at.insert(record.id.clone(), made);
            }
            name.clone_from(&record.id);
            adapters.insert(record.id.clone());
            records.insert(record.id.clone(), record);
        }
    }
    let wrong = |e: intervention::SpecError| CommandError::new(Kind::Usage, e.to_string());
    let blob =
        |digest: &Digest| store.map_err(|e| e.message.clone())?.get_blob(digest).map_err(|e| e.to_string());
    let stored = intervention::stored(blob, &spec, outline.architecture.hidden_size).map_err(wrong)?;
    let vectors = stored.iter().map(|(id, v)| (id.clone(), v.len())).collect();
    let around = Surroundings { outline, adapters: &adapters, vectors: &vectors, cap };
    let plan = intervention::check(&spec, around).map_err(|e| {
        let costly = e.costly;
        let e = wrong(e);
        if costly { e.hint(COSTLY) } else { e }
    })?;
    Ok(Ready { plan, records, stored, made_at })
}

impl Ready {
    /// Specifications of the adapters that are still to be made.
    fn specs_to_come(&self) -> BTreeSet<&str> {
        let steps = self.plan.spec().steps.iter();
        let models = steps.filter_map(|step| match step {
            Step::Forward(s) => Some(&s.model),
            Step::Generate(s) => Some(&s.model),
            _ => None,
        });
        models.flat_map(|m| &m.adapters).filter_map(|a| a.strip_prefix(BY_SPEC)).collect()
    }

    fn say_precisions(&self, context: &Context<'_>, precision: Precision) {
        say_precisions(context, precision, self.made_at.values().copied());
    }

    pub(super) fn run(&self, store: Shelf<'_>, base: &BaseModel, stop: &AtomicBool) -> Result<Outputs> {
        let loaded: BTreeMap<String, Adapter> = self
            .records
            .iter()
            .map(|(id, record)| Ok((id.clone(), ::factory::load_adapter(open(store)?, base, record)?)))
            .collect::<Result<_>>()?;
        let adapters = loaded.iter().map(|(id, a)| (id.clone(), a)).collect();
        let mut outputs = intervention::run(base, &[&self.plan], &adapters, &[&self.stored], stop)?;
        Ok(outputs.remove(0))
    }
}

/// `intervention-output/1`: replies, logit lenses, and of vectors their number and norms.
pub(super) fn to_json(outline: &Outline, ready: &Ready, outputs: &Outputs) -> Result<Value> {
    let plan = &ready.plan;
    let norm = |v: &Vec<f32>| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut lenses = BTreeMap::new();
    for (id, vectors) in &outputs.tokens {
        let mut lines = Vec::new();
        for top in vectors {
            let words = top
                .iter()
                .map(|(token, logit)| {
                    Ok(json!({"token": token, "text": outline.tokenizer.decode(&[*token])?, "logit": logit}))
                })
                .collect::<Result<Vec<_>>>()?;
            lines.push(words);
        }
        lenses.insert(id, lines);
    }
    let vectors: BTreeMap<_, _> = outputs
        .vectors
        .iter()
        .map(|(id, v)| (id, json!({"n": v.len(), "norms": v.iter().map(norm).collect::<Vec<_>>()})))
        .collect();
    let mut out = json!({"schema": "intervention-output/1", "digest": plan.digest(), "cost": plan.cost(),
        "replies": outputs.replies, "unembed_topk": lenses, "vectors": vectors});
    if !ready.made_at.is_empty() {
        out["precision"] = json!({"here": outline.precision, "made_with": ready.made_at});
    }
    Ok(out)
}

fn to_text(found: &Value) -> String {
    let mut rows = Vec::new();
    let entries = |key: &str| found[key].as_object().cloned().unwrap_or_default();
    for (id, reply) in entries("replies") {
        rows.push(vec![id, reply.as_str().unwrap_or_default().trim().to_owned()]);
    }
    for (id, lens) in entries("unembed_topk") {
        for (i, top) in lens.as_array().into_iter().flatten().enumerate() {
            let words: Vec<String> = top
                .as_array()
                .into_iter()
                .flatten()
                .map(|t| format!("{:?}", t["text"].as_str().unwrap_or("")))
                .collect();
            rows.push(vec![format!("{id}[{i}]"), words.join(" ")]);
        }
    }
    for (id, vectors) in entries("vectors") {
        let norms: Vec<String> = vectors["norms"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|n| format!("{:.3}", n.as_f64().unwrap_or_default()))
            .collect();
        rows.push(vec![id, format!("norms {}", norms.join(" "))]);
    }
    table(&["id", "value"], &rows)
}

/// Vectors by id, F32 `[n, hidden_size]`.
pub(super) fn to_safetensors(outputs: &Outputs) -> Result<Vec<u8>> {
    let tensors = outputs
        .vectors
        .iter()
        .map(|(id, v)| (id.clone(), (vec![v.len(), v.first().map_or(0, Vec::len)], v.concat())))
        .collect();
    Ok(lm::geometry::to_safetensors(&tensors)?)
}

impl CapArgs {
    pub(crate) fn cap(&self) -> Cap {
        Cap { flops: self.max_tflop * 1e12, bytes: self.max_mb * 1e6 }
    }
}
