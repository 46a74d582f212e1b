//! A trained reader: found in the catalogue by its specification, or made and filed under a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use factory::{load_adapter, peft_config};
use lm::{Adapter, BaseModel, FitPoint, Fitted, Keeping};
use registry::{AdapterRecord, NewAdapter, Role, Status, Store};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// What a reader cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Budget {
    /// Supervision: (adapter, question, answer) rows.
    pub supervision_rows: usize,
    /// Trainable parameters.
    pub trainable_parameters: usize,
    /// Steps taken.
    pub steps: usize,
    /// Rows trained on up to the last step; an epoch is `supervision_rows`.
    #[serde(default)]
    pub rows_seen: usize,
    /// Step that validation chose.
    pub chosen_step: usize,
    /// Tokens trained on.
    pub train_tokens: u64,
    /// Tokens of pretraining.
    pub pretrain_tokens: u64,
    /// Estimated training FLOPs (4 N a token).
    pub train_flops: f64,
    /// Estimated pretraining FLOPs.
    pub pretrain_flops: f64,
    /// Estimated FLOPs of collecting activations (2 N a token up to the layer read).
    pub collect_flops: f64,
    /// Wall seconds of training.
    #[serde(default)]
    pub seconds: f64,
}

/// A reader, as trained or as found in the store.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Catalogue entry.
    pub record: AdapterRecord,
    /// The adapter.
    pub adapter: Adapter,
    /// Cost.
    pub budget: Budget,
    /// Training.
    pub points: Vec<FitPoint>,
    /// Labels that it was trained on or stopped by: none of them can test it.
    pub labels: BTreeSet<String>,
}

impl Reader {
    /// A file that it carries beside its weights.
    ///
    /// # Errors
    /// If there is none of the name, or its bytes are damaged.
    pub fn file(&self, store: &Store, name: &str) -> Result<Vec<u8>> {
        read_file(store, &self.record, name)
    }
}

fn read_file(store: &Store, record: &AdapterRecord, name: &str) -> Result<Vec<u8>> {
    let digest = record.extra_files.get(name);
    let digest = digest.ok_or_else(|| Error::Empty(format!("{} has no {name}", record.behaviour)))?;
    Ok(store.get_blob(digest)?)
}

/// A new reader, as its training left it.
#[derive(Debug)]
pub struct Made {
    /// The fit.
    pub fitted: Fitted,
    /// Files beside the weights.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Adapters that it was made from, the reader that it goes on from first.
    pub parents: Vec<String>,
    /// Labels that it was trained on or stopped by.
    pub labels: BTreeSet<String>,
    /// Supervision rows, FLOPs of collecting, tokens and FLOPs of pretraining; the rest is filled in.
    pub budget: Budget,
}

/// How a reader enters the catalogue.
pub type File<'a> = &'a dyn Fn(&mut Store, NewAdapter) -> Result<AdapterRecord>;

/// What surrounds a reader's training: when it is given up, and who is asked before the reader is filed.
#[derive(Clone, Copy)]
pub struct Session<'a> {
    /// Set to stop after the current step.
    pub stop: &'a AtomicBool,
    /// Files the reader: a job's worker asks the queue within the same transaction whether its lease still stands.
    pub file: File<'a>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl<'a> Session<'a> {
    /// One that asks nobody.
    pub fn alone(stop: &'a AtomicBool) -> Self {
        Self { stop, file: &|store, new| Ok(store.commit_adapter(new)?) }
    }
}

/// What a reader is filed as.
#[derive(Debug, Clone)]
pub struct Label<'a> {
    /// Family in the catalogue: `dit`, `oracle-scratch`, `oracle-posttrained`, ...
    pub family: &'a str,
    /// Role in the catalogue.
    pub role: Role,
    /// Everything that decides its bytes.
    pub spec: Value,
    /// Seed of its training.
    pub seed: u64,
    /// Made by a smoke run.
    pub smoke: bool,
}

