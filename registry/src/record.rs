//! What the catalogue knows of an adapter.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Digest;

/// What an adapter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Carries a behaviour (or, as a negative, nothing).
    WeightDiff,
    /// A DIT adapter.
    DitAdapter,
    /// An activation oracle.
    Oracle,
}

/// What the gate said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The behaviour was acquired.
    Learned,
    /// Partly.
    Weak,
    /// Not, or it leaks.
    Failed,
    /// There is no behaviour to acquire (negatives, readers).
    NotApplicable,
    /// Never gated (imports).
    Untested,
}

/// The fields of an `adapter_config.json` that vary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeftConfig {
    /// Name of the base model.
    pub base_model: String,
    /// Which revision of it, for one from the Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Rank.
    pub r: usize,
    /// Numerator of the scaling.
    pub lora_alpha: f32,
    /// Projections.
    pub target_modules: BTreeSet<String>,
    /// Whether the base model's class holds the text model inside a larger one, which decides what PEFT calls its layers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
}

/// A finished adapter on its way into the catalogue. As JSON it is without its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAdapter {
    /// Identity of the work that made it.
    pub spec_hash: String,
    /// That work.
    pub spec: serde_json::Value,
    /// Role.
    pub role: Role,
    /// Behaviour id, or a reader's name.
    pub behaviour: String,
    /// Family, or the kind of reader.
    pub family: String,
    /// Label.
    pub value: String,
    /// Category of the label.
    pub category: String,
    /// Split, where there is one.
    pub split: Option<String>,
    /// Gate status.
    pub status: Status,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
    /// Numbers: gate rates, losses, steps, tokens, seconds.
    pub metrics: BTreeMap<String, f64>,
    /// Shape and scale.
    pub peft: PeftConfig,
    /// `adapter_model.safetensors`.
    #[serde(skip)]
    pub weights: Vec<u8>,
    /// Ids of adapters it was made from.
    pub parents: Vec<String>,
    /// Digests and versions: recipe, data, base, trainer.
    pub lineage: BTreeMap<String, String>,
    /// Further files to export with it (e.g. `ao_config.json`).
    #[serde(skip)]
    pub extra_files: BTreeMap<String, Vec<u8>>,
}

impl NewAdapter {
    /// As [`NewAdapter::bare`], made from a specification, whose hash is its identity.
    pub fn of_spec(spec: serde_json::Value, behaviour: &str, peft: PeftConfig, weights: Vec<u8>) -> Self {
        Self { spec_hash: crate::spec_hash(&spec), spec, ..Self::bare("", behaviour, peft, weights) }
    }

    /// An adapter of `family/value` about which nothing else is known: never gated, no category, no tags.
    pub fn bare(spec_hash: &str, behaviour: &str, peft: PeftConfig, weights: Vec<u8>) -> Self {
        let (family, value) = behaviour.split_once('/').unwrap_or((behaviour, behaviour));
        Self {
            spec_hash: spec_hash.into(),
            spec: serde_json::Value::Null,
            role: Role::WeightDiff,
            behaviour: behaviour.into(),
            family: family.into(),
            value: value.into(),
            category: String::new(),
            split: None,
            status: Status::Untested,
            tags: BTreeMap::new(),
            metrics: BTreeMap::new(),
            peft,
            weights,
            parents: Vec::new(),
            lineage: BTreeMap::new(),
            extra_files: BTreeMap::new(),
        }
    }
}

impl PeftConfig {
    /// A configuration of rank `r` with scaling 1.
    pub fn of_rank(base_model: &str, r: usize, target_modules: &[&str]) -> Self {
        Self {
            base_model: base_model.into(),
            revision: None,
            r,
            lora_alpha: r as f32,
            target_modules: target_modules.iter().map(|m| (*m).to_owned()).collect(),
            nested: false,
        }
    }
}

/// A catalogue entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterRecord {
    /// Digest of the spec hash and the files: the adapter's identity.
    #[serde(deserialize_with = "an_id")]
    #[schemars(regex(pattern = "^[0-9a-f]{32}$"))]
    pub id: String,
    /// Identity of the work that made it.
    pub spec_hash: String,
    /// Role.
    pub role: Role,
    /// Behaviour id, or a reader's name.
    pub behaviour: String,
    /// Family.
    pub family: String,
    /// Label.
    pub value: String,
    /// Category of the label.
    pub category: String,
    /// Split.
    pub split: Option<String>,
    /// Gate status.
    pub status: Status,
    /// Free tags.
    pub tags: BTreeMap<String, String>,
    /// Numbers.
    pub metrics: BTreeMap<String, f64>,
    /// Shape and scale.
    pub peft: PeftConfig,
    /// Digest of the weights file.
    pub weights: Digest,
    /// Its size.
    pub weights_bytes: u64,
    /// Parents.
    pub parents: Vec<String>,
    /// Digests and versions.
    pub lineage: BTreeMap<String, String>,
    /// Further files.
    #[serde(deserialize_with = "plain_names")]
    #[schemars(extend("maxProperties" = MOST_FILES, "propertyNames" = {"pattern": crate::store::NAME}))]
    pub extra_files: BTreeMap<String, Digest>,
    /// What was found out about it after it was made (`gate.json`: its gate by a recipe), by name; part of no digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evaluations: BTreeMap<String, serde_json::Value>,
    /// When it was committed (RFC 3339, UTC); part of no digest.
    pub created_at: String,
    /// The work that made it.
    pub spec: serde_json::Value,
}

