//! Reading GGUF files: header checks, candle's dequantisation, Hugging Face names.
//!
//! llama.cpp stores the rows of q_proj and k_proj interleaved for its own rotary layout; they are put back here.

mod check;
mod metadata;
mod text;
mod unread;

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use serde_json::json;

use check::check_header;
use metadata::Metadata;
use text::{language, tokenizer_json};
use unread::refuse_unread;

use crate::base::fits;
use crate::chat::ChatTemplate;
use crate::checkpoint::{Checkpoint, HostTensor, Loaded};
use crate::export::{Companions, pretty};
use crate::tokenizer::Tokenizer;
use crate::{Config, Error, Outline, Precision, Result};

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), what: what.into() }
}

/// A file's header, read and checked, and what it says of the model.
struct Header {
    content: Content,
    config: Config,
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    name: String,
}

/// All but the weights, of which only the digest is taken.
pub(crate) fn outline(path: &Path, precision: Precision, given: Option<&str>) -> Result<Outline> {
    let weights = || -> Result<String> {
        let (file, _) = fence::open::open(path, u64::MAX)?;
        digest(&mut std::io::BufReader::with_capacity(1 << 20, file))
    };
    // Each takes about as long as the other; what is wrong with the header is said first.
    let (weights, header) = rayon::join(weights, || header(path, given));
    let (_, Header { config, tokenizer, chat, name, .. }) = header?;
    Ok(Outline::of(config, (tokenizer, chat, name), String::new(), weights?, precision))
}

/// As [`outline`], without a digest.
pub(crate) fn probe(path: &Path, given: Option<&str>) -> Result<()> {
    header(path, given).map(drop)
}

