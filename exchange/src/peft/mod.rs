//! PEFT folders in and out: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Import accounts for every key: each one belongs to a target module of a layer that exists, in the expected shape, and
//! none is missing. Options that are not implemented are refused by name, never ignored.

mod card;
mod config;
mod names;

use std::collections::BTreeMap;
use std::path::Path;

pub use card::{CARD, merged_card};
use config::Resolved;
use names::Spelling;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::{Error, Result};
use registry::PeftConfig;
use registry::{AdapterRecord, Digest, Store};

/// What to do when the target folder exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// Refuse.
    Fail,
    /// Replace it.
    Replace,
}

/// The base model's shape, for checking an import.
#[derive(Debug, Clone)]
pub struct ImportShape {
    /// Name recorded for the base model.
    pub base_model: String,
    /// And for its revision.
    pub revision: Option<String>,
    /// Decoder layers.
    pub layers: usize,
    /// `(in, out)` of each projection.
    pub projections: BTreeMap<String, (usize, usize)>,
}

/// The prefix of every tensor name in a PEFT file.
pub const PREFIX: &str = "base_model.model.";
/// Largest adapter file read: a guard against absurd input, far above any LoRA of the models supported.
const MAX_BYTES: u64 = 4 << 30;

/// The text of `adapter_config.json`, for a text model.
pub fn adapter_config(peft: &PeftConfig) -> String {
    config_text(peft, &json!(peft.target_modules))
}

fn config_text(peft: &PeftConfig, targets: &Value) -> String {
    let value = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": peft.base_model,
        "r": peft.r, "lora_alpha": peft.lora_alpha, "lora_dropout": 0.0, "target_modules": targets,
        "bias": "none", "fan_in_fan_out": false, "use_rslora": false, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
        "modules_to_save": null, "layers_to_transform": null, "layers_pattern": null, "inference_mode": true,
        "init_lora_weights": true, "revision": peft.revision,
    });
    serde_json::to_string_pretty(&value).expect("invariant: plain data")
}

/// Files of every exported folder, which no further file of an adapter may be called.
pub(crate) const OWN: [&str; 3] = ["adapter_model.safetensors", "adapter_config.json", "lorafab.json"];

/// What a file of an exported folder holds.
#[derive(Debug, Clone)]
pub(crate) enum Content<'a> {
    Made(Vec<u8>),
    Blob(&'a Digest),
}

/// The files of an exported folder.
pub(crate) fn contents(record: &AdapterRecord) -> Result<Vec<(&str, Content<'_>)>> {
    let card = serde_json::to_string_pretty(record)
        .map_err(|source| registry::Error::Json { what: "adapter record".into(), source })?;
    if let Some(name) = record.extra_files.keys().find(|n| OWN.contains(&n.as_str())) {
        return Err(Error::Refused {
            path: name.into(),
            what: format!(
                "is a further file of {}, and would be written over the adapter's own",
                record.behaviour
            ),
        });
    }
    let texts = [adapter_config(&record.peft), card].map(|text| Content::Made(text.into_bytes()));
    let own = OWN.into_iter().zip(std::iter::once(Content::Blob(&record.weights)).chain(texts));
    let further = record.extra_files.iter().map(|(name, digest)| (name.as_str(), Content::Blob(digest)));
    Ok(own.chain(further).collect())
}

/// Writes a PEFT folder: built aside, then renamed into place. Names are those of the base model's class: with [`PeftConfig::nested`]
/// the layers lie in `model.language_model`.
pub fn export(store: &Store, record: &AdapterRecord, folder: &Path, if_exists: IfExists) -> Result<()> {
    export_with(store, record, folder, if_exists, &BTreeMap::new())
}

