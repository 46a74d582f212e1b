//! The methods of this crate: the oracle, and what is trained in the same way on text instead of vectors.

use std::collections::{BTreeMap, BTreeSet};

use lm::{Adapter, BaseModel, FitConfig, FitEvent, Keeping, Outline};
use readers::{
    Answer, Arm, Asked, Budget, Case, Lab, Label, Made, Making, Method, Reader, Result, Scored, Stage,
    Supervision, Which, Wrong, answer, flops_a_step,
};
use recipes::{Context, Split};
use registry::{Role, Store};
use serde_json::json;

use crate::collect::{Activations, Collector, Shown};
use crate::lens::{Lens, MOMENTS_FILE};
use crate::pretrain::{PretrainConfig, nouns, pretrain};
use crate::prompt::ao_config;
use crate::shown::{collect_flops, key, shown};
use crate::texts;
use crate::train::{Files, Oracle, View, nothing};
use crate::words::word_tokens;

/// Reads activations that are injected into the clean model (arXiv 2512.15674).
#[derive(Debug, Clone, Copy)]
pub struct OracleMethod;

/// The same model and training without vectors: the contexts as text (what format and question give), or the words that a
/// lens shows (what text can carry of the vectors).
#[derive(Debug, Clone, Copy)]
pub struct TextMethod {
    /// Whether the lens's words are shown.
    pub lens: bool,
}

impl Method for OracleMethod {
    fn name(&self) -> &'static str {
        "oracle"
    }

    fn about(&self) -> &'static str {
        "a LoRA on the clean model that answers from injected activations; readers: scratch, pretrained, posttrained, or one by name or folder"
    }

    fn trained(&self) -> bool {
        true
    }

    fn depths(&self, _arm: &Arm) -> Vec<f64> {
        Collector::DEPTHS.to_vec()
    }

    fn check(&self, _arm: &Arm, _outline: &Outline) -> Result<(), Wrong> {
        Ok(())
    }

    fn stages(&self, arm: &Arm) -> Vec<Stage> {
        match arm.which() {
            Which::Scratch => vec![Stage::Train],
            Which::Pretrained => vec![Stage::Pretrain],
            Which::Posttrained => vec![Stage::Pretrain, Stage::Train],
            Which::Known(_) => vec![],
        }
    }

    fn fit(
        &self,
        store: &mut Store,
        lab: Lab<'_>,
        making: Making<'_>,
        report: &mut dyn FnMut(FitEvent),
    ) -> Result<Reader> {
        match making.stage {
            Stage::Pretrain => pretrained(store, lab, making, report),
            Stage::Train => trained(store, lab, making, Show::Vectors, report),
        }
    }

    fn score(
        &self,
        store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        score(store, lab, arm, reader, Show::Vectors, cases)
    }
}

impl Method for TextMethod {
    fn name(&self) -> &'static str {
        if self.lens { "lens-text" } else { "text-only" }
    }

    fn about(&self) -> &'static str {
        if self.lens {
            "trained like an oracle on the words that a logit lens shows, as text: what is left is what vectors add"
        } else {
            "trained like an oracle on the contexts as text, without vectors: what questions and format alone give"
        }
    }

    fn trained(&self) -> bool {
        true
    }

    fn depths(&self, _arm: &Arm) -> Vec<f64> {
        if self.lens { vec![0.9] } else { vec![] }
    }

    fn check(&self, arm: &Arm, _outline: &Outline) -> Result<(), Wrong> {
        match arm.which() {
            Which::Scratch => Ok(()),
            _ => Err(Wrong::at("reader", format!("{} is trained from scratch only", self.name()))),
        }
    }

    fn stages(&self, _arm: &Arm) -> Vec<Stage> {
        vec![Stage::Train]
    }

    fn fit(
        &self,
        store: &mut Store,
        lab: Lab<'_>,
        making: Making<'_>,
        report: &mut dyn FnMut(FitEvent),
    ) -> Result<Reader> {
        trained(store, lab, making, self.show(), report)
    }

    fn score(
        &self,
        store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        score(store, lab, arm, reader, self.show(), cases)
    }
}

