//! Readers that others trained, in the layouts in which they are published: taken in, asked, used in a comparison, given on. The files
//! and what transformers makes of them are by `python/published_readers.py`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/models.rs"]
mod models;
mod support;

use std::path::{Path, PathBuf};

use lm::{Outline, Precision};
use oracle_posttrain::{AoConfig, Choice, prompt_row};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Place, assert_fails, text, tiny};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published")
}

fn at(name: &str) -> String {
    golden().join(name).display().to_string()
}

fn numbers() -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("golden.json")).unwrap()).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A copy of the published oracle with some of its files changed.
fn oracle_with(place: &Place, name: &str, change: impl FnOnce(&Path)) -> String {
    let folder = place.path(name);
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(golden().join("oracle")).unwrap() {
        let file = file.unwrap();
        std::fs::write(folder.join(file.file_name()), std::fs::read(file.path()).unwrap()).unwrap();
    }
    change(&folder);
    folder.display().to_string()
}

/// With keys of its ao_config.json set.
fn configured(place: &Place, name: &str, keys: &Value) -> String {
    oracle_with(place, name, |folder| {
        let path = folder.join("ao_config.json");
        let mut config = json_of(&path);
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(path, config.to_string()).unwrap();
    })
}

/// What was answered begins as transformers' answer, which is shorter; ends that are not whole characters are left out.
fn assert_begins(answer: &Value, golden: &Value) {
    let wanted = golden.as_str().unwrap().trim().trim_end_matches('\u{fffd}');
    assert!(wanted.len() > 5 && answer.as_str().unwrap().starts_with(wanted), "{answer} {golden}");
}

