//! PEFT folders in and out: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Import accounts for every key: each one belongs to a target module of a layer that exists, in the expected shape, and
//! none is missing. Options that are not implemented are refused by name, never ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::record::PeftConfig;
use crate::{AdapterRecord, Error, Result, Store, write_atomic};

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
    /// Decoder layers.
    pub layers: usize,
    /// `(in, out)` of each projection.
    pub projections: BTreeMap<String, (usize, usize)>,
}

/// The prefix of every tensor name in a PEFT file.
pub const PREFIX: &str = "base_model.model.";
/// Largest adapter file read: a guard against absurd input, far above any LoRA of the models supported.
const MAX_BYTES: u64 = 4 << 30;

/// The text of `adapter_config.json`.
pub fn adapter_config(peft: &PeftConfig) -> String {
    let value = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": peft.base_model,
        "r": peft.r, "lora_alpha": peft.lora_alpha, "lora_dropout": 0.0, "target_modules": peft.target_modules,
        "bias": "none", "fan_in_fan_out": false, "use_rslora": false, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
        "modules_to_save": null, "layers_to_transform": null, "layers_pattern": null, "inference_mode": true,
        "init_lora_weights": true, "revision": null,
    });
    serde_json::to_string_pretty(&value).expect("invariant: plain data")
}

/// Writes a PEFT folder: built aside, then renamed into place.
pub fn export(store: &Store, record: &AdapterRecord, folder: &Path, if_exists: IfExists) -> Result<()> {
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
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let staging = tempfile::Builder::new().prefix(".export-").tempdir_in(parent)?;
    write_atomic(&staging.path().join("adapter_model.safetensors"), &store.weights(record)?)?;
    write_atomic(&staging.path().join("adapter_config.json"), adapter_config(&record.peft).as_bytes())?;
    let card = serde_json::to_string_pretty(record)
        .map_err(|source| Error::Json { what: "adapter record".into(), source })?;
    write_atomic(&staging.path().join("lorafab.json"), card.as_bytes())?;
    for (name, digest) in &record.extra_files {
        write_atomic(&staging.path().join(name), &store.get_blob(digest)?)?;
    }
    if folder.exists() {
        let old = staging.path().with_extension("old");
        fs_err::rename(folder, &old)?;
        fs_err::rename(staging.keep(), folder)?;
        fs_err::remove_dir_all(old)?;
    } else {
        fs_err::rename(staging.keep(), folder)?;
    }
    Ok(())
}

/// An adapter read from a PEFT folder.
#[derive(Debug)]
pub struct Imported {
    /// Shape and scale.
    pub peft: PeftConfig,
    /// The weights, rewritten with sorted standard names in f32.
    pub weights: Vec<u8>,
}

/// Reads and checks a PEFT folder.
///
/// # Errors
/// One sentence that names the file and what is wrong with it.
pub fn import(folder: &Path, shape: &ImportShape) -> Result<Imported> {
    let config_path = folder.join("adapter_config.json");
    let weights_path = folder.join("adapter_model.safetensors");
    if !weights_path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(Error::Refused {
            path: folder.into(),
            what: "holds only a pickle (adapter_model.bin), which is never executed; save it as safetensors"
                .into(),
        });
    }
    for path in [&config_path, &weights_path] {
        if !path.exists() {
            return Err(Error::Refused {
                path: path.clone(),
                what: "does not exist; an adapter is a folder with adapter_config.json and adapter_model.safetensors"
                    .into(),
            });
        }
        let meta = fs_err::symlink_metadata(path)?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            return Err(Error::Refused {
                path: path.clone(),
                what: "is a link, not a plain file, or absurdly large".into(),
            });
        }
    }
    let text = fs_err::read_to_string(&config_path)?;
    let config: Value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { what: config_path.display().to_string(), source })?;
    let peft = read_config(&config_path, &config, shape)?;
    let bytes = fs_err::read(&weights_path)?;
    let weights = read_weights(&weights_path, &bytes, &peft, shape)?;
    Ok(Imported { peft, weights })
}

