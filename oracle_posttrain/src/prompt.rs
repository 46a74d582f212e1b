//! The oracle's prompt: `Layer: {layer}\n ? ? ? \n{question}`, vectors injected at the ` ?` tokens.

use lm::{BaseModel, Error, FitConfig, Injection, Result, Row};

use crate::collect::Collector;

/// The placeholder; one token in every supported vocabulary.
pub const PLACEHOLDER: &str = " ?";
/// Vectors are added at the output of this decoder layer (the second).
pub const INJECTION_LAYER: usize = 1;

/// A question about the collector's `vectors` (each `hidden_size` long) under adapter `reader`.
///
/// # Errors
/// If the placeholder is not one token, or does not come out as one run of as many tokens as there are vectors.
pub fn prompt_row(
    base: &BaseModel,
    collector: &Collector,
    vectors: &[Vec<f32>],
    question: &str,
    reader: Option<usize>,
) -> Result<Row> {
    let placeholder = base.tokenizer.encode(PLACEHOLDER)?;
    let [placeholder] = placeholder[..] else {
        return Err(Error::Request(format!(
            "the placeholder {PLACEHOLDER:?} is {} tokens in this vocabulary",
            placeholder.len()
        )));
    };
    let text = format!("Layer: {}\n{} \n{question}", collector.layer, PLACEHOLDER.repeat(vectors.len()));
    let tokens = base.prompt(&text)?;
    let first = tokens.iter().position(|&t| t == placeholder).unwrap_or(0);
    let run = tokens[first..].iter().take_while(|&&t| t == placeholder).count();
    if run != vectors.len() {
        return Err(Error::Request(format!(
            "{} placeholders came out as a run of {run} tokens",
            vectors.len()
        )));
    }
    let injections = vectors
        .iter()
        .enumerate()
        .map(|(i, v)| Injection {
            layer: INJECTION_LAYER,
            position: first + i,
            vector: v.clone(),
            coefficient: collector.coefficient,
        })
        .collect();
    Ok(Row { tokens, adapters: reader.into_iter().collect(), injections })
}

/// `ao_config.json`, schema 1, as the published oracles carry it.
pub fn ao_config(base: &BaseModel, collector: &Collector, config: &FitConfig) -> Vec<u8> {
    let layers = base.config().num_hidden_layers;
    let layer = collector.layer;
    let percent = (layer * 100).div_ceil(layers);
    let value = serde_json::json!({
        "schema_version": 1, "model_name": base.name,
        "layer_combinations": [[percent]], "act_layer_combinations": [[layer]],
        "special_token": PLACEHOLDER, "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions} \\n",
        "hook_onto_layer": INJECTION_LAYER, "steering_coefficient": collector.coefficient,
        "use_lora": true, "lora_r": config.adapter.rank, "lora_alpha": config.adapter.alpha, "lora_dropout": 0.0,
        "lora_target_modules": "all-linear", "lr": config.learning_rate, "train_batch_size": config.batch,
        "max_grad_norm": config.max_grad_norm, "seed": config.seed,
        "generation_kwargs": {"do_sample": false, "max_new_tokens": 20},
    });
    serde_json::to_vec_pretty(&value).expect("invariant: plain data")
}
