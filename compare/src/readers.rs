//! Training readers on a store's adapters and filing them in the registry. A reader already made from the same
//! specification is taken from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use factory::{load_adapter, peft_config};
use lm::{Adapter, BaseModel, FitConfig, FitEvent, Fitted, Keeping};
use oracle_posttrain::lens::MOMENTS_FILE;
use oracle_posttrain::{Activations, Collector, Lens, PretrainConfig, ao_config};
use recipes::{Episode, Split};
use registry::{AdapterRecord, NewAdapter, Role, Status, Store};
use serde::Serialize;
use serde_json::{Value, json};

use crate::items::{Arm, Budget, Trajectory};
use crate::run::Oracle;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model refused, or training was stopped.
    #[error(transparent)]
    Model(#[from] lm::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] registry::Error),
    /// The factory refused.
    #[error(transparent)]
    Factory(#[from] factory::Error),
    /// There is nothing to train or to test on.
    #[error("{0}")]
    Empty(String),
}

/// This module's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

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
    pub trajectory: Trajectory,
    /// How it looks at a diff, if it is an oracle.
    pub lens: Option<Lens>,
    /// Labels that it was trained on or stopped by: none of them can test it.
    pub labels: BTreeSet<String>,
}

impl Reader {
    /// Digest of the supervision it was trained on, if it was.
    pub fn supervision(&self) -> Option<&str> {
        self.record.spec["supervision"].as_str()
    }

    /// The reader as an oracle.
    ///
    /// # Errors
    /// If it is none.
    pub fn oracle(&self) -> Result<Oracle<'_>> {
        let lens = self
            .lens
            .as_ref()
            .ok_or_else(|| Error::Empty(format!("{} is not an oracle", self.record.behaviour)))?;
        Ok(Oracle { adapter: &self.adapter, lens })
    }
}

/// Told what a reader's training does while it runs.
pub type Report<'a> = &'a mut dyn FnMut(FitEvent);

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

/// Everything readers share: the model, the diffs and the episodes about them.
#[derive(Debug)]
pub struct Supervision<'a> {
    /// Base model.
    pub base: &'a BaseModel,
    /// Diffs by behaviour id.
    pub diffs: BTreeMap<String, Adapter>,
    /// Their catalogue entries.
    pub records: BTreeMap<String, AdapterRecord>,
    /// All episodes.
    pub episodes: Vec<Episode>,
    /// Whether this is a smoke run, whose numbers mean nothing.
    pub smoke: bool,
}

impl<'a> Supervision<'a> {
    /// Loads the diffs that episodes are about; `made` holds one adapter of each behaviour. Adapters whose gate failed are
    /// kept out of training (they do not do what their label says) but stay in the test splits, where they are reported as
    /// they are. A smoke run keeps all.
    ///
    /// # Errors
    /// If there is nothing to train on, nothing to decide when to stop, or an adapter is damaged.
    pub fn load(
        store: &Store,
        base: &'a BaseModel,
        made: Vec<AdapterRecord>,
        episodes: Vec<Episode>,
        smoke: bool,
    ) -> Result<Self> {
        let wanted: BTreeSet<&str> = episodes.iter().map(|e| e.behaviour.as_str()).collect();
        let mut diffs = BTreeMap::new();
        let mut records = BTreeMap::new();
        for record in made.into_iter().filter(|r| wanted.contains(r.behaviour.as_str())) {
            diffs.insert(record.behaviour.clone(), load_adapter(store, base, &record)?);
            records.insert(record.behaviour.clone(), record);
        }
        let usable = |e: &Episode| {
            let r = records.get(&e.behaviour)?;
            let held_out = matches!(e.split, Split::TestValue | Split::TestCategory);
            (smoke || held_out || r.status != Status::Failed).then_some(())
        };
        let episodes: Vec<Episode> = episodes.into_iter().filter(|e| usable(e).is_some()).collect();
        for (split, what) in [(Split::Train, "train on"), (Split::Validation, "decide by when to stop")] {
            if !episodes.iter().any(|e| e.split == split) {
                return Err(Error::Empty(format!("the store has no adapters to {what}")));
            }
        }
        Ok(Self { base, diffs, records, episodes, smoke })
    }

    /// Episodes of one use.
    pub fn of(&self, split: Split) -> Vec<&Episode> {
        self.episodes.iter().filter(|e| e.split == split).collect()
    }

