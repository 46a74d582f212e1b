//! Reading GGUF files: header checks, candle's dequantisation, Hugging Face names.
//!
//! llama.cpp stores the rows of q_proj and k_proj interleaved for its own rotary layout; they are put back here.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Value as Json, json};

use crate::chat::{ChatTemplate, Words};
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
pub(crate) fn outline(path: &Path, precision: Precision) -> Result<Outline> {
    let weights = || -> Result<String> {
        let (file, _) = fence::open::open(path, u64::MAX)?;
        digest(&mut std::io::BufReader::with_capacity(1 << 20, file))
    };
    // Each takes about as long as the other; what is wrong with the header is said first.
    let (weights, header) = rayon::join(weights, || header(path));
    let (_, Header { config, tokenizer, chat, name, .. }) = header?;
    Ok(Outline {
        stated: String::new(),
        config,
        tokenizer,
        chat,
        title: name.clone(),
        name,
        revision: None,
        precision,
        weights: weights?,
    })
}

/// As [`outline`], without a digest.
pub(crate) fn probe(path: &Path) -> Result<()> {
    header(path).map(drop)
}

/// Loads a model, its tokenizer and its chat template from one GGUF file.
pub(crate) fn load(path: &Path) -> Result<Loaded> {
    let (mut file, Header { content, config, tokenizer, chat, name }) = header(path)?;
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
    let content =
        Content::read(&mut file).map_err(|e| bad(path, format!("is not a readable GGUF file: {e}")))?;
    Ok((file, content))
}

