//! Whether schemas are true: held against what reads the files, on committed ones and on thousands of small mutations of them.

use std::collections::BTreeSet;
use std::path::Path;

use compare::{Arms, Comparison, scores::Scores};
use lm::{Outline, Precision};
use oracle_posttrain::intervention::Spec;
use oracle_posttrain::{AoConfig, Choice};
use reading::{Many, Reading};
use recipes::{Recipe, Settings};
use registry::{AdapterRecord, NewAdapter, PeftConfig, Store};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::FORMATS;

/// A reader of a format, and files of it.
struct Case {
    format: &'static str,
    files: Vec<Value>,
    /// Whether the shape is right: what a schema can know.
    shaped: Box<dyn Fn(&Value) -> bool>,
    /// Whether all is right.
    read: Box<dyn Fn(&Value) -> bool>,
    /// What its reader refuses in some place, at least.
    refuses: &'static [Sort],
}

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    /// A key that is not known.
    Unknown,
    /// A key less.
    Missing,
    /// Another value.
    Other,
}

const ALL: &[Sort] = &[Sort::Unknown, Sort::Missing, Sort::Other];
/// Of a form that newer builds may add keys to.
const OPEN: &[Sort] = &[Sort::Missing, Sort::Other];

fn from<T: DeserializeOwned>(value: &Value) -> bool {
    serde_json::from_value::<T>(value.clone()).is_ok()
}

/// A reader of texts. What TOML cannot hold (null) it does not read.
fn through_toml(read: impl Fn(&str) -> bool + 'static) -> Box<dyn Fn(&Value) -> bool> {
    Box::new(move |value| toml::to_string(value).is_ok_and(|text| read(&text)))
}

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The files of a folder with this ending, as JSON.
fn files(folder: &str, ending: &str) -> Vec<Value> {
    let mut paths: Vec<_> = std::fs::read_dir(root(folder)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.to_string_lossy().ends_with(ending));
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no {ending}");
    paths.iter().map(|p| read(p)).collect()
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    if path.extension().is_some_and(|e| e == "toml") {
        from_toml(&text)
    } else {
        serde_json::from_str(&text).unwrap()
    }
}

fn from_toml(text: &str) -> Value {
    toml::from_str(text).unwrap()
}

fn recipe() -> Case {
    let mut all = files("recipes/builtin", ".toml");
    all.extend(files("recipes/tests/recipes", ".toml"));
    all.push(from_toml(&recipes::template("mine").unwrap()));
    Case {
        format: "recipe",
        files: all,
        shaped: Box::new(from::<Recipe>),
        read: Box::new(|v| Recipe::from_canonical("x", v.to_string().as_bytes()).is_ok()),
        refuses: ALL,
    }
}

fn settings() -> Case {
    Case {
        format: "settings",
        files: files("recipes/builtin/settings", ".toml"),
        shaped: Box::new(from::<Settings>),
        read: through_toml(|text| Settings::parse("x", text).is_ok()),
        refuses: ALL,
    }
}

fn arms() -> Case {
    Case {
        format: "arms",
        files: files("compare/arms", ".toml"),
        shaped: Box::new(from::<Arms>),
        read: through_toml(|text| Arms::parse("x", text).is_ok()),
        refuses: ALL,
    }
}

fn study_file() -> Case {
    // One is enough: they are long, and alike.
    let mut all = files("studies", ".toml");
    all.truncate(1);
    Case {
        format: "study",
        files: all,
        shaped: Box::new(from::<study::Study>),
        read: through_toml(|text| study::Study::parse("x", text).is_ok()),
        refuses: ALL,
    }
}

fn jobs() -> Case {
    let file = r#"
        schema = "jobs/1"
        [[job]]
        name = "some"
        kind = "adapters"
        recipes = ["topic"]
        limit = 40
        seed = 2
        max_tflop = 3
        tags = ["first"]
        priority = -1
        attempts = 2
        [[job]]
        name = "look"
        kind = "intervention"
        spec = "look.json"
        after = ["some"]
        max_mb = 0.5
        [[job]]
        name = "mine"
        kind = "comparison"
        of = ["some"]
        after_any = ["look"]
        arms = "arms.toml"
        seeds = 2
        smoke = true
    "#;
    let parses = || through_toml(crate::commands::factory::jobs::schema::parses);
    Case { format: "jobs", files: vec![from_toml(file)], shaped: parses(), read: parses(), refuses: ALL }
}

