//! `--chat-template`, and models that have no template of their own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::process::Output;

use support::{Place, assert_error, text, tiny};

const LOOK: &str = r#"{"v": 1, "inputs": {"x": {"chat": {"user": "Tell me a thing."}}}, "out": [], "steps": [
    {"op": "generate", "id": "reply", "input": "x", "sample": {"max": 1}}]}"#;
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}";

/// Generates under the tiny model without a template, with these global options.
fn run(place: &Place, options: &[&str]) -> Output {
    let folder = place.path("model");
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(tiny()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        std::fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "<|im_end|>"}"#).unwrap();
        std::fs::write(place.path("look.json"), LOOK).unwrap();
        std::fs::write(place.path("own.jinja"), TEMPLATE).unwrap();
    }
    let args = [&["--model", "model", "--precision", "f32"], options, &["intervention", "run", "look.json"]];
    place.command(&args.concat()).current_dir(place.folder.path()).output().unwrap()
}

#[test]
fn a_model_without_a_template_has_a_plain_form_and_it_is_said_once() {
    let place = Place::new();
    let said = text(&run(&place, &[]).stderr);
    assert_eq!(said.matches("the model has no chat template").count(), 1, "{said}");
    assert!(said.contains("--chat-template FILE"), "{said}");
    let quiet = run(&place, &["-q"]);
    assert!(quiet.status.success() && !text(&quiet.stderr).contains("template"), "{}", text(&quiet.stderr));
}

#[test]
fn a_given_template_is_used_and_a_bad_one_is_one_sentence() {
    let place = Place::new();
    let given = run(&place, &["--chat-template", "own.jinja"]);
    let said = text(&given.stderr);
    assert!(given.status.success() && !said.contains("no chat template"), "{said}");
    assert_ne!(given.stdout, run(&place, &[]).stdout, "another prompt, another reply or digest");
    assert_error(&run(&place, &["--chat-template", "none.jinja"]), 5, &["none.jinja"]);
    for (bad, why) in [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "fuel"),
        ("{% if", "compile"),
        ("{{ 'a' * 1000000000 }}", "fuel"),
    ] {
        std::fs::write(place.path("bad.jinja"), bad).unwrap();
        assert_error(&run(&place, &["--chat-template", "bad.jinja"]), 5, &["chat template", why]);
    }
}
