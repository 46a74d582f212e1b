//! A file of jobs: adapters, interventions and comparisons that wait for each other.
//!
//! ```toml
//! schema = "jobs/1"
//!
//! [[job]]
//! name = "bees"
//! kind = "adapters"
//! recipes = ["topic"]      # names, or files beside this one
//! limit = 20
//!
//! [[job]]
//! name = "mine"
//! kind = "comparison"
//! of = ["bees"]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use ::compare::{Arms, DEFAULT, Plan};
use factory::queue::Needs;
use factory::{AdapterSpec, SubmitOptions};
use lm::Outline;
use oracle_posttrain::intervention::{Cap, Spec};
use recipes::{Behaviour, Recipe, Split};
use registry::Store;
use serde::Deserialize;

use super::super::{compare, intervention, recipe};
use super::{Settling, Work, expand};
use crate::error::{CommandError, Kind, Result};

/// What every job of a file can say.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Common<W> {
    /// Its name in this file, and of what comes of it.
    #[cfg_attr(test, schemars(regex(pattern = registry::store::NAME)))]
    name: String,
    /// Jobs of this file that have to succeed before.
    #[serde(default)]
    after: Vec<String>,
    /// Jobs of this file that only have to end before.
    #[serde(default)]
    after_any: Vec<String>,
    /// The higher is done first.
    #[serde(default)]
    priority: i64,
    /// Tags of its adapters.
    #[serde(default)]
    tags: Vec<String>,
    /// How often it is tried, 1 to 1,000,000.
    #[serde(default = "eight")]
    #[cfg_attr(test, schemars(range(min = 1, max = 1_000_000)))]
    attempts: i64,
    work: W,
}

/// Adapters of recipes.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Adapters {
    /// Names of recipes, or files beside this one.
    recipes: Vec<String>,
    /// The first so many adapters of each recipe.
    limit: Option<usize>,
    /// Master seed.
    #[serde(default = "first_seed")]
    seed: u64,
    /// Most TFLOP that an adapter may cost.
    #[serde(default = "thousand")]
    max_tflop: f64,
}

/// An intervention.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Intervention {
    /// A file beside this one.
    spec: String,
    /// Most TFLOP.
    #[serde(default = "thousand")]
    max_tflop: f64,
    /// Most megabytes of vectors.
    #[serde(default = "thousand")]
    max_mb: f64,
}

/// The readers and the comparison of adapters made by other jobs.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Comparison {
    /// Jobs of this file that make the adapters.
    of: Vec<String>,
    /// Master seed.
    #[serde(default = "first_seed")]
    seed: u64,
    /// A file of arms beside this one; the default comparison if none is given.
    arms: Option<String>,
    /// Seeds of every trained reader that names none of its own.
    #[serde(default = "one_seed")]
    seeds: usize,
    /// A few steps for every reader; its numbers mean nothing.
    #[serde(default)]
    smoke: bool,
}

fn eight() -> i64 {
    8
}
fn thousand() -> f64 {
    1000.0
}
fn first_seed() -> u64 {
    1
}
fn one_seed() -> usize {
    1
}

enum Entry {
    Adapters(Common<Adapters>),
    Intervention(Common<Intervention>),
    Comparison(Common<Comparison>),
}

impl Entry {
    fn attempts(&self) -> i64 {
        match self {
            Self::Adapters(j) => j.attempts,
            Self::Intervention(j) => j.attempts,
            Self::Comparison(j) => j.attempts,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Adapters(j) => &j.name,
            Self::Intervention(j) => &j.name,
            Self::Comparison(j) => &j.name,
        }
    }
}

/// Jobs of a file.
const MOST_JOBS: usize = 10_000;

const COMMON: [&str; 6] = ["name", "after", "after_any", "priority", "tags", "attempts"];

