//! A study, registered: what it asks, of which adapters, and how it decides, under one digest, before a test adapter of it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use factory::spec::TRAINER_VERSION;
use fence::open::TABLE;
use recipes::{Polarity, Recipe, Split};
use registry::{Store, names::nearest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::file::Study;
use crate::power::{PowerRow, power};
use crate::resolve::{Resolved, labels};
use crate::{Error, Result};

/// Least power at the expected difference that a study has to have.
pub const LEAST_POWER: f64 = 0.5;

/// What is filed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// `registration/1`.
    #[schemars(extend("const" = Registration::SCHEMA))]
    pub schema: String,
    /// blake3 of everything below.
    pub digest: String,
    /// The study.
    pub study: Study,
    /// A few steps for every reader: its numbers mean nothing.
    pub smoke: bool,
    /// The base model's name.
    pub model: String,
    /// Digest of the base model.
    pub base: String,
    /// Version of the trainer.
    pub trainer_version: u32,
    /// Digests of the recipes, with the study's splits.
    pub recipes: BTreeMap<String, String>,
    /// Values by family and use.
    pub values: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// How many values were kept from the test because they were looked at before.
    pub looked_at: usize,
    /// Power by simulation.
    pub power: Vec<PowerRow>,
    /// Registered although a primary's power is under a half.
    pub underpowered: bool,
    /// What of it was tested before, or made, where it was registered all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<String>,
}

/// What somebody insists on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Insist {
    /// Register in spite of low power.
    pub underpowered: bool,
    /// Register in spite of test values that were looked at.
    pub again: bool,
}

impl Registration {
    /// Schema of this version.
    pub const SCHEMA: &'static str = "registration/1";

    /// Of a resolved study; power is simulated.
    pub fn of(resolved: &Resolved, (model, base): (&str, &str), smoke: bool) -> Self {
        let study = resolved.study.clone();
        let mut out = Self {
            schema: Self::SCHEMA.into(),
            digest: String::new(),
            power: power(&study, &resolved.carrying()),
            smoke,
            model: model.to_owned(),
            base: base.to_owned(),
            trainer_version: TRAINER_VERSION,
            recipes: resolved.recipes.iter().map(|r| (r.name.clone(), r.digest())).collect(),
            values: resolved.values().into_iter().collect(),
            looked_at: resolved.looked_at.len(),
            underpowered: false,
            again: vec![],
            study,
        };
        out.underpowered = !smoke && out.weakest().is_some_and(|p| p.expected() < LEAST_POWER);
        out.digest = out.own_digest();
        out
    }

    /// The digest that it should have.
    pub fn own_digest(&self) -> String {
        let plain = Self { digest: String::new(), ..self.clone() };
        let json = serde_json::to_value(&plain).expect("invariant: plain data");
        registry::spec_hash(&json)
    }

    /// The primary with the least power.
    pub fn weakest(&self) -> Option<&PowerRow> {
        self.power.iter().min_by(|a, b| a.expected().total_cmp(&b.expected()))
    }

    /// Reads a file's text; `source` names it in messages.
    ///
    /// # Errors
    /// If it is none, or was changed.
    pub fn parse(source: &str, text: &str) -> Result<Self> {
        let wrong = |what: String| Error::Registration(format!("{source}: {what}"));
        let out: Self = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        if out.schema != Self::SCHEMA {
            return Err(wrong(format!("schema: {:?}; \"{}\" is read", out.schema, Self::SCHEMA)));
        }
        if out.digest != out.own_digest() {
            return Err(wrong("digest: does not fit what is registered: the file was changed".into()));
        }
        Ok(out)
    }

    /// The file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("invariant: plain data") + "\n"
    }

    /// Families that carry something and their test values.
    fn tested(&self) -> BTreeSet<(String, String)> {
        let test = Split::TestValue.name();
        let of = |(family, uses): (&String, &BTreeMap<String, Vec<String>>)| -> Vec<(String, String)> {
            uses.get(test).into_iter().flatten().map(|v| (family.clone(), v.clone())).collect()
        };
        self.values.iter().flat_map(of).collect()
    }
}

/// The folder of a study in a store.
fn place(store: &Store, name: &str) -> PathBuf {
    store.root().join("studies").join(name)
}

const FILE: &str = "registration.json";
const RECIPES: &str = "recipes.json";
/// The study's file as it was given.
pub const SOURCE: &str = "study.toml";

