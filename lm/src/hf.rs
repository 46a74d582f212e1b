//! Reading a Hugging Face folder: `config.json`, safetensors (one file or sharded), `tokenizer.json`, chat template.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use fence::open::{SMALL, TABLE};
use safetensors::tensor::Metadata;
use serde_json::Value;

use crate::base::fits;
use crate::chat::{ChatTemplate, Source, WORDS, Words};
use crate::checkpoint::{Checkpoint, HostTensor, Loaded};
use crate::export::Companions;
use crate::tokenizer::Tokenizer;
use crate::{Config, Error, Outline, Precision, Result};

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), what: what.into() }
}

fn json(path: &Path) -> Result<Value> {
    json_within(path, SMALL)
}

fn json_within(path: &Path, most: u64) -> Result<Value> {
    serde_json::from_str(&fence::read_text(path, most)?)
        .map_err(|e| bad(path, format!("is not valid JSON: {e}")))
}

/// All but the weights, of which only the digest is taken.
pub(crate) fn outline(folder: &Path, precision: Precision, given: Option<&str>) -> Result<Outline> {
    let config = config(&folder.join("config.json"))?;
    let files = weight_files(folder)?;
    let most = most_bytes(&config);
    let digest = || -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for file in &files {
            std::io::copy(&mut fence::open::open(file, most)?.0, &mut hasher)?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    };
    // Each takes about as long as the other.
    let (digest, language) = rayon::join(digest, || language(folder, given));
    let ((tokenizer, chat, name), digest) = (language?, digest?);
    fits(folder, config.vocab_size, &tokenizer, &chat)?;
    let stated = config.identity();
    Ok(Outline::of(config, (tokenizer, chat, name), stated, digest, precision))
}

/// As [`outline`], without a digest; of the weights the headers.
pub(crate) fn probe(folder: &Path, given: Option<&str>) -> Result<()> {
    let config = config(&folder.join("config.json"))?;
    for file in weight_files(folder)? {
        let (mut open, length) = fence::open::open(&file, most_bytes(&config))?;
        let mut size = [0; 8];
        open.read_exact(&mut size)?;
        let size = u64::from_le_bytes(size);
        let damaged = |what: String| {
            bad(&file, format!("is not a readable safetensors file (truncated or damaged): {what}"))
        };
        if size > SMALL * 4 || size + 8 > length {
            return Err(damaged(format!("its header would have {size} bytes")));
        }
        let mut bytes = vec![0; size as usize];
        open.read_exact(&mut bytes)?;
        let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let end = header.tensors().values().map(|t| t.data_offsets.1).max().unwrap_or(0) as u64;
        if 8 + size + end != length {
            return Err(damaged(format!("its tensors end at byte {} of {length}", 8 + size + end)));
        }
    }
    let (tokenizer, chat, _) = language(folder, given)?;
    fits(folder, config.vocab_size, &tokenizer, &chat)
}

/// Loads a checkpoint folder.
pub(crate) fn load(folder: &Path, given: Option<&str>) -> Result<Loaded> {
    let config = config(&folder.join("config.json"))?;
    let files = weight_files(folder)?;
    let mut tensors = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    for file in &files {
        let bytes = fence::read(file, most_bytes(&config))?;
        hasher.update(&bytes);
        let found = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| {
            bad(file, format!("is not a readable safetensors file (truncated or damaged): {e}"))
        })?;
        // In order of name, so that the same damage is always told of the same tensor.
        let found: BTreeMap<String, candle_core::Tensor> = found.into_iter().collect();
        for (name, tensor) in found {
            if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16) {
                return Err(bad(
                    file,
                    format!("tensor {name} is {:?}; F32, F16 and BF16 are read", tensor.dtype()),
                ));
            }
            let data = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            tensors.insert(name, HostTensor { shape: tensor.dims().to_vec(), data });
        }
    }
    if config.tie_word_embeddings
        && let Some(head) = tensors.remove("lm_head.weight")
        && tensors.get("model.embed_tokens.weight").is_none_or(|e| e.data != head.data)
    {
        let what =
            "tie_word_embeddings = true, and the weights hold an lm_head.weight that is not the embeddings'";
        return Err(bad(&folder.join("config.json"), what));
    }
    let checkpoint = Checkpoint { config, tensors, digest: hasher.finalize().to_hex().to_string() };
    checkpoint.check(folder)?;
    let (tokenizer, chat, name) = language(folder, given)?;
    fits(folder, checkpoint.config.vocab_size, &tokenizer, &chat)?;
    Ok(Loaded { stated: checkpoint.config.identity(), checkpoint, tokenizer, chat, name })
}

