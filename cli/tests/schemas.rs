//! The committed schemas (docs/src/reference/schemas/) against files that the binary writes, and files that it refuses.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};
use support::{Place, text};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference/schemas")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn schema(name: &str) -> Value {
    read(&folder().join(format!("{name}.schema.json")))
}

/// Whether a format's schema takes a document.
fn fits(name: &str, document: &Value) -> bool {
    jsonschema::draft202012::is_valid(&schema(name), document)
}

/// The same schema for what is written here and now: it names every key.
fn closed(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(closed),
        Value::Object(keys) => {
            keys.values_mut().for_each(closed);
            if keys.get("type").is_some_and(|t| t == "object")
                && keys.contains_key("properties")
                && !keys.contains_key("additionalProperties")
            {
                keys.insert("additionalProperties".into(), false.into());
            }
        }
        _ => {}
    }
}

fn strict(name: &str) -> Validator {
    let mut schema = schema(name);
    closed(&mut schema);
    jsonschema::draft202012::new(&schema).unwrap()
}

/// Asserts that documents are of a format, and hold no key that its schema lacks.
fn are(name: &str, documents: &[Value]) {
    let schema = strict(name);
    assert!(!documents.is_empty(), "{name}");
    for document in documents {
        if let Some(e) = schema.iter_errors(document).next() {
            panic!("{name}: {e} at {}", e.instance_path());
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Every `.json` file of a folder.
fn all(folder: &Path) -> Vec<Value> {
    std::fs::read_dir(folder).unwrap().map(|e| read(&e.unwrap().path())).collect()
}

/// The first file of a tar file.
fn first_of(tar: &Path) -> Value {
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let mut text = String::new();
    entry.read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_a_store_and_its_exports_hold_is_of_the_schemas() {
    let p = Place::new();
    let done = |args: &[&str]| {
        let out = p.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    };
    let at = |name: &str| p.path(name).display().to_string();
    done(&["quickstart", "--smoke"]);
    let list = p.json(&["adapter", "list"]);
    let trained = |a: &&Value| a["family"] == "gated-topic";
    let name =
        list["adapters"].as_array().unwrap().iter().find(trained).unwrap()["behaviour"].as_str().unwrap();
    done(&["adapter", "alias", "best", name]);

    are("receipt", &all(&p.path("store/done")));
    are("aliases", &[read(&p.path("store/aliases.json"))]);
    are("run", &[read(&p.path("store/runs/smoke/config.json"))]);
    are("comparison", &[read(&p.path("store/runs/smoke/comparison.json"))]);
    are("scores", &lines(&p.path("store/runs/smoke/scores.jsonl")));
    are("reading", &[p.json(&["read", name])]);
    are("readings", &[p.json(&["read", name, "random/4"])]);

    done(&["adapter", "export", name, &at("plain")]);
    are("adapter", &[read(&p.path("plain/lorafab.json"))]);
    done(&["adapter", "export", name, &at("whole"), "--merged"]);
    are("merged", &[read(&p.path("whole/lorafab.json"))]);
    done(&["adapter", "bundle", &at("all.tar")]);
    are("bundle", &[first_of(&p.path("all.tar"))]);
    done(&["adapter", "dataset", &at("set")]);
    are("index-line", &lines(&p.path("set/index.jsonl")));
    for (kind, config) in [("dit", "dit_config"), ("oracle-scratch", "ao_config")] {
        let readers = p.json(&["reader", "list"]);
        let of = |r: &&Value| r["name"].as_str().unwrap().starts_with(&format!("reader/{kind}/"));
        let reader = readers["readers"].as_array().unwrap().iter().find(of).unwrap();
        done(&["reader", "export", reader["name"].as_str().unwrap(), &at(kind)]);
        are(config, &[read(&p.path(&format!("{kind}/{config}.json")))]);
    }
    are("intervention", &[p.json(&["intervention", "show", "random/4", "What is it about?"])]);
    what_the_store_refuses_the_schemas_refuse(&p);
}

/// Damages files of a store one by one, which a check finds; and readers' settings, which are not taken in.
fn what_the_store_refuses_the_schemas_refuse(p: &Place) {
    let check = |problem: bool| {
        let out = p.run(&["registry", "check"]);
        assert_eq!(out.status.code(), Some(i32::from(problem)), "{}", text(&out.stdout));
    };
    check(false);
    let receipt = std::fs::read_dir(p.path("store/done")).unwrap().next().unwrap().unwrap().path();
    let damaged = |name: &str, path: &Path, at: &str, value: Value| {
        let good = std::fs::read(path).unwrap();
        let mut document = read(path);
        *document.pointer_mut(at).unwrap() = value;
        assert!(!fits(name, &document), "{name} {at}");
        std::fs::write(path, document.to_string()).unwrap();
        check(true);
        std::fs::write(path, &good).unwrap();
    };
    for (at, value) in
        [("/adapter/id", json!("x")), ("/adapter/role", json!("cook")), ("/adapter", json!(null))]
    {
        damaged("receipt", &receipt, at, value);
    }
    for (at, value) in [("/best", json!(7)), ("", json!([]))] {
        damaged("aliases", &p.path("store/aliases.json"), at, value);
    }
    for (at, value) in [("/asked", json!(7)), ("/readers/0", json!(null))] {
        damaged("run", &p.path("store/runs/smoke/config.json"), at, value);
    }
    check(false);
    let path = p.path("dit/dit_config.json");
    let good = read(&path);
    for scale in [json!(0), json!(101), json!("x"), json!([])] {
        let mut config = good.clone();
        config["diff_scale"] = scale;
        assert!(!fits("dit_config", &config), "{config}");
        std::fs::write(&path, config.to_string()).unwrap();
        let folder = p.path("dit").display().to_string();
        let out = p.in_store("other", &["reader", "add", &folder]);
        assert_eq!(out.status.code(), Some(2), "{config}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains("diff_scale"), "{}", text(&out.stderr));
    }
}

#[test]
fn errors_are_of_their_schema() {
    let p = Place::new();
    for (code, args) in [
        (3, &["recipe", "check", "/nowhere"][..]),
        (2, &["--no-such-option"]),
        (3, &["adapter", "show", "x"]),
        (5, &["--model", "/nowhere", "doctor"]),
    ] {
        let out = p.command(args).arg("--json").output().unwrap();
        let stderr = text(&out.stderr);
        let line: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        are("error", std::slice::from_ref(&line));
        assert_eq!(line["error"]["code"], code, "{args:?}: {stderr}");
        for (key, other) in
            [("code", json!(4)), ("message", json!(null)), ("hints", json!("x")), ("more", json!(1))]
        {
            let mut line = line.clone();
            line["error"][key] = other;
            assert!(!fits("error", &line), "{key}");
        }
    }
}

#[test]
fn the_page_of_formats_links_every_schema() {
    let page = std::fs::read_to_string(folder().join("../files.md")).unwrap();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&format!("(schemas/{name})")), "{name} is not linked");
    }
}