/// Names of the studies of a store.
///
/// # Errors
/// If the folder cannot be read.
pub fn names(store: &Store) -> Result<Vec<String>> {
    let folder = store.root().join("studies");
    if !folder.exists() {
        return Ok(vec![]);
    }
    let mut out = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join(FILE).exists() {
            out.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    out.sort();
    Ok(out)
}

/// A registered study, with its recipes and its file's text.
///
/// # Errors
/// If there is none of the name, or its files were changed.
pub fn find(store: &Store, name: &str) -> Result<(Registration, Vec<Recipe>, String)> {
    let folder = place(store, name);
    if registry::check_name(name).is_err() || !folder.join(FILE).exists() {
        let known = names(store)?;
        let near = nearest(name, known.iter().map(String::as_str), 1)
            .first()
            .map(|n| format!("; did you mean {n}?"));
        let all = if known.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        let what = format!(
            "no study {name:?} is registered in {} ({all}{})",
            store.root().display(),
            near.unwrap_or_default()
        );
        return Err(Error::Registration(what));
    }
    let read = |file: &str| -> Result<(String, String)> {
        let path = folder.join(file);
        Ok((path.display().to_string(), fence::open::read_own_text(&path, TABLE)?))
    };
    let (path, text) = read(FILE)?;
    let registration = Registration::parse(&path, &text)?;
    let (path, text) = read(RECIPES)?;
    let recipes: Vec<Recipe> =
        serde_json::from_str(&text).map_err(|e| Error::Registration(format!("{path}: {e}")))?;
    for recipe in &recipes {
        if registration.recipes.get(&recipe.name) != Some(&recipe.digest()) {
            return Err(Error::Registration(format!(
                "{path}: {:?} is not as it was registered",
                recipe.name
            )));
        }
    }
    Ok((registration, recipes, read(SOURCE)?.1))
}

/// Files a study. The same study again changes nothing.
///
/// # Errors
/// If another study has its name, test values of it were looked at or made before, or its power is low, and nobody insists.
pub fn register(
    store: &mut Store,
    mut new: Registration,
    resolved: &Resolved,
    source: &str,
    insist: Insist,
) -> Result<Registration> {
    let name = new.study.name.clone();
    if let Ok((known, _, _)) = find(store, &name) {
        let same = Registration { again: known.again.clone(), digest: String::new(), ..new.clone() };
        if same == (Registration { digest: String::new(), ..known.clone() }) {
            return Ok(known);
        }
        return Err(Error::Registration(format!(
            "another study {name:?} is registered here; give this one another name"
        )));
    }
    if compare::runs::all(store.root())?.iter().any(|r| r.name == name) {
        return Err(Error::Registration(format!(
            "a comparison {name:?} is in this store; give the study another name"
        )));
    }
    if new.underpowered && !insist.underpowered {
        let weak = new.weakest().expect("invariant: a study has primaries");
        return Err(Error::Underpowered(format!(
            "primary {}: the power is {:.2} at the expected difference of {} ({} test adapters of {} families, {} seeds): under {LEAST_POWER}",
            weak.primary,
            weak.expected(),
            weak.at.first().map_or(0.0, |a| a.0),
            weak.adapters,
            weak.families,
            weak.seeds
        )));
    }
    let seen = seen_before(store, &new, resolved)?;
    if let Some(first) = seen.first() {
        if !insist.again {
            let more = if seen.len() > 1 { format!(" and {} more", seen.len() - 1) } else { String::new() };
            return Err(Error::Seen(format!("{first}{more}")));
        }
        new.again = seen;
        new.digest = new.own_digest();
    }
    let folder = place(store, &name);
    fs_err::create_dir_all(&folder)?;
    let recipes = serde_json::to_string(&resolved.recipes).expect("invariant: plain data");
    registry::blobs::write_atomic(&folder.join(RECIPES), recipes.as_bytes())?;
    registry::blobs::write_atomic(&folder.join(SOURCE), source.as_bytes())?;
    // Last: what is not there was not registered.
    registry::blobs::write_atomic(&folder.join(FILE), new.to_json().as_bytes())?;
    Ok(new)
}

/// What of a study's test was looked at in this store, or is made already: a sentence each.
fn seen_before(store: &Store, new: &Registration, resolved: &Resolved) -> Result<Vec<String>> {
    let tested = new.tested();
    let mut out = Vec::new();
    for run in compare::runs::all(store.root())? {
        let Ok(comparison) = run.comparison() else { continue };
        for (family, value) in labels(&comparison) {
            if tested.contains(&(family.clone(), value.clone())) {
                out.push(format!("{family}/{value} was tested in the comparison {:?}", run.name));
            }
        }
    }
    for other in names(store)?.into_iter().filter(|n| *n != new.study.name) {
        let (registered, _, _) = find(store, &other)?;
        for (family, value) in registered.tested().intersection(&tested) {
            if resolved.recipes.iter().any(|r| r.name == *family && r.polarity == Polarity::Positive) {
                out.push(format!("{family}/{value} is tested in the study {other:?}"));
            }
        }
    }
    for spec in factory::specs(&resolved.behaviours, &new.base, &[])? {
        let deciding =
            spec.behaviour.split == Split::TestValue && spec.behaviour.polarity == Polarity::Positive;
        if deciding && store.adapter_by_spec(&spec.hash())?.is_some() {
            out.push(format!("the test adapter {} is made already", spec.behaviour.id));
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}