impl TextMethod {
    fn show(self) -> Show {
        if self.lens { Show::Words } else { Show::Contexts }
    }
}

/// What a question shows of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Vectors,
    Contexts,
    Words,
}

impl Show {
    fn depths(self) -> &'static [f64] {
        match self {
            Self::Vectors => &Collector::DEPTHS,
            Self::Words => &[0.9],
            Self::Contexts => &[],
        }
    }

    fn view<'a>(self, lens: &'a Lens, words: &'a [(u32, String)], count: usize) -> View<'a> {
        match self {
            Self::Vectors => View::Vectors { lens },
            Self::Words => View::Words { lens, words, count },
            Self::Contexts => {
                let c = &lens.collector;
                View::Contexts(format!("Contexts: {}", c.prompts[..c.asked].join(" ")))
            }
        }
    }
}

fn words_for(base: &BaseModel, show: Show) -> Result<Vec<(u32, String)>> {
    if show == Show::Words { Ok(word_tokens(base, &[])?) } else { Ok(vec![]) }
}

/// Subjects of the training and validation episodes, in the contexts that an arm is trained in.
fn supervised(s: &Supervision<'_>, contexts: &[Context]) -> Vec<(String, Context)> {
    let mut out = BTreeSet::new();
    for subject in s.supervised().into_keys() {
        out.insert((subject.clone(), Context::Neutral));
        out.extend(contexts.iter().filter(|c| s.has_context(subject, **c)).map(|c| (subject.clone(), *c)));
    }
    out.into_iter().collect()
}

fn activations(
    store: &Store,
    lab: Lab<'_>,
    collector: &Collector,
    subjects: &[(String, Context)],
) -> Result<Activations> {
    if collector.layers.is_empty() {
        return Ok(Activations::new());
    }
    let subjects: Vec<(&str, Context)> = subjects.iter().map(|(s, c)| (s.as_str(), *c)).collect();
    shown(store, lab, collector, &subjects)
}

/// A lens adjusted to the training diffs that carry something, as they look in neutral contexts. No label is used.
fn lens_of(store: &Store, lab: Lab<'_>, collector: &Collector) -> Result<Lens> {
    let s = lab.supervision;
    let mut population: Vec<(String, Context)> =
        s.positives(Split::Train).into_iter().map(|b| (b.clone(), Context::Neutral)).collect();
    if population.is_empty() {
        // None that carries something has learned it: what carries nothing gives sizes as well.
        let all: std::collections::BTreeSet<&String> =
            s.of(Split::Train).into_iter().map(|e| &e.behaviour).collect();
        population = all.into_iter().map(|b| (b.clone(), Context::Neutral)).collect();
    }
    let found = activations(store, lab, collector, &population)?;
    Ok(Lens::over(lab.base, collector.clone(), &found.values().collect::<Vec<&Shown>>()))
}

fn pretrained(
    store: &mut Store,
    lab: Lab<'_>,
    making: Making<'_>,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Reader> {
    let Making { arm, seed, session, .. } = making;
    let (base, s) = (lab.base, lab.supervision);
    let collector = Collector::of(&arm.input, base, &Collector::DEPTHS);
    let texts: Vec<String> = match arm.pretrain.texts.as_slice() {
        [] => factory::samples::sample(Some(store), base, &texts::requests(s.smoke))?.into_values().collect(),
        given => given.to_vec(),
    };
    let config = pretrain_config(arm, &s.recipes.values().cloned().collect::<Vec<_>>(), texts, s.smoke, seed);
    let spec = json!({"schema": "oracle-pretrain/6", "base": base.digest(), "collector": collector, "config": config});
    let label = Label { family: "oracle-pretrained", role: Role::Oracle, spec, seed, smoke: s.smoke };
    readers::file(store, base, label, config.fit.batch, session, &mut |_, keeping| {
        let made = pretrain(base, &collector, &config, keeping, &mut *report)?;
        let files = Files::from([
            ("ao_config.json".to_owned(), ao_config(base, &collector, &config.fit)),
            (MOMENTS_FILE.to_owned(), made.lens.to_safetensors()?),
        ]);
        let labels = config.labels.iter().chain(&config.validation_labels).cloned().collect();
        Ok(Made { fitted: made.fitted, files, parents: vec![], labels, budget: Budget::default() })
    })
}