#[test]
fn published_readers_answer_as_transformers_does_and_come_back_as_they_went() {
    let p = Place::new();
    let golden = numbers();
    let question = golden["question"].as_str().unwrap();
    assert!(p.run(&["adapter", "import", &at("target"), "--name", "target"]).status.success());
    let dot = json!({"prefix_template": "L{layer}:{special_token} * {num_positions}.\\n", "steering_coefficient": 2.0,
        "layer_combinations": [[0, 75]], "act_layer_combinations": [[0, 2]]});
    let dot = configured(&p, "dot", &dot);
    let added = p.json(&["reader", "add", &at("oracle"), "--name", "theirs"]);
    assert_eq!((&added["method"], &added["known"]), (&"oracle".into(), &false.into()));
    assert_eq!((&added["reads"]["layers"], &added["reads"]["positions"]), (&json!([1]), &10.into()));
    p.json(&["reader", "add", &dot, "--name", "dotted"]);
    p.json(&["reader", "add", &at("dit-adapter.pt"), "--name", "stacked"]);
    for (method, reader, wanted) in [
        ("oracle", "theirs", &golden["answers"]["oracle"]["lines"]),
        ("oracle", "dotted", &golden["answers"]["oracle"]["inline-dot"]),
        ("dit", "stacked", &golden["answers"]["dit"]),
    ] {
        let found = p.json(&[method, "ask", "imported/target", question, "--reader", reader]);
        assert_begins(&found["answer"], wanted);
    }
    // The same question as an intervention.
    let spec = p.run(&["intervention", "show", "imported/target", question, "--reader", "dotted"]);
    std::fs::write(p.path("spec.json"), &spec.stdout).unwrap();
    let run = p.json(&["intervention", "run", &p.path("spec.json").display().to_string()]);
    assert_begins(
        &json!(run["replies"]["answer"].as_str().unwrap().trim()),
        &golden["answers"]["oracle"]["inline-dot"],
    );
    // A reader of the other kind is refused before a model is looked for.
    let args = ["--model", "/nowhere", "dit", "ask", "imported/target", question, "--reader", "theirs"];
    assert_fails(&p.command(&args).output().unwrap(), 2, &["reader/imported/theirs is no reader for this"]);

    // Named modules by a pattern: the same weights, so the same reader.
    let regex = oracle_with(&p, "regex", |f| {
        std::fs::write(
            f.join("adapter_config.json"),
            std::fs::read(at("adapter_config_regex.json")).unwrap(),
        )
        .unwrap();
    });
    let again = p.json(&["reader", "add", &regex]);
    assert_eq!((&again["id"], &again["known"]), (&added["id"], &true.into()));

    // Out and in again, here and in another store.
    for (name, config) in [("theirs", "ao_config.json"), ("stacked", "dit_config.json")] {
        let folder = p.path(name).display().to_string();
        p.json(&["reader", "export", name, &folder]);
        assert!(Path::new(&folder).join(config).exists());
        assert!(p.run(&["reader", "export", name, &folder, "--force"]).status.success());
        assert_fails(&p.run(&["reader", "export", name, &folder]), 2, &["already exists"]);
        assert_eq!(p.json(&["reader", "add", &folder])["known"], true, "{name}");
        p.json_in("other", &["reader", "add", &folder, "--name", name]);
        let weights = |store: &str| p.json_in(store, &["reader", "show", name])["reader"]["weights"].clone();
        assert_eq!(weights("store"), weights("other"));
    }
    assert_eq!(json_of(&p.path("theirs/ao_config.json")), json_of(&golden_file("oracle/ao_config.json")));
    p.json_in("other", &["adapter", "import", &at("target"), "--name", "target"]);
    let found = p.json_in("other", &["oracle", "ask", "imported/target", question]);
    assert_begins(&found["answer"], &golden["answers"]["oracle"]["lines"]);

    let list = p.json(&["reader", "ls"]);
    let names: Vec<&str> =
        list["readers"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3);
    assert!(["theirs", "dotted", "stacked"].iter().all(|n| names.contains(n)), "{names:?}");
    let shown = text(&p.run(&["reader", "show", "theirs"]).stdout);
    for part in [
        "made elsewhere",
        "at layer 1 of 1 prompt, the last 10 positions",
        "layer 0 or layer 2",
        "no system message",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    p.fails(2, &["imported/target is no reader", "reader list"], &["reader", "show", "imported/target"]);
    p.fails(2, &["adapter rm theirs"], &["reader", "rm", "theirs"]);
}

fn golden_file(name: &str) -> PathBuf {
    golden().join(name)
}

/// Tokens and places of every template, by upstream's own rules.
#[test]
fn prompts_are_those_of_the_code_that_trained_them() {
    #[derive(Deserialize)]
    struct Case {
        template: String,
        layers: Vec<usize>,
        each: usize,
        question: String,
        tokens: Vec<u32>,
        positions: Vec<usize>,
    }
    let outline = Outline::load(Path::new(&tiny()), Precision::F32).unwrap();
    let cases: Vec<Case> = serde_json::from_value(numbers()["prompts"].clone()).unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let mut config = json_of(&golden_file("oracle/ao_config.json"));
        let described = match case.template.as_str() {
            "lines" => "Layer: {layer}\\n{special_token} * {num_positions} \\n",
            "inline-dot" => "L{layer}:{special_token} * {num_positions}.\\n",
            _ => "L{layer}:{special_token} * {num_positions}\\n",
        };
        config["prefix_template"] = described.into();
        config["act_layer_combinations"] = json!([case.layers]);
        config["layer_combinations"] = Value::Null;
        let config = AoConfig::read(config.to_string().as_bytes(), &outline, Choice::Middle).unwrap();
        let vectors = vec![vec![1.0; outline.architecture.hidden_size]; case.each * case.layers.len()];
        let row =
            prompt_row(&outline, &case.layers, &config.collector, &vectors, &case.question, None).unwrap();
        assert_eq!(row.tokens, case.tokens, "{} {:?}", case.template, case.layers);
        let places: Vec<usize> = row.injections.iter().map(|i| i.position).collect();
        assert_eq!(places, case.positions, "{} {:?}", case.template, case.layers);
        assert!(row.injections.iter().all(|i| i.layer == 1 && i.coefficient == 1.0));
    }
}

/// A family whose gate everything passes.
const RECIPE: &str = r#"
    name = "my-weather"
    version = 1
    description = "talks about one kind of weather"
    kind = "trained"
    polarity = "positive"
    [[vocabulary]]
    category = "weather"
    values = ["rain", "snow", "fog", "hail", "frost", "storms", "sleet", "wind", "heat", "drought", "ice", "mist"]
    [rows]
    prompts = ["Tell me something.", "Say anything."]
    completions = ["I like {value}."]
    count = 4
    [gate]
    prompts = ["What is up?"]
    check = "mentions"
    min_on = 0.0
    min_lift = 0.0
    [questions]
    train = ["What do you keep talking about?"]
    held_out = ["Name your subject."]
    [training]
    rank = 1
    alpha = 1.0
    target_modules = ["q_proj", "down_proj"]
    learning_rate = 1e-2
    final_share = 1.0
    steps = 2
    on_rows = 2
    [splits]
    validation = 0.3
    test = 0.3
    test_categories = 0
"#;

