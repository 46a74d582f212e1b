//! `ao_config.json`, schema 1, of an oracle that others trained: how it looks at activations and how it is asked
//! (adamkarvonen/activation_oracles_dev, `nl_probes/configs/sft_config.py`).

use std::borrow::Cow;
use std::collections::BTreeSet;

use lm::Outline;
use readers::{Scaling, Wrong};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::collect::{ActivationKind, Collector, TURNS};
use crate::prompt::{Form, INJECTION_LAYER, PLACEHOLDER, Template, placeholders};

/// Name of the file beside an oracle's weights.
pub const AO_CONFIG: &str = "ao_config.json";

/// Keys that say how an oracle is asked.
const READ: [&str; 9] = [
    "schema_version",
    "model_name",
    "layer_combinations",
    "act_layer_combinations",
    "special_token",
    "prefix_template",
    "hook_onto_layer",
    "steering_coefficient",
    "use_lora",
];

/// Keys that tell how it was trained, filed or published: they do not change how it is asked.
const TOLD: [&str; 36] = [
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "num_epochs",
    "lr",
    "train_batch_size",
    "train_batches_per_materialization_block",
    "eval_batch_size",
    "activation_collection_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "max_grad_norm",
    "window_mult",
    "save_steps",
    "save_dir",
    "eval_steps",
    "eval_on_start",
    "eval_logs_path",
    "seed",
    "generation_kwargs",
    "load_lora_path",
    "dataset_configs",
    "dataset_loader_names",
    "dataset_folder",
    "use_decoder_vectors",
    "positive_negative_examples",
    "wandb_project",
    "wandb_run_name",
    "wandb_suffix",
    "hf_push_to_hub",
    "hf_private_repo",
    "hf_repo_name",
    "hf_repo_id",
    "created_at_utc",
    "git_commit",
];

/// Positions of a context that are read: a published oracle's segment.
const SEGMENT: usize = 10;

/// Which of the combinations of layers that an oracle was trained on is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The one nearest to the middle of the model, at which published oracles are evaluated.
    Middle,
    /// This one.
    Layers(&'a [usize]),
}

/// What a published oracle's configuration says.
#[derive(Debug, Clone, PartialEq)]
pub struct AoConfig {
    /// The base model's name, if it gives one.
    pub model_name: Option<String>,
    /// Layers that it was trained on, each combination read jointly.
    pub combinations: Vec<Vec<usize>>,
    /// How it is asked.
    pub collector: Collector,
}

fn wrong<T>(key: &str, what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::at(format!("{AO_CONFIG}: {key}"), what))
}

/// A value for a sentence, at a length for people.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    let start: String = text.chars().take(80).collect();
    if start.len() < text.len() { start + "..." } else { start }
}

impl AoConfig {
    /// Reads and checks a configuration against the base model; no weight is needed.
    ///
    /// # Errors
    /// The first key that is unknown or says what cannot be.
    pub fn read(text: &[u8], outline: &Outline, choice: Choice<'_>) -> Result<Self, Wrong> {
        let value: Value =
            serde_json::from_slice(text).map_err(|e| Wrong::at(AO_CONFIG, format!("is not JSON: {e}")))?;
        let Value::Object(keys) = value else { return Err(Wrong::at(AO_CONFIG, "is not an object")) };
        if let Some(odd) = keys.keys().find(|k| !READ.contains(&k.as_str()) && !TOLD.contains(&k.as_str())) {
            let shown: String = odd.chars().take(60).collect();
            return wrong(
                &shown,
                "is a key that is not known here, and might change how the oracle is asked",
            );
        }
        let given = |key: &str| keys.get(key).filter(|v| !v.is_null());
        if let Some(version) = given("schema_version").filter(|v| v.as_u64() != Some(1)) {
            return wrong("schema_version", format!("is {}; version 1 is read", brief(version)));
        }
        if given("use_lora").is_some_and(|v| *v != true) {
            return wrong(
                "use_lora",
                "is not true: an oracle without a LoRA is a whole model, which is not read",
            );
        }
        let text = |key: &str| match given(key) {
            None => Ok(None),
            Some(Value::String(s)) if s.len() <= 1000 => Ok(Some(s.clone())),
            Some(other) => wrong(key, format!("is {}, not a text", brief(other))),
        };
        let blocks = outline.architecture.layers.len();
        let combinations = combinations(&keys, blocks)?;
        let layers = chosen(&combinations, choice, blocks)?;
        let form = Form {
            template: template(text("prefix_template")?.as_deref())?,
            placeholder: text("special_token")?.unwrap_or_else(|| PLACEHOLDER.into()),
            layer: match given("hook_onto_layer") {
                None => INJECTION_LAYER,
                Some(v) => index(v, blocks).or_else(|what| wrong("hook_onto_layer", what))?,
            },
            no_system: true,
        };
        let coefficient = match given("steering_coefficient") {
            None => 1.0,
            Some(v) => match v.as_f64().filter(|c| c.is_finite() && *c > 0.0 && *c <= 1000.0) {
                Some(c) => c as f32,
                None => {
                    return wrong(
                        "steering_coefficient",
                        format!("is {}, no strength above 0 and at most 1000", brief(v)),
                    );
                }
            },
        };
        let prompts: Vec<String> = TURNS.map(str::to_owned).to_vec();
        let shortest = prompts.iter().filter_map(|p| Some(outline.prompt(p).ok()?.len())).min();
        let collector = Collector {
            layers,
            drawn: 1,
            asked: 1,
            prompts,
            last: SEGMENT.min(shortest.unwrap_or(1)).max(1),
            kind: ActivationKind::Diff,
            coefficient,
            noise: 0.0,
            from_start: false,
            scaling: Scaling::Unit,
            form,
        };
        let c = &collector;
        if let Err(e) = placeholders(outline, &c.form, &c.layers, c.last, "What is it?") {
            return wrong("special_token", e.to_string());
        }
        Ok(Self { model_name: text("model_name")?, combinations, collector })
    }
}