/// Loads a model, its tokenizer and its chat template from one GGUF file.
pub(crate) fn load(path: &Path, given: Option<&str>) -> Result<Loaded> {
    let (mut file, Header { content, config, tokenizer, chat, name }) = header(path, given)?;
    let mut tensors = BTreeMap::new();
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    for name in names {
        let Some(hf) = hugging_face_name(name) else { continue };
        let tensor = content.tensor(&mut file, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        let shape = tensor.dims().to_vec();
        let mut data = tensor.flatten_all()?.to_vec1::<f32>()?;
        let heads = if hf.ends_with("q_proj.weight") {
            Some(config.num_attention_heads)
        } else if hf.ends_with("k_proj.weight") {
            Some(config.num_key_value_heads)
        } else {
            None
        };
        // What has another shape is refused by it below.
        if let (Some(heads), [rows, columns]) = (heads, &shape[..])
            && *rows == heads * config.head_dim
        {
            data = unpermute(&data, *rows, *columns, heads);
        }
        tensors.insert(hf, HostTensor { shape, data });
    }
    let checkpoint = Checkpoint { config, tensors, digest: digest(&mut file)? };
    checkpoint.check(path)?;
    Ok(Loaded { stated: String::new(), checkpoint, tokenizer, chat, name })
}

fn digest(file: &mut (impl Read + Seek)) -> Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(file, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Opens a file and reads its header.
fn open(path: &Path) -> Result<(fs_err::File, Content)> {
    let (file, size) = fence::open::open(path, u64::MAX)?;
    let mut file = fs_err::File::from_parts(file, path);
    check_header(path, &mut file, size)?;
    file.seek(SeekFrom::Start(0))?;
    let content = Content::read(&mut BufReader::with_capacity(1 << 20, &mut file))
        .map_err(|e| bad(path, format!("is not a readable GGUF file: {e}")))?;
    Ok((file, content))
}

/// The tokenizer and chat template, whatever the model's layers are.
pub(crate) fn language_of(path: &Path, given: Option<&str>) -> Result<(Tokenizer, ChatTemplate)> {
    let (_, content) = open(path)?;
    let meta = Metadata { path, values: &content.metadata };
    unread::refuse_unread_text(&meta)?;
    language(&meta, given)
}

fn header(path: &Path, given: Option<&str>) -> Result<(fs_err::File, Header)> {
    let (file, content) = open(path)?;
    let size = file.metadata()?.len();
    let meta = Metadata { path, values: &content.metadata };
    let architecture = meta.string("general.architecture")?;
    if architecture != "llama" {
        return Err(bad(
            path,
            format!("holds a {architecture:?} model; only the llama architecture is read"),
        ));
    }
    refuse_unread(path, &content)?;
    let mut tensors: Vec<_> = content.tensor_infos.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    let mut regions: Vec<(u64, u64, &str)> = Vec::new();
    for (name, info) in tensors {
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
    let embedding = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or_else(|| bad(path, "has no tensor token_embd.weight"))?;
    let config = config(
        &meta,
        embedding.shape.dims().first().copied().unwrap_or(0),
        !content.tensor_infos.contains_key("output.weight"),
    )?;
    let (tokenizer, chat) = language(&meta, given)?;
    fits(path, config.vocab_size, &tokenizer, &chat)?;
    let name = meta.string("general.name").unwrap_or("unnamed").to_owned();
    Ok((file, Header { content, config, tokenizer, chat, name }))
}

/// HF row `(head, part, i)` is llama.cpp's row `(head, i, part)`.
fn unpermute(data: &[f32], rows: usize, columns: usize, heads: usize) -> Vec<f32> {
    let dim = rows / heads;
    let half = dim / 2;
    (0..rows)
        .flat_map(|row| {
            let (head, within) = (row / dim, row % dim);
            let from = head * dim + (within % half) * 2 + within / half;
            data[from * columns..(from + 1) * columns].iter().copied()
        })
        .collect()
}

fn hugging_face_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let part = match part {
        "attn_norm.weight" => "input_layernorm.weight",
        "attn_q.weight" => "self_attn.q_proj.weight",
        "attn_k.weight" => "self_attn.k_proj.weight",
        "attn_v.weight" => "self_attn.v_proj.weight",
        "attn_output.weight" => "self_attn.o_proj.weight",
        "ffn_norm.weight" => "post_attention_layernorm.weight",
        "ffn_gate.weight" => "mlp.gate_proj.weight",
        "ffn_up.weight" => "mlp.up_proj.weight",
        "ffn_down.weight" => "mlp.down_proj.weight",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}"))
}

fn config(meta: &Metadata<'_>, vocab_size: usize, tied: bool) -> Result<Config> {
    let heads = meta.number("llama.attention.head_count")?;
    let hidden = meta.number("llama.embedding_length")?;
    if heads == 0 || hidden == 0 {
        return Err(bad(meta.path, "has no attention heads or no width"));
    }
    let head_dim = meta.or("llama.attention.key_length", Metadata::number, hidden / heads)?;
    let mut eos: Vec<u32> = Vec::new();
    for key in ["eos", "eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id")) {
        eos.extend(meta.or(&key, |m, k| m.number(k).map(|id| Some(id as u32)), None)?);
    }
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    if let Some(id) = tokens.iter().position(|t| *t == "<|im_end|>") {
        eos.push(id as u32);
    }
    eos.sort_unstable();
    eos.dedup();
    let config = Config {
        hidden_size: hidden,
        intermediate_size: meta.number("llama.feed_forward_length")?,
        num_hidden_layers: meta.number("llama.block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: meta.or("llama.attention.head_count_kv", Metadata::number, heads)?,
        head_dim,
        vocab_size,
        max_position_embeddings: meta.number("llama.context_length")?,
        rms_norm_eps: meta.float("llama.attention.layer_norm_rms_epsilon")?,
        rope_theta: meta.or("llama.rope.freq_base", Metadata::float, 10_000.0)?,
        tie_word_embeddings: tied,
        eos_token_ids: eos,
    };
    config.check().map_err(|what| bad(meta.path, what))?;
    Ok(config)
}

/// What a Hugging Face folder of this model holds beside the weights, and the types of its quantised tensors.
pub(crate) fn companions(path: &Path, config: &Config) -> Result<Companions> {
    let (_, content) = open(path)?;
    let meta = Metadata { path, values: &content.metadata };
    let tokens = meta.strings("tokenizer.ggml.tokens")?;
    let id = |name: &str| meta.number(&format!("tokenizer.ggml.{name}_token_id")).ok().map(|id| id as u32);
    let token = |id: Option<u32>| id.and_then(|id| tokens.get(id as usize));
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": text::own_template(&meta)?,
        "bos_token": token(id("bos")), "eos_token": token(id("eos")), "pad_token": token(id("padding")),
        "unk_token": token(id("unknown")), "add_prefix_space": false, "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_position_embeddings,
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
    Ok(Companions {
        config: json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers, "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads, "head_dim": config.head_dim,
            "vocab_size": config.vocab_size, "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": as_typed(config.rms_norm_eps), "rope_theta": as_typed(config.rope_theta), "rope_scaling": null,
            "tie_word_embeddings": config.tie_word_embeddings, "attention_bias": false, "attention_dropout": 0.0, "mlp_bias": false,
            "bos_token_id": id("bos"), "eos_token_id": id("eos"), "pad_token_id": id("padding"), "use_cache": true,
        }),
        files,
        quantised: quantised.collect(),
    })
}

/// A number that a GGUF file holds in f32, with the fewest digits that make the same f32: 1e-5, not 9.99999974e-6.
fn as_typed(x: f64) -> f64 {
    let short: f64 = (x as f32).to_string().parse().unwrap_or(x);
    if f64::from(short as f32) == x { short } else { x }
}
