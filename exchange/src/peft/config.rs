//! Reading an `adapter_config.json` from elsewhere: which module gets a difference, of which rank, at which scale.
//!
//! The rules are PEFT's (huggingface/peft, `src/peft/tuners/lora/config.py`, `tuners_utils.py`, `utils/other.py`): a list names
//! modules by their path or the end of it, a text is a pattern that the whole path must match, patterns for ranks and alphas
//! match the end of a path.

use std::collections::BTreeMap;
use std::path::Path;

use regex::{Regex, RegexBuilder};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::ImportShape;
use super::names::{Spelling, foreign};
use crate::{Error, Result};
use registry::PeftConfig;

/// One targeted module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Module {
    pub(super) rank: usize,
    /// alpha / r, or alpha / sqrt(r).
    pub(super) scaling: f64,
}

/// Every targeted module by layer and projection, and the uniform shape that holds them all.
#[derive(Debug, PartialEq)]
pub(super) struct Resolved {
    pub(super) modules: BTreeMap<(usize, String), Module>,
    pub(super) peft: PeftConfig,
    /// The scale that the uniform shape has, before it is rounded into `lora_alpha`.
    pub(super) scaling: f64,
}

/// A configuration as it is written: PEFT takes the first pattern that matches, in the file's order, which a map does not keep.
#[derive(Debug)]
pub(super) struct Written {
    value: Value,
    ranks: Entries,
    alphas: Entries,
}

/// The entries of a JSON object in their order; of a name that comes twice the last value, at the first place, as Python has it.
#[derive(Debug, Default)]
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("patterns with their values, or nothing")
            }
            fn visit_unit<E>(self) -> std::result::Result<Entries, E> {
                Ok(Entries::default())
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Entries, M::Error> {
                let mut out: Vec<(String, Value)> = Vec::new();
                let mut places: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    if let Some(&at) = places.get(&key) {
                        out[at] = (key, value);
                    } else {
                        places.insert(key.clone(), out.len());
                        out.push((key, value));
                    }
                }
                Ok(Entries(out))
            }
        }
        from.deserialize_any(InOrder)
    }
}

impl Written {
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Patterns {
            #[serde(default)]
            rank_pattern: Entries,
            #[serde(default)]
            alpha_pattern: Entries,
        }
        let unread = |source| registry::Error::Json { what: path.display().to_string(), source };
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let value: Value = serde_json::from_slice(text)
            .map_err(|e| Error::Refused { path: path.into(), what: format!("is not readable JSON: {e}") })?;
        if !value.is_object() {
            return Err(Error::Refused { path: path.into(), what: "is not an object".into() });
        }
        let Patterns { rank_pattern, alpha_pattern } = serde_json::from_slice(text).map_err(unread)?;
        Ok(Self { value, ranks: rank_pattern, alphas: alpha_pattern })
    }
}

impl Written {
    /// A name that the configuration gives, if it gives one.
    pub(super) fn text(&self, path: &Path, key: &str) -> Result<Option<String>> {
        match &self.value[key] {
            Value::Null => Ok(None),
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) if text.len() <= 1000 && !text.chars().any(char::is_control) => {
                Ok(Some(text.clone()))
            }
            other => {
                let shown: String = other.to_string().chars().take(60).collect();
                Err(Error::Refused { path: path.into(), what: format!("{key} = {shown} is no name") })
            }
        }
    }
}

/// Options that must be off, because they change what the weights mean and are not implemented.
const OFF: [&str; 8] = [
    "use_dora",
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "ensure_weight_tying",
    "monteclora_config",
    "use_lily",
];
/// Options that must be empty, for the same reason.
const EMPTY: [&str; 13] = [
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "velora_config",
];
/// Options that are read, or do not change what the weights mean.
const READ: [&str; 23] = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "bias",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "inference_mode",
    "init_lora_weights",
    "revision",
    "auto_mapping",
    "peft_version",
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "base_model_class",
    "parent_library",
    "lora_ga_config",
];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Bool(b) => !b,
        _ => false,
    }
}

/// Patterns of a configuration, and letters of one: twice what a model of a hundred layers has if every module has its own.
const MOST_PATTERNS: usize = 2000;
const LONGEST_PATTERN: usize = 1000;

/// A pattern of Python's `re`, as far as Rust's `regex` has it (no look-around, no back-references): bounded in size and time.
fn pattern(path: &Path, key: &str, text: &str, whole: bool) -> Result<Regex> {
    if text.len() > LONGEST_PATTERN {
        let what = format!("{key}: a pattern has {} letters, more than {LONGEST_PATTERN}", text.len());
        return Err(Error::Refused { path: path.into(), what });
    }
    let wrapped = if whole { format!("^(?:{text})$") } else { format!(r"^(.*\.)?(?:{text})$") };
    RegexBuilder::new(&wrapped).size_limit(1 << 16).build().map_err(|e| Error::Refused {
        path: path.into(),
        what: format!(
            "{key}: pattern {text:?} cannot be read: {}",
            e.to_string().lines().last().unwrap_or_default()
        ),
    })
}

