//! Chat templates and tokens, against transformers (`golden/templates.py`): the same tokens, or a refusal by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lm::{Outline, Precision};
use serde::Deserialize;
use serde_json::{Value, json};
use support::golden_folder;

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, Value>,
    tokens: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    cases: Vec<Case>,
}

/// The tiny model with other files.
fn folder_with(at: &Path, files: &BTreeMap<String, Value>) -> PathBuf {
    let folder = at.join("model");
    std::fs::create_dir_all(&folder).unwrap();
    for file in std::fs::read_dir(golden_folder().join("tiny")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    for (name, value) in files {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    }
    folder
}

fn outline(files: &BTreeMap<String, Value>) -> lm::Result<Outline> {
    let at = tempfile::tempdir().unwrap();
    Outline::load(&folder_with(at.path(), files), Precision::F32)
}

#[test]
fn conversations_have_the_tokens_that_transformers_gives_them() {
    let text = std::fs::read_to_string(golden_folder().join("templates.json")).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let mut digests = BTreeMap::new();
    for case in &golden.cases {
        let outline = outline(&case.files).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (text, tokens) in golden.texts.iter().zip(&case.tokens) {
            assert_eq!(&outline.prompt(text).unwrap(), tokens, "{}: {text:?}", case.name);
        }
        // What changes tokens changes the digest.
        if let Some((other, tokens)) = digests.insert(outline.digest(), (&case.name, &case.tokens)) {
            assert_eq!(tokens, &case.tokens, "{other} and {} have one digest", case.name);
        }
    }
    assert!(golden.cases.len() > 10);
}

#[test]
fn what_would_be_another_model_is_refused_by_its_name() {
    let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let template = |text: &str| json!({"chat_template": text});
    let config = |change: Value| {
        let text = std::fs::read_to_string(golden_folder().join("tiny/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        config
    };
    let tokenizer = |token: Value| {
        let text = std::fs::read_to_string(golden_folder().join("tiny/tokenizer.json")).unwrap();
        let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let same = added.iter().position(|t| t["content"] == token["content"]);
        match same {
            Some(i) => added[i].as_object_mut().unwrap().extend(token.as_object().unwrap().clone()),
            None => added.push(token),
        }
        tokenizer
    };
    for (file, value, parts) in [
        (
            "tokenizer_config.json",
            template(&chatml.replace("m.content", "m.content | upper")),
            vec!["chat template"],
        ),
        (
            "tokenizer_config.json",
            template(&chatml.replace("{{ m.content }}", "{{ m.content | length }}{{ m.content }}")),
            vec!["depends on it"],
        ),
        (
            "tokenizer_config.json",
            template(&chatml.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}")),
            vec!["once"],
        ),
        (
            "tokenizer_config.json",
            template(&format!("{{{{ strftime_now('%d') }}}}{chatml}")),
            vec!["today's date"],
        ),
        (
            "tokenizer_config.json",
            json!({"chat_template": chatml, "added_tokens_decoder": {"320": {"content": "<|x|>"}}}),
            vec!["<|x|>", "tokenizer.json"],
        ),
        (
            "tokenizer_config.json",
            json!({"chat_template": chatml, "additional_special_tokens": ["<|x|>"]}),
            vec!["<|x|>"],
        ),
        ("added_tokens.json", json!({"<|im_end|>": 7}), vec!["added_tokens.json", "<|im_end|>"]),
        (
            "tokenizer.json",
            tokenizer(json!({"content": "<|im_end|>", "rstrip": true})),
            vec!["<|im_end|>", "rstrip"],
        ),
        (
            "tokenizer.json",
            tokenizer(json!({"id": 320, "content": "", "special": true})),
            vec!["320", "empty"],
        ),
        ("adapter_config.json", json!({}), vec!["adapter beside a model"]),
        (
            "config.json",
            config(json!({"transformers_weights": "other.safetensors"})),
            vec!["transformers_weights"],
        ),
        ("config.json", config(json!({"sliding_window": 4})), vec!["sliding_window = 4"]),
        ("config.json", config(json!({"model_type": "mistral"})), vec!["model_type", "mistral"]),
        ("config.json", config(json!({"attention_bias": "yes"})), vec!["attention_bias"]),
        ("config.json", config(json!({"eos_token_id": "2"})), vec!["eos_token_id"]),
    ] {
        let said = outline(&BTreeMap::from([(file.to_owned(), value)])).unwrap_err().to_string();
        for part in parts {
            assert!(said.contains(part), "{file}: {part:?} is not in: {said}");
        }
    }
}

/// The ends of a reply are those that transformers generates with: of generation_config.json, of config.json, of the class.
#[test]
fn ends_are_those_of_the_generation() {
    let ends = |files: &[(&str, Value)]| {
        let files = files.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        outline(&files).unwrap().architecture.ends
    };
    let text = std::fs::read_to_string(golden_folder().join("tiny/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ends(&[]), [2]);
    assert_eq!(ends(&[("generation_config.json", json!({"eos_token_id": [2, 210]}))]), [2, 210]);
    assert_eq!(ends(&[("generation_config.json", json!({"temperature": 1.0}))]), [2]);
    config["eos_token_id"] = Value::Null;
    assert_eq!(ends(&[("config.json", config.clone())]), [0u32; 0]);
    config.as_object_mut().unwrap().remove("eos_token_id");
    assert_eq!(ends(&[("config.json", config)]), [2]);
}
