//! Chat templates and tokens, against transformers (`golden/templates.py`): the same tokens, or a refusal by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lm::{Message, Outline, Precision, Role};
use serde::Deserialize;
use serde_json::{Value, json};
use support::golden_folder;

#[derive(Deserialize)]
struct Case {
    name: String,
    files: BTreeMap<String, Value>,
    /// Tokens of its own.
    added: Vec<Value>,
    /// Of each text's prompt, and of a conversation with a reply and the same turn again; none where a text spells a control token.
    tokens: Vec<Option<Vec<u32>>>,
    whole: Vec<Option<Vec<u32>>>,
}

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    reply: String,
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

/// The files of the tiny tokenizer with more tokens, and of the configuration with rows for them.
fn with_tokens(added: &[Value], files: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(golden_folder().join("tiny").join(name)).unwrap()).unwrap()
    };
    let (mut tokenizer, mut config) = (read("tokenizer.json"), read("config.json"));
    tokenizer["added_tokens"].as_array_mut().unwrap().extend_from_slice(added);
    config["vocab_size"] = (config["vocab_size"].as_u64().unwrap() + added.len() as u64).into();
    let mut all =
        BTreeMap::from([("tokenizer.json".to_owned(), tokenizer), ("config.json".to_owned(), config)]);
    all.extend(files.clone());
    all
}

#[test]
fn conversations_have_the_tokens_that_transformers_gives_them() {
    let text = std::fs::read_to_string(golden_folder().join("templates.json")).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let mut digests = BTreeMap::new();
    for case in &golden.cases {
        let outline =
            outline(&with_tokens(&case.added, &case.files)).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let turn = |role, said: &str| Message::new(role, said);
        for ((text, tokens), whole) in golden.texts.iter().zip(&case.tokens).zip(&case.whole) {
            let found = outline.prompt(text).unwrap_or_else(|e| panic!("{}: {text:?}: {e}", case.name));
            if let Some(tokens) = tokens {
                assert_eq!(&found, tokens, "{}: {text:?}", case.name);
            }
            let user = turn(Role::User, text);
            let messages = [turn(Role::System, ""), user.clone(), turn(Role::Assistant, &golden.reply), user];
            if let Some(whole) = whole {
                let found = outline.chat.encode(&outline.tokenizer, &messages, true).unwrap();
                assert_eq!(&found, whole, "{}: {text:?} and a reply", case.name);
                // The same as one text, of three turns.
                let turns = fence::turns::join(&[text, &golden.reply, text]);
                assert_eq!(&outline.prompt(&turns).unwrap(), whole, "{}: {text:?} in turns", case.name);
                let said =
                    outline.prompt(&fence::turns::join(&[text, &golden.reply])).unwrap_err().to_string();
                assert!(said.contains("2 turns"), "{said}");
            }
        }
        // What changes tokens changes the digest.
        if let Some((other, tokens)) = digests.insert(outline.digest(), (&case.name, &case.tokens)) {
            assert_eq!(tokens, &case.tokens, "{other} and {} have one digest", case.name);
        }
    }
    assert!(golden.cases.len() > 25);
}

/// What a user says makes no control token, whatever the template does with it.
#[test]
fn control_tokens_that_are_said_stay_text() {
    let text = std::fs::read_to_string(golden_folder().join("templates.json")).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    for case in &golden.cases {
        let outline = outline(&with_tokens(&case.added, &case.files)).unwrap();
        let special = outline.tokenizer.special_tokens();
        let controls = |text: &str| -> Vec<u32> {
            let tokens = outline.prompt(text).unwrap();
            tokens.into_iter().filter(|t| special.values().any(|s| s == t)).collect()
        };
        let expected = controls("thing");
        for token in special.keys() {
            for said in [token.clone(), format!("{token}{token} x"), format!("a {} b{token}", &token[1..])] {
                assert_eq!(controls(&said), expected, "{}: {said:?}", case.name);
            }
            let shouted = token.to_uppercase();
            assert_eq!(controls(&shouted), expected, "{}: {shouted:?}", case.name);
        }
    }
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
        if let Some(i) = same {
            added[i].as_object_mut().unwrap().extend(token.as_object().unwrap().clone());
        } else {
            let mut whole =
                json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
            whole.as_object_mut().unwrap().extend(token.as_object().unwrap().clone());
            added.push(whole);
        }
        tokenizer
    };
    for (file, value, parts) in [
        (
            "tokenizer_config.json",
            template(&chatml.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}")),
            vec!["once"],
        ),
        (
            "tokenizer_config.json",
            template(&format!("{{{{ strftime_now('%Q') }}}}{chatml}")),
            vec!["strftime_now", "%Q"],
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
            tokenizer(json!({"id": 330, "content": "<|x|>", "special": true})),
            vec!["<|x|>", "330", "320"],
        ),
        (
            "tokenizer.json",
            tokenizer(json!({"id": 320, "content": "<x>", "special": false})),
            vec!["320", "embedding has 320 rows"],
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