/// Whether a TOML file means to be one of jobs.
pub(super) fn is_one(text: &str) -> bool {
    toml::from_str::<toml::Table>(text).is_ok_and(|t| {
        let schema = t.get("schema").and_then(toml::Value::as_str);
        t.contains_key("job") || schema.is_some_and(|s| s.starts_with("job"))
    })
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> CommandError {
    CommandError::new(Kind::Usage, format!("{}: {what}", path.display()))
        .hint("the format: lorafab factory submit --help")
}

fn parse(path: &Path, text: &str) -> Result<Vec<Entry>> {
    let mut table: toml::Table = toml::from_str(text).map_err(|e| wrong(path, e.message()))?;
    let schema = table.remove("schema");
    if schema.as_ref().and_then(toml::Value::as_str) != Some("jobs/1") {
        return Err(wrong(path, "schema: \"jobs/1\" is read"));
    }
    let jobs = table.remove("job");
    if let Some(key) = table.keys().next() {
        return Err(wrong(path, format!("{key}: unknown field; schema and [[job]] are known")));
    }
    let Some(toml::Value::Array(jobs)) = jobs else {
        return Err(wrong(path, "job: there is no [[job]]"));
    };
    if jobs.len() > MOST_JOBS {
        return Err(wrong(path, format!("job: there are {}, more than {MOST_JOBS}", jobs.len())));
    }
    let mut out: Vec<Entry> = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for (i, job) in jobs.into_iter().enumerate() {
        let at = format!("job[{i}]");
        let toml::Value::Table(mut job) = job else { return Err(wrong(path, format!("{at}: is no table"))) };
        let kind = job.remove("kind");
        // What is not common belongs to the kind.
        let mut all = toml::Table::new();
        for key in COMMON {
            all.extend(job.remove_entry(key));
        }
        all.insert("work".into(), toml::Value::Table(job));
        let value = toml::Value::Table(all);
        let work = match kind.as_ref().and_then(toml::Value::as_str) {
            Some("adapters") => field(path, &at, value).map(Entry::Adapters)?,
            Some("intervention") => field(path, &at, value).map(Entry::Intervention)?,
            Some("comparison") => field(path, &at, value).map(Entry::Comparison)?,
            _ => {
                let found = kind.map_or_else(|| "missing".to_owned(), |k| k.to_string());
                return Err(wrong(
                    path,
                    format!("{at}.kind: {found}; adapters, intervention and comparison are known"),
                ));
            }
        };
        // It comes to be a run's folder and part of labels.
        registry::check_name(work.name()).map_err(|e| wrong(path, format!("{at}.name: {e}")))?;
        if !(1..=1_000_000).contains(&work.attempts()) {
            return Err(wrong(path, format!("{at}.attempts: {} is not in 1..=1000000", work.attempts())));
        }
        if !names.insert(work.name().to_owned()) {
            return Err(wrong(path, format!("{at}.name: {:?} is taken", work.name())));
        }
        out.push(work);
    }
    Ok(out)
}

fn field<T: serde::de::DeserializeOwned>(path: &Path, at: &str, value: toml::Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let place = e.path().to_string();
        let field = place.strip_prefix("work.").unwrap_or(&place);
        let at = if matches!(field, "." | "work") { at.to_owned() } else { format!("{at}.{field}") };
        wrong(path, format!("{at}: {}", e.into_inner().message()))
    })
}

/// The first name that is there a second time.
pub(super) fn twice(names: &[String]) -> Option<(usize, &String)> {
    let mut seen = std::collections::BTreeSet::new();
    names.iter().enumerate().find(|(_, name)| !seen.insert(*name))
}

/// What one job of the file stands for in the queue.
#[derive(Default)]
struct Made {
    /// Specifications of its jobs.
    jobs: Vec<String>,
    /// Its behaviours with their specifications' hashes, if it makes adapters.
    behaviours: Vec<(Behaviour, String)>,
}

/// Adds a file's jobs to `out`, those that others need first.
pub(super) fn plan(
    store: &Store,
    outline: &Outline,
    path: &Path,
    text: &str,
    settling: &mut Settling,
    out: &mut Work,
) -> Result {
    let entries = parse(path, text)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let digest = outline.digest();
    let mut made: BTreeMap<String, Made> = BTreeMap::new();
    for (i, entry) in entries.into_iter().enumerate() {
        let at = format!("job[{i}]");
        let (name, behaviours, jobs) = match entry {
            Entry::Adapters(j) => {
                let needs = needs(path, &at, &made, &j.after, &j.after_any)?;
                if let Some((k, name)) = twice(&j.work.recipes) {
                    return Err(wrong(path, format!("{at}.recipes[{k}]: {name:?} is given twice")));
                }
                let recipes = j.work.recipes.iter().map(|r| load(folder, r)).collect::<Result<Vec<_>>>()?;
                let recipes = settling.resolve(outline, recipes)?;
                let behaviours = expand(&recipes, j.work.seed, j.work.limit);
                let options = options(&j, needs, j.work.max_tflop);
                ::factory::hold_to_cap(outline, &behaviours, options.max_flops)?;
                let stored = ::factory::references_in(store, &digest, &behaviours)?;
                let jobs = ::factory::jobs(&behaviours, &digest, &stored, &options)?;
                let specs = ::factory::specs(&behaviours, &digest, &stored)?;
                let hashes = specs.iter().map(AdapterSpec::hash);
                out.recipes.extend(recipes);
                (j.name, behaviours.into_iter().zip(hashes).collect(), jobs)
            }
            Entry::Intervention(j) => {
                let needs = needs(path, &at, &made, &j.after, &j.after_any)?;
                let file = beside(folder, &j.work.spec).ok_or_else(|| {
                    wrong(path, format!("{at}.spec: {:?} is no file beside this one", j.work.spec))
                })?;
                let spec: Spec = intervention::read(&file)?;
                let cap = Cap { flops: j.work.max_tflop * 1e12, bytes: j.work.max_mb * 1e6 };
                let options = options(&j, needs, j.work.max_tflop);
                let to_come = made
                    .values()
                    .flat_map(|m| m.behaviours.iter().map(|(b, hash)| (b.id.clone(), hash.clone())))
                    .collect();
                let job = intervention::job(store, outline, spec, cap, &to_come, &j.name, &options)?;
                (j.name, vec![], vec![job])
            }
            Entry::Comparison(j) => {
                let needs = needs(path, &at, &made, &j.after, &j.after_any)?;
                let adapters =
                    adapters_of(&j.work.of, &made).map_err(|what| wrong(path, format!("{at}.of: {what}")))?;
                let arms = match &j.work.arms {
                    None => Arms::parse("default arms", DEFAULT)?.about(&out.recipes),
                    Some(name) => {
                        let file = beside(folder, name).ok_or_else(|| {
                            wrong(path, format!("{at}.arms: {name:?} is no file beside this one"))
                        })?;
                        Arms::parse(
                            &file.display().to_string(),
                            &fence::read_text(&file, fence::open::SMALL)?,
                        )?
                    }
                };
                let mut arms = arms;
                arms.check(outline, &out.recipes)?;
                if let Some((i, _)) = compare::settle(store, outline, &mut arms)?.first() {
                    let what = "a folder is taken by `compare run` only; give an id";
                    return Err(wrong(path, format!("{at}.arms: arm[{i}].reader: {what}")));
                }
                if j.work.seeds == 0 {
                    return Err(wrong(path, format!("{at}.seeds: 0 is too few; give at least 1")));
                }
                let arms = arms.with_seeds(j.work.seeds);
                let arms = if j.work.smoke { arms.smoke() } else { arms };
                let plan = Plan { run: &j.name, smoke: j.work.smoke, seed: j.work.seed, made: false };
                let options = options(&j, needs, f64::INFINITY);
                let jobs = ::compare::jobs(outline, adapters, &arms, plan, &options);
                (j.name, vec![], jobs)
            }
        };
        made.insert(name, Made { jobs: jobs.iter().map(|j| j.spec_hash.clone()).collect(), behaviours });
        out.jobs.extend(jobs);
    }
    Ok(())
}

