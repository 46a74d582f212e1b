//! Merged models: what is written loads back, here and in transformers, as the base with its adapters.
//!
//! The comparison with transformers needs the Python that `LORAFAB_TEST_PYTHON` names (`python/requirements.txt`); without it the test
//! says so and stops there.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use half::bf16;
use lm::{
    Adapter, Batch, Checkpoint, Decoder, ExportDtype, Exported, Loaded, Message, Precision, Role, Row,
    SHARD_BYTES, Want, export,
};
use support::{assert_close, formula_adapter, golden_folder, tiny_folder};

/// The bases: tied and in one file, untied and sharded, GGUF in f32 and in a quantised type.
fn bases(folder: &Path) -> Vec<PathBuf> {
    let gguf = [(GgmlDType::F32, "plain.gguf"), (GgmlDType::Q4_1, "quantised.gguf")].map(|(dtype, name)| {
        std::fs::write(folder.join(name), support::gguf::file(dtype)).unwrap();
        folder.join(name)
    });
    [tiny_folder(), golden_folder().join("tiny_untied")].into_iter().chain(gguf).collect()
}

/// Of a size that changes logits well beyond the tolerances.
fn adapter(loaded: &Loaded) -> Adapter {
    formula_adapter(&loaded.checkpoint.architecture, 2, 3.0, 0.0, 0.2)
}

fn rows(loaded: &Loaded) -> Vec<Vec<u32>> {
    let vocab = loaded.checkpoint.architecture.vocab_size as u32;
    (0..3).map(|i| (0..9 + i).map(|t| (t * 37 + i * 11) % vocab).collect()).collect()
}

fn logits(checkpoint: &Checkpoint, adapters: Vec<&Adapter>, rows: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let decoder = Decoder::new(checkpoint, Precision::F32).unwrap();
    let stack: Vec<usize> = (0..adapters.len()).collect();
    let rows: Vec<Row> = rows.iter().map(|r| Row::with_adapters(r.clone(), stack.clone())).collect();
    let wants: Vec<Want> =
        rows.iter().map(|r| Want { logits: (0..r.tokens.len()).collect(), residual: vec![] }).collect();
    let seen = decoder.forward(&Batch { adapters, rows }, &wants).unwrap();
    seen.into_iter().map(|s| s.logits.concat()).collect()
}

fn written(base: &Path, loaded: &Loaded, dtype: ExportDtype, shard: usize, to: &Path) -> Exported {
    let extra = BTreeMap::from([("note.json".to_owned(), b"{}".to_vec())]);
    export(base, loaded, &[&adapter(loaded)], dtype, shard, &extra, to).unwrap()
}

fn chat() -> Vec<Message> {
    vec![
        Message::new(Role::System, ""),
        Message::new(Role::User, "Is it 12 o'clock, naïve ab?\n  Yes  or no"),
        Message::new(Role::Assistant, "  It is 3:45, "),
        Message::new(Role::User, "日本 ok"),
    ]
}

#[test]
fn what_lies_beside_the_weights_comes_along() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    std::fs::create_dir_all(base.join("additional_chat_templates")).unwrap();
    for entry in std::fs::read_dir(tiny_folder()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), base.join(entry.file_name())).unwrap();
    }
    let more = ["tokenizer.model", "chat_template.json", "additional_chat_templates/tools.jinja"];
    for name in more {
        std::fs::write(base.join(name), name).unwrap();
    }
    let path = base.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // The one that newer transformers writes, of the original's weights.
    config["dtype"] = "bfloat16".into();
    std::fs::write(&path, config.to_string()).unwrap();
    let out = folder.path().join("merged");
    written(&base, &Checkpoint::load(&base).unwrap(), ExportDtype::F32, SHARD_BYTES, &out);
    for name in more {
        assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), name);
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert!(config["dtype"].is_null() && config["torch_dtype"] == "float32", "{config}");
}

