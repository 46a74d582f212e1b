//! Reading GGUF files: the header, held against the file's length and against what is implemented.

mod check;
mod metadata;
mod text;
mod unread;

use std::collections::BTreeMap;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use serde_json::{Value, json};

use check::check_header;
pub(crate) use metadata::Metadata;
use text::{language, tokenizer_json};
use unread::refuse_unread;

use crate::architecture::{self, Rope, Said, Scaling, bad};
use crate::base::fits;
use crate::chat::ChatTemplate;
use crate::checkpoint::{Checkpoint, Loaded};
use crate::export::{Companions, pretty};
use crate::tokenizer::Tokenizer;
use crate::weights::{FREQUENCIES, Quantised, digest};
use crate::{Architecture, Outline, Precision, Result};

/// A file's header, read and checked, and what it says of the model.
struct Header {
    file: std::fs::File,
    content: Content,
    architecture: Architecture,
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    name: String,
}

/// All but the weights, of which only the digest is taken.
pub(crate) fn outline(path: &Path, precision: Precision, given: Option<&str>) -> Result<Outline> {
    let (file, size) = fence::open::open(path, u64::MAX)?;
    let same = file.try_clone()?;
    // Each takes about as long as the other; what is wrong with the header is said first.
    let (weights, header) = rayon::join(|| digest(&same), || header_of(path, file, size, given));
    let Header { architecture, tokenizer, chat, name, .. } = header?;
    Ok(Outline::of(architecture, (tokenizer, chat, name), String::new(), weights?, precision))
}

/// As [`outline`], without a digest.
pub(crate) fn probe(path: &Path, given: Option<&str>) -> Result<()> {
    header(path, given).map(drop)
}

/// Opens a model with its tokenizer and its chat template in one GGUF file.
pub(crate) fn load(path: &Path, given: Option<&str>) -> Result<Loaded> {
    let Header { file, content, architecture, tokenizer, chat, name } = header(path, given)?;
    let (source, digest) = Quantised::new(path, file, content)?;
    let checkpoint = Checkpoint::new(architecture, Arc::new(source), digest)?;
    Ok(Loaded { stated: String::new(), checkpoint, tokenizer, chat, name })
}

/// Opens a file and reads its header.
fn open(path: &Path) -> Result<(std::fs::File, Content)> {
    let (file, size) = fence::open::open(path, u64::MAX)?;
    content_of(path, file, size)
}

fn content_of(path: &Path, mut file: std::fs::File, size: u64) -> Result<(std::fs::File, Content)> {
    check_header(path, &mut file, size)?;
    file.seek(SeekFrom::Start(0))?;
    let content = Content::read(&mut BufReader::with_capacity(1 << 20, &mut file))
        .map_err(|e| bad(path, format!("is not a readable GGUF file: {e}")))?;
    Ok((file, content))
}

/// The tokenizer and chat template, whatever the model's layers are.
pub(crate) fn language_of(path: &Path, given: Option<&str>) -> Result<(Tokenizer, ChatTemplate)> {
    let (_, content) = open(path)?;
    let meta = Metadata::new(path, &content.metadata);
    unread::refuse_unread_text(&meta)?;
    language(&meta, given)
}

fn header(path: &Path, given: Option<&str>) -> Result<Header> {
    let (file, size) = fence::open::open(path, u64::MAX)?;
    header_of(path, file, size, given)
}

fn header_of(path: &Path, file: std::fs::File, size: u64, given: Option<&str>) -> Result<Header> {
    let (file, content) = content_of(path, file, size)?;
    let meta = Metadata::new(path, &content.metadata);
    let name = meta.string("general.architecture")?;
    architecture::of_gguf(name).map_err(|what| bad(path, what))?;
    let mut tensors: Vec<_> = content.tensor_infos.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    let mut regions: Vec<(u64, u64, &str)> = Vec::new();
    for (name, info) in tensors {
        let row = info.shape.dims().last().copied().unwrap_or(0);
        if info.shape.elem_count() == 0 || !row.is_multiple_of(info.ggml_dtype.block_size()) {
            return Err(bad(
                path,
                format!(
                    "tensor {name} has rows of {row} numbers, which are no whole blocks of {:?}",
                    info.ggml_dtype
                ),
            ));
        }
        let elements = info.shape.dims().iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let blocks = elements.map(|n| n.div_ceil(info.ggml_dtype.block_size() as u64));
        let end = blocks
            .and_then(|b| b.checked_mul(info.ggml_dtype.type_size() as u64))
            .and_then(|b| b.checked_add(info.offset)?.checked_add(content.tensor_data_offset));
        if end.is_none_or(|end| end > size) {
            return Err(bad(
                path,
                format!("tensor {name} ends past the end of the file: the file is truncated or damaged"),
            ));
        }
        regions.push((info.offset, end.unwrap_or(0).saturating_sub(content.tensor_data_offset), name));
    }
    // Each takes memory of its own: many on one place make more of a file than it is.
    regions.sort_unstable();
    if let Some(pair) = regions.windows(2).find(|p| p[1].0 < p[0].1) {
        return Err(bad(path, format!("tensors {} and {} lie over each other", pair[0].2, pair[1].2)));
    }
    let architecture = describe(&content, &meta, &file)?;
    refuse_unread(&content, &meta, name)?;
    let (tokenizer, chat) = language(&meta, given)?;
    fits(path, architecture.vocab_size, &tokenizer, &chat)?;
    let name = meta.string("general.name").unwrap_or("unnamed").to_owned();
    Ok(Header { file, content, architecture, tokenizer, chat, name })
}