/// The adapters of earlier jobs, if readers can be trained, stopped and tested on them.
fn adapters_of(of: &[String], made: &BTreeMap<String, Made>) -> std::result::Result<Vec<String>, String> {
    let (mut adapters, mut splits) = (Vec::new(), BTreeSet::new());
    for name in of {
        let group = made.get(name).filter(|m| !m.behaviours.is_empty());
        let group =
            group.ok_or_else(|| format!("{name:?} is no earlier job of this file that makes adapters"))?;
        for (behaviour, hash) in &group.behaviours {
            adapters.push(hash.clone());
            splits.insert(behaviour.split);
        }
    }
    let tested = splits.contains(&Split::TestValue) || splits.contains(&Split::TestCategory);
    for (there, what) in [
        (splits.contains(&Split::Train), "to train readers on"),
        (splits.contains(&Split::Validation), "of the validation split, to stop readers by"),
        (tested, "held out, to test readers on"),
    ] {
        if !there {
            return Err(format!("none of these adapters is {what}; make more"));
        }
    }
    Ok(adapters)
}

fn options<W>(job: &Common<W>, needs: Vec<Needs>, max_tflop: f64) -> SubmitOptions {
    SubmitOptions {
        priority: job.priority,
        max_attempts: job.attempts,
        tags: job.tags.clone(),
        needs,
        max_flops: max_tflop * 1e12,
    }
}

fn needs(
    path: &Path,
    at: &str,
    made: &BTreeMap<String, Made>,
    after: &[String],
    after_any: &[String],
) -> Result<Vec<Needs>> {
    let mut out = Vec::new();
    for (field, names, only_ok) in [("after", after, true), ("after_any", after_any, false)] {
        for name in names {
            let group = made.get(name).ok_or_else(|| {
                wrong(path, format!("{at}.{field}: {name:?} is no earlier job of this file"))
            })?;
            out.extend(group.jobs.iter().map(|hash| Needs { spec_hash: hash.clone(), only_ok }));
        }
    }
    Ok(out)
}

/// A file in the folder of the file of jobs, or below it.
fn beside(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let inside = path.components().all(|c| matches!(c, Component::Normal(_)));
    Some(folder.join(path)).filter(|p| inside && p.is_file())
}

/// A built-in recipe, or else a file beside the file of jobs.
fn load(folder: &Path, name: &str) -> Result<Recipe> {
    if ::recipes::builtin_source(name).is_some() {
        return recipe::load(name);
    }
    match beside(folder, name) {
        Some(file) => recipe::load(&file.display().to_string()),
        None => Err(CommandError::new(
            Kind::NotFound,
            format!("no recipe {name:?}: neither built in nor a file beside the file of jobs"),
        )),
    }
}

#[cfg(test)]
pub(crate) mod schema;
