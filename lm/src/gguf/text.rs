//! A GGUF file's vocabulary as a `tokenizer.json`.

use candle_core::quantized::gguf_file::Value;
use serde_json::{Value as Json, json};

use super::metadata::Metadata;
use crate::Result;
use crate::architecture::bad;
use crate::chat::Words;
use crate::tokenizer::Tokenizer;

/// Kinds of tokens, by llama.cpp's numbers (`enum llama_token_type`).
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The kind of each token; a file without kinds has none but pieces of text.
fn kinds(meta: &Metadata<'_>, tokens: usize) -> Result<Vec<i64>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    if !meta.values.contains_key(KEY) {
        return Ok(Vec::new());
    }
    let refuse = |what: String| bad(meta.path, format!("metadata key {KEY} {what}"));
    let values = meta.get(KEY)?.to_vec().map_err(|_| refuse("is not a list".into()))?;
    if values.len() != tokens {
        return Err(refuse(format!("has {} entries for {tokens} tokens", values.len())));
    }
    let kind = |v: &Value| v.to_i32().map(i64::from).or_else(|_| v.to_u32().map(i64::from));
    values.iter().map(|v| kind(v).map_err(|_| refuse("holds something that is not a kind".into()))).collect()
}

/// The named tokens that templates may use.
pub(super) fn words(meta: &Metadata<'_>) -> Result<Words> {
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    let named =
        [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
    let mut out = Words::new();
    for (name, key) in named {
        let key = format!("tokenizer.ggml.{key}_token_id");
        if meta.values.contains_key(&key) {
            let id = meta.number(&key)?;
            let text = tokens
                .get(id)
                .ok_or_else(|| bad(meta.path, format!("metadata key {key} = {id} is no token")))?;
            out.insert(name.to_owned(), (*text).to_owned());
        }
    }
    Ok(out)
}

/// Builds a byte-level BPE tokenizer from the file's vocabulary and merges.
pub(super) fn tokenizer(meta: &Metadata<'_>) -> Result<Tokenizer> {
    Tokenizer::from_json(&tokenizer_json(meta)?).map_err(|what| bad(meta.path, format!("tokenizer: {what}")))
}

/// The same as the contents of a `tokenizer.json`.
pub(super) fn tokenizer_json(meta: &Metadata<'_>) -> Result<Json> {
    let kind = meta.string("tokenizer.ggml.model")?;
    let pre = if meta.values.contains_key("tokenizer.ggml.pre") {
        meta.string("tokenizer.ggml.pre")?
    } else {
        "default"
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let pre_tokenizer = match (kind, pre) {
        ("gpt2", "smollm") => json!({"type": "Sequence", "pretokenizers": [digits, bytes]}),
        ("gpt2", "default" | "gpt-2") => bytes.clone(),
        _ => {
            return Err(bad(
                meta.path,
                format!(
                    "uses the tokenizer {kind}/{pre}, which is not implemented; use the model's Hugging Face folder"
                ),
            ));
        }
    };
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    let merges = meta.strings("tokenizer.ggml.merges")?;
    let vocab: serde_json::Map<String, Json> =
        tokens.iter().enumerate().map(|(i, t)| ((*t).to_owned(), i.into())).collect();
    let added: Vec<Json> = kinds(meta, tokens.len())?
        .into_iter()
        .enumerate()
        .filter(|(_, kind)| [CONTROL, USER_DEFINED].contains(kind))
        .map(|(i, kind)| {
            json!({"id": i, "content": tokens[i], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": kind == CONTROL})
        })
        .collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    }))
}
