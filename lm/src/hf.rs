//! Reading a Hugging Face folder: `config.json`, safetensors (one file or sharded), `tokenizer.json`, chat template.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fence::open::{SMALL, TABLE};
use serde_json::Value;

use crate::architecture::{Facts, Family, bad};
use crate::base::fits;
use crate::chat::{ChatTemplate, Source, WORDS, Words};
use crate::checkpoint::{Checkpoint, Loaded};
use crate::export::Companions;
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Safetensors};
use crate::{Architecture, Outline, Precision, Result};

fn json(path: &Path) -> Result<Value> {
    json_within(path, SMALL)
}

fn json_within(path: &Path, most: u64) -> Result<Value> {
    serde_json::from_str(&fence::read_text(path, most)?)
        .map_err(|e| bad(path, format!("is not valid JSON: {e}")))
}

/// All but the weights, of which only the digest is taken.
pub(crate) fn outline(folder: &Path, precision: Precision, given: Option<&str>) -> Result<Outline> {
    let architecture = architecture(folder)?;
    let files = weight_files(folder)?;
    let most = most_bytes(&architecture);
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
    fits(folder, architecture.vocab_size, &tokenizer, &chat)?;
    let stated = architecture.identity();
    Ok(Outline::of(architecture, (tokenizer, chat, name), stated, digest, precision))
}

/// As [`outline`], without a digest; of the weights the headers.
pub(crate) fn probe(folder: &Path, given: Option<&str>) -> Result<()> {
    let architecture = architecture(folder)?;
    for path in weight_files(folder)? {
        let (mut file, length) = fence::open::open(&path, most_bytes(&architecture))?;
        weights::header(&path, &mut file, length)?;
    }
    let (tokenizer, chat, _) = language(folder, given)?;
    fits(folder, architecture.vocab_size, &tokenizer, &chat)
}

/// Opens a checkpoint folder.
pub(crate) fn load(folder: &Path, given: Option<&str>) -> Result<Loaded> {
    let architecture = architecture(folder)?;
    let files = weight_files(folder)?;
    let (mut source, digest) =
        Safetensors::open(folder, &files, most_bytes(&architecture), architecture.is_nested())?;
    if architecture.tied && !source.drop_copy("lm_head.weight", "model.embed_tokens.weight")? {
        let what =
            "tie_word_embeddings = true, and the weights hold an lm_head.weight that is not the embeddings'";
        return Err(bad(&folder.join("config.json"), what));
    }
    let checkpoint = Checkpoint::new(architecture, Arc::new(source), digest)?;
    let (tokenizer, chat, name) = language(folder, given)?;
    fits(folder, checkpoint.architecture.vocab_size, &tokenizer, &chat)?;
    Ok(Loaded { stated: checkpoint.architecture.identity(), checkpoint, tokenizer, chat, name })
}

/// Most bytes of a weights file: those of the whole model in f32, twice, and a header and what other parts it may have.
fn most_bytes(architecture: &Architecture) -> u64 {
    let all = architecture.parameters() + architecture.embedding_parameters();
    8 * all as u64 + if architecture.is_nested() { 8 << 30 } else { 100 << 20 }
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

/// Most further chat templates that come along.
const MOST_TEMPLATES: usize = 64;
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
        for entry in fs_err::read_dir(&more)?.take(MOST_TEMPLATES) {
            let path = entry?.path();
            if path.is_file()
                && let Some(name) = path.file_name().and_then(|n| n.to_str())
            {
                let inner = format!("{TEMPLATES}/{name}");
                files.extend(fence::within::read(folder, &inner, SMALL)?.map(|bytes| (inner, bytes)));
            }
        }
    }
    let config = Family::text_half(json(&folder.join("config.json"))?);
    Ok(Companions { config, files, quantised: BTreeSet::new() })
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

/// What a folder's configuration describes.
fn architecture(folder: &Path) -> Result<Architecture> {
    let path = folder.join("config.json");
    let (config, generation) = (json(&path)?, if_there(&folder.join("generation_config.json"))?);
    Architecture::of(&Facts::new(&path, &config).generating_by(&generation))
}