/// The same with further files, by their plain names.
pub fn export_with(
    store: &Store,
    record: &AdapterRecord,
    folder: &Path,
    if_exists: IfExists,
    further: &BTreeMap<&str, Vec<u8>>,
) -> Result<()> {
    if folder.exists() && if_exists == IfExists::Fail {
        return Err(Error::Refused {
            path: folder.into(),
            what: "already exists; pass --force to replace it".into(),
        });
    }
    let ours = folder.join("adapter_config.json").exists()
        || (folder.is_dir() && fs_err::read_dir(folder)?.next().is_none());
    if folder.exists() && !ours {
        return Err(Error::Refused {
            path: folder.into(),
            what: "holds something else than an adapter, so it is not replaced; name another folder".into(),
        });
    }
    if folder.exists() {
        let mut own: Vec<String> = OWN.into_iter().chain([card::CARD]).map(str::to_owned).collect();
        own.extend(record.extra_files.keys().cloned());
        own.extend(further.keys().map(|name| (*name).to_owned()));
        let before = fence::open::read_own_text(&folder.join("lorafab.json"), 2 * fence::open::SMALL)
            .unwrap_or_default();
        let before: Value = serde_json::from_str(&before).unwrap_or_default();
        own.extend(before["extra_files"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
        for file in fs_err::read_dir(folder)? {
            let name = file?.file_name().to_string_lossy().into_owned();
            if !own.contains(&name) {
                return Err(Error::Refused {
                    path: folder.into(),
                    what: format!(
                        "holds {name:?}, which no export wrote, so it is not replaced; name another folder"
                    ),
                });
            }
        }
    }
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let staging = tempfile::Builder::new().prefix(".export-").tempdir_in(parent)?;
    let mut names = write_files(store, record, staging.path(), kept_card(folder).as_deref())?;
    for (name, bytes) in further {
        fs_err::write(staging.path().join(name), bytes)?;
        names.push(name);
    }
    if record.peft.nested {
        respell(record, staging.path())?;
    }
    for name in names {
        fs_err::File::open(staging.path().join(name))?.sync_all()?;
    }
    fs_err::File::open(staging.path())?.sync_all()?;
    if folder.exists() {
        let old = staging.path().with_extension("old");
        fs_err::rename(folder, &old)?;
        fs_err::rename(staging.keep(), folder)?;
        fs_err::remove_dir_all(old)?;
    } else {
        fs_err::rename(staging.keep(), folder)?;
    }
    fs_err::File::open(parent)?.sync_all()?;
    Ok(())
}

/// The bytes of an adapter's weights file as an export writes it.
///
/// # Errors
/// If the store refuses, or its file is not one of ours.
pub fn weights(store: &Store, record: &AdapterRecord) -> Result<Vec<u8>> {
    let bytes = store.weights(record)?;
    if !record.peft.nested {
        return Ok(bytes);
    }
    names::nested(&bytes)
        .map_err(|e| Error::Refused { path: OWN[0].into(), what: format!("cannot be renamed: {e}") })
}

/// Gives the files of a written folder the names that a nested base's class has.
fn respell(record: &AdapterRecord, folder: &Path) -> Result<()> {
    let [weights, config, _] = OWN.map(|name| folder.join(name));
    let bytes = names::nested(&fs_err::read(&weights)?)
        .map_err(|e| Error::Refused { path: weights.clone(), what: format!("cannot be renamed: {e}") })?;
    fs_err::write(&weights, bytes)?;
    fs_err::write(config, config_text(&record.peft, &json!(names::nested_targets(&record.peft))))?;
    Ok(())
}

/// Writes the files of an exported folder into one that is there and still nobody's, not yet durably; returns their names.
pub(crate) fn write_files<'a>(
    store: &Store,
    record: &'a AdapterRecord,
    folder: &Path,
    card: Option<&str>,
) -> Result<Vec<&'a str>> {
    let mut names = Vec::new();
    for (name, content) in contents(record)? {
        let bytes = match content {
            Content::Blob(digest) => store.get_blob(digest)?,
            Content::Made(bytes) => bytes,
        };
        fs_err::write(folder.join(name), &bytes)?;
        names.push(name);
    }
    if !record.extra_files.contains_key(card::CARD) {
        let text = card.map_or_else(|| card::text(record), str::to_owned);
        fs_err::write(folder.join(card::CARD), text)?;
        names.push(card::CARD);
    }
    Ok(names)
}