impl AoConfig {
    /// The combinations of layers that a configuration was trained on, whatever the model; none if it does not say by index.
    pub fn layers_of(text: &[u8]) -> Vec<Vec<usize>> {
        let keys: Map<String, Value> = serde_json::from_slice(text).unwrap_or_default();
        nested(&keys, "act_layer_combinations", &|v| index(v, usize::MAX)).ok().flatten().unwrap_or_default()
    }
}

/// The texts by which a template is known: each of its line breaks as itself, or as two characters.
fn spellings(template: Template) -> Vec<String> {
    let mut lines = template.published().split(r"\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(vec![first], |begun, line| {
        begun.iter().flat_map(|b| [format!("{b}\n{line}"), format!("{b}\\n{line}")]).collect()
    })
}

/// By hand, as it is read. A key that is null is as one that is not there.
impl JsonSchema for AoConfig {
    fn schema_name() -> Cow<'static, str> {
        "AoConfig".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut templates: Vec<Value> =
            Template::ALL.into_iter().flat_map(spellings).map(Value::from).collect();
        templates.push(Value::Null);
        let lists = |of: Value, what: &str| {
            let inner = json!({"type": "array", "minItems": 1, "maxItems": 1000, "items": of});
            json!({"type": ["array", "null"], "minItems": 1, "maxItems": 1000, "items": inner, "description": what})
        };
        let mut keys = json!({
            "schema_version": {"enum": [1, null], "description": "Version of the form."},
            "model_name": {"type": ["string", "null"], "maxLength": 1000, "description": "The base model."},
            "act_layer_combinations": lists(json!({"type": "integer", "minimum": 0}),
                "Layers that it was trained on, by index; each combination is read jointly, and names a layer once."),
            "layer_combinations": lists(json!({"type": "number", "minimum": 0, "exclusiveMaximum": 100}),
                "The same in percent of the depth."),
            "special_token": {"type": ["string", "null"], "maxLength": 1000,
                "description": "The text of the one token at which a vector is injected."},
            "prefix_template": {"enum": templates, "description": "What stands before the question."},
            "hook_onto_layer": {"type": ["integer", "null"], "minimum": 0,
                "description": "Layer at whose output vectors are injected."},
            "steering_coefficient": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1000,
                "description": "Strength of the injection."},
            "use_lora": {"enum": [true, null], "description": "An oracle without a LoRA is not read."},
        });
        for told in TOLD {
            keys[told] =
                json!({"description": "Not used: it tells how the oracle was trained, filed or published."});
        }
        let has = |key: &str| json!({"required": [key], "properties": {key: {"type": "array"}}});
        json_schema!({"type": "object", "properties": keys, "additionalProperties": false,
            "anyOf": [has("act_layer_combinations"), has("layer_combinations")]})
    }
}

