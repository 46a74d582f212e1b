//! What a GGUF file says and nothing here computes: refused by its name.

use std::path::Path;

use candle_core::quantized::gguf_file::Content;

use super::metadata::Metadata;
use super::{bad, hugging_face_name};
use crate::Result;

/// Keys of a Llama's architecture that are read, each where it is used.
const READ: [&str; 9] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.freq_base",
];

/// Everything that a file says of its architecture is read, or is what is computed anyway, or the file is refused: a key or a
/// tensor left out is another model.
pub(super) fn refuse_unread(path: &Path, content: &Content) -> Result<()> {
    let meta = Metadata { path, values: &content.metadata };
    let mut keys: Vec<&str> = content
        .metadata
        .keys()
        .filter_map(|k| k.strip_prefix("llama."))
        .filter(|k| !READ.contains(k))
        .collect();
    keys.sort_unstable();
    let head = || {
        meta.number("llama.attention.key_length").ok().or_else(|| {
            let heads = meta.number("llama.attention.head_count").ok().filter(|h| *h > 0)?;
            Some(meta.number("llama.embedding_length").ok()? / heads)
        })
    };
    for key in keys {
        let full = format!("llama.{key}");
        let fits = match key {
            // All dimensions of a head are turned; values are as wide as keys.
            "rope.dimension_count" | "attention.value_length" => meta.number(&full).ok() == head(),
            "rope.scaling.type" => meta.string(&full)? == "none",
            "rope.scaling.factor" | "rope.scale_linear" | "rope.scaling.attn_factor" => {
                meta.float(&full)? == 1.0
            }
            "rope.scaling.finetuned" => meta.get(&full)?.to_bool().is_ok_and(|b| !b),
            "expert_count" | "expert_used_count" => meta.number(&full)? == 0,
            // The embedding's own shape decides; how the file was made changes nothing.
            "vocab_size" => {
                let rows = content.tensor_infos.get("token_embd.weight").and_then(|t| t.shape.dims().first());
                rows.is_none_or(|rows| meta.number(&full).ok() == Some(*rows))
            }
            "rope.scaling.original_context_length" | "tensor_data_layout" => true,
            _ => false,
        };
        if !fits {
            let value = content.metadata.get(&full).map_or_else(String::new, |v| format!("{v:?}"));
            let value: String = value.chars().take(60).collect();
            return Err(bad(
                path,
                format!("metadata key {full} = {value} is not implemented, and would make another model"),
            ));
        }
    }
    refuse_unread_text(&meta)?;
    let mut unknown: Vec<&String> =
        content.tensor_infos.keys().filter(|name| hugging_face_name(name).is_none()).collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        return Err(bad(
            path,
            format!("tensor {name} is not implemented, and without it this would be another model"),
        ));
    }
    Ok(())
}

/// Keys of the tokenizer that are read, or say nothing of what a text's tokens are: marks for tasks of other kinds, and what is put
/// before and after a raw text (here all texts are turns of a conversation, and its template puts what it needs).
const READ_OF_TEXT: [&str; 24] = [
    "add_bos_token",
    "add_eos_token",
    "add_sep_token",
    "bos_token_id",
    "cls_token_id",
    "eom_token_id",
    "eos_token_id",
    "eot_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_pre_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "fim_suf_token_id",
    "mask_token_id",
    "merges",
    "model",
    "padding_token_id",
    "pre",
    "scores",
    "seperator_token_id",
    "token_type",
    "tokens",
    "unknown_token_id",
];

/// The same for everything that a file says of its tokenizer, and for what would make it another kind of file.
pub(super) fn refuse_unread_text(meta: &Metadata<'_>) -> Result<()> {
    let on = |key: &str| {
        meta.get(key)?
            .to_bool()
            .map_err(|_| bad(meta.path, format!("metadata key {key} is not a truth value")))
    };
    let mut keys: Vec<&String> = meta.values.keys().collect();
    keys.sort_unstable();
    for key in keys {
        let fits = match key.as_str() {
            "general.type" => meta.string(key)? == "model",
            // One of several files: the others' tensors are not here. Types of segments: of one there is no choice.
            "split.count" | "tokenizer.ggml.token_type_count" => meta.number(key)? <= 1,
            "tokenizer.ggml.remove_extra_whitespaces" => !on(key)?,
            // Of SentencePiece's vocabularies alone.
            "tokenizer.ggml.add_space_prefix" => !on(key)? || meta.string("tokenizer.ggml.model")? == "llama",
            _ => key.strip_prefix("tokenizer.ggml.").is_none_or(|k| READ_OF_TEXT.contains(&k)),
        };
        if !fits {
            let value: String = format!("{:?}", meta.values[key]).chars().take(60).collect();
            return Err(bad(
                meta.path,
                format!("metadata key {key} = {value} is not implemented, and would make another model"),
            ));
        }
    }
    Ok(())
}