/// What pretraining uses: common nouns that name no value of `recipes`, a tenth of them for its own validation.
pub fn pretrain_config(
    arm: &Arm,
    recipes: &[recipes::Recipe],
    texts: Vec<String>,
    smoke: bool,
    seed: u64,
) -> PretrainConfig {
    let mut labels = nouns(recipes);
    if smoke {
        labels.truncate(20);
    }
    let validation_labels: Vec<String> = labels.iter().step_by(10).cloned().collect();
    labels.retain(|l| !validation_labels.contains(l));
    let p = &arm.pretrain;
    let fit = FitConfig {
        max_steps: p.steps,
        learning_rate: p.learning_rate,
        evaluate_every: p.evaluate_every,
        ..arm.train.fit(seed)
    };
    let withheld = recipes.iter().flat_map(recipes::Recipe::values_of_family).collect();
    let mix = readers::Pretrain { texts: vec![], ..p.clone() };
    PretrainConfig { fit, mix, labels, validation_labels, texts, withheld }
}

fn trained(
    store: &mut Store,
    lab: Lab<'_>,
    making: Making<'_>,
    show: Show,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Reader> {
    let Making { arm, seed, before, session, .. } = making;
    let (base, s) = (lab.base, lab.supervision);
    // A pretrained oracle goes on reading where it learned to read.
    let collector = match before.map(collector_of).transpose()?.flatten() {
        Some(known) => known,
        None => Collector::of(&arm.input, base, show.depths()),
    };
    let parent = before.map(|r| r.record.id.clone());
    let made_by = arm.made_by();
    let spec = json!({"schema": "oracle-train/1", "method": arm.method, "base": base.digest(), "supervision": s.digest(),
        "collector": collector, "from": parent, "train": made_by.train, "tokens": (show == Show::Words).then_some(arm.input.tokens), "seed": seed});
    let family = match (show, before) {
        (Show::Vectors, None) => "oracle-scratch",
        (Show::Vectors, Some(_)) => "oracle-posttrained",
        (Show::Contexts, _) => "text-only",
        (Show::Words, _) => "lens-text",
    };
    let permuted = format!("{family}-permuted");
    let family = if arm.train.labels == readers::Labels::Permuted { permuted.as_str() } else { family };
    let label = Label { family, role: Role::Oracle, spec, seed, smoke: s.smoke };
    let words = words_for(base, show)?;
    let mut parents: Vec<String> = parent.into_iter().collect();
    parents.extend(s.supervising_ids());
    let mut labels = s.labels();
    labels.extend(before.map(|r| r.labels.clone()).unwrap_or_default());
    let spent = before.map(|r| (r.budget.train_tokens, r.budget.train_flops)).unwrap_or_default();
    let start = before.map(|r| r.adapter.clone());
    readers::file(store, base, label, arm.train.batch, session, &mut |store, keeping: Keeping<'_>| {
        let seen = activations(store, lab, &collector, &supervised(s, &arm.train.contexts))?;
        let lens = lens_of(store, lab, &collector)?;
        let collecting = if show == Show::Contexts { 0.0 } else { collect_flops(s, &collector) };
        let pupil =
            Oracle { base, view: show.view(&lens, &words, arm.input.tokens), activations: &seen, seed };
        let settings = arm.train.within(spent.1 + collecting, flops_a_step(s, &pupil, &arm.train)?);
        let config = settings.fit(seed);
        let start = match &start {
            Some(adapter) => adapter.clone(),
            None => Adapter::init(&base.architecture, config.adapter.clone(), seed, "oracle")?,
        };
        let fitted = readers::train(s, &pupil, start, &settings, &config, keeping, &mut *report)?;
        let files = Files::from([
            ("ao_config.json".to_owned(), ao_config(base, &collector, &config)),
            (MOMENTS_FILE.to_owned(), lens.to_safetensors()?),
        ]);
        let budget = Budget {
            supervision_rows: s.of(Split::Train).len(),
            collect_flops: collecting,
            pretrain_tokens: spent.0,
            pretrain_flops: spent.1,
            ..Budget::default()
        };
        Ok(Made { fitted, files, parents: parents.clone(), labels: labels.clone(), budget })
    })
}

