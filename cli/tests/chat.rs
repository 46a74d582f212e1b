//! `chat` as a user types it, on the tiny model and an adapter whose replies transformers computed (`python/published_readers.py`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::{Place, assert_fails, text};

fn at(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published").join(name).display().to_string()
}

#[test]
fn one_prompt_gets_the_reply_that_transformers_gives() {
    let p = Place::new();
    let golden: Value = serde_json::from_slice(&std::fs::read(at("golden.json")).unwrap()).unwrap();
    let question = golden["question"].as_str().unwrap();
    let most = golden["answers"]["tokens"].to_string();
    let wanted = golden["answers"]["target"].as_str().unwrap().trim();
    // A folder needs no store, and none is made.
    let target = at("target");
    let found = p.json(&["chat", &target, question, "--max-tokens", &most, "--both"]);
    assert_eq!(found["schema"], "chat/1");
    assert_eq!(found["reply"], wanted);
    assert_eq!(
        (&found["stopped_by"], &found["tokens"]),
        (&"max_tokens".into(), &golden["answers"]["tokens"])
    );
    assert!(found["base"]["reply"].is_string() && found["base"]["reply"] != found["reply"]);
    assert!(!p.path("store").exists());
    let base = p.json(&["chat", "--base", question, "--max-tokens", &most]);
    assert_eq!((&base["reply"], &base["adapter"]), (&found["base"]["reply"], &Value::Null));

    // The same of the store's own, told as it comes; from stdin; both under their names.
    assert!(p.run(&["adapter", "import", &target, "--name", "target"]).status.success());
    let shown = |out: &[u8]| text(out).trim_end_matches('\n').to_owned();
    let plain = p.run(&["chat", "imported/target", question, "--max-tokens", &most]);
    assert_eq!(shown(&plain.stdout), fence::shown_lines(wanted));
    assert!(text(&plain.stderr).contains("cut off after"), "{}", text(&plain.stderr));
    let args = Place::arguments(&["chat", "imported/target", "--max-tokens", &most]);
    let piped = p.command(&[]).args(args).write_stdin(question).output().unwrap();
    assert_eq!(piped.stdout, plain.stdout);
    let both = shown(&p.run(&["chat", "imported/target", question, "--max-tokens", &most, "--both"]).stdout);
    assert!(both.starts_with("[base model]\n") && both.contains("\n\n[imported/target]\n"), "{both}");

    // A seed decides the draws; a system prompt is heard.
    let draw = |seed: &str| {
        let args = [
            "chat",
            "imported/target",
            question,
            "--max-tokens",
            &most,
            "--temperature",
            "1",
            "--top-k",
            "40",
        ];
        p.json(&[&args[..], &["--top-p", "0.95", "--seed", seed]].concat())["reply"].clone()
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
    let told =
        p.json(&["chat", &target, question, "--max-tokens", &most, "--system", "You talk about rivers."]);
    assert_ne!(told["reply"], wanted);
}

#[test]
fn a_session_remembers_until_it_is_told_to_forget() {
    let p = Place::new();
    let target = at("target");
    let session = |said: &str| {
        let args = Place::arguments(&["chat", &target, "--session", "--max-tokens", "6"]);
        let out = p.command(&[]).args(args).write_stdin(said).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        (text(&out.stdout), text(&out.stderr))
    };
    let (once, _) = session("What is it?\n");
    let (fresh, _) = session("Talk.\n");
    let (all, said) = session("What is it?\nTalk.\n/reset\nTalk.\n/what\n/quit\nWhat is it?\n");
    assert!(all.starts_with(&once) && all.ends_with(&fresh), "{all:?} {once:?} {fresh:?}");
    assert_ne!(all, format!("{once}{fresh}{fresh}"), "the second turn knows the first");
    assert!(said.contains("the conversation is forgotten") && said.contains("/what: there are"), "{said}");
    // What is too long is said, and the session goes on as if it had not been.
    let long = "many words and more ".repeat(60);
    let (after, said) = session(&format!("{long}\nWhat is it?\n"));
    assert_eq!(after, once);
    assert!(said.contains("would run past the model's context of 512"), "{said}");
}

#[test]
fn what_cannot_be_is_one_sentence() {
    let p = Place::new();
    let target = at("target");
    let long = "many words and more ".repeat(60);
    p.fails(
        2,
        &["the conversation has", "past the model's context of 512", "--max-tokens"],
        &["chat", &target, &long],
    );
    p.fails(2, &["the prompt is empty"], &["chat", &target, " "]);
    p.fails(2, &["--base is the base model alone", "--both"], &["chat", "--base", &target, "hello"]);
    p.fails(2, &["--temperature", "at least 0"], &["chat", &target, "hello", "--temperature", "-1"]);
    p.fails(2, &["is a whole model, not an adapter"], &["chat", &support::tiny(), "hello"]);
    // Names are looked up before a model is.
    let nowhere = |args: &[&str]| p.command(&[&["--model", "/nowhere"], args].concat()).output().unwrap();
    assert_fails(&nowhere(&["chat", "topic/cats", "hello"]), 3, &["there is no store"]);
    assert!(p.run(&["adapter", "import", &target, "--name", "target"]).status.success());
    assert_fails(
        &nowhere(&["chat", "imported/targe", "hello"]),
        3,
        &["no adapter \"imported/targe\"", "hub:"],
    );
    assert_fails(&nowhere(&["chat", "./nothing", "hello"]), 3, &["./nothing does not exist", "hub:"]);
    let pickled =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/pickled/weight-diff-000.pt");
    let pickled = pickled.display().to_string();
    assert_fails(&nowhere(&["chat", &pickled, "hello"]), 3, &["holds 2 diffs", "#0"]);
    assert_fails(&nowhere(&["chat", &format!("{pickled}#5"), "hello"]), 3, &["has no element 5"]);
    p.fails(
        2,
        &["weight-diff-000.pt", "do not make a difference"],
        &["chat", &format!("{pickled}#1"), "hello"],
    );
    // A .pt file of one adapter is talked to as it is.
    let dit = p.json(&["chat", &at("dit-adapter.pt"), "hello", "--max-tokens", "3"]);
    assert!(dit["reply"].is_string() && dit["adapter"]["id"].is_null());
}