/// Most bytes of a weights file: those of the whole model in f32, twice, and a header.
fn most_bytes(config: &Config) -> u64 {
    let layer: usize = crate::Projection::ALL.iter().map(|p| p.features(config)).map(|(i, o)| i * o).sum();
    let all = 2 * config.vocab_size * config.hidden_size
        + config.num_hidden_layers * (layer + 2 * config.hidden_size)
        + config.hidden_size;
    8 * all as u64 + (100 << 20)
}

/// The folder's tokenizer, chat template and name; a template that was given takes the place of its own.
pub(crate) fn language(folder: &Path, given: Option<&str>) -> Result<(Tokenizer, ChatTemplate, String)> {
    let path = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_json(json_within(&path, TABLE)?).map_err(|what| bad(&path, what))?;
    let said = if_there(&folder.join("tokenizer_config.json"))?;
    check_added(folder, &said, &tokenizer)?;
    let own = if given.is_none() { template(folder, &said)? } else { None };
    let source = Source::choose(given, own, &tokenizer);
    let chat = ChatTemplate::new(source, words(folder, &said)?, &tokenizer)
        .map_err(|e| bad(folder, e.to_string()))?;
    let name = folder.file_name().map_or_else(|| "unnamed".into(), |n| n.to_string_lossy().into_owned());
    Ok((tokenizer, chat, name))
}

/// A JSON file, or nothing where there is none.
fn if_there(path: &Path) -> Result<Value> {
    if path.exists() { json(path) } else { Ok(Value::Null) }
}

/// The text of a token as configurations give it: itself, or an object about it.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// The named tokens that templates may use.
fn words(folder: &Path, said: &Value) -> Result<Words> {
    let older = if_there(&folder.join("special_tokens_map.json"))?;
    let text = |name: &str| token_text(&said[name]).or_else(|| token_text(&older[name])).map(str::to_owned);
    Ok(WORDS.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?))).collect())
}

/// Tokens that stand beside `tokenizer.json`, and not in it, would be spelled out.
fn check_added(folder: &Path, said: &Value, tokenizer: &Tokenizer) -> Result<()> {
    let mut all: Vec<(&str, Option<u64>, &str)> = Vec::new();
    let file = "tokenizer_config.json";
    for (id, token) in said["added_tokens_decoder"].as_object().into_iter().flatten() {
        all.extend(token_text(token).map(|text| (text, id.parse().ok(), file)));
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let list = said[key].as_array().map_or(&[][..], Vec::as_slice);
        all.extend(list.iter().filter_map(token_text).map(|text| (text, None, file)));
    }
    let path = folder.join("added_tokens.json");
    let older = if_there(&path)?;
    for (text, id) in older.as_object().into_iter().flatten() {
        all.push((text, id.as_u64(), "added_tokens.json"));
    }
    for (text, id, file) in all {
        let found = tokenizer.token_id(text).map(u64::from);
        if found.is_none() || id.is_some_and(|id| Some(id) != found) {
            return Err(bad(
                &folder.join(file),
                format!(
                    "names the token {text:?}, which tokenizer.json does not have, or under another number"
                ),
            ));
        }
    }
    Ok(())
}

/// Files that are the same whatever the weights are.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// Folder of further chat templates.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";

/// What a folder holds beside the weights.
pub(crate) fn companions(folder: &Path) -> Result<Companions> {
    let mut files = BTreeMap::new();
    for name in COMPANIONS {
        let path = folder.join(name);
        if path.exists() {
            files.extend(fence::within::read(folder, name, TABLE)?.map(|bytes| (name.to_owned(), bytes)));
        }
    }
    let more = folder.join(TEMPLATES);
    if more.is_dir() {
        for entry in fs_err::read_dir(&more)? {
            let path = entry?.path();
            if path.is_file()
                && let Some(name) = path.file_name().and_then(|n| n.to_str())
            {
                let inner = format!("{TEMPLATES}/{name}");
                files.extend(fence::within::read(folder, &inner, SMALL)?.map(|bytes| (inner, bytes)));
            }
        }
    }
    Ok(Companions { config: json(&folder.join("config.json"))?, files, quantised: BTreeSet::new() })
}