fn read_config(path: &Path, config: &Value, shape: &ImportShape) -> Result<PeftConfig> {
    let refuse = |what: String| Err(Error::Refused { path: path.into(), what });
    if config["peft_type"] != "LORA" {
        return refuse(format!("peft_type {} is not \"LORA\"", config["peft_type"]));
    }
    for key in ["use_dora", "fan_in_fan_out", "lora_bias"] {
        if config[key] == Value::Bool(true) {
            return refuse(format!("{key} is not implemented"));
        }
    }
    if config["bias"].as_str().is_some_and(|b| b != "none") {
        return refuse(format!("bias = {} is not implemented", config["bias"]));
    }
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "megatron_config",
        "layer_replication",
    ] {
        let empty = match &config[key] {
            Value::Null => true,
            Value::Object(o) => o.is_empty(),
            Value::Array(a) => a.is_empty(),
            _ => false,
        };
        if !empty {
            return refuse(format!("{key} is not implemented"));
        }
    }
    let r = config["r"].as_u64().filter(|r| (1..=4096).contains(r)).map(|r| r as usize);
    let Some(r) = r else { return refuse(format!("r = {} is not a rank", config["r"])) };
    let alpha = config["lora_alpha"].as_f64().filter(|a| a.is_finite() && *a != 0.0);
    let Some(mut alpha) = alpha else {
        return refuse(format!("lora_alpha = {} is not a usable number", config["lora_alpha"]));
    };
    if config["use_rslora"] == Value::Bool(true) {
        // alpha / sqrt(r) written as alpha' / r.
        alpha *= (r as f64).sqrt();
    }
    let Some(targets) = config["target_modules"].as_array() else {
        return refuse(format!(
            "target_modules = {} is not a list; patterns are not implemented",
            config["target_modules"]
        ));
    };
    let mut target_modules = BTreeSet::new();
    for target in targets {
        match target.as_str() {
            Some(name) if shape.projections.contains_key(name) => target_modules.insert(name.to_owned()),
            _ => return refuse(format!("target module {target} is none of the model's projections")),
        };
    }
    if target_modules.is_empty() {
        return refuse("target_modules is empty".into());
    }
    Ok(PeftConfig { base_model: shape.base_model.clone(), r, lora_alpha: alpha as f32, target_modules })
}

fn read_weights(path: &Path, bytes: &[u8], peft: &PeftConfig, shape: &ImportShape) -> Result<Vec<u8>> {
    let refuse = |what: String| Error::Refused { path: path.into(), what };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| refuse(format!("is not a readable safetensors file: {e}")))?;
    let mut expected: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for layer in 0..shape.layers {
        for target in &peft.target_modules {
            let (input, output) = shape.projections[target];
            let block = if target.starts_with(['q', 'k', 'v', 'o']) { "self_attn" } else { "mlp" };
            let module = format!("{PREFIX}model.layers.{layer}.{block}.{target}");
            expected.insert(format!("{module}.lora_A.weight"), [peft.r, input]);
            expected.insert(format!("{module}.lora_B.weight"), [output, peft.r]);
        }
    }
    let mut tensors: BTreeMap<String, ([usize; 2], Vec<u8>)> = BTreeMap::new();
    for (name, view) in file.tensors() {
        let standard = name.replace(".default.", ".");
        let Some(shape) = expected.get(&standard) else {
            return Err(refuse(format!("tensor {name:?} belongs to no target module of the model")));
        };
        if view.shape() != shape {
            return Err(refuse(format!("tensor {name:?} has shape {:?}, expected {shape:?}", view.shape())));
        }
        let values = to_f32(view.dtype(), view.data()).ok_or_else(|| {
            refuse(format!("tensor {name:?} is {:?}; F32, F16 and BF16 are read", view.dtype()))
        })?;
        if let Some(bad) = values.iter().find(|v| !v.is_finite() || v.abs() > 1e6) {
            return Err(refuse(format!("tensor {name:?} holds {bad}, which no adapter should")));
        }
        tensors.insert(standard, (*shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }
    if let Some(missing) = expected.keys().find(|k| !tensors.contains_key(*k)) {
        return Err(refuse(format!("tensor {missing:?} is missing")));
    }
    let views: Vec<(&String, safetensors::tensor::TensorView<'_>)> = tensors
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
    use crate::store::tests::new_adapter;

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
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let config = PeftConfig {
            base_model: "m".into(),
            r: 2,
            lora_alpha: 4.0,
            target_modules: ["q_proj".to_owned()].into(),
        };
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
        let bad: [(&str, String, Vec<u8>); 8] = [
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
            ("patterns", good_config.replace("[\n    \"q_proj\"\n  ]", "\".*q_proj\""), good.clone()),
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
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let back = import(&out, &shape).unwrap();
        assert_eq!(back.weights, store.weights(&record).unwrap());
        assert!(out.join("note.json").exists());
    }
}