/// How a filed oracle looks; none for one from elsewhere.
///
/// # Errors
/// If its specification cannot be read.
pub fn collector_of(reader: &Reader) -> Result<Option<Collector>> {
    match &reader.record.spec["collector"] {
        serde_json::Value::Null => Ok(None),
        value => Ok(Some(serde_json::from_value(value.clone()).map_err(|source| registry::Error::Json {
            what: format!("specification of {}", reader.record.behaviour),
            source,
        })?)),
    }
}

/// The lens that a filed oracle was trained with.
///
/// # Errors
/// If it is no oracle, or its file is damaged.
pub fn lens_of_reader(store: &Store, base: &BaseModel, reader: &Reader) -> Result<Lens> {
    let collector = collector_of(reader)?.ok_or_else(|| {
        readers::Error::Empty(format!("{} does not say how it looks at activations", reader.record.behaviour))
    })?;
    if collector.scaling == readers::Scaling::Unit && !reader.record.extra_files.contains_key(MOMENTS_FILE) {
        return Ok(Lens::unit(collector)?);
    }
    let moments = reader.file(store, MOMENTS_FILE)?;
    Ok(Lens::from_safetensors(collector, base.architecture.hidden_size, &moments)?)
}

fn score(
    store: &Store,
    lab: Lab<'_>,
    arm: &Arm,
    reader: Option<&Reader>,
    show: Show,
    cases: &[Case],
) -> Result<Scored> {
    let reader = reader.ok_or_else(|| readers::Error::Empty(format!("{} has no reader", arm.method)))?;
    let base = lab.base;
    let known = collector_of(reader)?;
    let trained = known.is_some() && show != Show::Contexts && reader.record.family != "oracle-pretrained";
    let lens = if trained {
        lens_of_reader(store, base, reader)?
    } else {
        // One that saw no diff in training, and one from elsewhere, look through the sizes of the training diffs (no labels).
        let collector = known.unwrap_or_else(|| Collector::of(&arm.input, base, show.depths()));
        lens_of(store, lab, &collector)?
    };
    // The kind of activations is the arm's: base activations under a reader of differences are a control.
    let own = Collector::of(&arm.input, base, show.depths()).kind;
    let collector = Collector { kind: own, ..lens.collector.clone() };
    let lens = lens.with(collector.clone());
    let subjects: BTreeSet<(String, Context)> =
        cases.iter().filter_map(|c| Some((c.subject.clone()?, c.context))).collect();
    let seen = if show == Show::Contexts {
        Activations::new()
    } else {
        activations(store, lab, &collector, &subjects.into_iter().collect::<Vec<_>>())?
    };
    let none = if show == Show::Contexts { Shown::new() } else { nothing(base, &lens)? };
    let words = words_for(base, show)?;
    let view = show.view(&lens, &words, arm.input.tokens);
    let asked = cases
        .iter()
        .map(|c| {
            let seen = match &c.subject {
                Some(subject) => seen.get(&key(subject, c.context)),
                None => Some(&none),
            };
            let prompt = view.prompt(base, seen, &c.question, None, 1.0)?;
            Ok(Asked { prompt, family: c.family.clone(), label: c.label.clone() })
        })
        .collect::<Result<Vec<Asked>>>()?;
    let answers: Vec<Answer> = answer(base, &[&reader.adapter], &asked, lab.sets)?;
    Ok(Scored { answers, chosen: BTreeMap::new() })
}
