//! An adapter made and exported by lorafab loads in PEFT and gives the same logits.
//!
//! Needs a Python with torch, transformers and peft (`lm/tests/python/requirements.txt`), named by `LORAFAB_TEST_PYTHON`;
//! `.ci/run` provides one. Without it the test says so and checks only that the export happens.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use lm::{Adapter, AdapterConfig, Batch, Checkpoint, Decoder, Precision, Row, Want};
use safetensors::SafeTensors;
use serde_json::Value;

#[test]
fn an_exported_adapter_gives_the_same_logits_in_peft() {
    let tiny = root().join("lm/tests/golden/tiny");
    parity(&tiny.display().to_string(), &tiny, "gated-topic", 1e-3);
}

/// `cargo test --release -p lorafab --test peft -- --ignored`; its logits reach +-40.
#[test]
#[ignore = "needs Gemma 3 270M, 253 MB, in $LORAFAB_CACHE"]
fn an_exported_adapter_of_gemma_gives_the_same_logits_in_peft() {
    let cache = std::env::var_os("LORAFAB_CACHE").expect("LORAFAB_CACHE is set");
    parity("gemma-3-270m", &Path::new(&cache).join("gemma-3-270m-q4_k_m.gguf"), "topic", 2e-2);
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Makes one adapter with the binary, exports it, and compares logits with it, here and in PEFT.
fn parity(model: &str, path: &Path, recipe: &str, tolerance: f32) {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::cargo_bin("lorafab").unwrap();
        command
            .args(["--model", model, "--precision", "f32"])
            .args(args)
            .env("LORAFAB_STORE", folder.path().join("store"));
        command.assert().success().get_output().stdout.clone()
    };
    run(&["factory", "submit", recipe, "--limit", "1"]);
    run(&["factory", "run"]);
    let exported = folder.path().join("exported");
    let list: Value = serde_json::from_slice(&run(&["--json", "adapter", "list"])).unwrap();
    let id = list["adapters"][0]["id"].as_str().unwrap();
    run(&["adapter", "export", id, &exported.display().to_string()]);

    let loaded = Checkpoint::load(path).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let config = std::fs::read_to_string(exported.join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let rank = config["r"].as_u64().unwrap() as usize;
    let config = AdapterConfig::all_linear(rank, config["lora_alpha"].as_f64().unwrap() as f32);
    let bytes = std::fs::read(exported.join("adapter_model.safetensors")).unwrap();
    let adapter = Adapter::from_safetensors(decoder.architecture(), config, &bytes).unwrap();
    let rows: Vec<Vec<u32>> =
        (0..3).map(|i| (0..8 + i).map(|t| (t * 37 + i * 11) % 300 + 3).collect()).collect();
    let batch = Batch {
        adapters: vec![&adapter],
        rows: rows.iter().map(|r| Row::with_adapters(r.clone(), vec![0])).collect(),
    };
    let wants: Vec<Want> =
        rows.iter().map(|r| Want { logits: (0..r.len()).collect(), residual: vec![] }).collect();
    let ours = decoder.forward(&batch, &wants).unwrap();

    let Some(python) = std::env::var_os("LORAFAB_TEST_PYTHON") else {
        eprintln!("LORAFAB_TEST_PYTHON is not set: not compared with PEFT");
        return;
    };
    let (json, out) = (folder.path().join("rows.json"), folder.path().join("logits.safetensors"));
    std::fs::write(&json, serde_json::to_string(&rows).unwrap()).unwrap();
    let status = std::process::Command::new(python)
        .arg(root().join("lm/tests/python/peft_parity.py"))
        .args(["--with-base", "--base"])
        .arg(path)
        .arg("--adapter")
        .arg(&exported)
        .arg("--rows")
        .arg(&json)
        .arg("--out")
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success());
    let bytes = std::fs::read(out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (i, ours) in ours.iter().enumerate() {
        let read = |name: String| -> Vec<f32> {
            file.tensor(&name)
                .unwrap()
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        let (theirs, base) = (read(format!("logits/{i}")), read(format!("base/{i}")));
        let worst = |other: &[f32]| {
            ours.logits.concat().iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
        };
        assert!(worst(&theirs) < tolerance, "row {i} differs by {}", worst(&theirs));
        assert!(worst(&base) > 1e-2, "the adapter changes nothing");
    }
}