/// An id comes to be a file's name, and the beginning of it a word on terminals: what [`crate::commit::identity`] makes, nothing else.
fn an_id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let id = String::deserialize(from)?;
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if id.len() == 32 && id.bytes().all(hex) {
        return Ok(id);
    }
    let start: String = id.chars().take(40).collect();
    Err(D::Error::custom(format!("{start:?} is no id of an adapter (32 hexadecimal digits)")))
}

/// Most further files of an adapter.
pub const MOST_FILES: usize = 96;

/// What an export writes beside an adapter's weights: names of files that are plain, and not of its own.
fn plain_names<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Digest>, D::Error> {
    let files = BTreeMap::<String, Digest>::deserialize(from)?;
    if files.len() > MOST_FILES {
        return Err(D::Error::custom(format!(
            "names {} further files; an adapter has at most {MOST_FILES}",
            files.len()
        )));
    }
    for name in files.keys() {
        if fence::Plain::new(name).is_none() {
            let start: String = name.chars().take(60).collect();
            return Err(D::Error::custom(format!(
                "names a further file {start:?}, which is not a name of letters, digits, '-', '_' and '.'"
            )));
        }
    }
    Ok(files)
}

impl AdapterRecord {
    /// The fields that every adapter has, tags and metrics aside (`split` and `seed` where there is one).
    pub const COLUMNS: [&str; 17] = [
        "id",
        "behaviour",
        "family",
        "value",
        "category",
        "split",
        "role",
        "status",
        "rank",
        "alpha",
        "modules",
        "base",
        "seed",
        "created",
        "bytes",
        "weights",
        "spec_hash",
    ];

    /// Other names of fields: those of JSON answers, of PEFT, of tables.
    const ALSO: [(&str, &str); 10] = [
        ("created_at", "created"),
        ("weights_bytes", "bytes"),
        ("lora_alpha", "alpha"),
        ("r", "rank"),
        ("base_model", "base"),
        ("target_modules", "modules"),
        ("name", "behaviour"),
        // As tables head them.
        ("on", "gate_on"),
        ("near", "gate_near"),
        ("off", "gate_off"),
    ];

    /// What names a tag beyond doubt: `tag.note` is the tag `note`, also where a column or a metric has that name.
    pub const TAG: &str = "tag.";

    /// The name under which a field is filed: a column's own where another is given.
    pub fn filed_as(key: &str) -> &str {
        Self::ALSO.iter().find(|(also, _)| *also == key).map_or(key, |(_, column)| column)
    }

    /// The names of all its fields that filters can use.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let plain = |k: &&String| !Self::COLUMNS.contains(&k.as_str()) && Self::filed_as(k) == k.as_str();
        let metrics = self.metrics.keys().filter(|k| !self.tags.contains_key(*k));
        let own = self.tags.keys().chain(metrics).filter(plain).cloned();
        let tags = self.tags.keys().map(|k| format!("{}{k}", Self::TAG));
        Self::COLUMNS.into_iter().map(str::to_owned).chain(own).chain(tags)
    }

    /// The seed of the work that made it: as a sweep gave it, else where its specification has one.
    fn seed(&self) -> Option<String> {
        if let Some(given) = self.tags.get("seed") {
            return Some(given.clone());
        }
        let own = [&self.spec["seed"], &self.spec["behaviour"]["seed"]];
        own.into_iter().find(|v| v.is_number()).map(ToString::to_string)
    }

    /// A field by the name filters use: columns, then tags, then metrics.
    pub fn field(&self, key: &str) -> Option<String> {
        let text = |v: serde_json::Value| v.as_str().map(str::to_owned);
        match Self::filed_as(key) {
            "id" => Some(self.id.clone()),
            "spec_hash" => Some(self.spec_hash.clone()),
            "role" => serde_json::to_value(self.role).ok().and_then(text),
            "status" => serde_json::to_value(self.status).ok().and_then(text),
            "behaviour" => Some(self.behaviour.clone()),
            "family" => Some(self.family.clone()),
            "value" => Some(self.value.clone()),
            "category" => Some(self.category.clone()),
            "split" => self.split.clone(),
            "rank" => Some(self.peft.r.to_string()),
            "alpha" => Some(self.peft.lora_alpha.to_string()),
            "modules" => {
                Some(self.peft.target_modules.iter().map(String::as_str).collect::<Vec<_>>().join(","))
            }
            "base" => Some(self.peft.base_model.clone()),
            "seed" => self.seed(),
            "created" => Some(self.created_at.clone()),
            "bytes" => Some(self.weights_bytes.to_string()),
            "weights" => Some(self.weights.to_string()),
            key => match key.strip_prefix(Self::TAG) {
                Some(tag) => self.tags.get(tag).cloned(),
                None => self.tags.get(key).cloned().or_else(|| self.metrics.get(key).map(f64::to_string)),
            },
        }
    }
}