/// The card of a folder that is replaced, if somebody changed it since it was exported: it is theirs.
fn kept_card(folder: &Path) -> Option<String> {
    let text = fence::open::read_own_text(&folder.join(card::CARD), fence::open::SMALL).ok()?;
    let before = fence::open::read_own_text(&folder.join("lorafab.json"), 2 * fence::open::SMALL).ok()?;
    let before: AdapterRecord = serde_json::from_str(&before).ok()?;
    (text != card::text(&before)).then_some(text)
}

/// An adapter read from a PEFT folder.
#[derive(Debug)]
pub struct Imported {
    /// Shape and scale.
    pub peft: PeftConfig,
    /// The weights, rewritten with sorted standard names in f32.
    pub weights: Vec<u8>,
    /// What its configuration calls the model that it is for, if anything.
    pub base: Option<String>,
    /// Which revision of it.
    pub revision: Option<String>,
    /// Digest of its weights file as it was.
    pub source: Digest,
}

/// Reads and checks a PEFT folder.
///
/// # Errors
/// One sentence that names the file and what is wrong with it.
pub fn import(folder: &Path, shape: &ImportShape) -> Result<Imported> {
    let [weights_name, config_name, _] = OWN;
    let (config_path, weights_path) = (folder.join(config_name), folder.join(weights_name));
    let lies = |name: &str| folder.join(name).symlink_metadata().is_ok();
    if !lies(weights_name) {
        let index = format!("{weights_name}.index.json");
        if lies(&index) {
            return Err(Error::Refused {
                path: folder.join(index),
                what: format!(
                    "is the index of an adapter in several files, which is not read; save it as one {weights_name}"
                ),
            });
        }
        if lies("adapter_model.bin") {
            return Err(Error::Refused {
                path: folder.into(),
                what:
                    "holds only a pickle (adapter_model.bin), which is never executed; save it as safetensors"
                        .into(),
            });
        }
    }
    let bytes = |path: &Path, name: &str| {
        let found = fence::within::read(folder, name, MAX_BYTES).map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidInput => Error::Refused {
                path: path.into(),
                what: e.to_string().trim_start_matches(&format!("{}: ", path.display())).to_owned(),
            },
            _ => e.into(),
        })?;
        found.ok_or_else(|| Error::Refused {
            path: path.into(),
            what: "does not exist; an adapter is a folder with adapter_config.json and adapter_model.safetensors".into(),
        })
    };
    let config = bytes(&config_path, config_name)?;
    let bytes = bytes(&weights_path, weights_name)?;
    read(&config_path, &config, &weights_path, &bytes, shape)
}

/// Checks a configuration and the bytes of a weights file; the paths are for the errors.
///
/// # Errors
/// As [`import`].
pub fn read(
    config_path: &Path,
    config: &[u8],
    weights_path: &Path,
    bytes: &[u8],
    shape: &ImportShape,
) -> Result<Imported> {
    let spelling = spelling(weights_path, bytes)?;
    let written = config::Written::parse(config_path, config)?;
    let resolved = config::resolve(config_path, &written, shape, spelling)?;
    // What a uniform file takes is known before anything is made of it.
    let entries: usize = resolved
        .peft
        .target_modules
        .iter()
        .map(|t| resolved.peft.r * (shape.projections[t].0 + shape.projections[t].1))
        .sum();
    if (entries * shape.layers * 4) as u64 > MAX_BYTES {
        return Err(Error::Refused {
            path: config_path.into(),
            what: format!("rank {} makes an absurdly large adapter", resolved.peft.r),
        });
    }
    let weights = read_weights(weights_path, bytes, &resolved, shape, spelling)?;
    let text = |key: &str| written.text(config_path, key);
    Ok(Imported {
        peft: resolved.peft,
        weights,
        base: text("base_model_name_or_path")?,
        revision: text("revision")?,
        source: Digest::of(bytes),
    })
}

