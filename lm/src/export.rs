//! A base model with adapters merged in, as a Hugging Face folder that transformers loads.
//!
//! ```text
//! config.json, generation_config.json
//! tokenizer.json, tokenizer_config.json, ...   copied where the base is a folder, written where it is a GGUF file
//! model.safetensors                            or model-00001-of-0000N.safetensors and model.safetensors.index.json
//! ```
//!
//! The folder is built aside and renamed into place: whoever finds it finds all of it. The same input gives the same bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use half::bf16;
use safetensors::tensor::{Dtype, View};
use serde_json::{Value, json};

use crate::architecture::Tensor;
use crate::checkpoint::{Checkpoint, Loaded};
use crate::{Adapter, Error, Origin, Result, gguf, hf, merge};

/// Largest weights file written before they are split, as transformers splits them.
pub const SHARD_BYTES: usize = 5_000_000_000;

/// How the weights are written. They are merged in f32 and then rounded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportDtype {
    /// As they are.
    F32,
    /// Rounded to the nearest, half the size.
    Bf16,
}

impl ExportDtype {
    /// The name in `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// What was written.
#[derive(Debug)]
pub struct Exported {
    /// blake3 of the weight files' bytes (in name order): the digest of the checkpoint that the folder loads as.
    pub digest: String,
    /// Types of the base model's quantised tensors; empty where its weights are floating-point numbers.
    pub dequantised_from: BTreeSet<String>,
}

/// What a base model's files say beside the weights, in the form of a Hugging Face folder.
pub(crate) struct Companions {
    pub(crate) config: Value,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) quantised: BTreeSet<String>,
}

/// A JSON file's bytes.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Writes `loaded` (which was read from `source`) with the adapters merged in, and `extra` files beside it, into a folder that does
/// not exist. No weights file becomes larger than `shard_bytes`, unless by a single tensor.
///
/// # Errors
/// If the folder exists, an adapter does not fit, a merged weight is not finite, or a file cannot be read or written.
pub fn export(
    source: &Path,
    loaded: &Loaded,
    adapters: &[&Adapter],
    dtype: ExportDtype,
    shard_bytes: usize,
    extra: &BTreeMap<String, Vec<u8>>,
    folder: &Path,
) -> Result<Exported> {
    if folder.exists() {
        return Err(Error::Request(format!("{} already exists; name another folder", folder.display())));
    }
    let merged = merge(&loaded.checkpoint, adapters)?;
    let Companions { mut config, mut files, quantised } = if source.is_dir() {
        hf::companions(source)?
    } else {
        gguf::companions(source, &merged.architecture)?
    };
    let mut ends: BTreeSet<u32> = merged.architecture.ends.iter().copied().collect();
    ends.insert(loaded.chat.end_of_turn());
    files.entry("generation_config.json".into()).or_insert_with(|| {
        pretty(&json!({"bos_token_id": config["bos_token_id"], "eos_token_id": ends, "pad_token_id": config["pad_token_id"]}))
    });
    // Newer transformers writes this key as `dtype` and reads either.
    config["torch_dtype"] = dtype.torch_name().into();
    if let Some(config) = config.as_object_mut() {
        config.remove("dtype");
    }
    files.insert("config.json".into(), pretty(&config));
    // A template that was given is the model's from now on.
    if loaded.chat.origin() == Origin::Given {
        files.insert("chat_template.jinja".into(), loaded.chat.source().as_bytes().to_vec());
    }
    files.extend(extra.iter().map(|(name, bytes)| (name.clone(), bytes.clone())));

    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let staging = tempfile::Builder::new().prefix(".merged-").tempdir_in(parent)?;
    for (name, bytes) in &files {
        write(&staging.path().join(name), bytes)?;
    }
    let digest = write_weights(&merged, dtype, shard_bytes, staging.path())?;
    fs_err::File::open(staging.path())?.sync_all()?;
    merged.source().unchanged()?;
    fs_err::rename(staging.path(), folder)?;
    let _ = staging.keep();
    fs_err::File::open(parent)?.sync_all()?;
    Ok(Exported { digest, dequantised_from: quantised })
}

/// A tensor that is read, merged and converted only when its turn to be written has come.
struct Plain<'a> {
    dtype: ExportDtype,
    tensor: &'a Tensor,
    from: &'a Checkpoint,
    /// The first thing that went wrong: the writer that asks for bytes takes no error.
    failed: &'a Mutex<Option<Error>>,
}

impl View for Plain<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            ExportDtype::F32 => Dtype::F32,
            ExportDtype::Bf16 => Dtype::BF16,
        }
    }
    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let data = self.from.as_stored(self.tensor).unwrap_or_else(|e| {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            vec![0.0; self.numbers()]
        });
        let values = data.iter();
        match self.dtype {
            ExportDtype::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
            ExportDtype::Bf16 => values.flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }
    fn data_len(&self) -> usize {
        self.numbers() * self.bytes_each()
    }
}

impl Plain<'_> {
    fn numbers(&self) -> usize {
        self.tensor.shape.iter().product()
    }

    fn bytes_each(&self) -> usize {
        match self.dtype {
            ExportDtype::F32 => 4,
            ExportDtype::Bf16 => 2,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::write(path, bytes)?;
    Ok(fs_err::File::open(path)?.sync_all()?)
}

/// Writes the weights, in name order, with an index if they are several files; returns their digest. `config.json` is there already.
fn write_weights(
    merged: &Checkpoint,
    dtype: ExportDtype,
    shard_bytes: usize,
    folder: &Path,
) -> Result<String> {
    // The safetensors crate makes files that only their owner can read.
    let permissions = fs_err::metadata(folder.join("config.json"))?.permissions();
    let mut shards: Vec<Vec<(&String, Plain<'_>)>> = Vec::new();
    let (mut filled, mut total) = (usize::MAX, 0);
    let mut tensors = merged.architecture.tensors();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let failed = Mutex::new(None);
    for tensor in &tensors {
        let (name, plain) = (&tensor.name, Plain { dtype, tensor, from: merged, failed: &failed });
        let bytes = plain.data_len();
        if filled.saturating_add(bytes) > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        total += bytes;
        shards.last_mut().expect("invariant: the first tensor began a shard").push((name, plain));
    }
    let count = shards.len();
    let mut map = BTreeMap::new();
    let mut hasher = blake3::Hasher::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let file = if count == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{count:05}.safetensors", i + 1)
        };
        map.extend(shard.iter().map(|(name, _)| ((*name).clone(), file.clone())));
        let path = folder.join(&file);
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(shard, Some(format), &path).map_err(|e| match e {
            safetensors::SafeTensorError::IoError(e) => {
                std::io::Error::new(e.kind(), format!("writing {}: {e}", path.display())).into()
            }
            other => Error::File { path: path.clone(), what: format!("cannot be written: {other}") },
        })?;
        if let Some(e) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(e);
        }
        fs_err::set_permissions(&path, permissions.clone())?;
        let mut written = fs_err::File::open(&path)?;
        written.sync_all()?;
        std::io::copy(&mut written, &mut hasher)?;
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        write(&folder.join("model.safetensors.index.json"), &pretty(&index))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