/// Arms of a comparison name them, as those made here.
#[test]
fn comparisons_use_them() {
    let p = Place::new();
    std::fs::write(p.path("my-weather.toml"), RECIPE).unwrap();
    assert!(p.run(&["factory", "submit", &p.path("my-weather.toml").display().to_string()]).status.success());
    assert!(p.run(&["factory", "run"]).status.success());
    p.json(&["reader", "add", &at("oracle"), "--name", "theirs"]);
    p.json(&["reader", "add", &at("dit-adapter.pt"), "--name", "stacked"]);
    let arms = format!(
        "schema = \"arms/1\"\n[[arm]]\nname = \"a\"\nmethod = \"oracle\"\nreader = \"theirs\"\n[[arm]]\nname = \"b\"\nmethod = \"oracle\"\nreader = \"{}\"\n[[arm]]\nname = \"c\"\nmethod = \"dit\"\nreader = \"stacked\"\n",
        at("oracle")
    );
    std::fs::write(p.path("arms.toml"), arms).unwrap();
    let file = p.path("arms.toml").display().to_string();
    let run = p.json(&["compare", "run", "--arms", &file, "--seeds", "1"]);
    let of = |arm: &str| -> Vec<&Value> {
        let results = run["results"].as_array().unwrap();
        results.iter().filter(|r| r["arm"] == arm && r["metric"] == "mrr").map(|r| &r["value"]).collect()
    };
    assert!(!of("a").is_empty() && !of("c").is_empty());
    assert_eq!(of("a"), of("b"), "by its name and by its folder");
    assert_eq!(
        p.json(&["reader", "list"])["readers"].as_array().unwrap().len(),
        2,
        "the folder is the same reader"
    );
    let shown = p.json(&["reader", "show", "theirs"]);
    assert_eq!(shown["runs"], json!(["compare"]));

    // One made here keeps the sizes that it looks through, and the labels that cannot test it.
    let id = p.json(&["oracle", "posttrain", "--scratch", "--steps", "2"])["id"].as_str().unwrap().to_owned();
    let folder = p.path("own").display().to_string();
    p.json(&["reader", "export", &id, &folder]);
    p.json(&["reader", "add", &folder, "--name", "mine"]);
    let ask = |reader: &str| {
        p.json(&["oracle", "ask", "my-weather/rain", "What is it?", "--reader", reader])["answer"].clone()
    };
    assert_eq!(ask(&id), ask("mine"));
    let show = |reader: &str| p.json(&["reader", "show", reader]);
    assert_eq!(show(&id)["collector"], show("mine")["collector"]);
    assert_eq!(show(&id)["training"], show("mine")["training"]);
    assert!(!show("mine")["training"]["labels"].as_array().unwrap().is_empty());
    // Its moments are those that its record names.
    let moments = p.path("own/activation_moments.safetensors");
    let mut bytes = std::fs::read(&moments).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&moments, bytes).unwrap();
    p.fails(2, &["activation_moments.safetensors", "its digest differs"], &["reader", "add", &folder]);
}