/// The folder's own chat template; base models have none.
fn template(folder: &Path, config: &Value) -> Result<Option<String>> {
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        return Ok(Some(fence::read_text(&file, SMALL)?));
    }
    let path = folder.join("tokenizer_config.json");
    match &config["chat_template"] {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Null => Ok(None),
        Value::Array(named) => named
            .iter()
            .find(|t| t["name"] == "default")
            .and_then(|t| t["template"].as_str())
            .map(|text| Some(text.to_owned()))
            .ok_or_else(|| bad(&path, "chat_template has no entry named \"default\"")),
        _ => Err(bad(&path, "chat_template is neither a text nor a list of named ones")),
    }
}

/// The list of a model's weight files, where there are several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Most of them: several times those of the largest known model.
const MOST_SHARDS: usize = 2000;

/// The files that an index names, in order: safetensors files beside it.
pub(crate) fn shards(index: &Path) -> Result<Vec<String>> {
    let value = json(index)?;
    let map = value["weight_map"].as_object().ok_or_else(|| bad(index, "has no weight_map"))?;
    let named =
        |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| bad(index, format!("names the file {v}")));
    let names = map.values().map(named).collect::<Result<BTreeSet<String>>>()?;
    if names.len() > MOST_SHARDS {
        return Err(bad(index, format!("names {} files, more than {MOST_SHARDS}", names.len())));
    }
    for name in &names {
        let ours = fence::Plain::new(name).is_some()
            && Path::new(name).extension().is_some_and(|e| e == "safetensors");
        if !ours {
            let start: String = name.chars().take(100).collect();
            return Err(bad(
                index,
                format!("names the file {start:?}, which is not a safetensors file beside it"),
            ));
        }
    }
    Ok(names.into_iter().collect())
}

/// The weight files in name order; a pickle is named and refused.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    // What transformers would put on top of the weights.
    if folder.join("adapter_config.json").exists() {
        return Err(bad(
            folder,
            "holds an adapter beside a model; import the adapter by itself, and give a folder with the model alone",
        ));
    }
    // Where both are there transformers takes the one file.
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if index.exists() {
        let files: Vec<PathBuf> = shards(&index)?.iter().map(|name| folder.join(name)).collect();
        let mut seen = BTreeSet::new();
        for file in &files {
            use std::os::unix::fs::MetadataExt;
            if std::fs::metadata(file).is_ok_and(|m| !seen.insert((m.dev(), m.ino()))) {
                return Err(bad(&index, "names one file under several names"));
            }
        }
        return Ok(files);
    }
    if folder.join("pytorch_model.bin").exists() {
        return Err(bad(
            folder,
            "holds only a pickle (pytorch_model.bin), which is never executed; convert it to safetensors",
        ));
    }
    Err(bad(folder, "has no model.safetensors and no model.safetensors.index.json"))
}

/// The base of the rotary embedding, by transformers' rules (`modeling_rope_utils.py`, `convert_rope_params_to_dict`): of `rope_scaling`
/// and `rope_parameters` the first that says anything, whose own `rope_theta` goes before the one beside it. A scaling that is not
/// implemented is refused in whichever of the two it stands.
fn rope_theta(path: &Path, config: &Value) -> Result<f64> {
    let says = |v: &&Value| v.as_object().is_some_and(|o| !o.is_empty());
    let both = [("rope_scaling", &config["rope_scaling"]), ("rope_parameters", &config["rope_parameters"])];
    for (name, rope) in both {
        if !(rope.is_null() || rope.is_object()) {
            return Err(bad(path, format!("{name} = {rope} is neither an object nor null")));
        }
        let kind = [&rope["rope_type"], &rope["type"]].into_iter().find(|v| !v.is_null());
        if let Some(kind) = kind.filter(|k| **k != "default") {
            return Err(bad(path, format!("{name}: rope scaling {kind} is not implemented; \"default\" is")));
        }
    }
    for (name, place) in [("", config), ("rope_scaling: ", both[0].1), ("rope_parameters: ", both[1].1)] {
        let rotated = &place["partial_rotary_factor"];
        if !rotated.is_null() && rotated.as_f64() != Some(1.0) {
            return Err(bad(
                path,
                format!("{name}partial_rotary_factor = {rotated} is not implemented; 1 is"),
            ));
        }
    }
    let own = both.iter().map(|(_, v)| *v).find(says).map_or(&Value::Null, |rope| &rope["rope_theta"]);
    let theta = [own, &config["rope_theta"]].into_iter().find(|v| !v.is_null());
    match theta {
        None => Ok(10_000.0),
        Some(value) => {
            value.as_f64().ok_or_else(|| bad(path, format!("rope_theta = {value} is not a number")))
        }
    }
}

