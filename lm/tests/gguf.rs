//! Reading GGUF: every tensor type, the rotary layout of q and k, and files that are damaged in any way.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use lm::Checkpoint;
use proptest::prelude::*;
use support::gguf::{HEADS, WIDTH, file, file_with, tensors};

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
        let read = |name: &str| loaded.checkpoint.tensor(name).unwrap();
        for (theirs, ours) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output_norm.weight", "model.norm.weight"),
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
            ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ] {
            let e = error(&read(ours).data, &original[theirs].1);
            assert!(e <= bound, "{dtype:?} {ours}: {e}");
        }
        // llama.cpp stores row (head, part, i) of a head of dimension d at (head, i, part).
        for (theirs, ours, heads) in [
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", HEADS),
            ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", HEADS / 2),
        ] {
            let (stored, got) = (&original[theirs].1, read(ours).data);
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

/// A key or a tensor that is left out is another model: what is not computed is refused by its name, what changes nothing is not.
#[test]
fn what_a_file_says_is_read_or_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = |t: &str| Value::String(t.into());
    for (key, value) in [
        ("llama.rope.scaling.type", text("longrope")),
        ("llama.rope.scaling.type", Value::U32(1)),
        ("llama.rope.scaling.factor", text("4")),
        ("llama.rope.dimension_count", Value::U32(32)),
        ("llama.attention.value_length", Value::U32(32)),
        ("llama.attention.sliding_window", text("32")),
        ("llama.expert_count", Value::U32(8)),
        ("llama.vocab_size", Value::U32(7)),
        ("llama.logit_scale", Value::F32(0.5)),
        // Read of other architectures alone.
        ("llama.attention.scale", Value::F32(0.5)),
        ("llama.attn_logit_softcapping", Value::F32(5.0)),
        ("llama.final_logit_softcapping", Value::F32(5.0)),
        ("llama.attention.sliding_window_pattern", Value::U32(2)),
        ("llama.rope.freq_base_swa", Value::F32(5.0)),
        // No configuration holds these: they would count as absent.
        ("llama.rope.freq_base", Value::F32(f32::NAN)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY)),
        ("llama.attention.head_count", text("4")),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(true)),
        ("tokenizer.ggml.add_space_prefix", Value::U32(0)),
        ("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true)),
        ("tokenizer.ggml.precompiled_charsmap", Value::Array(vec![Value::U8(1)])),
        ("tokenizer.ggml.eos_token_id", text("2")),
        ("tokenizer.ggml.pre", Value::U32(1)),
        ("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)])),
        ("tokenizer.ggml.token_type", text("all")),
        ("general.type", text("adapter")),
        ("split.count", Value::U16(2)),
    ] {
        let message = load(&file_with(GgmlDType::F32, &[(key, value)], &[]), folder.path()).unwrap_err();
        assert!(message.to_string().contains(key), "{key}: {message}");
    }
    for name in [
        "rope_freqs.weight",
        "blk.0.attn_q.bias",
        "blk.0.attn_output.bias",
        "blk.0.attn_q_norm.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.1.attn_q.weight",
        "output_norm.bias",
    ] {
        let bytes = file_with(GgmlDType::F32, &[], &[(name, vec![WIDTH])]);
        let message = load(&bytes, folder.path()).unwrap_err().to_string();
        let part = name.trim_start_matches("blk.1.").trim_end_matches(".weight");
        assert!(message.contains(part) || message.contains("layers.1"), "{name}: {message}");
    }
    // Two scalings.
    let scaled =
        [("llama.rope.scaling.type", text("linear")), ("llama.rope.scaling.factor", Value::F32(4.0))];
    let bytes = file_with(GgmlDType::F32, &scaled, &[("rope_freqs.weight", vec![WIDTH / HEADS / 2])]);
    assert!(load(&bytes, folder.path()).unwrap_err().to_string().contains("rope_freqs.weight"));
    // Always the same one of several.
    let two = file_with(GgmlDType::F32, &[], &[("zz.bias", vec![4]), ("aa.bias", vec![4])]);
    for _ in 0..8 {
        assert!(load(&two, folder.path()).unwrap_err().to_string().contains("aa.bias"));
    }
    // Nobody knows how such a file cuts texts.
    let message = load(&support::gguf::file_without("tokenizer.ggml.pre"), folder.path()).unwrap_err();
    assert!(message.to_string().contains("tokenizer.ggml.pre"), "{message}");
    let harmless = [
        ("llama.rope.scaling.type", text("none")),
        ("llama.rope.scaling.factor", Value::F32(1.0)),
        ("llama.rope.dimension_count", Value::U32((WIDTH / HEADS) as u32)),
        ("llama.vocab_size", Value::U32(259)),
        ("llama.expert_count", Value::U32(0)),
        ("general.quantization_version", Value::U32(2)),
        ("general.type", text("model")),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
    ];
    assert!(load(&file_with(GgmlDType::F32, &harmless, &[]), folder.path()).is_ok());
}

/// Tokens that the file says are whole are whole, and each of its ends is one.
#[test]
fn tokens_of_the_users_own_and_every_end_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let kinds = |user: usize| {
        let kind = |i| Value::I32(if i == user { 4 } else { 1 + 2 * i32::from(i >= 257) });
        Value::Array((0..259).map(kind).collect())
    };
    let more = [("tokenizer.ggml.token_type", kinds(256)), ("tokenizer.ggml.eot_token_id", Value::U32(257))];
    let loaded = load(&file_with(GgmlDType::F32, &more, &[]), folder.path()).unwrap();
    assert_eq!(loaded.tokenizer.encode("cab!").unwrap()[1], 256);
    assert_eq!(loaded.tokenizer.decode(&[256]).unwrap(), "ab");
    assert_eq!(loaded.checkpoint.architecture.ends, [257, 258]);
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