fn header(path: &Path) -> Result<(fs_err::File, Header)> {
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
    let tokenizer = tokenizer(&meta)?;
    let template = meta.string("tokenizer.chat_template")?;
    let chat =
        ChatTemplate::new(template, words(&meta)?, &tokenizer).map_err(|e| bad(path, e.to_string()))?;
    let name = meta.string("general.name").unwrap_or("unnamed").to_owned();
    Ok((file, Header { content, config, tokenizer, chat, name }))
}

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
fn refuse_unread(path: &Path, content: &Content) -> Result<()> {
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
fn refuse_unread_text(meta: &Metadata<'_>) -> Result<()> {
    let off = |key: &str| {
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
            "tokenizer.ggml.add_space_prefix" | "tokenizer.ggml.remove_extra_whitespaces" => !off(key)?,
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

struct Metadata<'a> {
    path: &'a Path,
    values: &'a HashMap<String, Value>,
}

impl Metadata<'_> {
    fn get(&self, key: &str) -> Result<&Value> {
        self.values.get(key).ok_or_else(|| bad(self.path, format!("has no metadata key {key}")))
    }
    fn string(&self, key: &str) -> Result<&str> {
        self.get(key)?
            .to_string()
            .map(String::as_str)
            .map_err(|_| bad(self.path, format!("metadata key {key} is not text")))
    }
    fn number(&self, key: &str) -> Result<usize> {
        let value = self.get(key)?;
        value
            .to_u64()
            .ok()
            .or_else(|| value.to_u32().ok().map(u64::from))
            .or_else(|| value.to_i32().ok().and_then(|v| u64::try_from(v).ok()))
            .map(|v| v as usize)
            .ok_or_else(|| bad(self.path, format!("metadata key {key} is not a whole number")))
    }
    fn float(&self, key: &str) -> Result<f64> {
        let value = self.get(key)?;
        value
            .to_f32()
            .map(f64::from)
            .or_else(|_| value.to_f64())
            .map_err(|_| bad(self.path, format!("metadata key {key} is not a number")))
    }
    /// A value that has a default: only its absence means that, not another type.
    fn or<T>(&self, key: &str, read: impl Fn(&Self, &str) -> Result<T>, default: T) -> Result<T> {
        if self.values.contains_key(key) { read(self, key) } else { Ok(default) }
    }
    fn strings(&self, key: &str) -> Result<Vec<&str>> {
        let values = self
            .get(key)?
            .to_vec()
            .map_err(|_| bad(self.path, format!("metadata key {key} is not a list")))?;
        values
            .iter()
            .map(|v| {
                v.to_string().map(String::as_str).map_err(|_| {
                    bad(self.path, format!("metadata key {key} holds something that is not text"))
                })
            })
            .collect()
    }
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
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": meta.string("tokenizer.chat_template")?,
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
fn words(meta: &Metadata<'_>) -> Result<Words> {
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
fn tokenizer(meta: &Metadata<'_>) -> Result<Tokenizer> {
    Tokenizer::from_json(&tokenizer_json(meta)?).map_err(|what| bad(meta.path, format!("tokenizer: {what}")))
}

/// The same as the contents of a `tokenizer.json`.
fn tokenizer_json(meta: &Metadata<'_>) -> Result<Json> {
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

/// Walks the header and checks that every length fits the file, so that no reader is asked to allocate what is not there.
fn check_header(path: &Path, file: &mut (impl Read + Seek), size: u64) -> Result<()> {
    let mut walker = Walker { reader: std::io::BufReader::new(file), left: size, values: MOST_VALUES };
    let truncated = |_| bad(path, "the GGUF header is truncated or damaged");
    let mut magic = [0u8; 4];
    walker.bytes(&mut magic).map_err(truncated)?;
    if &magic != b"GGUF" {
        return Err(bad(path, "is not a GGUF file (it does not start with \"GGUF\")"));
    }
    let version = walker.u32().map_err(truncated)?;
    if !(2..=3).contains(&version) {
        return Err(bad(path, format!("is GGUF version {version}; versions 2 and 3 are read")));
    }
    (|| {
        let tensors = walker.u64()?;
        let pairs = walker.u64()?;
        if pairs > MOST_KEYS || tensors > MOST_TENSORS {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..pairs {
            let name = walker.short_text()?;
            if !name.is_empty() && !seen.insert(name.clone()) {
                return Err(std::io::Error::other(format!(
                    "key {} is there twice",
                    String::from_utf8_lossy(&name)
                )));
            }
            let kind = walker.u32()?;
            if name == b"general.alignment" {
                // The reader divides by it.
                let n = if kind == 4 { walker.u32()? } else { 0 };
                if !(n.is_power_of_two() && (1..=1 << 16).contains(&n)) {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                continue;
            }
            walker.value(kind, 0)?;
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..tensors {
            let name = walker.short_text()?;
            if name.is_empty() || !seen.insert(name.clone()) {
                return Err(std::io::Error::other(format!(
                    "tensor {:?} is there twice",
                    String::from_utf8_lossy(&name)
                )));
            }
            let dims = walker.u32()?;
            if dims > 4 {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            walker.skip(u64::from(dims) * 8 + 4 + 8)?;
        }
        Ok(())
    })()
    .map_err(|e| match e.kind() {
        std::io::ErrorKind::Other => bad(path, format!("the GGUF header is no good: {e}")),
        _ => truncated(e),
    })
}

/// Most keys, tensors and values of lists of a header: several times those of the largest known models. A value read takes many
/// times its bytes.
const MOST_KEYS: u64 = 10_000;
const MOST_TENSORS: u64 = 100_000;
const MOST_VALUES: u64 = 4_000_000;

struct Walker<R> {
    reader: R,
    left: u64,
    values: u64,
}

impl<R: Read> Walker<R> {
    fn bytes(&mut self, out: &mut [u8]) -> std::io::Result<()> {
        self.left = self.left.checked_sub(out.len() as u64).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        self.reader.read_exact(out)
    }
    fn u32(&mut self) -> std::io::Result<u32> {
        let mut b = [0; 4];
        self.bytes(&mut b)?;
        Ok(u32::from_le_bytes(b))
    }
    fn u64(&mut self) -> std::io::Result<u64> {
        let mut b = [0; 8];
        self.bytes(&mut b)?;
        Ok(u64::from_le_bytes(b))
    }
    fn skip(&mut self, n: u64) -> std::io::Result<()> {
        self.left = self.left.checked_sub(n).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let skipped = std::io::copy(&mut self.reader.by_ref().take(n), &mut std::io::sink())?;
        if skipped == n { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }
    fn text(&mut self) -> std::io::Result<()> {
        let n = self.u64()?;
        self.skip(n)
    }
    /// A text, or nothing of one that is longer than any key.
    fn short_text(&mut self) -> std::io::Result<Vec<u8>> {
        let n = self.u64()?;
        if n > 256 {
            self.skip(n)?;
            return Ok(Vec::new());
        }
        let mut text = vec![0; n as usize];
        self.bytes(&mut text)?;
        Ok(text)
    }
    fn value(&mut self, kind: u32, depth: u32) -> std::io::Result<()> {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => self.text(),
            9 if depth < 2 => {
                let inner = self.u32()?;
                let n = self.u64()?;
                self.values = self.values.checked_sub(n).ok_or(std::io::ErrorKind::InvalidData)?;
                if n > self.left {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                (0..n).try_for_each(|_| self.value(inner, depth + 1))
            }
            _ => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
}
