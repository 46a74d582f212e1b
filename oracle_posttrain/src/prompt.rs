//! The oracle's prompt: a block `Layer: {layer}\n ? ? ? \n` for each layer read, then the question; vectors are injected
//! at the ` ?` tokens. Published oracles may have other forms of it ([`Form`]).

use lm::{BaseModel, Error, FitConfig, Message, Outline, Result, Role, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::intervention::Put;

/// The placeholder; one token in every supported vocabulary.
pub const PLACEHOLDER: &str = " ?";
/// Vectors are added at the output of this decoder layer (the second).
pub const INJECTION_LAYER: usize = 1;

/// How layers and placeholders are written before the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    /// `Layer: 18\n ? ? ? \n`, repeated for each layer (adamkarvonen/activation_oracles).
    Lines,
    /// `L9: ? ? L18: ? ?.\n` (AObench).
    InlineDot,
    /// `L9: ? ? L18: ? ?\n` (japhba/activation_oracles).
    Inline,
}

impl Template {
    /// All of them, the most common one first.
    pub const ALL: [Self; 3] = [Self::Lines, Self::InlineDot, Self::Inline];

    /// What `ao_config.json` calls it (`prefix_template`): a description, with `\n` as two characters.
    pub fn published(self) -> &'static str {
        match self {
            Self::Lines => r"Layer: {layer}\n{special_token} * {num_positions} \n",
            Self::InlineDot => r"L{layer}:{special_token} * {num_positions}.\n",
            Self::Inline => r"L{layer}:{special_token} * {num_positions}\n",
        }
    }

    /// What stands before the question.
    fn text(self, layers: &[usize], placeholder: &str, each: usize) -> String {
        let slots = placeholder.repeat(each);
        let inline = || layers.iter().map(|l| format!("L{l}:{slots}")).collect::<Vec<_>>().join(" ");
        match self {
            Self::Lines => layers.iter().fold(String::new(), |t, l| t + &format!("Layer: {l}\n{slots} \n")),
            Self::InlineDot => inline() + ".\n",
            Self::Inline => inline() + "\n",
        }
    }
}

/// How an oracle's prompt is written, and where vectors enter it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// How layers and placeholders are written.
    pub template: Template,
    /// The text of the one token at which a vector is injected.
    pub placeholder: String,
    /// Decoder layer (0-based) at whose output it is.
    pub layer: usize,
    /// Whether no system message is given, not even an empty one: published oracles were trained so.
    pub no_system: bool,
}

impl Default for Form {
    /// That of the oracles made here.
    fn default() -> Self {
        Self {
            template: Template::Lines,
            placeholder: PLACEHOLDER.into(),
            layer: INJECTION_LAYER,
            no_system: false,
        }
    }
}

impl Form {
    /// Whether it is that of the oracles made here.
    pub fn is_own(&self) -> bool {
        *self == Self::default()
    }
}

/// An oracle's prompt: what its form puts before the question for each of `layers`, with `each` placeholders, then the question.
/// Returns its tokens and where the placeholders are.
///
/// # Errors
/// If the placeholder is not one token, or does not come out as one run of tokens for each layer.
pub(crate) fn placeholders(
    outline: &Outline,
    form: &Form,
    layers: &[usize],
    each: usize,
    question: &str,
) -> Result<(Vec<u32>, Vec<usize>)> {
    let placeholder = outline.tokenizer.encode(&form.placeholder)?;
    let [placeholder] = placeholder[..] else {
        return Err(Error::Request(format!(
            "the placeholder {:?} is {} tokens in this vocabulary",
            form.placeholder,
            placeholder.len()
        )));
    };
    let text = form.template.text(layers, &form.placeholder, each) + question;
    let tokens = if form.no_system {
        outline.chat.encode(&outline.tokenizer, &[Message::new(Role::User, text)], true)?
    } else {
        outline.prompt(&text)?
    };
    // The first run of each block; a question may hold the same token.
    let mut positions = Vec::new();
    let mut at = 0;
    for layer in layers {
        let first = at + tokens[at..].iter().position(|&t| t == placeholder).unwrap_or(0);
        let run = tokens[first..].iter().take_while(|&&t| t == placeholder).count();
        if run != each {
            return Err(Error::Request(format!(
                "{each} placeholders of layer {layer} came out as a run of {run} tokens"
            )));
        }
        positions.extend(first..first + run);
        at = first + run;
    }
    Ok((tokens, positions))
}

/// A question about `vectors` (each `hidden_size` long, as many for each of `layers`, layer after layer) under adapter
/// `reader`, injected as `collector` says.
///
/// # Errors
/// If the placeholder is not one token, or does not come out as one run of tokens for each layer.
pub fn prompt_row(
    outline: &Outline,
    layers: &[usize],
    collector: &Collector,
    vectors: &[Vec<f32>],
    question: &str,
    reader: Option<usize>,
) -> Result<Row> {
    let each = vectors.len() / layers.len().max(1);
    let (tokens, positions) = placeholders(outline, &collector.form, layers, each, question)?;
    let put = Put {
        layer: collector.form.layer,
        positions,
        src: String::new(),
        mode: crate::lens::mode(collector.scaling),
        coef: collector.coefficient,
    };
    let injections = put.onto(vectors).collect();
    Ok(Row { tokens, adapters: reader.into_iter().collect(), injections })
}

/// `ao_config.json`, schema 1, as the published oracles carry it.
pub fn ao_config(base: &BaseModel, collector: &Collector, config: &FitConfig) -> Vec<u8> {
    let layers = base.architecture.layers.len();
    let read = &collector.layers;
    let percents: Vec<usize> = read.iter().map(|l| (l * 100).div_ceil(layers)).collect();
    let value = serde_json::json!({
        "schema_version": 1, "model_name": base.placeless_name(),
        "layer_combinations": [percents], "act_layer_combinations": [read],
        "special_token": collector.form.placeholder, "prefix_template": collector.form.template.published(),
        "hook_onto_layer": collector.form.layer, "steering_coefficient": collector.coefficient,
        "use_lora": true, "lora_r": config.adapter.rank, "lora_alpha": config.adapter.alpha, "lora_dropout": 0.0,
        "lora_target_modules": "all-linear", "lr": config.learning_rate, "train_batch_size": config.batch,
        "max_grad_norm": config.max_grad_norm, "seed": config.seed,
        "generation_kwargs": {"do_sample": false, "max_new_tokens": 20},
    });
    serde_json::to_vec_pretty(&value).expect("invariant: plain data")
}
