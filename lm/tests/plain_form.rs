//! Models without a chat template of their own, and templates that are given.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use lm::{BaseModel, Checkpoint, Origin, Outline, Precision, Request, Row, Sampling, Stop};
use serde_json::{Value, json};
use support::tiny_folder;

/// The tiny model with another `tokenizer_config.json`, and a first token before texts.
fn base(at: &Path, said: &Value, first: bool) {
    for entry in std::fs::read_dir(tiny_folder()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), at.join(entry.file_name())).unwrap();
    }
    std::fs::write(at.join("tokenizer_config.json"), said.to_string()).unwrap();
    if first {
        let path = at.join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = "<|endoftext|>";
        json["post_processor"] = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {name: {"id": name, "ids": [0], "tokens": [name]}}});
        std::fs::write(path, json.to_string()).unwrap();
    }
}

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}";

#[test]
fn a_base_model_has_a_plain_form() {
    for first in [false, true] {
        let at = tempfile::tempdir().unwrap();
        base(at.path(), &json!({"eos_token": "<|endoftext|>"}), first);
        let outline = Outline::load(at.path(), Precision::F32).unwrap();
        assert_eq!(outline.chat.origin(), Origin::Plain);
        let text = |text: &str| outline.tokenizer.encode(text).unwrap();
        let start = if first { vec![0] } else { vec![] };
        let expected = [start, text("User: Tell <|im_end|> me\n more.\nAssistant:\n")].concat();
        assert_eq!(outline.prompt("Tell <|im_end|> me\n more.").unwrap(), expected);
        assert_eq!(outline.reply("So.").unwrap(), [text("So."), vec![0]].concat());
        assert_eq!(outline.stop().tokens, [2, 0]);
        assert_eq!(outline.stop().line.unwrap().1, "User:");
    }
    let at = tempfile::tempdir().unwrap();
    base(at.path(), &json!({}), false);
    let said = Outline::load(at.path(), Precision::F32).unwrap_err().to_string();
    assert!(said.contains("eos_token"), "{said}");
}

#[test]
fn a_given_template_is_the_models_own() {
    let own = tempfile::tempdir().unwrap();
    base(own.path(), &json!({"chat_template": TEMPLATE}), false);
    let none = tempfile::tempdir().unwrap();
    base(none.path(), &json!({"eos_token": "<|endoftext|>"}), false);
    let broken = tempfile::tempdir().unwrap();
    base(broken.path(), &json!({"chat_template": "{% if"}), false);
    let digest = Outline::load(own.path(), Precision::F32).unwrap().digest();
    assert!(Outline::load(broken.path(), Precision::F32).is_err());
    for folder in [none.path(), broken.path(), own.path()] {
        let given = Outline::load_with(folder, Precision::F32, Some(TEMPLATE)).unwrap();
        assert_eq!((given.digest(), given.chat.origin()), (digest.clone(), Origin::Given));
        assert_eq!(BaseModel::load_with(folder, Precision::F32, Some(TEMPLATE)).unwrap().digest(), digest);
        assert!(given.stop().line.is_none());
        Outline::probe(folder, Some(TEMPLATE)).unwrap();
    }
    assert_ne!(Outline::load(none.path(), Precision::F32).unwrap().digest(), digest);
    let said = Outline::load_with(own.path(), Precision::F32, Some("{{ 1 }}")).unwrap_err().to_string();
    assert!(said.contains("chat template"), "{said}");
}

/// A merged model has the template that its adapter was made under.
#[test]
fn a_given_template_goes_along_into_a_merged_model() {
    let none = tempfile::tempdir().unwrap();
    base(none.path(), &json!({"eos_token": "<|endoftext|>"}), false);
    let out = none.path().join("merged");
    let loaded = Checkpoint::load_with(none.path(), Some(TEMPLATE)).unwrap();
    let extra = BTreeMap::new();
    lm::export(none.path(), &loaded, &[], lm::ExportDtype::F32, lm::SHARD_BYTES, &extra, &out).unwrap();
    assert_eq!(Outline::load(&out, Precision::F32).unwrap().chat.digest(), loaded.chat.digest());
}

#[test]
fn a_reply_ends_where_the_model_goes_on_as_the_user() {
    let base = BaseModel::load(&tiny_folder(), Precision::F32).unwrap();
    let request = Request {
        prompt: Row::plain(base.prompt("Tell me a thing.").unwrap()),
        max_new_tokens: 24,
        sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 },
        seed: 11,
    };
    let generate = |stop: Stop<'_>| base.decoder.generate(&[], std::slice::from_ref(&request), stop).unwrap();
    let free = generate(Stop::default()).remove(0);
    let text = |tokens: &[u32]| base.tokenizer.decode(tokens).unwrap();
    // What it writes first, taken for the beginning of a line that ends a reply.
    let n = (1..20).find(|&n| !text(&free.tokens[..n]).trim().is_empty()).unwrap();
    let line: &'static str = Box::leak(text(&free.tokens[..n]).trim().to_owned().into_boxed_str());
    let ended = generate(Stop { tokens: vec![], line: Some((&base.tokenizer, line)) }).remove(0);
    assert_eq!((ended.tokens.len(), ended.stopped_by), (0, Some(free.tokens[n - 1])));
    let other = generate(Stop { tokens: vec![], line: Some((&base.tokenizer, "User:")) }).remove(0);
    assert_eq!(other, free);
}