    /// Test episodes.
    pub fn test(&self) -> Vec<Episode> {
        self.episodes
            .iter()
            .filter(|e| matches!(e.split, Split::TestValue | Split::TestCategory))
            .cloned()
            .collect()
    }

    /// Digest of the supervision: the same for every reader trained on it, whatever it is tested on.
    fn digest(&self) -> String {
        let used: Vec<&Episode> = self.supervising().collect();
        let weights: BTreeMap<&String, &str> =
            self.supervised().into_keys().map(|k| (k, self.records[k].weights.as_str())).collect();
        registry::spec_hash(&json!({"episodes": used, "weights": weights}))
    }

    /// Episodes that readers are trained on or stopped by.
    fn supervising(&self) -> impl Iterator<Item = &Episode> {
        self.episodes.iter().filter(|e| matches!(e.split, Split::Train | Split::Validation))
    }

    /// The answers that those episodes name.
    fn labels(&self) -> BTreeSet<String> {
        self.supervising().filter(|e| !e.negative).map(|e| e.answer.clone()).collect()
    }

    /// The diffs that readers are trained on or stopped by.
    fn supervised(&self) -> BTreeMap<&String, &Adapter> {
        let names: BTreeSet<&String> = self.supervising().map(|e| &e.behaviour).collect();
        self.diffs.iter().filter(|(k, _)| names.contains(k)).collect()
    }

    /// Ids of those diffs' adapters.
    fn supervising_ids(&self) -> Vec<String> {
        self.supervised().into_keys().map(|name| self.records[name].id.clone()).collect()
    }

    /// Activations of every diff that an oracle is trained on or stopped by, at all the collector's prompts. What the
    /// store remembers is not collected again.
    ///
    /// # Errors
    /// If the model or the store refuses.
    pub fn activations(&self, store: &Store, collector: &Collector) -> Result<Activations> {
        let (mut known, mut missing) = (Activations::new(), Vec::new());
        let (mut plans, mut diffs) = (Vec::new(), BTreeMap::new());
        for (name, diff) in self.supervised() {
            let id = &self.records[name].id;
            let plan = collector.plan(self.base, id)?;
            let key = format!("activations/{}", plan.digest());
            let bytes = store.cache_get(&key)?;
            if let Some(shown) = bytes.and_then(|b| collector.from_bytes(&b, self.base.config().hidden_size))
            {
                known.insert(name.clone(), shown);
            } else {
                missing.push((name, key));
                plans.push(plan);
                diffs.insert(id.clone(), diff);
            }
        }
        for ((name, key), shown) in missing.into_iter().zip(collector.run(self.base, &plans, &diffs)?) {
            store.cache_put(&key, &Collector::to_bytes(&shown))?;
            known.insert(name.clone(), shown);
        }
        Ok(known)
    }

    /// A lens adjusted to the training diffs that carry something.
    fn lens(&self, collector: &Collector, activations: &Activations) -> Lens {
        let positive: BTreeSet<&String> =
            self.of(Split::Train).into_iter().filter(|e| !e.negative).map(|e| &e.behaviour).collect();
        let population: Vec<_> = positive.into_iter().filter_map(|b| activations.get(b)).collect();
        Lens::over(collector.clone(), &population)
    }

    /// Estimated FLOPs of collecting them: 2 N a token up to the layer, with and without the diff.
    fn collect_flops(&self, collector: &Collector) -> f64 {
        let tokens: usize =
            collector.prompts.iter().filter_map(|p| self.base.prompt(p).ok()).map(|t| t.len()).sum();
        let deepest = collector.layers.iter().max().copied().unwrap_or_default();
        self.base.layer_flops(deepest + 1) * (tokens * (self.supervised().len() + 1)) as f64
    }
}

fn train_flops(base: &BaseModel, tokens: u64) -> f64 {
    2.0 * base.layer_flops(base.config.num_hidden_layers) * tokens as f64
}