/// `spelling` is how the weights file names the layers: names and patterns of the configuration mean the same paths.
pub(super) fn resolve(
    path: &Path,
    written: &Written,
    shape: &ImportShape,
    spelling: Spelling,
) -> Result<Resolved> {
    let config = &written.value;
    let refuse = |what: String| Err(Error::Refused { path: path.into(), what });
    let Some(options) = config.as_object() else { return refuse("is not an object".into()) };
    if config["peft_type"] != "LORA" {
        return refuse(format!("peft_type {} is not \"LORA\"", config["peft_type"]));
    }
    for key in OFF.iter().chain(&EMPTY) {
        if !is_empty(&config[*key]) {
            let value: String = config[*key].to_string().chars().take(80).collect();
            return refuse(format!(
                "{key} is not implemented (here {value}): only plain LoRA is read, all layers alike"
            ));
        }
    }
    for (key, value) in options {
        let known =
            READ.contains(&key.as_str()) || OFF.contains(&key.as_str()) || EMPTY.contains(&key.as_str());
        if !known && !is_empty(value) {
            return refuse(format!(
                "option {key:?} is not known here, and might change what the weights mean"
            ));
        }
    }
    if config["bias"].as_str().is_some_and(|b| b != "none") {
        return refuse(format!("bias = {} is not implemented", config["bias"]));
    }
    if let Some(init) = config["init_lora_weights"].as_str()
        && !["gaussian", "orthogonal", "eva"].contains(&init)
    {
        return refuse(format!(
            "init_lora_weights = {init:?} may have changed the base model's own weights; save the adapter converted to a plain LoRA"
        ));
    }
    let rank_of = |value: &Value| value.as_u64().filter(|r| (1..=4096).contains(r)).map(|r| r as usize);
    let alpha_of = |value: &Value| value.as_f64().filter(|a| a.is_finite() && *a != 0.0 && a.abs() < 1e6);
    // Absent means PEFT's default.
    let default = |key: &str| if config[key].is_null() { Value::from(8) } else { config[key].clone() };
    let (r, lora_alpha) = (default("r"), default("lora_alpha"));
    let Some(rank) = rank_of(&r) else { return refuse(format!("r = {r} is not a rank")) };
    let Some(alpha) = alpha_of(&lora_alpha) else {
        return refuse(format!("lora_alpha = {lora_alpha} is not a usable number"));
    };
    for (key, entries) in [("rank_pattern", &written.ranks), ("alpha_pattern", &written.alphas)] {
        if entries.0.len() > MOST_PATTERNS {
            return refuse(format!("{key} has {} patterns, more than {MOST_PATTERNS}", entries.0.len()));
        }
    }
    let mut ranks: Vec<(Regex, usize)> = Vec::new();
    for (key, value) in &written.ranks.0 {
        let Some(rank) = rank_of(value) else {
            return refuse(format!("rank_pattern: {key:?} = {value} is not a rank"));
        };
        ranks.push((pattern(path, "rank_pattern", key, false)?, rank));
    }
    let mut alphas: Vec<(Regex, f64)> = Vec::new();
    for (key, value) in &written.alphas.0 {
        let Some(alpha) = alpha_of(value) else {
            return refuse(format!("alpha_pattern: {key:?} = {value} is not a usable number"));
        };
        alphas.push((pattern(path, "alpha_pattern", key, false)?, alpha));
    }
    let rslora = match &config["use_rslora"] {
        Value::Null => false,
        Value::Bool(b) => *b,
        other => return refuse(format!("use_rslora = {other} is neither true nor false")),
    };
    let mut modules = BTreeMap::new();
    for (layer, projection, module) in paths(shape, spelling) {
        if excluded(path, &config["exclude_modules"], &module)?
            || !targeted(path, &config["target_modules"], shape, spelling, &module)?
        {
            continue;
        }
        let rank = ranks.iter().find(|(p, _)| p.is_match(&module)).map_or(rank, |(_, r)| *r);
        let alpha = alphas.iter().find(|(p, _)| p.is_match(&module)).map_or(alpha, |(_, a)| *a);
        let scaling = alpha / if rslora { (rank as f64).sqrt() } else { rank as f64 };
        modules.insert((layer, projection), Module { rank, scaling });
    }
    if modules.is_empty() {
        return refuse(format!("target_modules = {} names no module of the model", config["target_modules"]));
    }
    // The shape that holds all: the largest rank, the scale of the first module; what has less is filled up with zeros.
    let rank = modules.values().map(|m| m.rank).max().unwrap_or(rank);
    let scaling = modules.values().next().map_or(1.0, |m| m.scaling);
    let peft = PeftConfig {
        base_model: shape.base_model.clone(),
        revision: shape.revision.clone(),
        r: rank,
        lora_alpha: (scaling * rank as f64) as f32,
        target_modules: modules.keys().map(|(_, p)| p.clone()).collect(),
        nested: spelling.is_nested(),
    };
    Ok(Resolved { modules, peft, scaling })
}