/// Checks a folder of ours by itself, without its base model: the file's own tensors say what the model's shape is, and then every
/// key is accounted for as in [`import`].
///
/// # Errors
/// As [`import`], or if the configuration is not the record's.
pub(crate) fn check_alone(
    folder: &Path,
    config: &[u8],
    weights: &[u8],
    record: &AdapterRecord,
) -> Result<()> {
    let [weights_path, config_path, _] = OWN.map(|name| folder.join(name));
    let refuse = |what: String| Error::Refused { path: weights_path.clone(), what };
    let file = SafeTensors::deserialize(weights)
        .map_err(|e| refuse(format!("is not a readable safetensors file: {e}")))?;
    let (base_model, revision) = (record.peft.base_model.clone(), record.peft.revision.clone());
    let mut shape = ImportShape { base_model, revision, layers: 0, projections: BTreeMap::new() };
    let known = lm::Projection::ALL.map(lm::Projection::name);
    if let Some(odd) = record.peft.target_modules.iter().find(|t| !known.contains(&t.as_str())) {
        let odd: String = odd.chars().take(60).collect();
        return Err(refuse(format!("its target module {odd:?} is none of {}", known.join(", "))));
    }
    for (name, view) in file.tensors() {
        let words: Vec<&str> = name.strip_prefix(PREFIX).unwrap_or_default().split('.').collect();
        let ["model", "layers", layer, _, projection, factor, "weight"] = words[..] else {
            return Err(refuse(format!("tensor {name:?} belongs to no projection of a layer")));
        };
        let layer = layer.parse::<usize>().ok().filter(|n| *n < 10_000);
        let (Some(layer), &[rows, columns]) = (layer, view.shape()) else {
            return Err(refuse(format!("tensor {name:?} is of no layer, or no matrix")));
        };
        shape.layers = shape.layers.max(layer + 1);
        let sizes = shape.projections.entry(projection.to_owned()).or_default();
        match factor {
            "lora_A" => sizes.0 = columns,
            _ => sizes.1 = rows,
        }
    }
    // Every layer has every target: what would be looked for is as much as is there.
    let wanted = 2 * shape.layers * record.peft.target_modules.len();
    if file.len() != wanted {
        return Err(refuse(format!(
            "has {} tensors, where its layers and targets make {wanted}",
            file.len()
        )));
    }
    let written = config::Written::parse(&config_path, config)?;
    let resolved = config::resolve(&config_path, &written, &shape, Spelling::Plain)?;
    factors(&weights_path, weights, &resolved, &shape, Spelling::Plain)?;
    // What we keep is spelled plainly, whatever the base model's class.
    if (PeftConfig { nested: record.peft.nested, ..resolved.peft }) != record.peft {
        return Err(Error::Refused { path: config_path, what: "is not what lorafab.json says of it".into() });
    }
    Ok(())
}

/// Where a projection lies in a text model: what our own files call it.
fn module_path(layer: usize, projection: &str) -> String {
    Spelling::Plain.module(layer, projection)
}

/// How the tensors of a file are named, none of which belongs to what is not read.
fn spelling(path: &Path, bytes: &[u8]) -> Result<Spelling> {
    let refuse = |what: String| Error::Refused { path: path.into(), what };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| refuse(format!("is not a readable safetensors file: {e}")))?;
    let mut names = file.names();
    names.sort_unstable();
    if let Some((name, why)) = names.iter().find_map(|n| Some((n, names::foreign(n)?))) {
        return Err(refuse(format!("tensor {name:?} {why}")));
    }
    Spelling::of(names).map_err(refuse)
}