/// transformers refuses a configuration over the kind of a number.
#[test]
fn whole_numbers_of_a_gguf_file_are_whole_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    for (family, scalar) in [("gemma2", 20), ("gemma3", 16)] {
        let base = golden_folder().join(format!("families/{family}.gguf"));
        let out = folder.path().join(family);
        written(&base, &Checkpoint::load(&base).unwrap(), ExportDtype::F32, SHARD_BYTES, &out);
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["query_pre_attn_scalar"].as_u64(), Some(scalar), "{config}");
    }
}

#[test]
fn what_is_written_loads_back_as_base_with_adapter() {
    let folder = tempfile::tempdir().unwrap();
    for base in bases(folder.path()) {
        let loaded = Checkpoint::load(&base).unwrap();
        let rows = rows(&loaded);
        let unmerged = logits(&loaded.checkpoint, vec![&adapter(&loaded)], &rows);
        let plain = logits(&loaded.checkpoint, vec![], &rows);
        let out = folder.path().join("f32");
        let done = written(&base, &loaded, ExportDtype::F32, SHARD_BYTES, &out);
        let back = Checkpoint::load(&out).unwrap();
        assert_eq!(back.checkpoint.digest, done.digest);
        assert_eq!(back.checkpoint.architecture.ropes, loaded.checkpoint.architecture.ropes);
        for (i, merged) in logits(&back.checkpoint, vec![], &rows).iter().enumerate() {
            assert_close(merged, &unmerged[i], 1e-4);
            let change = merged.iter().zip(&plain[i]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(change > 1e-2, "{}: the adapter changes nothing ({change})", base.display());
        }
        let tokens = |l: &Loaded| l.chat.encode(&l.tokenizer, &chat(), true).unwrap();
        assert_eq!(tokens(&back), tokens(&loaded));
        assert_eq!(back.chat.end_of_turn(), loaded.chat.end_of_turn());
        let quantised = base.ends_with("quantised.gguf");
        assert_eq!(
            done.dequantised_from.iter().map(String::as_str).collect::<Vec<_>>(),
            if quantised { vec!["Q4_1"] } else { vec![] }
        );

        // The same bytes again; split, the same tensors; in bf16, each rounded to the nearest.
        let again = written(&base, &loaded, ExportDtype::F32, SHARD_BYTES, &folder.path().join("again"));
        assert_eq!(again.digest, done.digest);
        let names = |dir: &Path| -> Vec<(String, Vec<u8>)> {
            let mut files: Vec<_> = std::fs::read_dir(dir)
                .unwrap()
                .map(|e| e.unwrap().path())
                .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).unwrap()))
                .collect();
            files.sort();
            files
        };
        assert!(names(&out) == names(&folder.path().join("again")));
        let mode = |name: &str| std::fs::metadata(out.join(name)).unwrap().permissions();
        assert_eq!(mode("model.safetensors"), mode("note.json"));
        written(&base, &loaded, ExportDtype::F32, 40_000, &folder.path().join("split"));
        assert!(names(&folder.path().join("split")).len() > names(&out).len() + 2);
        let split = Checkpoint::load(&folder.path().join("split")).unwrap();
        for name in back.checkpoint.tensor_names() {
            assert_eq!(split.checkpoint.tensor(&name).unwrap(), back.checkpoint.tensor(&name).unwrap());
        }
        written(&base, &loaded, ExportDtype::Bf16, SHARD_BYTES, &folder.path().join("bf16"));
        let half = Checkpoint::load(&folder.path().join("bf16")).unwrap().checkpoint;
        for name in half.tensor_names() {
            let whole = back.checkpoint.tensor(&name).unwrap();
            let expected: Vec<f32> = whole.data.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            assert_eq!(half.tensor(&name).unwrap().data, expected, "{name}");
        }
        for made in ["f32", "again", "split", "bf16"] {
            std::fs::remove_dir_all(folder.path().join(made)).unwrap();
        }
    }
}