fn config(path: &Path) -> Result<Config> {
    let value = json(path)?;
    let architecture = value["architectures"][0].as_str().unwrap_or("none");
    if architecture != "LlamaForCausalLM" {
        return Err(bad(
            path,
            format!("architecture {architecture:?} is not implemented; LlamaForCausalLM is"),
        ));
    }
    let number = |key: &str| {
        value[key]
            .as_u64()
            .map(|v| v as usize)
            .ok_or_else(|| bad(path, format!("{key} is missing or not a whole number")))
    };
    if !value["transformers_weights"].is_null() {
        let name = value["transformers_weights"].to_string();
        return Err(bad(
            path,
            format!(
                "transformers_weights = {} is not implemented",
                name.chars().take(80).collect::<String>()
            ),
        ));
    }
    let window = &value["sliding_window"];
    if !window.is_null()
        && window.as_u64().is_none_or(|w| w < value["max_position_embeddings"].as_u64().unwrap_or(u64::MAX))
    {
        return Err(bad(path, format!("sliding_window = {window} is not implemented")));
    }
    // By this name transformers chooses the code.
    let kind = &value["model_type"];
    if !kind.is_null() && kind != "llama" {
        return Err(bad(path, format!("model_type {kind} is not implemented; \"llama\" is")));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if !(value[key].is_null() || value[key] == false) {
            return Err(bad(path, format!("{key} = {} is not implemented; false is", value[key])));
        }
    }
    if !value["hidden_act"].is_null() && value["hidden_act"] != "silu" {
        return Err(bad(path, format!("hidden_act {} is not implemented; \"silu\" is", value["hidden_act"])));
    }
    // Only absence means a default, not another type.
    let or = |key: &str, default: usize| if value[key].is_null() { Ok(default) } else { number(key) };
    let eps = match &value["rms_norm_eps"] {
        Value::Null => 1e-6,
        eps => eps.as_f64().ok_or_else(|| bad(path, format!("rms_norm_eps = {eps} is not a number")))?,
    };
    let tied = match &value["tie_word_embeddings"] {
        Value::Null => false,
        tied => tied
            .as_bool()
            .ok_or_else(|| bad(path, format!("tie_word_embeddings = {tied} is neither true nor false")))?,
    };
    let theta = rope_theta(path, &value)?;
    let heads = number("num_attention_heads")?;
    let hidden = number("hidden_size")?;
    // What transformers generates with goes before; a configuration that says nothing means the class's own default.
    let generation = if_there(&path.with_file_name("generation_config.json"))?;
    let two = Value::from(2);
    let stated = [generation.get("eos_token_id"), value.get("eos_token_id")];
    let ends = match stated.into_iter().flatten().find(|v| !v.is_null()).or(stated[1]).unwrap_or(&two) {
        Value::Null => &[],
        Value::Array(ids) => &ids[..],
        one => std::slice::from_ref(one),
    };
    let eos_token_ids = ends
        .iter()
        .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
        .collect::<Option<Vec<u32>>>()
        .ok_or_else(|| bad(path, "eos_token_id, here or in generation_config.json, is no token"))?;
    let config = Config {
        hidden_size: hidden,
        intermediate_size: number("intermediate_size")?,
        num_hidden_layers: number("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: or("num_key_value_heads", heads)?,
        head_dim: or("head_dim", hidden / heads.max(1))?,
        vocab_size: number("vocab_size")?,
        max_position_embeddings: number("max_position_embeddings")?,
        rms_norm_eps: eps,
        rope_theta: theta,
        tie_word_embeddings: tied,
        eos_token_ids,
    };
    config.check().map_err(|what| bad(path, what))?;
    Ok(config)
}
