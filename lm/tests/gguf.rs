//! Reading GGUF: every tensor type, the rotary layout of q and k, and files that are damaged in any way.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lm::Checkpoint;
use proptest::prelude::*;

const WIDTH: usize = 256;
const HEADS: usize = 4;
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// GPT-2's names of the 256 bytes, one merged token, two control tokens.
fn vocabulary() -> Vec<String> {
    let plain = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut names: Vec<String> = (0..256)
        .map(|b| {
            let code = if plain(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    names.extend(["ab".to_owned(), "<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
    names
}

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.5 - 1.0) * 0.1).collect()
}

/// A model of one layer: names and shapes as llama.cpp writes them.
fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let vocab = vocabulary().len();
    let shapes = [
        ("token_embd.weight", vec![vocab, WIDTH]),
        ("output_norm.weight", vec![WIDTH]),
        ("blk.0.attn_norm.weight", vec![WIDTH]),
        ("blk.0.ffn_norm.weight", vec![WIDTH]),
        ("blk.0.attn_q.weight", vec![WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", vec![WIDTH / 2, WIDTH]),
        ("blk.0.attn_v.weight", vec![WIDTH / 2, WIDTH]),
        ("blk.0.attn_output.weight", vec![WIDTH, WIDTH]),
        ("blk.0.ffn_gate.weight", vec![2 * WIDTH, WIDTH]),
        ("blk.0.ffn_up.weight", vec![2 * WIDTH, WIDTH]),
        ("blk.0.ffn_down.weight", vec![WIDTH, 2 * WIDTH]),
    ];
    shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let n = shape.iter().product();
            (name.to_owned(), (shape, noise(n, i + 1)))
        })
        .collect()
}

fn file(dtype: GgmlDType) -> Vec<u8> {
    let texts =
        |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect::<Vec<Value>>());
    let number = |n: usize| Value::U32(n as u32);
    let kinds = (0..vocabulary().len()).map(|i| Value::I32(if i < 257 { 1 } else { 3 })).collect();
    let metadata = [
        ("general.architecture", Value::String("llama".into())),
        ("general.name", Value::String("tiny".into())),
        ("llama.embedding_length", number(WIDTH)),
        ("llama.feed_forward_length", number(2 * WIDTH)),
        ("llama.block_count", number(1)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(HEADS / 2)),
        ("llama.context_length", number(64)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("smollm".into())),
        ("tokenizer.ggml.tokens", texts(vocabulary())),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", texts(vec!["a b".into()])),
        ("tokenizer.ggml.eos_token_id", number(258)),
        ("tokenizer.chat_template", Value::String(TEMPLATE.into())),
    ];
    let quantised: Vec<(String, QTensor)> = tensors()
        .into_iter()
        .map(|(name, (shape, data))| {
            let tensor = Tensor::from_vec(data, shape.clone(), &Device::Cpu).unwrap();
            // llama.cpp keeps vectors in f32 whatever the file's type.
            let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
            (name, QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let mut out = std::io::Cursor::new(Vec::new());
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let views: Vec<(&str, &QTensor)> = quantised.iter().map(|(n, t)| (n.as_str(), t)).collect();
    write(&mut out, &metadata, &views).unwrap();
    out.into_inner()
}

fn load(bytes: &[u8], folder: &Path) -> lm::Result<lm::Loaded> {
    let path = folder.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::load(&path)
}

/// Root mean square of the difference, relative to that of the original.
fn error(ours: &[f32], original: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let gap: f64 = ours.iter().zip(original).map(|(a, b)| square(a - b)).sum();
    (gap / original.iter().copied().map(square).sum::<f64>()).sqrt()
}

#[test]
fn every_tensor_type_is_read_and_q_and_k_are_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let original = tensors();
    // Bounds: half a quantisation step of the type, relative to uniform noise, with a margin.
    for (dtype, bound) in [
        (GgmlDType::F32, 0.0),
        (GgmlDType::F16, 5e-4),
        (GgmlDType::BF16, 4e-3),
        (GgmlDType::Q8_0, 0.01),
        (GgmlDType::Q6K, 0.04),
        (GgmlDType::Q5K, 0.06),
        (GgmlDType::Q5_0, 0.06),
        (GgmlDType::Q5_1, 0.06),
        (GgmlDType::Q4_0, 0.12),
        (GgmlDType::Q4_1, 0.12),
        (GgmlDType::Q4K, 0.12),
    ] {
        let loaded = load(&file(dtype), folder.path()).unwrap();
        let read = &loaded.checkpoint.tensors;
        for (theirs, ours) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
            ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ] {
            let e = error(&read[ours].data, &original[theirs].1);
            assert!(e <= bound, "{dtype:?} {ours}: {e}");
        }
        // llama.cpp stores row (head, part, i) of a head of dimension d at (head, i, part).
        for (theirs, ours, heads) in [
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", HEADS),
            ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", HEADS / 2),
        ] {
            let (stored, got) = (&original[theirs].1, &read[ours].data);
            let half = stored.len() / WIDTH / heads / 2;
            for head in 0..heads {
                for part in 0..2 {
                    for i in 0..half {
                        let row = |r: usize| r * WIDTH..(r + 1) * WIDTH;
                        let ours = &got[row(head * 2 * half + part * half + i)];
                        let e = error(ours, &stored[row(head * 2 * half + i * 2 + part)]);
                        assert!(e <= 1.3 * bound, "{dtype:?} head {head} part {part} row {i}: {e}");
                    }
                }
            }
        }
        assert_eq!(
            loaded.tokenizer.decode(&loaded.tokenizer.encode("naïve 12").unwrap()).unwrap(),
            "naïve 12"
        );
        assert_eq!(loaded.chat.end_of_turn(), 258);
    }
}

#[test]
fn a_file_cut_anywhere_is_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let whole = file(GgmlDType::Q8_0);
    assert!(load(&whole, folder.path()).is_ok());
    for i in 0..40 {
        let cut = whole.len() * i / 40;
        let message = load(&whole[..cut], folder.path()).unwrap_err().to_string();
        assert!(message.contains("model.gguf"), "{message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes of the header changed at random: an error or another model, never a panic or a huge allocation.
    #[test]
    fn damaged_headers_never_panic(at in prop::collection::vec((0usize..6000, any::<u8>()), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = file(GgmlDType::Q4_0);
        for (at, value) in at {
            bytes[at] = value;
        }
        let _ = load(&bytes, folder.path());
    }
}