fn index(value: &Value, blocks: usize) -> Result<usize, String> {
    match value.as_u64() {
        Some(layer) if (layer as usize) < blocks => Ok(layer as usize),
        Some(layer) => Err(format!("names layer {layer}; the model has 0 to {}", blocks - 1)),
        None => Err(format!("holds {}, which is no layer", brief(value))),
    }
}

/// `[[9], [18], [27]]`: lists of numbers.
fn nested<T>(
    keys: &Map<String, Value>,
    key: &str,
    each: &dyn Fn(&Value) -> Result<T, String>,
) -> Result<Option<Vec<Vec<T>>>, Wrong> {
    let odd = |v: &Value| wrong(key, format!("is {}, no list of lists of layers", brief(v)));
    let Some(value) = keys.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
    let Some(list) = value.as_array().filter(|l| !l.is_empty() && l.len() <= 1000) else { return odd(value) };
    let mut out = Vec::new();
    for inner in list {
        let Some(inner) = inner.as_array().filter(|l| !l.is_empty() && l.len() <= 1000) else {
            return odd(value);
        };
        out.push(
            inner.iter().map(each).collect::<Result<Vec<T>, String>>().or_else(|what| wrong(key, what))?,
        );
    }
    Ok(Some(out))
}

/// The combinations of layers, by index or else by percents of the depth.
fn combinations(keys: &Map<String, Value>, blocks: usize) -> Result<Vec<Vec<usize>>, Wrong> {
    let (by_index, by_percent) = ("act_layer_combinations", "layer_combinations");
    let percent = |v: &Value| {
        let share = v.as_f64().filter(|p| (0.0..100.0).contains(p));
        let share = share.ok_or_else(|| format!("holds {}, no share of the depth in percent", brief(v)))?;
        Ok((blocks as f64 * share / 100.0) as usize)
    };
    let percents = nested(keys, by_percent, &percent)?;
    let found = match (nested(keys, by_index, &|v| index(v, blocks))?, percents) {
        (Some(layers), Some(percents)) => {
            let shape = |of: &[Vec<usize>]| of.iter().map(Vec::len).collect::<Vec<_>>();
            if shape(&layers) != shape(&percents) {
                return wrong(by_index, format!("has not as many layers as {by_percent}"));
            }
            layers
        }
        (Some(layers), None) | (None, Some(layers)) => layers,
        (None, None) => return wrong(by_index, "is missing: which layers the oracle reads is not known"),
    };
    for layers in &found {
        if layers.iter().collect::<BTreeSet<_>>().len() != layers.len() {
            return wrong(by_index, format!("names a layer twice in {layers:?}"));
        }
    }
    Ok(found)
}

fn chosen(combinations: &[Vec<usize>], choice: Choice<'_>, blocks: usize) -> Result<Vec<usize>, Wrong> {
    let off = |layers: &&Vec<usize>| {
        let mean = layers.iter().sum::<usize>() as f64 / layers.len() as f64;
        (mean - (blocks / 2) as f64).abs()
    };
    let found = match choice {
        Choice::Middle => combinations.iter().min_by(|a, b| off(a).total_cmp(&off(b))),
        Choice::Layers(wanted) => combinations.iter().find(|c| *c == wanted),
    };
    match (found, choice) {
        (Some(layers), _) => Ok(layers.clone()),
        (None, Choice::Layers(wanted)) => {
            wrong("act_layer_combinations", format!("is {combinations:?}, and has no {wanted:?}"))
        }
        (None, Choice::Middle) => wrong("act_layer_combinations", "is empty"),
    }
}

/// The template that a description names: it is told apart, and never filled in.
fn template(described: Option<&str>) -> Result<Template, Wrong> {
    let Some(text) = described else { return Ok(Template::Lines) };
    // With line breaks written as two characters, or as themselves.
    let plain = text.replace('\n', r"\n");
    if let Some(known) = Template::ALL.into_iter().find(|t| t.published() == plain) {
        return Ok(known);
    }
    let known: Vec<String> = Template::ALL.iter().map(|t| format!("{:?}", t.published())).collect();
    wrong("prefix_template", format!("is {text:?}; known are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings() {
        let all: BTreeSet<&str> = READ.into_iter().chain(TOLD).collect();
        assert_eq!(all.len(), READ.len() + TOLD.len());
    }
}