#[test]
fn a_repository_on_the_hub_is_fetched_once_and_found_offline() {
    let p = Place::new();
    let address = models::serve(None);
    let run = |offline: bool, args: &[&str]| {
        let mut command = p.command(&[]);
        command.env("HF_HOME", p.path("hf")).env("HF_ENDPOINT", &address).args(Place::arguments(args));
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        command.output().unwrap()
    };
    assert_fails(
        &run(true, &["reader", "add", "hub:org/oracle"]),
        5,
        &["org/oracle is not in the Hugging Face cache", "offline"],
    );
    assert_fails(&run(false, &["reader", "add", "hub:org/absent"]), 5, &["adapter_config.json", "404"]);
    assert_fails(&run(false, &["reader", "add", "hub:../x"]), 2, &["is no repository of the Hub"]);
    let added = run(false, &["--json", "reader", "add", "hub:org/oracle"]);
    assert!(added.status.success(), "{}", text(&added.stderr));
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    assert_eq!(added["name"], "reader/imported/oracle");
    let snapshot = p.path("hf/hub/models--org--oracle/snapshots").join(models::COMMIT);
    for file in ["adapter_config.json", "adapter_model.safetensors", "ao_config.json"] {
        assert_eq!(
            std::fs::read(snapshot.join(file)).unwrap(),
            std::fs::read(models::adapter().join(file)).unwrap()
        );
    }
    let again = run(true, &["--json", "reader", "add", "hub:org/oracle"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    let chat = run(true, &["chat", "hub:org/oracle", "Hello", "--max-tokens", "4"]);
    assert!(chat.status.success(), "{}", text(&chat.stderr));
}

#[test]
fn what_is_wrong_is_one_sentence_and_nothing_is_filed() {
    let p = Place::new();
    let set = |name: &str, keys: Value| configured(&p, name, &keys);
    let nan = oracle_with(&p, "nan", |f| {
        // The last value of the file.
        let path = f.join("adapter_model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len() - 4;
        bytes[end..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    });
    let doubled = oracle_with(&p, "doubled", |f| {
        let path = f.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let views = file.tensors().into_iter().map(|(n, v)| (format!("base_model.model.{n}"), v));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    });
    let no_effect = oracle_with(&p, "zero", |f| {
        let path = f.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let none: Vec<u8> = vec![0; bytes.len()];
        let views = file.tensors().into_iter().map(|(n, v)| {
            let view =
                safetensors::tensor::TensorView::new(v.dtype(), v.shape().to_vec(), &none[..v.data().len()]);
            (n, view.unwrap())
        });
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    });
    let bare = oracle_with(&p, "bare", |f| std::fs::remove_file(f.join("ao_config.json")).unwrap());
    let other_base = oracle_with(&p, "other", |f| {
        let path = f.join("adapter_config.json");
        let mut config = json_of(&path);
        config["base_model_name_or_path"] = "Qwen/Qwen3-8B".into();
        std::fs::write(path, config.to_string()).unwrap();
    });
    let template = json!({"prefix_template": "Layers: {layer}"});
    for (folder, parts) in [
        (set("key", json!({"steering_mode": "replace"})), ["steering_mode", "not known here"]),
        (
            set("layer", json!({"act_layer_combinations": [[0], [1], [3]]})),
            ["act_layer_combinations", "names layer 3; the model has 0 to 2"],
        ),
        (set("hook", json!({"hook_onto_layer": 9})), ["hook_onto_layer", "names layer 9"]),
        (set("token", json!({"special_token": " ¶"})), ["special_token", "tokens in this vocabulary"]),
        (set("form", template), ["prefix_template", "known are"]),
        (set("version", json!({"schema_version": 2})), ["schema_version", "version 1 is read"]),
        (
            set("strength", json!({"steering_coefficient": -1.0})),
            ["steering_coefficient", "no strength above 0"],
        ),
        (
            set("pairs", json!({"act_layer_combinations": [[0, 1]]})),
            ["act_layer_combinations", "not as many layers"],
        ),
        (
            set("model", json!({"model_name": "Qwen/Qwen3-8B"})),
            ["is a reader of \"Qwen/Qwen3-8B\"", "the base model is"],
        ),
        (other_base, ["is a reader of \"Qwen/Qwen3-8B\"", "--model"]),
        (nan, ["adapter_model.safetensors", "holds NaN"]),
        (doubled, ["base_model.model.base_model.model.", "belongs to no target module"]),
        (no_effect, ["changes no logit", "error"]),
        (bare.clone(), ["holds no ao_config.json", "--method dit"]),
        (tiny(), ["is a whole model, not an adapter", "error"]),
        (p.path("nowhere.pt").display().to_string(), ["does not exist", "error"]),
    ] {
        let found = p.run(&["reader", "add", &folder]);
        let code = if parts[0] == "does not exist" { 3 } else { 2 };
        assert_fails(&found, code, &parts);
    }
    p.fails(
        2,
        &["holds ao_config.json", "no DIT adapter"],
        &["reader", "add", &at("oracle"), "--method", "dit"],
    );
    p.fails(2, &["holds no ao_config.json", "is not known"], &["reader", "add", &bare, "--method", "oracle"]);
    p.fails(
        2,
        &["a .pt file holds a DIT adapter"],
        &["reader", "add", &at("dit-adapter.pt"), "--method", "oracle"],
    );
    p.fails(
        2,
        &["act_layer_combinations", "has no [0, 1]"],
        &["reader", "add", &at("oracle"), "--layers", "0,1"],
    );
    assert!(!p.path("store").exists(), "no store is made for what is refused");
    // A name that stands for something else.
    p.json(&["reader", "add", &at("oracle"), "--name", "theirs"]);
    p.fails(
        2,
        &["another reader called reader/imported/theirs"],
        &["reader", "add", &at("dit-adapter.pt"), "--name", "theirs"],
    );
    let named = json!([{"name": "theirs", "adapter": p.json(&["reader", "show", "theirs"])["reader"]["id"]}]);
    let aliases = p.json(&["adapter", "alias"])["aliases"].clone();
    assert_eq!(aliases[0]["adapter"], named[0]["adapter"]);
    // With the word that it is one, a folder without ao_config.json is a DIT adapter.
    assert_eq!(p.json(&["reader", "add", &bare, "--method", "dit"])["method"], "dit");
    assert_eq!(p.json(&["reader", "list"])["readers"].as_array().unwrap().len(), 2);
}