/// The factors of every targeted module by their standard names: all of them, in the expected shapes, finite, and nothing else.
fn factors(
    path: &Path,
    bytes: &[u8],
    resolved: &Resolved,
    shape: &ImportShape,
    spelling: Spelling,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let refuse = |what: String| Error::Refused { path: path.into(), what };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| refuse(format!("is not a readable safetensors file: {e}")))?;
    let mut expected: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for ((layer, target), module) in &resolved.modules {
        let (input, output) = shape.projections[target];
        let name = module_path(*layer, target);
        expected.insert(format!("{name}.lora_A.weight"), [module.rank, input]);
        expected.insert(format!("{name}.lora_B.weight"), [output, module.rank]);
    }
    let mut tensors: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut found = file.tensors();
    // The same file is refused for the same tensor.
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, view) in found {
        // Saved with or without the wrapper's prefix and the adapter's name.
        let standard = spelling.standard(&name);
        let Some(here) = expected.get(&standard) else {
            return Err(refuse(format!("tensor {name:?} belongs to no target module of the model")));
        };
        if view.shape() != here {
            // Factor A ends in what goes in, factor B begins with what comes out; the other dimension is the rank.
            let side = usize::from(standard.ends_with("lora_A.weight"));
            let why = match view.shape() {
                [_, _] if view.shape()[side] == here[side] => String::new(),
                other if other.len() != 2 => String::new(),
                _ => format!(" on {}: it is of another base model", shape.base_model),
            };
            return Err(refuse(format!(
                "tensor {name:?} has shape {:?}, expected {here:?}{why}",
                view.shape()
            )));
        }
        let values = to_f32(view.dtype(), view.data()).ok_or_else(|| {
            refuse(format!("tensor {name:?} is {:?}; F32, F16 and BF16 are read", view.dtype()))
        })?;
        if let Some(bad) = values.iter().find(|v| !v.is_finite() || v.abs() > 1e6) {
            return Err(refuse(format!("tensor {name:?} holds {bad}, which no adapter should")));
        }
        if tensors.insert(standard, values).is_some() {
            return Err(refuse(format!("tensor {name:?} is there twice, under two spellings")));
        }
    }
    if let Some(missing) = expected.keys().find(|k| !tensors.contains_key(*k)) {
        return Err(refuse(format!("tensor {missing:?} is missing")));
    }
    Ok(tensors)
}

/// Reads the factors of every targeted module and writes them in the uniform shape: ranks filled up with zeros, differing scales
/// folded into B, modules without a difference as zeros.
fn read_weights(
    path: &Path,
    bytes: &[u8],
    resolved: &Resolved,
    shape: &ImportShape,
    spelling: Spelling,
) -> Result<Vec<u8>> {
    let refuse = |what: String| Error::Refused { path: path.into(), what };
    let tensors = factors(path, bytes, resolved, shape, spelling)?;
    let r = resolved.peft.r;
    let scaling = f64::from(resolved.peft.lora_alpha) / r as f64;
    let mut out: BTreeMap<String, ([usize; 2], Vec<u8>)> = BTreeMap::new();
    for layer in 0..shape.layers {
        for target in &resolved.peft.target_modules {
            let (input, output) = shape.projections[target];
            let name = module_path(layer, target);
            let (mut a, mut b) = (vec![0f32; r * input], vec![0f32; output * r]);
            if let Some(module) = resolved.modules.get(&(layer, target.clone())) {
                a[..module.rank * input].copy_from_slice(&tensors[&format!("{name}.lora_A.weight")]);
                // 1 exactly where all scales are equal.
                let share = if module.scaling.to_bits() == resolved.scaling.to_bits() {
                    1.0
                } else {
                    module.scaling / scaling
                };
                let rows = tensors[&format!("{name}.lora_B.weight")].chunks_exact(module.rank);
                for (to, from) in b.chunks_exact_mut(r).zip(rows) {
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = (f64::from(*from) * share) as f32;
                    }
                }
            }
            let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            out.insert(format!("{PREFIX}{name}.lora_A.weight"), ([r, input], bytes(&a)));
            out.insert(format!("{PREFIX}{name}.lora_B.weight"), ([output, r], bytes(&b)));
        }
    }
    let views: Vec<(&String, safetensors::tensor::TensorView<'_>)> = out
        .iter()
        .map(|(name, (shape, data))| {
            Ok((name, safetensors::tensor::TensorView::new(Dtype::F32, shape.to_vec(), data)?))
        })
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(|e| refuse(e.to_string()))?;
    safetensors::serialize(views, None).map_err(|e| refuse(e.to_string()))
}

fn to_f32(dtype: Dtype, data: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::BF16 => data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
            .collect(),
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|b| half_to_f32(u16::from_le_bytes(*b))).collect(),
        _ => return None,
    })
}

