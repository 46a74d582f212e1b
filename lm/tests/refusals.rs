//! Models whose files contradict themselves or ask for what is not computed: one sentence that names file, field and value, at once.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use lm::{BaseModel, Precision};
use serde_json::{Value, json};
use support::golden_folder;

/// A family's tiny checkpoint with other fields in its config.json (in the decoder's own part of it).
fn with(folder: &Path, family: &str, fields: &Value) {
    for entry in std::fs::read_dir(golden_folder().join("families").join(family)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in fields.as_object().unwrap() {
        let outer =
            ["architectures", "model_type", "quantization_config", "vision_config"].contains(&key.as_str());
        let place = if !outer && config["text_config"].is_object() {
            &mut config["text_config"]
        } else {
            &mut config
        };
        place[key] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn what_contradicts_itself_or_is_not_computed_is_one_sentence() {
    let cases: Vec<(&str, Value, &[&str])> = vec![
        (
            "llama_llama3",
            json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}),
            &["MixtralForCausalLM", "a mixture of experts", "Qwen3ForCausalLM"],
        ),
        (
            "qwen3",
            json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 128}),
            &["Qwen3MoeForCausalLM", "a mixture of experts"],
        ),
        (
            "llama_llama3",
            json!({"architectures": ["DeepseekV2ForCausalLM"], "kv_lora_rank": 512}),
            &["DeepseekV2ForCausalLM", "multi-head latent attention"],
        ),
        (
            "qwen2",
            json!({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {"depth": 2}}),
            &["a vision or audio tower"],
        ),
        (
            "llama_linear",
            json!({"architectures": ["Phi3ForCausalLM"]}),
            &["Phi3ForCausalLM", "SmolLM3ForCausalLM"],
        ),
        ("llama_linear", json!({"architectures": [7]}), &["architecture", "none"]),
        ("llama_linear", json!({"architectures": null}), &["architectures is missing", "Olmo2ForCausalLM"]),
        ("llama_linear", json!({"model_type": "qwen2"}), &["model_type", "qwen2", "llama"]),
        (
            "qwen3",
            json!({"quantization_config": {"quant_method": "fp8"}}),
            &["quantization_config", "fp8", "BF16"],
        ),
        ("qwen3", json!({"quantization_config": {"quant_method": "mxfp4"}}), &["mxfp4"]),
        (
            "llama_llama3",
            json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
            &["rope_scaling", "dynamic", "yarn"],
        ),
        ("llama_llama3", json!({"rope_scaling": {"rope_type": "made-up"}}), &["made-up", "llama3"]),
        (
            "llama_llama3",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            &["llama3", "low_freq_factor", "missing"],
        ),
        (
            "llama_llama3",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": -8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
            &["-8"],
        ),
        ("llama_llama3", json!({"rope_scaling": [1]}), &["rope_scaling", "neither an object nor null"]),
        (
            "qwen3",
            json!({"num_attention_heads": 5, "num_key_value_heads": 2}),
            &["num_attention_heads = 5", "num_key_value_heads = 2"],
        ),
        ("qwen3", json!({"num_attention_heads": 0}), &["num_attention_heads = 0"]),
        ("qwen3", json!({"head_dim": 7}), &["head_dim = 7"]),
        ("qwen3", json!({"hidden_size": 1u64 << 40}), &["hidden_size = 1099511627776"]),
        ("qwen3", json!({"num_hidden_layers": 1_000_000_000}), &["num_hidden_layers = 1000000000"]),
        ("qwen3", json!({"num_hidden_layers": "four"}), &["num_hidden_layers", "not a whole number"]),
        ("qwen3", json!({"rms_norm_eps": "small"}), &["rms_norm_eps", "small"]),
        ("qwen3", json!({"hidden_act": "relu"}), &["hidden_act", "relu", "silu"]),
        ("qwen3", json!({"layer_types": ["full_attention"]}), &["layer_types has 1 entries"]),
        ("qwen3", json!({"use_sliding_window": 1}), &["use_sliding_window = 1"]),
        ("mistral", json!({"sliding_window": "6"}), &["sliding_window", "whole number"]),
        ("mistral", json!({"sliding_window": 0}), &["sliding_window = 0"]),
        ("gemma2", json!({"attn_logit_softcapping": -3.0}), &["attn_logit_softcapping = -3"]),
        ("gemma2", json!({"final_logit_softcapping": "high"}), &["final_logit_softcapping", "high"]),
        ("gemma2", json!({"query_pre_attn_scalar": 0}), &["query_pre_attn_scalar = 0"]),
        (
            "gemma3",
            json!({"layer_types": ["full_attention", "chunked_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention"]}),
            &["layer_types"],
        ),
        ("gemma3", json!({"use_bidirectional_attention": true}), &["use_bidirectional_attention = true"]),
        ("gemma3_vision", json!({"rope_scaling": {"rope_type": "linear"}}), &["linear", "factor"]),
        ("smollm3", json!({"no_rope_layers": [1, 1, "x", 0]}), &["no_rope_layers"]),
        (
            "smollm3",
            json!({"no_rope_layers": null, "no_rope_layer_interval": 0}),
            &["no_rope_layer_interval = 0"],
        ),
        ("olmo2", json!({"partial_rotary_factor": 0.5}), &["partial_rotary_factor = 0.5"]),
        // Against the weights.
        ("qwen2", json!({"intermediate_size": 64}), &["gate_proj", "shape"]),
        ("qwen2", json!({"num_hidden_layers": 2}), &["layers.2", "belongs to no part"]),
        ("qwen2", json!({"num_hidden_layers": 9}), &["layers.4", "missing"]),
        ("qwen2", json!({"vocab_size": 321}), &["embed_tokens", "321"]),
        ("olmo2", json!({"head_dim": 2}), &["q_norm", "shape"]),
        ("llama_linear", json!({"attention_bias": true}), &["q_proj.bias", "missing"]),
        ("qwen2", json!({"vocab_size": 64}), &["64"]),
    ];
    for (family, fields, parts) in cases {
        let folder = tempfile::tempdir().unwrap();
        with(folder.path(), family, &fields);
        let begin = Instant::now();
        let message = BaseModel::load(folder.path(), Precision::F32).unwrap_err().to_string();
        assert!(begin.elapsed() < Duration::from_secs(1), "{family} {fields}: {:?}", begin.elapsed());
        assert!(message.contains(&folder.path().display().to_string()), "{family} {fields}: {message}");
        assert!(message.len() < 700, "{family} {fields}: {message}");
        for part in parts {
            assert!(message.contains(part), "{family} {fields}: {message}");
        }
    }
}