/// Trains (or finds) the DIT adapter of this supervision.
pub fn dit_adapter(
    store: &mut Store,
    s: &Supervision<'_>,
    config: &FitConfig,
    session: Session<'_>,
    report: Report<'_>,
) -> Result<Reader> {
    let spec = json!({"schema": "dit/3", "base": s.base.digest(), "supervision": s.digest(), "fit": config});
    obtain(
        store,
        s.base,
        Arm::Dit,
        spec,
        config,
        s.supervising_ids(),
        BTreeMap::new(),
        s.of(Split::Train).len(),
        0.0,
        (0, 0.0),
        (s.labels(), s.smoke),
        session,
        &mut |_, keeping| {
            let (train, validation) = (s.of(Split::Train), s.of(Split::Validation));
            Ok((dit::train(s.base, &s.diffs, &train, &validation, config, keeping, &mut *report)?, None))
        },
    )
}

/// Pretrains (or finds) an oracle.
pub fn pretrained_oracle(
    store: &mut Store,
    base: &BaseModel,
    collector: &Collector,
    config: &PretrainConfig,
    smoke: bool,
    session: Session<'_>,
    report: Report<'_>,
) -> Result<Reader> {
    let labels = config.labels.iter().chain(&config.validation_labels).cloned().collect();
    let spec = json!({"schema": "oracle-pretrain/5", "base": base.digest(), "collector": collector, "config": config});
    let extra = BTreeMap::from([("ao_config.json".to_owned(), ao_config(base, collector, &config.fit))]);
    obtain(
        store,
        base,
        Arm::OraclePretrained,
        spec,
        &config.fit,
        vec![],
        extra,
        0,
        0.0,
        (0, 0.0),
        (labels, smoke),
        session,
        &mut |_, keeping| {
            let made = oracle_posttrain::pretrain(base, collector, config, keeping, &mut *report)?;
            Ok((made.fitted, Some(made.lens)))
        },
    )
}

/// Post-trains (or finds) an oracle on the supervision, from a pretrained one or from scratch.
pub fn posttrained_oracle(
    store: &mut Store,
    s: &Supervision<'_>,
    collector: &Collector,
    from: Option<&Reader>,
    config: &FitConfig,
    session: Session<'_>,
    report: Report<'_>,
) -> Result<Reader> {
    let arm = if from.is_some() { Arm::OraclePosttrained } else { Arm::OracleScratch };
    let parent = from.map(|r| r.record.id.clone());
    let spec = json!({"schema": "oracle-posttrain/4", "base": s.base.digest(), "supervision": s.digest(), "collector": collector, "from": parent, "fit": config});
    let extra = BTreeMap::from([("ao_config.json".to_owned(), ao_config(s.base, collector, config))]);
    let pretrained = from.map(|r| (r.budget.train_tokens, r.budget.train_flops)).unwrap_or_default();
    let labels = s.labels().into_iter().chain(from.map(|r| r.labels.clone()).unwrap_or_default()).collect();
    obtain(
        store,
        s.base,
        arm,
        spec,
        config,
        // The oracle that it goes on from first.
        parent.into_iter().chain(s.supervising_ids()).collect(),
        extra,
        s.of(Split::Train).len(),
        s.collect_flops(collector),
        pretrained,
        (labels, s.smoke),
        session,
        &mut |store, keeping| {
            let activations = s.activations(store, collector)?;
            let lens = s.lens(collector, &activations);
            let fitted = oracle_posttrain::posttrain(
                s.base,
                &lens,
                &activations,
                from.map(|r| r.adapter.clone()),
                &s.of(Split::Train),
                &s.of(Split::Validation),
                config,
                keeping,
                &mut *report,
            )?;
            Ok((fitted, Some(lens)))
        },
    )
}

#[derive(Serialize)]
struct Story<'a> {
    budget: &'a Budget,
    trajectory: &'a Trajectory,
    labels: &'a BTreeSet<String>,
}

/// A new reader: its fit, and its lens if it is an oracle.
type Made = (Fitted, Option<Lens>);