fn half_to_f32(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = ((bits >> 10) & 31, f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 => {
            if fraction == 0.0 {
                f32::INFINITY
            } else {
                f32::NAN
            }
        }
        e => (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(e) - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::new_adapter;

    fn peft_file(shape: [usize; 2], dtype_bytes: usize, fill: f32, extra: bool) -> Vec<u8> {
        let _ = dtype_bytes;
        let a: Vec<u8> = (0..shape[0] * shape[1]).flat_map(|_| fill.to_le_bytes()).collect();
        let b: Vec<u8> = (0..3 * shape[0]).flat_map(|_| 0.5f32.to_le_bytes()).collect();
        let mut views = vec![
            (
                format!("{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"),
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &a).unwrap(),
            ),
            (
                format!("{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight"),
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3, shape[0]], &b).unwrap(),
            ),
        ];
        if extra {
            views.push(("base_model.model.base_model.model.x".into(), views[0].1.clone()));
        }
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn imports_are_checked_key_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let shape = ImportShape {
            base_model: "m".into(),
            revision: None,
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let config = PeftConfig { lora_alpha: 4.0, ..PeftConfig::of_rank("m", 2, &["q_proj"]) };
        let put = |config: &str, weights: &[u8]| {
            fs_err::write(folder.path().join("adapter_config.json"), config).unwrap();
            fs_err::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
            import(folder.path(), &shape)
        };
        let good_config = adapter_config(&config);
        let good = peft_file([2, 4], 4, 0.25, false);
        assert_eq!(put(&good_config, &good).unwrap().peft, config);
        let rs = good_config.replace("\"use_rslora\": false", "\"use_rslora\": true");
        assert!((put(&rs, &good).unwrap().peft.lora_alpha - 4.0 * 2f32.sqrt()).abs() < 1e-6);
        let bad = [
            ("shape", good_config.clone(), peft_file([2, 5], 4, 0.1, false)),
            ("no target module", good_config.clone(), peft_file([2, 4], 4, 0.1, true)),
            ("NaN", good_config.clone(), peft_file([2, 4], 4, f32::NAN, false)),
            ("not a readable", good_config.clone(), good[..good.len() - 3].to_vec()),
            ("use_dora", good_config.replace("\"use_dora\": false", "\"use_dora\": true"), good.clone()),
            (
                "modules_to_save",
                good_config.replace("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]"),
                good.clone(),
            ),
            ("cannot be read", good_config.replace("[\n    \"q_proj\"\n  ]", "\"(q_proj\""), good.clone()),
            ("names no module", good_config.replace("[\n    \"q_proj\"\n  ]", "\"q_proj\""), good.clone()),
            (
                "base model's own",
                good_config.replace("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""),
                good.clone(),
            ),
            (
                "not known here",
                good_config.replace("\"use_dora\": false", "\"use_magic\": true"),
                good.clone(),
            ),
            (
                "missing",
                good_config.clone(),
                safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(), None)
                    .unwrap(),
            ),
        ];
        for (expected, config, weights) in bad {
            let error = put(&config, &weights).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    /// Entries of `scale * B A` of a module in an imported file.
    fn product(imported: &Imported, layer: usize) -> Vec<f64> {
        let file = SafeTensors::deserialize(&imported.weights).unwrap();
        let read = |which: &str| {
            let view = file
                .tensor(&format!("{PREFIX}{}.lora_{which}.weight", module_path(layer, "q_proj")))
                .unwrap();
            to_f32(view.dtype(), view.data()).unwrap()
        };
        let (a, b, r) = (read("A"), read("B"), imported.peft.r);
        let scale = f64::from(imported.peft.lora_alpha) / r as f64;
        let entry = |o: usize, i: usize| {
            (0..r).map(|k| f64::from(b[o * r + k]) * f64::from(a[k * 4 + i])).sum::<f64>() * scale
        };
        (0..3).flat_map(|o| (0..4).map(move |i| (o, i))).map(|(o, i)| entry(o, i)).collect()
    }

    #[test]
    fn patterns_of_targets_ranks_and_alphas_mean_what_peft_means() {
        let shape = ImportShape {
            base_model: "m".into(),
            revision: None,
            layers: 3,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3)), ("down_proj".to_owned(), (3, 4))]),
        };
        // Layers 0 and 1 by a pattern; layer 1 of rank 1 and another alpha.
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": r"model\.layers\.[01]\.self_attn\.q_proj",
            "rank_pattern": {r"layers\.1\..*q_proj": 1}, "alpha_pattern": {r"1.self_attn.q_proj": 5.0}});
        let values = |n: usize, seed: f32| (0..n).map(|i| (i as f32 + seed).sin()).collect::<Vec<f32>>();
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let parts = [(0, 2, 1.0f32), (1, 1, 2.0)];
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = parts
            .iter()
            .flat_map(|&(layer, r, seed)| {
                // Without the wrapper's prefix, and with the adapter's name.
                let name = format!("model.layers.{layer}.self_attn.q_proj");
                [
                    (format!("{name}.lora_A.default.weight"), vec![r, 4], bytes(&values(r * 4, seed))),
                    (format!("{name}.lora_B.default.weight"), vec![3, r], bytes(&values(3 * r, seed + 9.0))),
                ]
            })
            .collect();
        let views = data.iter().map(|(n, s, d)| {
            (n.clone(), safetensors::tensor::TensorView::new(Dtype::F32, s.clone(), d).unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        let path = Path::new("x");
        for rslora in [false, true] {
            let mut config = config.clone();
            config["use_rslora"] = rslora.into();
            let imported = read(path, config.to_string().as_bytes(), path, &file, &shape).unwrap();
            assert_eq!((imported.peft.r, imported.peft.target_modules.len()), (2, 1));
            for &(layer, r, seed) in &parts {
                let alpha = if layer == 0 { 6.0 } else { 5.0 };
                let scale = alpha / if rslora { (r as f64).sqrt() } else { r as f64 };
                let (a, b) = (values(r * 4, seed), values(3 * r, seed + 9.0));
                for (i, found) in product(&imported, layer).iter().enumerate() {
                    let (o, c) = (i / 4, i % 4);
                    let e: f64 = (0..r).map(|k| f64::from(b[o * r + k]) * f64::from(a[k * 4 + c])).sum();
                    assert!(
                        (found - e * scale).abs() < 1e-5,
                        "layer {layer} rslora {rslora}: {found} {}",
                        e * scale
                    );
                }
            }
            assert!(product(&imported, 2).iter().all(|v| *v == 0.0));
        }
        // Of two patterns that match PEFT takes the first of the file, whatever the alphabet says.
        let both = [r#""q_proj": 64"#, r#""layers\\.0\\.self_attn\\.q_proj": 2"#];
        for (order, alpha) in [([0, 1], 64.0), ([1, 0], 2.0)] {
            let text = format!(
                r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": "model\\.layers\\.[01]\\.self_attn\\.q_proj",
                    "rank_pattern": {{"layers\\.1\\..*q_proj": 1}},
                    "alpha_pattern": {{{}, {}}}}}"#,
                both[order[0]], both[order[1]]
            );
            let imported = read(path, text.as_bytes(), path, &file, &shape);
            let error = imported.as_ref().err().map(ToString::to_string);
            assert_eq!(imported.map(|i| i.peft.lora_alpha).ok(), Some(alpha as f32), "{order:?}: {error:?}");
        }
        let mut list = config.clone();
        list["target_modules"] = json!(["self_attn.q_proj"]);
        let missing = read(path, list.to_string().as_bytes(), path, &file, &shape).unwrap_err().to_string();
        assert!(missing.contains("layers.2") && missing.contains("missing"), "{missing}");
        list["target_modules"] = json!(["wq"]);
        assert!(
            read(path, list.to_string().as_bytes(), path, &file, &shape)
                .unwrap_err()
                .to_string()
                .contains("none of the model's")
        );
    }

    #[test]
    fn an_exported_folder_imports_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("store")).unwrap();
        let mut new = new_adapter("topic/cats", peft_file([1, 4], 4, 0.25, false));
        new.peft.lora_alpha = 2.0;
        let record = store.commit_adapter(new).unwrap();
        let out = folder.path().join("out");
        export(&store, &record, &out, IfExists::Fail).unwrap();
        assert!(export(&store, &record, &out, IfExists::Fail).unwrap_err().to_string().contains("--force"));
        export(&store, &record, &out, IfExists::Replace).unwrap();
        let shape = ImportShape {
            base_model: "m".into(),
            revision: None,
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let back = import(&out, &shape).unwrap();
        assert_eq!(back.weights, store.weights(&record).unwrap());
        assert!(out.join("note.json").exists());
    }
}
