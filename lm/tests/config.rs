//! What a config.json says of the model beside its weights: read as transformers reads it, and part of the model's digest.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;

use lm::{Architecture, BaseModel, Outline, Precision};
use serde_json::{Value, json};
use support::{golden_folder, tiny_folder};

/// The tiny checkpoint with other fields in its config.json.
fn with(folder: &Path, fields: &Value) {
    for entry in std::fs::read_dir(tiny_folder()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let object = config.as_object_mut().unwrap();
    object.retain(|k, _| !k.starts_with("rope_"));
    object.extend(fields.as_object().unwrap().clone());
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn rotary_fields_mean_what_transformers_makes_of_them() {
    let text = std::fs::read_to_string(golden_folder().join("rope_configs.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        with(folder.path(), &case["config"]);
        let read = Outline::load(folder.path(), Precision::F32);
        if case["type"] == "default" {
            assert_eq!(Some(read.unwrap().architecture.ropes[0].base), case["theta"].as_f64(), "{case}");
        } else if ["linear", "llama3", "yarn"].map(Value::from).contains(&case["type"]) {
            // Whole ones are computed (golden_families.rs); of one that lacks a field the field is named.
            if let Err(e) = read {
                assert!(e.to_string().contains("needs"), "{case}: {e}");
            }
        } else {
            let message = read.unwrap_err().to_string();
            assert!(message.contains(case["type"].as_str().unwrap()), "{case}: {message}");
        }
    }
}

#[test]
fn a_rotation_of_a_part_of_a_head_is_refused() {
    for fields in [
        serde_json::json!({"partial_rotary_factor": 0.5}),
        serde_json::json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    ] {
        let folder = tempfile::tempdir().unwrap();
        with(folder.path(), &fields);
        let message = Outline::load(folder.path(), Precision::F32).unwrap_err().to_string();
        assert!(message.contains("partial_rotary_factor"), "{message}");
    }
}

#[test]
fn the_same_weights_under_another_configuration_are_another_model() {
    let digest = |fields: Value| {
        let folder = tempfile::tempdir().unwrap();
        with(folder.path(), &fields);
        let outline = Outline::load(folder.path(), Precision::F32).unwrap().digest();
        // Whoever loads the weights and whoever does not speak of the same model.
        assert_eq!(BaseModel::load(folder.path(), Precision::F32).unwrap().digest(), outline);
        outline
    };
    let plain = digest(serde_json::json!({}));
    assert_eq!(digest(serde_json::json!({"rope_theta": 10000.0})), plain, "what is the default anyway");
    assert_eq!(digest(serde_json::json!({"transformers_version": "9.9"})), plain, "what changes nothing");
    for fields in [
        serde_json::json!({"rope_theta": 5000.0}),
        serde_json::json!({"rms_norm_eps": 1e-3}),
        serde_json::json!({"eos_token_id": 7}),
    ] {
        assert_ne!(digest(fields.clone()), plain, "{fields}");
    }
}

/// A family's configuration with other fields: "ABSENT" takes one out.
fn described(family: &str, fields: &Value) -> lm::Result<Architecture> {
    let path = golden_folder().join("families").join(family).join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in fields.as_object().unwrap() {
        let nested = key.starts_with("text_config.");
        let object = if nested { &mut config["text_config"] } else { &mut config };
        let object = object.as_object_mut().unwrap();
        let key = key.trim_start_matches("text_config.").to_owned();
        match value.as_str() {
            Some("ABSENT") => drop(object.remove(&key)),
            _ => drop(object.insert(key, value.clone())),
        }
    }
    Architecture::from_json(&path, &config)
}

#[test]
fn what_would_make_transformers_compute_something_else_is_refused_by_its_name() {
    let nested = |full: Value| json!({"full_attention": full, "sliding_attention": {"rope_type": "default"}});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": false});
    for (family, fields, why) in [
        // Attention to what comes later.
        ("llama_linear", json!({"is_causal": false}), "is_causal = false"),
        ("gemma3", json!({"is_causal": false}), "is_causal = false"),
        ("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention = true"),
        // Layers that differ.
        ("qwen3", json!({"per_layer_config": {"1": {"rms_norm_eps": 0.1}}}), "per_layer_config"),
        // What Gemma 3's classes leave unread.
        ("gemma3", json!({"attn_logit_softcapping": 2.0}), "attn_logit_softcapping = 2.0"),
        (
            "gemma3_vision",
            json!({"text_config.final_logit_softcapping": 2.0}),
            "final_logit_softcapping = 2.0",
        ),
        ("gemma3", json!({"rope_parameters": nested(yarn)}), "truncate = false"),
        ("gemma3", json!({"original_max_position_embeddings": 8}), "original_max_position_embeddings = 8"),
        ("gemma3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "type = \"linear\""),
        // Of which transformers makes nothing at all.
        ("gemma2", json!({"sliding_window": null}), "sliding_window = null"),
        ("llama_linear", json!({"rope_scaling": {"rope_type": "linear", "factor": 1e-320}}), "factor"),
        // A value is told with its field.
        ("qwen2", json!({"hidden_size": "wide"}), "hidden_size = \"wide\""),
        ("gemma3", json!({"rope_parameters": 5}), "rope_parameters = 5"),
    ] {
        let said = described(family, &fields).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("config.json"), "{family} {fields}: {said}");
    }
}

#[test]
fn what_a_file_leaves_out_or_says_twice_is_what_transformers_takes() {
    let of = |family: &str, fields: Value| described(family, &fields).unwrap();
    // Qwen's window has a default, null is none.
    let on = json!({"use_sliding_window": true, "max_window_layers": 1, "sliding_window": "ABSENT"});
    let windows = |a: &Architecture| a.layers.iter().map(|l| l.attention.window).collect::<Vec<_>>();
    assert_eq!(windows(&of("qwen2", on)), [None, Some(4096), Some(4096), Some(4096)]);
    let off = json!({"use_sliding_window": true, "max_window_layers": 1, "sliding_window": null});
    assert_eq!(windows(&of("qwen2", off)), [None; 4]);
    // The whole's field decides, not its text half's.
    assert!(of("gemma3_vision", json!({"text_config.tie_word_embeddings": false})).tied);
    let whole = json!({"tie_word_embeddings": false, "text_config.tie_word_embeddings": true});
    assert!(!of("gemma3_vision", whole).tied);
    // The name with an underscore is written and not read.
    let pattern = json!({"_sliding_window_pattern": 2, "layer_types": "ABSENT"});
    assert_eq!(windows(&of("gemma3", pattern)), [Some(6), Some(6), Some(6), Some(6), Some(6), None]);
    // The older object is laid over the newer one.
    let both = json!({"rope_scaling": {"factor": 2.0}});
    let newer = json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}}});
    assert_eq!(of("gemma3", both).ropes, of("gemma3", newer).ropes);
    // Null counts as false.
    let yarn = |truncate: Value| {
        let mut rope = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        rope["truncate"] = truncate;
        of("llama_linear", json!({"rope_scaling": rope})).ropes
    };
    assert_eq!(yarn(Value::Null), yarn(false.into()));
    assert_ne!(yarn(Value::Null), yarn(true.into()));
}