fn intervention() -> Case {
    let digest = "0a".repeat(32);
    let spec = json!({"v": 1, "out": ["d"],
        "inputs": {"a": {"chat": {"system": "Be brief.", "user": "Hello."}}, "b": {"text": "x"}, "c": {"tokens": [1, 2]},
            "q": {"question": {"layers": [1, 2], "slots": 2, "text": "What is it?",
                "form": {"template": "inline-dot", "placeholder": " ?", "layer": 1, "no_system": true}}}},
        "vectors": {"m": {"blob": digest, "tensor": "mean", "rows": [0, 1]}},
        "steps": [
            {"op": "forward", "id": "f", "model": {"adapters": ["x"]}, "input": "a", "collect": [
                {"id": "h", "layer": 1, "site": "resid_post", "pos": {"last": 2}}, {"id": "i", "depth": 0.5, "pos": "all"},
                {"id": "j", "depth": 0.5, "pos": {"range": [0, 1]}}, {"id": "k", "depth": 0.5, "pos": {"at": [0, 1]}}],
                "inject": [{"layer": 0, "pos": {"slots_of": 1}, "src": "m", "mode": "add_relative", "coef": 2.0}]},
            {"op": "sub", "id": "d", "a": "h", "b": "i"},
            {"op": "mean", "id": "e", "of": ["d"], "over": "positions"},
            {"op": "scale", "id": "s", "a": "e", "coef": 2, "per": "m"},
            {"op": "unembed_topk", "id": "t", "a": "s", "k": 3},
            {"op": "generate", "id": "g", "input": "q", "inject": [{"layer": 1, "pos": "slots", "src": "s"}],
                "sample": {"t": 0.5, "k": 4, "p": 0.9, "max": 4, "seed": 1}}]});
    let read = || Box::new(|v: &Value| Spec::from_value(v.clone()).is_ok());
    Case { format: "intervention", files: vec![spec], shaped: read(), read: read(), refuses: ALL }
}

fn comparison() -> Case {
    let runs = std::fs::read_dir(root("results")).unwrap().map(|e| e.unwrap().path().join("comparison.json"));
    Case {
        format: "comparison",
        files: runs.filter(|p| p.exists()).map(|p| read(&p)).collect(),
        shaped: Box::new(from::<Comparison>),
        read: Box::new(|v| compare::read(&v.to_string()).is_ok()),
        refuses: OPEN,
    }
}

fn scores() -> Case {
    let line = json!({"schema": "scores/1", "arm": "dit", "method": "dit", "trained": true, "input": "8 neutral prompts", "seed": 1,
        "chosen": {"labels": "true"}, "candidates": {"topic": ["cats", "nothing"]},
        "items": [{"adapter": "topic/cats", "carries": "topic", "subject": "own", "context": "neutral", "split": "test_value",
            "family": "topic", "status": "learned", "question_id": 0, "held_out_question": true, "label": "cats", "scores": [-0.5, null],
            "answer_nats": 0.25, "reply": "cats"}],
        "budget": {"supervision_rows": 1, "trainable_parameters": 1, "steps": 1, "rows_seen": 1, "chosen_step": 1, "train_tokens": 1,
            "pretrain_tokens": 1, "train_flops": 1.0, "pretrain_flops": 1.0, "collect_flops": 1.0, "seconds": 1.0},
        "trajectory": [{"step": 1, "train_loss": 0.5, "validation_loss": 0.5, "validation_top1": 0.5, "validation_mrr": 0.5}]});
    let read = |v: &Value| serde_json::from_value::<Scores>(v.clone()).is_ok_and(|s| s.problem().is_none());
    Case {
        format: "scores",
        files: vec![line],
        shaped: Box::new(from::<Scores>),
        read: Box::new(read),
        refuses: OPEN,
    }
}

