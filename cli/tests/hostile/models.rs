//! Models' folders and files beside their templates.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::{Case, End, case, copy, look, put, tiny};

const RUN: &str = "--model model intervention run look.json";

fn folder(name: &str, end: End, change: impl Fn(&Path) + Sync + Send + 'static) -> Case {
    case(name, end, RUN, move |folder| {
        copy(&tiny(), &folder.join("model"));
        look(folder);
        change(&folder.join("model"));
    })
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn config(name: &str, end: End, change: Value) -> Case {
    folder(name, end, move |model| {
        let mut config = json_of(&model.join("config.json"));
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        put(&model.join("config.json"), config.to_string());
    })
}

fn tokenizer(name: &str, end: End, key: &'static str, value: Value) -> Case {
    folder(name, end, move |model| {
        let mut tokenizer = json_of(&model.join("tokenizer.json"));
        tokenizer[key] = value.clone();
        put(&model.join("tokenizer.json"), tokenizer.to_string());
    })
}

pub(crate) fn fifo(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

pub(crate) fn sparse(path: &Path, bytes: u64) {
    std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

pub(crate) fn link(to: impl AsRef<Path>, path: &Path) {
    let _ = std::fs::remove_file(path);
    symlink(to, path).unwrap();
}

/// A GGUF file of keys, written by hand: text, numbers, and raw bytes.
fn gguf(keys: &[(&str, u32, Vec<u8>)], tensors: &[(&str, &[u64], u64)], tail: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    let text = |out: &mut Vec<u8>, t: &str| {
        out.extend((t.len() as u64).to_le_bytes());
        out.extend(t.as_bytes());
    };
    for (key, kind, value) in keys {
        text(&mut out, key);
        out.extend(kind.to_le_bytes());
        out.extend(value);
    }
    for (name, dims, offset) in tensors {
        text(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + tail, 0);
    out
}

fn said(t: &str) -> Vec<u8> {
    let mut out = (t.len() as u64).to_le_bytes().to_vec();
    out.extend(t.as_bytes());
    out
}

fn gguf_case(name: &str, make: impl Fn() -> Vec<u8> + Sync + Send + 'static) -> Case {
    case(name, End::Refused, "--model model.gguf intervention run look.json", move |folder| {
        look(folder);
        put(&folder.join("model.gguf"), make());
    })
}

pub(crate) fn cases() -> Vec<Case> {
    use End::{Bounded, Refused};
    let architecture = || ("general.architecture", 8, said("llama"));
    let replaced = |what: &str, by: usize| json!({"type": "Replace", "pattern": {"String": what}, "content": "a".repeat(by)});
    let mut out = vec![
        config("16 G positions", Refused, json!({"max_position_embeddings": 16_000_000_000u64})),
        config("a negative width", Refused, json!({"hidden_size": -1})),
        config("a width of zero", Refused, json!({"hidden_size": 0})),
        config("heads of zero", Refused, json!({"num_attention_heads": 0})),
        config("more layers than there are", Refused, json!({"num_hidden_layers": 1000})),
        config("a million layers", Refused, json!({"num_hidden_layers": 1_000_000})),
        config("a vocabulary of billions", Refused, json!({"vocab_size": 4_000_000_000u64})),
        config("a head of all", Refused, json!({"head_dim": 1_000_000})),
        config("theta of zero", Bounded, json!({"rope_theta": 0.0, "rope_parameters": null})),
        config("theta that is huge", Bounded, json!({"rope_theta": 1e308, "rope_parameters": null})),
        config("an epsilon of text", Refused, json!({"rms_norm_eps": "x"})),
        config("ends by the million", Bounded, json!({"eos_token_id": (0..1_000_000).collect::<Vec<u32>>()})),
        config("an architecture with controls", Refused, json!({"architectures": ["\u{1b}[2J\u{202e}"]})),
        folder("a configuration of brackets", Refused, |m| put(&m.join("config.json"), "[".repeat(1 << 20))),
        folder("a configuration of one number", Refused, |m| put(&m.join("config.json"), format!("1{}", "0".repeat(1 << 20)))),
        folder("a sparse configuration", Refused, |m| sparse(&m.join("config.json"), 8 << 30)),
        folder("a configuration that is a pipe", Refused, |m| fifo(&m.join("config.json"))),
        folder("a configuration that is a device", Refused, |m| link("/dev/zero", &m.join("config.json"))),
        folder("a configuration that is a folder", Refused, |m| {
            std::fs::remove_file(m.join("config.json")).unwrap();
            std::fs::create_dir(m.join("config.json")).unwrap();
        }),
        folder("weights that are a pipe", Refused, |m| fifo(&m.join("model.safetensors"))),
        folder("weights that are a device", Refused, |m| link("/dev/urandom", &m.join("model.safetensors"))),
        folder("sparse weights", Refused, |m| sparse(&m.join("model.safetensors"), 64 << 30)),
        folder("weights with a header of everything", Refused, |m| put(&m.join("model.safetensors"), u64::MAX.to_le_bytes())),
        folder("weights with a header of brackets", Refused, |m| {
            let mut bytes = (60u64 << 20).to_le_bytes().to_vec();
            bytes.resize(8 + (60 << 20), b'[');
            put(&m.join("model.safetensors"), bytes);
        }),
        folder("weights that end in a header", Refused, |m| put(&m.join("model.safetensors"), [9, 0, 0, 0, 0, 0, 0, 0, b'{'])),
        folder("no weights at all", Refused, |m| put(&m.join("model.safetensors"), "")),
        folder("an index with an absolute name", Refused, |m| {
            std::fs::remove_file(m.join("model.safetensors")).unwrap();
            put(&m.join("model.safetensors.index.json"), json!({"weight_map": {"a": "/etc/passwd.safetensors"}}).to_string());
        }),
        folder("an index that leads up", Refused, |m| {
            std::fs::remove_file(m.join("model.safetensors")).unwrap();
            put(&m.join("model.safetensors.index.json"), json!({"weight_map": {"a": "../../outside/kept.safetensors"}}).to_string());
        }),
        folder("an index of a hundred thousand files", Refused, |m| {
            std::fs::remove_file(m.join("model.safetensors")).unwrap();
            let map: serde_json::Map<String, Value> = (0..100_000).map(|i| (format!("t{i}"), format!("m{i}.safetensors").into())).collect();
            put(&m.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string());
        }),
        tokenizer("a normalizer that expands", Refused, "normalizer", replaced("a", 100_000)),
        tokenizer("normalizers that expand together", Refused, "normalizer", json!({"type": "Sequence", "normalizers": vec![replaced("a", 8); 30]})),
        tokenizer("a normalizer for nothing", Refused, "normalizer", replaced("", 8)),
        tokenizer("precompiled maps", Refused, "normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="})),
        tokenizer("a fixed length of zero", Refused, "pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        tokenizer("a split that goes back and forth", Bounded, "pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "(a+)+(a+)+(a+)+$|(?=(\\w+)+x)"}, "behavior": "Isolated", "invert": false})),
        tokenizer("a split that is no pattern", Refused, "pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": false})),
        tokenizer("sequences in sequences", Refused, "pre_tokenizer", (0..60).fold(json!({"type": "Digits", "individual_digits": true}), |p, _| json!({"type": "Sequence", "pretokenizers": [p]}))),
        tokenizer("an empty special token", Refused, "added_tokens", json!([{"id": 0, "content": "", "special": true}])),
        tokenizer("thousands of special tokens", Bounded, "added_tokens", json!((0..15_000).map(|i| json!({"id": 400 + i, "content": format!("<|{i}|>"), "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})).chain([json!({"id": 1, "content": "<|im_start|>", "special": true}), json!({"id": 2, "content": "<|im_end|>", "special": true})]).collect::<Vec<_>>())),
        tokenizer("a million special tokens", Refused, "added_tokens", json!((0..200_000).map(|i| json!({"id": 400 + i, "content": format!("<|{i}|>"), "special": true})).collect::<Vec<_>>())),
        tokenizer("a post-processor of thousands", Refused, "post_processor", json!({"type": "TemplateProcessing", "single": vec![json!({"SpecialToken": {"id": "x", "type_id": 0}}); 9999], "special_tokens": {"x": {"id": "x", "ids": [1], "tokens": ["x"]}}})),
        tokenizer("a decoder that puts much in", Refused, "decoder", json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(1_000_000)})),
        tokenizer("a model of another kind", Refused, "model", json!({"type": "Unigram", "vocab": [], "unk_id": 0})),
        tokenizer("a vocabulary of nothing", Refused, "model", json!({"type": "BPE", "vocab": {}, "merges": []})),
        folder("a sparse tokenizer", Refused, |m| sparse(&m.join("tokenizer.json"), 4 << 30)),
        folder("a template that is a pipe", Refused, |m| fifo(&m.join("chat_template.jinja"))),
        folder("a template of nothing but bytes", Refused, |m| put(&m.join("chat_template.jinja"), [0xff; 1000])),
        gguf_case("an alignment of zero", move || gguf(&[architecture(), ("general.alignment", 4, 0u32.to_le_bytes().to_vec())], &[], 64)),
        gguf_case("an alignment of another kind", move || gguf(&[architecture(), ("general.alignment", 8, said("x"))], &[], 64)),
        gguf_case("a list of a hundred million bytes", move || {
            let mut list = 0u32.to_le_bytes().to_vec();
            list.extend(100_000_000u64.to_le_bytes());
            list.resize(list.len() + 100_000_000, 1);
            gguf(&[architecture(), ("x", 9, list)], &[], 64)
        }),
        gguf_case("a list that says it is longer", move || {
            let mut list = 8u32.to_le_bytes().to_vec();
            list.extend(u64::MAX.to_le_bytes());
            gguf(&[architecture(), ("x", 9, list)], &[], 64)
        }),
        gguf_case("a text that says it is longer", move || gguf(&[("general.architecture", 8, u64::MAX.to_le_bytes().to_vec())], &[], 64)),
        gguf_case("lists in lists", move || {
            let mut list: Vec<u8> = Vec::new();
            for _ in 0..2000 {
                list.extend(9u32.to_le_bytes());
                list.extend(1u64.to_le_bytes());
            }
            gguf(&[architecture(), ("x", 9, list)], &[], 64)
        }),
        gguf_case("tensors on one place", move || {
            let names: Vec<String> = (0..6000).map(|i| format!("blk.{i}.attn_q.weight")).collect();
            let tensors: Vec<(&str, &[u64], u64)> = names.iter().map(|n| (n.as_str(), &[1024u64, 256][..], 0)).collect();
            gguf(&[architecture()], &tensors, 1 << 20)
        }),
        gguf_case("a tensor larger than everything", move || gguf(&[architecture()], &[("token_embd.weight", &[u64::MAX, u64::MAX], 0)], 64)),
        gguf_case("a key twice", move || gguf(&[architecture(), architecture()], &[], 64)),
        gguf_case("a name with controls", move || gguf(&[("general.architecture", 8, said("\u{1b}[2J\u{202e}x"))], &[], 64)),
        case("a sparse GGUF", Refused, "--model model.gguf intervention run look.json", |folder| {
            look(folder);
            sparse(&folder.join("model.gguf"), 64 << 30);
        }),
        case("a GGUF that is a pipe", Refused, "--model model.gguf intervention run look.json", |folder| {
            look(folder);
            fifo(&folder.join("model.gguf"));
        }),
        case("a model that is a device", Refused, "--model /dev/zero intervention run look.json", look),
        case("a model's name with controls", Refused, "--model \u{1b}[2J\u{202e}/x intervention run look.json", look),
    ];
    for (i, end) in [4usize, 7, 100, 5000].into_iter().enumerate() {
        out.push(gguf_case(&format!("a file cut short, {i}"), move || {
            let mut bytes = gguf(
                &[architecture(), ("llama.block_count", 4, 3u32.to_le_bytes().to_vec())],
                &[("token_embd.weight", &[32, 320], 0)],
                1 << 16,
            );
            bytes.truncate(end);
            bytes
        }));
    }
    out
}
