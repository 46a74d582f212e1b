//! Doing a comparison's jobs, as the factory's workers do them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use factory::{Craft, Failed, Failure, Job, Queue};
use lm::BaseModel;
use oracle_posttrain::shown;
use readers::{
    Case, ClosedSet, Lab, Making, Reader, Session, Stage, Supervision, cases, episode_options, from_record,
    tested,
};
use recipes::{Context, Split};
use registry::Store;

use crate::comparison::Meta;
use crate::jobs::{JobSpec, Reported, SCHEMA, Work};
use crate::measures::first_value;
use crate::progress::Progress;
use crate::scores::{Item, Scores};
use crate::{assembly, covariates, method, report};

/// One kind of a comparison's work.
#[derive(Debug, Clone, Copy)]
pub struct Comparing {
    work: Work,
}

/// All kinds.
pub fn crafts() -> Vec<Comparing> {
    Work::ALL.into_iter().map(|work| Comparing { work }).collect()
}

impl Craft for Comparing {
    fn kind(&self) -> &str {
        self.work.name()
    }

    fn work(
        &self,
        store: &mut Store,
        base: &BaseModel,
        job: &Job,
        stop: &AtomicBool,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<String>, Failed> {
        done(store, base, job, stop, say).map_err(|e| failed(&e))
    }
}

fn failed(e: &readers::Error) -> Failed {
    let interrupted = matches!(e, readers::Error::Model(lm::Error::Interrupted));
    // What the disk or the store refuses may be granted later.
    let store = matches!(
        e,
        readers::Error::Store(_)
            | readers::Error::Factory(factory::Error::Store(_))
            | readers::Error::Model(lm::Error::Io(_))
    );
    Failed {
        interrupted,
        failure: if store { Failure::Retryable } else { Failure::Permanent },
        reason: e.to_string(),
    }
}

/// Where a score job leaves its output.
pub fn scores_key(spec_hash: &str) -> String {
    format!("scores/{spec_hash}")
}

fn read_spec(job: &Job) -> readers::Result<JobSpec> {
    let spec: JobSpec = serde_json::from_value(job.spec.clone())
        .map_err(|source| factory::Error::Spec { job: job.label.clone(), source })?;
    if spec.schema != SCHEMA || spec.trainer_version != factory::spec::TRAINER_VERSION {
        let text = format!("job {} was queued by another version of lorafab", job.label);
        return Err(readers::Error::Empty(text));
    }
    Ok(spec)
}

fn done(
    store: &mut Store,
    base: &BaseModel,
    job: &Job,
    stop: &AtomicBool,
    say: &mut dyn FnMut(String),
) -> readers::Result<Option<String>> {
    let spec = read_spec(job)?;
    let mut made = Vec::new();
    for hash in &spec.adapters {
        made.extend(store.adapter_by_spec(hash)?);
    }
    let s =
        Supervision::of_adapters(store, base, made, &[], episode_options(spec.smoke), spec.smoke, spec.seed)?;
    let sets = closed_sets(&s)?;
    let lab = Lab { base, supervision: &s, sets: &sets, seed: spec.seed, stop };
    match spec.work {
        Work::Collect => collect(store, lab, &spec, say).map(|()| None),
        Work::Fit => fit(store, lab, job, &spec, say).map(Some),
        Work::Score => score(store, lab, job, &spec).map(|()| None),
        Work::Report => report_job(store, lab, job, &spec).map(|()| None),
    }
}

/// Closed sets of all families that are asked about.
///
/// # Errors
/// If a value cannot be tokenised.
pub fn closed_sets(s: &Supervision<'_>) -> readers::Result<BTreeMap<String, ClosedSet>> {
    s.families()
        .into_iter()
        .map(|f| {
            let set = ClosedSet::new(s.base, s.closed_set(&f))?;
            Ok((f, set))
        })
        .collect()
}

fn collect(store: &Store, lab: Lab<'_>, spec: &JobSpec, say: &mut dyn FnMut(String)) -> readers::Result<()> {
    let s = lab.supervision;
    let names: Vec<&str> = s.diffs.keys().map(String::as_str).collect();
    for reads in &spec.collect {
        let mut subjects: Vec<(&str, Context)> = names.iter().map(|n| (*n, Context::Neutral)).collect();
        let trained = |n: &&str| s.records[*n].split.as_deref() == Some(Split::Train.name());
        for (contexts, training) in [(&reads.contexts, false), (&reads.taught, true)] {
            for context in contexts {
                let those = names.iter().filter(|n| trained(n) == training && s.has_context(n, *context));
                subjects.extend(those.map(|n| (*n, *context)));
            }
        }
        let layers = &reads.collector.layers;
        say(format!("collecting activations of {} subjects at blocks {layers:?}", subjects.len()));
        shown(store, lab, &reads.collector, &subjects)?;
    }
    Ok(())
}

/// The reader that a job has made.
fn made_by(store: &mut Store, base: &BaseModel, hash: &str) -> readers::Result<Reader> {
    let id = Queue::new(store).find(hash)?.adapter.unwrap_or_default();
    from_record(store, base, store.adapter(&id)?)
}

fn fit(
    store: &mut Store,
    lab: Lab<'_>,
    job: &Job,
    spec: &JobSpec,
    say: &mut dyn FnMut(String),
) -> readers::Result<String> {
    let unknown = || readers::Error::Empty(format!("job {} says neither arm nor stage", job.label));
    let arm = spec.arm.as_ref().ok_or_else(unknown)?;
    let method = method::find(&arm.method).ok_or_else(unknown)?;
    let stage = [Stage::Pretrain, Stage::Train].into_iter().find(|s| Some(s.name()) == spec.stage.as_deref());
    let stage = stage.ok_or_else(unknown)?;
    let limited = lab.supervision.limited(&arm.train.at_most).without(&arm.train.without);
    for split in [Split::Train, Split::Validation] {
        if stage == Stage::Train && !arm.train.without.is_empty() && limited.positives(split).is_empty() {
            let what =
                format!("{}: train.without leaves no adapter of the split {}", job.label, split.name());
            return Err(readers::Error::Empty(what));
        }
    }
    let lab = Lab { supervision: &limited, ..lab };
    let before = spec.reader.as_ref().map(|hash| made_by(store, lab.base, hash)).transpose()?;
    let mut progress = Progress::new(&job.label, say);
    // A worker that lost its lease files nothing: the queue is asked in the transaction that files.
    let session = Session { stop: lab.stop, file: &|store, new| Ok(Queue::new(store).file(job, new)?) };
    let making = Making { arm, seed: spec.reader_seed, stage, before: before.as_ref(), session };
    let reader = method.fit(store, lab, making, &mut |e| progress.tell(&e))?;
    Ok(reader.record.id)
}

fn score(store: &mut Store, lab: Lab<'_>, job: &Job, spec: &JobSpec) -> readers::Result<()> {
    let unknown = || readers::Error::Empty(format!("job {} says no arm", job.label));
    let arm = spec.arm.as_ref().ok_or_else(unknown)?;
    let method = method::find(&arm.method).ok_or_else(unknown)?;
    let reader = match (&spec.reader, arm.which()) {
        (Some(hash), _) => Some(made_by(store, lab.base, hash)?),
        (None, readers::Which::Known(name)) => Some(readers::find(store, lab.base, name)?),
        (None, _) => None,
    };
    let without = lab.supervision.without(&arm.train.without);
    let lab = Lab { supervision: &without, ..lab };
    let mut cases = cases(lab.supervision, &arm.contexts);
    // A prior or a threshold of a family that is left out would be chosen by its own adapters.
    let looks_at =
        |c: &Case| c.subject.is_some() && !tested(c.split) && arm.train.without.contains(&c.family);
    cases.retain(|c| !looks_at(c) && (arm.asks.is_empty() || arm.asks.contains(&c.family)));
    let scored = method.score(store, lab, arm, reader.as_ref(), &cases)?;
    let mut chosen = scored.chosen;
    if arm.train.labels == readers::Labels::Permuted {
        chosen.insert("labels".into(), "permuted".into());
    }
    if !arm.train.without.is_empty() {
        let families: Vec<&str> = arm.train.without.iter().map(String::as_str).collect();
        chosen.insert("without".into(), families.join(", "));
    }
    if let Some(tflop) = arm.train.tflop {
        chosen.insert("footing".into(), format!("{tflop} TFLOP in all"));
    }
    let alone = without_adapter(lab, &cases, &scored.answers);
    let items = cases.into_iter().zip(scored.answers).map(|(case, answer)| {
        let known = alone.get(&(case.family.clone(), case.question.clone())).copied();
        Item { without: known.filter(|_| case.subject.is_some()), ..item(lab, case, answer) }
    });
    let scores = Scores {
        schema: Scores::SCHEMA.into(),
        arm: String::new(),
        method: arm.method.clone(),
        trained: method.trained(),
        input: input_line(arm, method, lab),
        seed: spec.reader_seed,
        chosen,
        candidates: lab.sets.iter().map(|(f, s)| (f.clone(), s.names.clone())).collect(),
        items: items.collect(),
        // Seconds are not the same twice; the catalogue has them.
        budget: reader.as_ref().map(|r| readers::Budget { seconds: 0.0, ..r.budget.clone() }),
        trajectory: reader.map(|r| r.points).unwrap_or_default(),
    };
    let bytes = serde_json::to_vec(&scores).expect("invariant: plain data");
    store.cache_put(&scores_key(&job.spec_hash), &bytes)?;
    Ok(())
}

/// Which value of its closed set is ranked first with no adapter on, by family and question, of families whose questions hold a text.
fn without_adapter(
    lab: Lab<'_>,
    cases: &[Case],
    answers: &[readers::Answer],
) -> BTreeMap<(String, String), usize> {
    let texted =
        |c: &Case| lab.supervision.recipes.get(&c.family).is_some_and(recipes::Recipe::asks_with_fields);
    cases
        .iter()
        .zip(answers)
        .filter(|(c, _)| c.subject.is_none() && texted(c))
        .filter_map(|(c, a)| Some(((c.family.clone(), c.question.clone()), first_value(&a.scores)?)))
        .collect()
}

/// One line for people.
fn input_line(arm: &readers::Arm, method: &dyn readers::Method, lab: Lab<'_>) -> String {
    let depths = method.depths(arm);
    if depths.is_empty() {
        return "the question".into();
    }
    let c = oracle_posttrain::Collector::of(&arm.input, lab.base, &depths);
    let kind = match arm.input.kind {
        readers::InputKind::Difference => "differences",
        readers::InputKind::Adapted => "activations of the adapted model",
        readers::InputKind::Base => "activations of the base model",
    };
    let scaling = format!("{:?}", c.scaling).to_lowercase();
    let end = if c.from_start { "first" } else { "last" };
    // Only a reader that is trained on vectors is shown them scaled.
    let scaled = if method.stages(arm).is_empty() { String::new() } else { format!(", {scaling}") };
    format!("{kind}, blocks {:?}, {end} {} positions of {} contexts{scaled}", c.layers, c.last, c.asked)
}

fn item(lab: Lab<'_>, case: Case, answer: readers::Answer) -> Item {
    let present = case.present();
    let split = lab.supervision.section(case.subject.as_deref().unwrap_or_default(), case.split.name());
    let record = case.subject.as_ref().and_then(|s| lab.supervision.records.get(s));
    Item {
        status: record.and_then(|r| r.field("status")).unwrap_or_default(),
        adapter: case.subject.unwrap_or_default(),
        carries: case.carries,
        subject: present,
        context: case.context.name().into(),
        split,
        family: case.family,
        question_id: case.question_id,
        held_out_question: case.held_out_question,
        label: case.label,
        scores: answer.scores.iter().map(|s| round(*s)).collect(),
        answer_nats: answer.answer_nats,
        reply: answer.reply,
        without: None,
    }
}

/// To six significant digits: scores are many, and a difference smaller than that says nothing.
fn round(x: f32) -> f32 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

fn report_job(store: &mut Store, lab: Lab<'_>, job: &Job, spec: &JobSpec) -> readers::Result<()> {
    let unknown = || readers::Error::Empty(format!("job {} says not what to report", job.label));
    let of: &Reported = spec.report.as_ref().ok_or_else(unknown)?;
    let s = lab.supervision;
    let mut all: Vec<Scores> = Vec::new();
    let (mut used, mut known): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (name, hashes) in &of.arms {
        for hash in hashes {
            let bytes = store.cache_get(&scores_key(hash))?.ok_or_else(|| {
                readers::Error::Empty(format!("the scores of {name} were lost: run its job again"))
            })?;
            let mut scores: Scores = serde_json::from_slice(&bytes)
                .map_err(|source| registry::Error::Json { what: format!("scores of {name}"), source })?;
            scores.arm.clone_from(name);
            all.push(scores);
            let scored = read_spec(&Queue::new(store).find(hash)?)?;
            match (scored.reader, scored.arm.as_ref().map(readers::Arm::which)) {
                (Some(fit), _) => used.push(Queue::new(store).find(&fit)?.adapter.unwrap_or_default()),
                (None, Some(readers::Which::Known(name))) => {
                    let id = store.adapter(name)?.id;
                    known.push(id.clone());
                    used.push(id);
                }
                _ => {}
            }
        }
    }
    used.sort();
    used.dedup();
    let mut notes: Vec<String> = s
        .left_out
        .iter()
        .map(|(behaviour, what)| format!("WARNING: {behaviour} is left out, it cannot be used: {what}."))
        .collect();
    // A reader that was named is held against all others; those that were made here may be limited on purpose, by their arms.
    let named = known.iter().map(|id| store.adapter(id)).collect::<registry::Result<Vec<_>>>()?;
    let made = used.iter().filter(|id| !known.contains(id)).map(|id| store.adapter(id));
    let full = made.collect::<registry::Result<Vec<_>>>()?.into_iter().max_by_key(|r| r.parents.len());
    let held: Vec<&registry::AdapterRecord> =
        named.iter().chain(full.iter().filter(|_| !named.is_empty())).collect();
    notes.extend(
        crate::warnings::mixed(held.into_iter(), spec.smoke).into_iter().map(|w| format!("WARNING: {w}")),
    );
    for id in &used {
        let reader = from_record(store, lab.base, store.adapter(id)?)?;
        // A tuning run judges on what its own readers are stopped by, and says so; one that was there before must not know it.
        let judged = if !s.test().is_empty() {
            s.test()
        } else if known.contains(id) {
            s.of(Split::Validation)
        } else {
            vec![]
        };
        let tested = judged.into_iter().filter(|e| !e.negative && reader.labels.contains(&e.answer)).count();
        if tested > 0 {
            notes.push(format!(
                "WARNING: {} was trained on or stopped by labels that it is tested on; train it again on these splits.",
                reader.record.behaviour
            ));
        }
    }
    let meta = Meta {
        run: of.run.clone(),
        created_at: String::new(),
        model: format!(
            "{} ({:?})",
            lab.base.placeless_name().rsplit('/').next().unwrap_or_default(),
            lab.base.decoder.precision()
        ),
        smoke: spec.smoke,
        notes,
        primary: of.primary.clone(),
        arms: of.arms.iter().map(|(name, _)| name.clone()).collect(),
        categories: covariates::categories(s.recipes.values()),
    };
    let comparison = assembly::assemble(meta, &all, &covariates::covariates(s), covariates::gates(s));
    let asked: Vec<&String> =
        s.test().iter().filter_map(|e| s.records.get(&e.behaviour)).map(|r| &r.id).collect();
    let asked: std::collections::BTreeSet<&String> = asked.into_iter().collect();
    let config = serde_json::json!({
        "schema": "run/3", "run": of.run, "job": job.spec_hash, "seed": spec.seed, "smoke": spec.smoke, "base": spec.base,
        "readers": used, "asked": asked, "arms": of.arms, "primary": of.primary, "episodes": s.episodes,
        "adapters": s.records.values().map(|r| (&r.behaviour, &r.id)).collect::<BTreeMap<_, _>>(),
    });
    let lines: Vec<String> =
        all.iter().map(|i| serde_json::to_string(i).expect("invariant: plain data")).collect();
    let files = [
        ("scores.jsonl", lines.join("\n").into_bytes()),
        ("comparison.json", report::to_json(&comparison).to_string().into_bytes()),
        ("report.html", report::to_html(&comparison).into_bytes()),
    ];
    Queue::new(store).file_run(job, &of.run, &config, &files)?;
    Ok(())
}