/// Finds a reader by its specification, or makes and files it. Interrupted training goes on from its last state.
fn obtain(
    store: &mut Store,
    base: &BaseModel,
    arm: Arm,
    spec: Value,
    config: &FitConfig,
    parents: Vec<String>,
    mut extra_files: BTreeMap<String, Vec<u8>>,
    supervision_rows: usize,
    collect_flops: f64,
    (pretrain_tokens, pretrain_flops): (u64, f64),
    (labels, smoke): (BTreeSet<String>, bool),
    session: Session<'_>,
    make: &mut dyn FnMut(&Store, Keeping<'_>) -> Result<Made>,
) -> Result<Reader> {
    let spec_hash = registry::spec_hash(&spec);
    let state = store.root().join("staging").join(format!("{spec_hash}.fit"));
    if let Some(record) = store.adapter_by_spec(&spec_hash)? {
        // A kill between the commit and this leaves the state behind.
        forget(&state)?;
        return from_record(store, base, record);
    }
    let begin = Instant::now();
    let (fitted, lens) = make(store, Keeping { state: Some(&state), stop: session.stop })?;
    let budget = Budget {
        arm,
        supervision_rows,
        trainable_parameters: fitted.adapter.params.len(),
        steps: fitted.steps,
        rows_seen: fitted.steps * config.batch,
        chosen_step: fitted.best_step,
        train_tokens: fitted.tokens,
        pretrain_tokens,
        train_flops: train_flops(base, fitted.tokens),
        pretrain_flops,
        collect_flops,
        seconds: 0.0,
    };
    let trajectory = Trajectory { arm, points: fitted.points };
    let story =
        serde_json::to_vec_pretty(&Story { budget: &budget, trajectory: &trajectory, labels: &labels })
            .expect("invariant: plain data");
    extra_files.insert("training.json".into(), story);
    if let Some(lens) = lens {
        extra_files.insert(MOMENTS_FILE.into(), lens.to_safetensors()?);
    }
    let role = if arm == Arm::Dit { Role::DitAdapter } else { Role::Oracle };
    let best = trajectory.points.iter().find(|p| p.step == fitted.best_step);
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
    let new = NewAdapter {
        spec,
        role,
        behaviour: format!("reader/{}/{}", arm.name(), &spec_hash[..8]),
        family: arm.name().into(),
        value: arm.name().into(),
        category: "reader".into(),
        split: None,
        status: Status::NotApplicable,
        tags: smoke.then(|| (SMOKE.to_owned(), "true".to_owned())).into_iter().collect(),
        metrics,
        peft: peft_config(base, &fitted.adapter),
        weights: fitted.adapter.to_safetensors()?,
        parents,
        lineage: BTreeMap::from([
            ("base".to_owned(), base.digest()),
            ("seed".to_owned(), config.seed.to_string()),
        ]),
        extra_files,
        spec_hash,
    };
    let record = (session.file)(store, new)?;
    forget(&state)?;
    from_record(store, base, record)
}

/// Tag of a reader that a smoke run made: never taken where there is another.
pub const SMOKE: &str = "smoke";

/// Metric of a reader's record.
const SECONDS: &str = "seconds";

fn forget(state: &Path) -> Result<()> {
    if state.exists() {
        fs_err::remove_file(state).map_err(registry::Error::from)?;
    }
    Ok(())
}

/// A reader filed earlier.
pub fn from_record(store: &Store, base: &BaseModel, record: AdapterRecord) -> Result<Reader> {
    let adapter = load_adapter(store, base, &record)?;
    let file = |name: &str| -> Result<Vec<u8>> {
        let digest = record.extra_files.get(name);
        let digest = digest.ok_or_else(|| Error::Empty(format!("{} has no {name}", record.behaviour)))?;
        Ok(store.get_blob(digest)?)
    };
    let story: Value = serde_json::from_slice(&file("training.json")?)
        .map_err(|source| registry::Error::Json { what: "training.json".into(), source })?;
    let read = |source| Error::Store(registry::Error::Json { what: "training.json".into(), source });
    let mut budget: Budget = serde_json::from_value(story["budget"].clone()).map_err(read)?;
    budget.seconds = record.metrics.get(SECONDS).copied().unwrap_or_default();
    let trajectory = serde_json::from_value(story["trajectory"].clone()).map_err(read)?;
    let lens = match &record.spec["collector"] {
        Value::Null => None,
        value => {
            let collector = serde_json::from_value(value.clone()).map_err(read)?;
            let moments = file(MOMENTS_FILE)?;
            Some(Lens::from_safetensors(collector, base.config().hidden_size, &moments)?)
        }
    };
    // Readers filed by earlier builds do not say.
    let labels = serde_json::from_value(story["labels"].clone()).unwrap_or_default();
    Ok(Reader { record, adapter, budget, trajectory, lens, labels })
}