#[test]
fn nothing_is_replaced_and_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let loaded = Checkpoint::load(&tiny_folder()).unwrap();
    let to = |name: &str, adapter: &Adapter| {
        let out = folder.path().join(name);
        export(&tiny_folder(), &loaded, &[adapter], ExportDtype::F32, SHARD_BYTES, &BTreeMap::new(), &out)
    };
    let good = adapter(&loaded);
    to("one", &good).unwrap();
    assert!(to("one", &good).unwrap_err().to_string().contains("already exists"));
    let mut huge = good.clone();
    huge.params.iter_mut().for_each(|v| *v = f32::MAX);
    let message = to("two", &huge).unwrap_err().to_string();
    assert!(message.contains("not finite"), "{message}");
    let other = Checkpoint::load(&golden_folder().join("tiny_untied")).unwrap();
    assert!(to("two", &adapter(&other)).is_err(), "an adapter of other shapes is merged");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn transformers_computes_the_same_logits_and_tokens() {
    let Some(python) = std::env::var_os("LORAFAB_TEST_PYTHON") else {
        eprintln!("LORAFAB_TEST_PYTHON is not set: not compared with transformers");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (n, base) in bases(folder.path()).iter().enumerate() {
        let loaded = Checkpoint::load(base).unwrap();
        let rows = rows(&loaded);
        let ours = logits(&loaded.checkpoint, vec![&adapter(&loaded)], &rows);
        let place = |name: &str| folder.path().join(format!("{n}-{name}"));
        // One of them split, so that the index is read too.
        let shard = if n == 1 { 40_000 } else { SHARD_BYTES };
        written(base, &loaded, ExportDtype::F32, shard, &place("f32"));
        written(base, &loaded, ExportDtype::Bf16, SHARD_BYTES, &place("bf16"));
        std::fs::write(place("rows"), serde_json::to_string(&rows).unwrap()).unwrap();
        let messages: Vec<_> =
            chat().iter().map(|m| serde_json::json!({"role": m.role.name(), "content": m.content})).collect();
        std::fs::write(place("chat"), serde_json::to_string(&messages).unwrap()).unwrap();
        // Every start of Python takes seconds: one base in bf16 is enough to see that the type is read.
        let types = [("f32", "float32"), ("bf16", "bfloat16")];
        for &(model, dtype) in &types[..if n == 0 { 2 } else { 1 }] {
            let out = place(&format!("{model}-out"));
            let status = std::process::Command::new(&python)
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/merged_parity.py"))
                .arg("--model")
                .arg(place(model))
                .arg("--rows")
                .arg(place("rows"))
                .arg("--chat")
                .arg(place("chat"))
                .arg("--out")
                .arg(&out)
                .status()
                .unwrap();
            assert!(status.success(), "{}", base.display());
            let said: serde_json::Value =
                serde_json::from_slice(&std::fs::read(out.join("said.json")).unwrap()).unwrap();
            let tokens = |opened| loaded.chat.encode(&loaded.tokenizer, &chat(), opened).unwrap();
            assert_eq!(said["ids"], serde_json::json!([tokens(false), tokens(true)]), "{}", base.display());
            // The fixtures' vocabularies lack the bytes of "ï" and "日本"; the GGUF file's has all.
            if base.is_file() {
                assert_eq!(said["text"], loaded.chat.render(&chat(), false).unwrap());
            }
            assert_eq!(said["dtype"], dtype);
            let ends: Vec<u64> =
                said["eos"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
            assert!(ends.contains(&u64::from(loaded.chat.end_of_turn())), "{ends:?}");
            if model == "bf16" {
                continue;
            }
            let bytes = std::fs::read(out.join("logits.safetensors")).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (i, ours) in ours.iter().enumerate() {
                let theirs: Vec<f32> = file
                    .tensor(&format!("logits/{i}"))
                    .unwrap()
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                    .collect();
                assert_close(ours, &theirs, 1e-4);
            }
        }
    }
}