/// The same of what says that it is of a schema: readings are kept under digests of which it is a part.
fn of_schema<T: DeserializeOwned>(schema: &'static str) -> Box<dyn Fn(&Value) -> bool> {
    Box::new(move |value| value["schema"] == schema && from::<T>(value))
}

fn one_reading() -> Case {
    Case {
        format: "reading",
        files: ["tulips", "tutorial"].map(|name| read(&root(&format!("results/reading/{name}.json")))).into(),
        shaped: Box::new(from::<Reading>),
        read: of_schema::<Reading>(reading::reading::SCHEMA),
        refuses: OPEN,
    }
}

fn readings() -> Case {
    Case {
        format: "readings",
        files: ["peft", "readings"].map(|name| read(&root(&format!("results/reading/{name}.json")))).into(),
        shaped: Box::new(from::<Many>),
        read: of_schema::<Many>("readings/1"),
        refuses: OPEN,
    }
}

fn adapter() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let peft = PeftConfig::of_rank("some/model", 2, &["q_proj"]);
    let mut new = NewAdapter::of_spec(json!({"of": 1}), "topic/cats", peft, vec![1]);
    new.extra_files.insert("recipe.json".into(), b"{}".to_vec());
    new.metrics.insert("gate_on".into(), 0.5);
    new.tags.insert("polarity".into(), "positive".into());
    new.lineage.insert("base".into(), "0a".repeat(32));
    let record = serde_json::to_value(store.commit_adapter(new).unwrap()).unwrap();
    let shaped = || Box::new(from::<AdapterRecord>);
    Case { format: "adapter", files: vec![record], shaped: shaped(), read: shaped(), refuses: OPEN }
}

fn bundle() -> Case {
    // Without adapters it needs no other file than its manifest.
    let readable = || {
        Box::new(|v: &Value| {
            let text = v.to_string();
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            let mut tar = tar::Builder::new(Vec::new());
            tar.append_data(&mut header, "manifest.json", text.as_bytes()).unwrap();
            exchange::bundle::readable(&tar.into_inner().unwrap())
        })
    };
    let files = vec![json!({"schema": "bundle/1", "adapters": []})];
    Case { format: "bundle", files, shaped: readable(), read: readable(), refuses: ALL }
}

fn ao_config() -> Case {
    let outline = Outline::load(&root("lm/tests/golden/tiny"), Precision::F32).unwrap();
    let by_index = read(&root("cli/tests/golden/published/oracle/ao_config.json"));
    let mut by_percent = by_index.clone();
    by_percent.as_object_mut().unwrap().remove("act_layer_combinations");
    by_percent["prefix_template"] = "L{layer}:{special_token} * {num_positions}.\n".into();
    // Nothing tells its shape apart from the rest.
    Case {
        format: "ao_config",
        files: vec![by_index, by_percent],
        shaped: Box::new(|_| true),
        read: Box::new(move |v| AoConfig::read(v.to_string().as_bytes(), &outline, Choice::Middle).is_ok()),
        refuses: ALL,
    }
}

/// Lists of three are enough of everything.
fn short(value: &mut Value) {
    match value {
        Value::Array(list) => {
            list.truncate(3);
            list.iter_mut().for_each(short);
        }
        Value::Object(keys) => keys.values_mut().for_each(short),
        _ => {}
    }
}

/// Every place of a document.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), out)),
        Value::Object(keys) => keys.iter().for_each(|(key, v)| {
            places(v, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out);
        }),
        _ => {}
    }
}

