//! What a GGUF file says and nothing here computes: refused by its name.

use candle_core::quantized::gguf_file::Content;

use super::metadata::Metadata;
use crate::Result;
use crate::architecture::{bad, gguf_reads};

/// Everything that a file says of its architecture is read, or is what is computed anyway, or the file is refused: a key left out is
/// another model. (Tensors are held against the description.)
pub(super) fn refuse_unread(content: &Content, meta: &Metadata<'_>, architecture: &str) -> Result<()> {
    let own = format!("{architecture}.");
    let said = content.metadata.keys().filter_map(|k| k.strip_prefix(&own));
    let mut keys: Vec<&str> = said.filter(|k| !gguf_reads(architecture, k)).collect();
    keys.sort_unstable();
    let head = || {
        meta.number(&format!("{own}attention.key_length")).ok().or_else(|| {
            let heads = meta.number(&format!("{own}attention.head_count")).ok().filter(|h| *h > 0)?;
            Some(meta.number(&format!("{own}embedding_length")).ok()? / heads)
        })
    };
    for key in keys {
        let full = format!("{own}{key}");
        let fits = match key {
            // All dimensions of a head are turned; values are as wide as keys.
            "rope.dimension_count" | "attention.value_length" => meta.number(&full).ok() == head(),
            "rope.scaling.finetuned" => meta.get(&full)?.to_bool().is_ok(),
            "expert_count" | "expert_used_count" => meta.number(&full)? == 0,
            // The embedding's own shape decides; how the file was made changes nothing.
            "vocab_size" => {
                let rows = content.tensor_infos.get("token_embd.weight").and_then(|t| t.shape.dims().first());
                rows.is_none_or(|rows| meta.number(&full).ok() == Some(*rows))
            }
            "tensor_data_layout" => true,
            _ => false,
        };
        if !fits {
            let value = content.metadata.get(&full).map_or_else(String::new, |v| format!("{v:?}"));
            let value: String = value.chars().take(60).collect();
            return Err(bad(
                meta.path,
                format!("metadata key {full} = {value} is not implemented, and would make another model"),
            ));
        }
    }
    refuse_unread_text(meta)
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