/// Finds a reader by its specification, or makes and files it. Interrupted training goes on from its last state.
///
/// # Errors
/// As `make` fails, or if the lease was lost meanwhile (then nothing is filed).
pub fn file(
    store: &mut Store,
    base: &BaseModel,
    label: Label<'_>,
    batch: usize,
    session: Session<'_>,
    make: &mut dyn FnMut(&mut Store, Keeping<'_>) -> Result<Made>,
) -> Result<Reader> {
    let spec_hash = registry::spec_hash(&label.spec);
    let state = store.root().join("staging").join(format!("{spec_hash}.fit"));
    if let Some(record) = store.adapter_by_spec(&spec_hash)? {
        // A kill between the commit and this leaves the state behind.
        forget(&state)?;
        return from_record(store, base, record);
    }
    let begin = Instant::now();
    let made = make(store, Keeping { state: Some(&state), stop: session.stop })?;
    let fitted = made.fitted;
    let layers = base.architecture.layers.len();
    let budget = Budget {
        trainable_parameters: fitted.adapter.params.len(),
        steps: fitted.steps,
        rows_seen: fitted.steps * batch,
        chosen_step: fitted.best_step,
        train_tokens: fitted.tokens,
        train_flops: 2.0 * base.architecture.layer_flops(layers) * fitted.tokens as f64,
        seconds: 0.0,
        ..made.budget
    };
    let story = Story { budget, points: fitted.points.clone(), labels: made.labels };
    let mut files = made.files;
    files.insert(TRAINING_FILE.into(), serde_json::to_vec_pretty(&story).expect("invariant: plain data"));
    let best = fitted.points.iter().find(|p| p.step == fitted.best_step);
    let mut metrics = BTreeMap::from([
        ("steps".to_owned(), fitted.steps as f64),
        ("chosen_step".to_owned(), fitted.best_step as f64),
        ("tokens".to_owned(), fitted.tokens as f64),
        // Time is no part of a reader's identity, so it is not in its files. After an interruption: of the last piece.
        (SECONDS.to_owned(), begin.elapsed().as_secs_f64()),
    ]);
    metrics.extend(best.map(|p| ("validation_loss".to_owned(), p.validation.loss)));
    metrics.extend(best.map(|p| ("validation_top1".to_owned(), p.validation.top1)));
    metrics.extend(best.map(|p| ("validation_mrr".to_owned(), p.validation.mrr)));
    let mut tags: BTreeMap<String, String> =
        label.smoke.then(|| (SMOKE.to_owned(), "true".to_owned())).into_iter().collect();
    let without: Vec<&str> =
        label.spec["train"]["without"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !without.is_empty() {
        tags.insert(WITHOUT.to_owned(), without.join(","));
    }
    let new = NewAdapter {
        spec: label.spec,
        role: label.role,
        behaviour: format!("reader/{}/{}", label.family, &spec_hash[..8]),
        family: label.family.into(),
        value: label.family.into(),
        category: "reader".into(),
        split: None,
        status: Status::NotApplicable,
        tags,
        metrics,
        peft: peft_config(base, &fitted.adapter),
        weights: fitted.adapter.to_safetensors()?,
        parents: made.parents,
        lineage: BTreeMap::from([
            ("base".to_owned(), base.digest()),
            ("seed".to_owned(), label.seed.to_string()),
        ]),
        extra_files: files,
        spec_hash,
    };
    let record = (session.file)(store, new)?;
    forget(&state)?;
    from_record(store, base, record)
}

/// Tag of a reader that a smoke run made: never taken where there is another.
pub const SMOKE: &str = "smoke";

/// Tag of a reader that was trained without some families: their names, with commas between.
pub const WITHOUT: &str = "without";

/// File of a reader that tells its training.
pub const TRAINING_FILE: &str = "training.json";

/// Metric of a reader's record.
const SECONDS: &str = "seconds";

#[derive(Serialize, Deserialize)]
struct Story {
    budget: Budget,
    #[serde(default)]
    points: Vec<FitPoint>,
    /// Readers filed by earlier builds do not say.
    #[serde(default)]
    labels: BTreeSet<String>,
}

/// Whether these bytes are a reader's training as [`file`] tells it.
pub fn is_training(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Story>(bytes).is_ok()
}

fn forget(state: &Path) -> Result<()> {
    if state.exists() {
        fs_err::remove_file(state).map_err(registry::Error::from)?;
    }
    Ok(())
}

/// A reader filed earlier. One from elsewhere has no story: its budget is not known, and shown as nothing.
///
/// # Errors
/// If its files are damaged or do not fit the base model.
pub fn from_record(store: &Store, base: &BaseModel, record: AdapterRecord) -> Result<Reader> {
    let adapter = load_adapter(store, base, &record)?;
    let story = if record.extra_files.contains_key(TRAINING_FILE) {
        serde_json::from_slice(&read_file(store, &record, TRAINING_FILE)?)
            .map_err(|source| registry::Error::Json { what: TRAINING_FILE.into(), source })?
    } else {
        Story { budget: Budget::default(), points: vec![], labels: BTreeSet::new() }
    };
    let mut budget = story.budget;
    budget.seconds = record.metrics.get(SECONDS).copied().unwrap_or_default();
    Ok(Reader { record, adapter, budget, points: story.points, labels: story.labels })
}

/// The reader of that name.
///
/// # Errors
/// If there is none, or it is for another base model.
pub fn find(store: &Store, base: &BaseModel, name: &str) -> Result<Reader> {
    let record = store.adapter(name)?;
    if record.role == Role::WeightDiff {
        return Err(Error::Empty(format!("{} is not a reader", record.behaviour)));
    }
    if record.lineage.get("base").is_none_or(|b| *b != base.digest()) {
        return Err(Error::Empty(format!(
            "{} was trained for another base model or precision",
            record.behaviour
        )));
    }
    from_record(store, base, record)
}