/// Everything that differs from a document in one place.
fn mutations(value: &Value, each: &mut dyn FnMut(Sort, &str, &Value)) {
    let mut all = Vec::new();
    places(value, "", &mut all);
    for at in all {
        let mut changed = value.clone();
        let node = changed.pointer_mut(&at).unwrap();
        let before = node.clone();
        for other in [json!(null), json!(true), json!(-7), json!(1.5), json!("zzz"), json!([]), json!({})] {
            // A list in place of an object is taken as its fields in order, which is no form that anybody writes.
            if other == before || (other == json!([]) && before.is_object()) {
                continue;
            }
            *changed.pointer_mut(&at).unwrap() = other;
            each(Sort::Other, &at, &changed);
        }
        let Some(keys) = before.as_object() else { continue };
        for key in keys.keys() {
            let mut fewer = keys.clone();
            fewer.remove(key);
            *changed.pointer_mut(&at).unwrap() = fewer.into();
            each(Sort::Missing, &at, &changed);
        }
        let mut more = keys.clone();
        more.insert("zzz".into(), json!(1));
        *changed.pointer_mut(&at).unwrap() = more.into();
        each(Sort::Unknown, &at, &changed);
    }
}

/// What a schema refuses its reader refuses, and what is wrong in shape the schema refuses.
fn agrees(case: &Case) {
    let format = FORMATS.iter().find(|f| f.name == case.format).unwrap();
    let schema = jsonschema::draft202012::new(&format.made()).unwrap();
    let mut refused = BTreeSet::new();
    for file in &case.files {
        if let Some(e) = schema.iter_errors(file).next() {
            panic!("{}: {e} at {}", case.format, e.instance_path());
        }
        assert!((case.read)(file), "{}: {file}", case.format);
        let mut file = file.clone();
        short(&mut file);
        assert!(schema.is_valid(&file), "{}: {file}", case.format);
        mutations(&file, &mut |sort, at, changed| {
            // Its shape is only known through its text.
            if case.format == "jobs" && toml::to_string(changed).is_err() {
                return;
            }
            let fits = schema.is_valid(changed);
            let place = || format!("{} {at}, {sort:?}: {:?}", case.format, changed.pointer(at));
            assert!(fits || !(case.read)(changed), "read, and refused by the schema: {}", place());
            assert!(!fits || (case.shaped)(changed), "not read, and by the schema good: {}", place());
            if !fits {
                refused.insert(sort);
            }
        });
    }
    assert!(case.refuses.iter().all(|sort| refused.contains(sort)), "{}: only {refused:?}", case.format);
}

#[test]
fn schemas_and_readers_agree_on_every_small_change_of_what_people_write() {
    for case in [recipe(), settings(), arms(), study_file(), jobs(), intervention(), ao_config()] {
        agrees(&case);
    }
}

#[test]
fn schemas_and_readers_agree_on_every_small_change_of_what_is_written() {
    for case in [comparison(), scores(), one_reading(), readings(), adapter(), bundle()] {
        agrees(&case);
    }
}

/// Most of a line is for people and for tables: what is written is more than what is relied on.
#[test]
fn a_line_of_an_index_that_a_pull_refuses_its_schema_refuses() {
    let (id, digest) = ("0a".repeat(16), "0a".repeat(32));
    let line = json!({"id": id, "folder": format!("adapters/0a/{id}"), "behaviour": "topic/cats", "family": "topic", "value": "cats",
        "category": "animals", "split": null, "role": "weight_diff", "status": "learned", "rank": 2, "lora_alpha": 4.0,
        "base_model": "some/model", "tags": {}, "metrics": {}, "lineage": {}, "parents": [], "weights_blake3": digest, "weights_bytes": 9});
    let format = FORMATS.iter().find(|f| f.name == "index-line").unwrap();
    let schema = jsonschema::draft202012::new(&format.made()).unwrap();
    assert!(schema.is_valid(&line) && exchange::hub::is_index(&line.to_string()));
    let mut refused = 0;
    mutations(&line, &mut |sort, at, changed| {
        if !exchange::hub::is_index(&changed.to_string()) {
            refused += 1;
            assert!(!schema.is_valid(changed), "{sort:?} {at}");
        }
    });
    assert!(refused > 20, "{refused}");
}

#[test]
fn the_schemas_are_schemas() {
    for format in &FORMATS {
        let schema = format.made();
        jsonschema::meta::validate(&schema).unwrap_or_else(|e| panic!("{}: {e}", format.name));
        assert!(schema["description"].as_str().is_some_and(|d| d.ends_with('.')), "{}", format.name);
    }
}