/// The file's `config.json`, as it would be.
fn config(content: &Content, meta: &Metadata<'_>) -> Result<Value> {
    let has = |name: &str| content.tensor_infos.contains_key(name);
    let embedding = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or_else(|| bad(meta.path, "has no tensor token_embd.weight"))?;
    let ends = ends(meta)?;
    let said = Said {
        meta,
        vocab_size: embedding.shape.dims().first().copied().unwrap_or(0),
        tied: !has("output.weight"),
        biased: has("blk.0.attn_q.bias") && has("blk.0.attn_output.bias"),
        ends: &ends,
    };
    architecture::gguf_config(meta.string("general.architecture")?, said)
}

/// Tokens that end a reply.
fn ends(meta: &Metadata<'_>) -> Result<Vec<u32>> {
    let mut ends: Vec<u32> = Vec::new();
    for key in ["eos", "eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id")) {
        let id = meta.or(&key, |m, k| m.number(k).map(Some), None)?;
        let refuse = |id: usize| bad(meta.path, format!("metadata key {key} = {id} is no token"));
        ends.extend(id.map(|id| u32::try_from(id).map_err(|_| refuse(id))).transpose()?);
    }
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    if let Some(id) = tokens.iter().position(|t| *t == "<|im_end|>") {
        ends.push(id as u32);
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

fn describe(content: &Content, meta: &Metadata<'_>, file: &std::fs::File) -> Result<Architecture> {
    let mut made = Architecture::from_json(meta.path, &config(content, meta)?)?;
    // Llama 3's frequencies come as a divisor for each pair of dimensions.
    if let Some(info) = content.tensor_infos.get(FREQUENCIES) {
        if meta.string("general.architecture")? != "llama" {
            return Err(bad(
                meta.path,
                format!("tensor {FREQUENCIES} is not implemented for this architecture"),
            ));
        }
        let pairs = made.ropes.first().map_or(0, |r| r.dim / 2);
        if info.shape.elem_count() != pairs {
            return Err(bad(
                meta.path,
                format!("tensor {FREQUENCIES} has {} values for {pairs} pairs", info.shape.elem_count()),
            ));
        }
        if made.ropes.first().is_some_and(|r| r.scaling != Scaling::None) {
            let what =
                format!("has a tensor {FREQUENCIES} beside a metadata key for rope scaling: two scalings");
            return Err(bad(meta.path, what));
        }
        let divisors = Quantised::vector(file, content, FREQUENCIES)?.unwrap_or_default();
        let divisors = divisors.into_iter().map(f64::from).collect();
        made.ropes[0] =
            Rope::divided(made.ropes[0].clone(), divisors).map_err(|what| bad(meta.path, what))?;
    }
    Ok(made)
}

/// What a Hugging Face folder of this model holds beside the weights, and the types of its quantised tensors.
pub(crate) fn companions(path: &Path, model: &Architecture) -> Result<Companions> {
    let (_, content) = open(path)?;
    let meta = Metadata::new(path, &content.metadata);
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    let id = |name: &str| meta.number(&format!("tokenizer.ggml.{name}_token_id")).ok().map(|id| id as u32);
    let token = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize));
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": text::own_template(&meta)?,
        "bos_token": token(id("bos")), "eos_token": token(id("eos")), "pad_token": token(id("padding")),
        "unk_token": token(id("unknown")), "add_prefix_space": false, "clean_up_tokenization_spaces": false,
        "model_max_length": model.context,
    });
    let quantised = content
        .tensor_infos
        .values()
        .map(|t| t.ggml_dtype)
        .filter(|t| !matches!(t, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16))
        .map(|t| format!("{t:?}"));
    let mut files: BTreeMap<String, Vec<u8>> =
        [("tokenizer.json", tokenizer_json(&meta)?), ("tokenizer_config.json", tokenizer_config)]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), pretty(&value)))
            .collect();
    for key in content.metadata.keys() {
        if let Some(name) =
            key.strip_prefix("tokenizer.chat_template.").filter(|n| fence::Plain::new(n).is_some())
        {
            let text = meta.string(key)?.to_owned();
            files.insert(format!("{}/{name}.jinja", crate::hf::TEMPLATES), text.into_bytes());
        }
    }
    let mut config = config(&content, &meta)?;
    for (field, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        config[field] = id(name).into();
    }
    if let Some(scaling) =
        model.ropes.first().map(Rope::as_json).transpose().map_err(|what| bad(path, what))?.flatten()
    {
        config["rope_scaling"] = scaling;
    }
    Ok(Companions { config, files, quantised: quantised.collect() })
}
