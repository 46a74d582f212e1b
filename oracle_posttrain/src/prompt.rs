//! The oracle's prompt: a block `Layer: {layer}\n ? ? ? \n` for each layer read, then the question; vectors are injected
//! at the ` ?` tokens.

use lm::{BaseModel, Error, FitConfig, Outline, Result, Row};

use crate::collect::Collector;
use crate::intervention::Put;

/// The placeholder; one token in every supported vocabulary.
pub const PLACEHOLDER: &str = " ?";
/// Vectors are added at the output of this decoder layer (the second).
pub const INJECTION_LAYER: usize = 1;

/// An oracle's prompt: for each of `layers` a line with `each` placeholders, then the question. Returns its tokens and where
/// the placeholders are.
///
/// # Errors
/// If the placeholder is not one token, or does not come out as one run of tokens for each layer.
pub(crate) fn placeholders(
    outline: &Outline,
    layers: &[usize],
    each: usize,
    question: &str,
) -> Result<(Vec<u32>, Vec<usize>)> {
    let placeholder = outline.tokenizer.encode(PLACEHOLDER)?;
    let [placeholder] = placeholder[..] else {
        return Err(Error::Request(format!(
            "the placeholder {PLACEHOLDER:?} is {} tokens in this vocabulary",
            placeholder.len()
        )));
    };
    let block = |layer: &usize| format!("Layer: {layer}\n{} \n", PLACEHOLDER.repeat(each));
    let text: String = layers.iter().map(block).chain([question.to_owned()]).collect();
    let tokens = outline.prompt(&text)?;
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
    let (tokens, positions) = placeholders(outline, layers, vectors.len() / layers.len().max(1), question)?;
    let put = Put {
        layer: INJECTION_LAYER,
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
        "special_token": PLACEHOLDER, "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions} \\n",
        "hook_onto_layer": INJECTION_LAYER, "steering_coefficient": collector.coefficient,
        "use_lora": true, "lora_r": config.adapter.rank, "lora_alpha": config.adapter.alpha, "lora_dropout": 0.0,
        "lora_target_modules": "all-linear", "lr": config.learning_rate, "train_batch_size": config.batch,
        "max_grad_norm": config.max_grad_norm, "seed": config.seed,
        "generation_kwargs": {"do_sample": false, "max_new_tokens": 20},
    });
    serde_json::to_vec_pretty(&value).expect("invariant: plain data")
}
