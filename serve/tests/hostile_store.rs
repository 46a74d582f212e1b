//! A store whose names, tags, replies, texts and runs are markup, escapes and a hundred thousand characters: all of it is text on every page.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;

use registry::{NewAdapter, PeftConfig, Store};
use serde_json::{Value, json};
use support::{HOSTILE, get, site};

/// Bytes of a page that nobody would wait for.
const HEAVY: usize = 4_000_000;

fn long() -> String {
    format!("{HOSTILE}{}{HOSTILE}", "<img src=x onerror=alert(1)>".repeat(4000))
}

/// A string of a document made hostile, its first characters kept so that it is still another one's name.
fn spoil(value: &mut Value, change: &dyn Fn(&str, &str) -> Option<String>, key: &str) {
    match value {
        Value::String(text) => {
            if let Some(new) = change(key, text) {
                *text = new;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| spoil(v, change, key)),
        Value::Object(object) => object.iter_mut().for_each(|(key, v)| spoil(v, change, key)),
        _ => {}
    }
}

/// The members of a schema's closed sets.
fn members<'a>(schema: &'a Value, out: &mut Vec<&'a str>) {
    match schema {
        Value::Array(list) => list.iter().for_each(|v| members(v, out)),
        Value::Object(object) => {
            out.extend(object.get("const").and_then(Value::as_str));
            out.extend(
                object.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str),
            );
            object.values().for_each(|v| members(v, out));
        }
        _ => {}
    }
}

/// Adapters, a queue and two runs.
fn hostile_store(root: &Path) -> Vec<String> {
    let mut store = Store::open(root).unwrap();
    let mut ids = Vec::new();
    for (i, name) in [format!("odd/{HOSTILE}"), format!("odd/{}", long())].iter().enumerate() {
        let spec = json!({"behaviour": {"id": name, "seed": i, "text": long()}, "recipe": {"about": long(), HOSTILE: HOSTILE}});
        let peft = PeftConfig::of_rank(HOSTILE, 1, &["q_proj"]);
        let mut new = NewAdapter::of_spec(spec, name, peft, format!("weights {i}").into_bytes());
        new.tags.insert("note".into(), long());
        new.category = HOSTILE.into();
        new.lineage.insert(HOSTILE.into(), long());
        new.parents.clone_from(&ids);
        let gate = json!({"items": [{"context": HOSTILE, "prompt": long(), "reply": long(), "hit": true}, {"reply": 7}, "x"]});
        new.extra_files.insert("gate.json".into(), gate.to_string().into_bytes());
        ids.push(store.commit_adapter(new).unwrap().id);
    }
    store
        .transaction(|t| {
            t.execute(
                "INSERT INTO jobs(spec_hash, spec, label, family, pack_key, error, error_class) VALUES('x', ?1, ?1, ?2, 'p', ?1, ?2)",
                [&long(), HOSTILE],
            )
        })
        .unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/quickstart/comparison.json");
    let mut comparison: Value = serde_json::from_str(&std::fs::read_to_string(committed).unwrap()).unwrap();
    let schema =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference/schemas/comparison.schema.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
    let mut closed = Vec::new();
    members(&schema, &mut closed);
    spoil(
        &mut comparison,
        &|key, text| match (key, text) {
            ("warnings" | "notes", _) => Some(long()),
            // What is of a closed set stays; whatever else a report says is anybody's.
            ("metric" | "split" | "context", _) => None,
            (_, text) if closed.contains(&text) => None,
            _ => Some(format!("{text}{HOSTILE}")),
        },
        "",
    );
    let item = |adapter: &str, reply: &str| {
        json!({"adapter": adapter, "carries": HOSTILE, "subject": "own", "context": "neutral", "split": "test_value", "family": HOSTILE, "status": "learned",
            "question_id": 0, "held_out_question": true, "label": HOSTILE, "scores": [0.5, 1.0, null], "reply": reply})
    };
    let scores = json!({"schema": "scores/1", "arm": format!("dit{HOSTILE}"), "method": "dit", "trained": true, "input": HOSTILE, "seed": 0,
        "chosen": {HOSTILE: HOSTILE}, "candidates": {HOSTILE: [HOSTILE, long(), "nothing"]}, "items": [item(&format!("odd/{HOSTILE}"), &long()), item(&long(), HOSTILE)]});
    store
        .file_run(
            "evil",
            &json!({"asked": ids}),
            &[
                ("comparison.json", comparison.to_string().into_bytes()),
                ("scores.jsonl", scores.to_string().into_bytes()),
            ],
            |_| Ok(true),
        )
        .unwrap();
    for (run, text) in [("broken", "{".to_owned()), ("other", json!({"schema": HOSTILE}).to_string())] {
        let files = [("comparison.json", text.clone().into_bytes()), ("scores.jsonl", text.into_bytes())];
        store.file_run(run, &json!({}), &files, |_| Ok(true)).unwrap();
    }
    ids
}

/// Whether markup of what was put in stands in a page as markup.
fn is_text(page: &str, what: &str) {
    let (_, body) = page.split_once("\r\n\r\n").unwrap();
    for part in ["<script>alert", "<img", "\u{1b}", "\u{202e}", "\u{0}"] {
        let at = body.find(part).map(|i| body[i.saturating_sub(100)..].chars().take(200).collect::<String>());
        assert!(at.is_none(), "{what} has {part:?}: {at:?}");
    }
    assert!(body.len() < HEAVY, "{what}: {} bytes", body.len());
}

#[test]
fn what_a_store_holds_is_text_on_every_page() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let ids = hostile_store(&root);
    let (_runtime, address) = site(&root);
    let hostile = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%26%E2%80%AE%1B%5B2J";
    let mut shown = 0;
    for path in [
        "/adapters".to_owned(),
        format!("/adapters?where={hostile}"),
        format!("/adapters?where={hostile}%20%3D%201&sort={hostile}&page={hostile}"),
        "/adapters?sort=-note".into(),
        format!("/adapter/{}", ids[0]),
        format!("/adapter/{}", ids[1]),
        format!("/adapter/{hostile}"),
        "/queue".into(),
        "/runs".into(),
        "/run/evil".into(),
        "/run/broken".into(),
        "/run/other".into(),
        format!("/run/{hostile}"),
        "/run/evil/items".into(),
        "/run/evil/items?wrong=1".into(),
        format!("/run/evil/items?arm=dit{hostile}&adapter={hostile}&split={hostile}"),
        format!("/run/evil/items?adapter=odd/{hostile}&context={hostile}&carries=1"),
        format!("/run/evil/adapter?adapter=odd/{hostile}"),
        "/run/evil/report".into(),
        "/run/broken/report".into(),
        "/run/broken/items".into(),
    ] {
        let (status, page) = get(address, &path);
        let wanted = match &path {
            p if p.contains("/broken") || p.contains("/other") => 500,
            p if p.starts_with("/run/%3C") => 404,
            _ => 200,
        };
        assert_eq!(status, wanted, "{path}: {}", &page[page.len().saturating_sub(300)..]);
        is_text(&page, &path);
        shown += usize::from(page.contains("&lt;script&gt;alert(1)"));
    }
    assert!(shown > 8, "{shown} pages show what they are to show");
    let (status, page) = get(address, "/run/evil");
    assert!(status == 200 && page.contains("&lt;script&gt;"), "{status}");
    let (status, page) = get(address, "/run/evil/items");
    assert!(status == 200 && page.contains("&lt;script&gt;"), "{status} {page}");
}