/// Every projection of the model: layer, name, path.
pub(super) fn paths(
    shape: &ImportShape,
    spelling: Spelling,
) -> impl Iterator<Item = (usize, String, String)> {
    (0..shape.layers).flat_map(move |layer| {
        shape.projections.keys().map(move |p| (layer, p.clone(), spelling.module(layer, p)))
    })
}

/// Whether a module is a name of a list, or ends in one behind a dot.
fn ends(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Whether `exclude_modules` names a module: it goes before the targets.
fn excluded(path: &Path, excluded: &Value, module: &str) -> Result<bool> {
    match excluded {
        _ if is_empty(excluded) => Ok(false),
        Value::String(text) => Ok(pattern(path, "exclude_modules", text, true)?.is_match(module)),
        Value::Array(list) if list.len() <= 10_000 => {
            Ok(list.iter().filter_map(Value::as_str).any(|name| ends(module, name)))
        }
        _ => Err(Error::Refused {
            path: path.into(),
            what: "exclude_modules is neither a list nor a pattern, or too long".into(),
        }),
    }
}

fn targeted(
    path: &Path,
    targets: &Value,
    shape: &ImportShape,
    spelling: Spelling,
    module: &str,
) -> Result<bool> {
    let refuse = |what: String| Err(Error::Refused { path: path.into(), what });
    match targets {
        Value::String(all) if all.eq_ignore_ascii_case("all-linear") => Ok(true),
        Value::String(text) if text.len() <= 10_000 => {
            Ok(pattern(path, "target_modules", text, true)?.is_match(module))
        }
        Value::Array(list) if list.len() <= 10_000 => {
            let mut found = false;
            for target in list {
                let Some(name) = target.as_str() else {
                    return refuse(format!("target module {target} is no text"));
                };
                let here = ends(module, name);
                found |= here;
                // A name that no module of the model has is a slip or another model's.
                if !here && !paths(shape, spelling).any(|(_, _, m)| ends(&m, name)) {
                    let why = foreign(name).unwrap_or("is none of the model's projections");
                    return refuse(format!("target module {target} {why}"));
                }
            }
            Ok(found)
        }
        other => {
            let start: String = other.to_string().chars().take(100).collect();
            refuse(format!("target_modules = {start} is neither a list nor a pattern, or too long"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of PEFT itself, by the script `tests/golden/patterns.py`.
    #[test]
    fn modules_have_the_ranks_and_scales_that_peft_gives_them() {
        #[derive(Deserialize)]
        struct Case {
            config: String,
            modules: BTreeMap<String, (usize, f64)>,
        }
        let text = include_str!("../../tests/golden/patterns.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        let size = |key: &str| golden["shape"][key].as_u64().unwrap() as usize;
        let (wide, inner) = (size("hidden_size"), size("intermediate_size"));
        let head = wide / size("num_attention_heads") * size("num_key_value_heads");
        let projections = [
            ("q_proj", (wide, wide)),
            ("k_proj", (wide, head)),
            ("v_proj", (wide, head)),
            ("o_proj", (wide, wide)),
            ("gate_proj", (wide, inner)),
            ("up_proj", (wide, inner)),
            ("down_proj", (inner, wide)),
        ];
        let shape = ImportShape {
            base_model: "m".into(),
            revision: None,
            layers: size("num_hidden_layers"),
            projections: projections.into_iter().map(|(n, s)| (n.to_owned(), s)).collect(),
        };
        let cases: Vec<Case> = serde_json::from_value(golden["cases"].clone()).unwrap();
        assert!(cases.len() > 10);
        for Case { config, modules } in cases {
            let path = Path::new("adapter_config.json");
            let found =
                resolve(path, &Written::parse(path, config.as_bytes()).unwrap(), &shape, Spelling::Plain)
                    .unwrap();
            let found: BTreeMap<String, (usize, f64)> = found
                .modules
                .iter()
                .map(|((layer, p), m)| (super::super::module_path(*layer, p), (m.rank, m.scaling)))
                .collect();
            assert_eq!(found, modules, "{config}");
        }
    }
}
