//! What a config.json says of the model beside its weights: read as transformers reads it, and part of the model's digest.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;

use lm::{BaseModel, Outline, Precision};
use serde_json::Value;
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
