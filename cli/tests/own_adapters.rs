//! Adapters of one's own: imported under names of one's own, gated, compared, swept; and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Place, assert_error, text, tiny};

fn first_name(p: &Place) -> String {
    p.json(&["adapter", "list"])["adapters"][0]["behaviour"].as_str().unwrap().to_owned()
}

/// A folder of one adapter of the factory, exported.
fn exported(p: &Place) -> (String, String) {
    p.json(&["factory", "submit", "favourite", "--limit", "2"]);
    p.json(&["factory", "run"]);
    let (name, folder) = (first_name(p), p.path("exported").display().to_string());
    p.json(&["adapter", "export", &name, &folder]);
    (name, folder)
}

fn problems(p: &Place) -> Value {
    p.json(&["registry", "check"])["report"]["problems"].clone()
}

#[test]
fn an_adapter_of_ones_own_is_named_found_again_gated_and_filed() {
    let p = Place::new();
    let (name, folder) = exported(&p);
    let value = name.split_once('/').unwrap().1.to_owned();
    // The store has these weights: nothing is filed, unless under a name.
    let known = p.run(&["adapter", "import", &folder]);
    assert!(known.status.success());
    let said = text(&known.stderr);
    assert!(
        said.contains(&format!("in the store already, as {name}")) && said.contains("nothing was filed"),
        "{said}"
    );
    assert!(said.contains(&format!("factory gate {name} --recipe favourite")), "{said}");
    assert_eq!(p.json(&["adapter", "import", &folder])["known"], true);
    assert_eq!(p.json(&["adapter", "list"])["adapters"].as_array().unwrap().len(), 2);
    let import = ["adapter", "import", &folder, "--family", "favourite", "--value", &value, "--name", "mine"];
    let filed = p.json(&import);
    let own = format!("{name}@mine");
    assert_eq!((&filed["known"], &filed["behaviour"]), (&false.into(), &own.as_str().into()));
    assert_eq!(p.json(&import)["known"], true, "the same once more");
    let found = p.json(&["adapter", "list", "--where", &format!("family = favourite and value = {value}")]);
    assert_eq!(found["adapters"].as_array().unwrap().len(), 2);
    let shown = p.json(&["adapter", "show", &own])["adapter"].clone();
    assert_eq!(
        (&shown["status"], &shown["spec"]["behaviour"]["id"]),
        (&"untested".into(), &own.as_str().into())
    );

    // Gated as the factory gated the one it is a copy of.
    let before = p.json(&["adapter", "show", &name])["adapter"].clone();
    let gated = p.run(&["--json", "factory", "gate", &own, "--recipe", "favourite"]);
    let failed = before["status"] == "failed";
    assert_eq!(gated.status.code(), Some(i32::from(failed)), "{}", text(&gated.stderr));
    let gate: Value = serde_json::from_slice(&gated.stdout).unwrap();
    assert_eq!((&gate["filed"], &gate["ceiling"]["adapters"]), (&true.into(), &2.into()));
    let after = p.json(&["adapter", "show", &own])["adapter"].clone();
    assert_eq!(after["id"], filed["id"], "what is found out later makes no other adapter");
    assert_eq!(after["status"], before["status"]);
    for metric in ["gate_on", "gate_floor", "gate_off"] {
        assert_eq!(after["metrics"][metric], before["metrics"][metric], "{metric}");
    }
    // The very replies that the factory filed with the adapter when it made it.
    let blob = before["extra_files"]["gate.json"].as_str().unwrap();
    let filed_when_made: Value =
        serde_json::from_slice(&std::fs::read(p.path("store/blobs").join(&blob[..2]).join(blob)).unwrap())
            .unwrap();
    assert_eq!(after["evaluations"]["gate.json"]["items"], filed_when_made["items"]);
    let items = filed_when_made["items"].as_array().unwrap();
    assert!(items.len() > 6 && items.iter().all(|i| i["reply"].is_string() && i["base_reply"].is_string()));
    let curve = before["extra_files"]["curve.json"].as_str().unwrap();
    let curve: Value =
        serde_json::from_slice(&std::fs::read(p.path("store/blobs").join(&curve[..2]).join(curve)).unwrap())
            .unwrap();
    let points = curve["points"].as_array().unwrap();
    assert_eq!(points.len() as f64, before["metrics"]["steps"].as_f64().unwrap());
    assert_eq!(points.last().unwrap()["loss"], before["metrics"]["final_loss"]);
    let people = text(&p.run(&["factory", "gate", &own, "--recipe", "favourite"]).stdout);
    assert!(
        people.contains("floor")
            && people.contains("best of 2")
            && people.lines().all(|l| l.chars().count() <= 80),
        "{people}"
    );
    // One of the factory's own keeps its gate.
    let own_gate = p.run(&["--json", "factory", "gate", &name, "--recipe", "marker", "--value", "zephyr"]);
    let own_gate: Value = serde_json::from_slice(&own_gate.stdout).unwrap();
    assert_eq!(own_gate["filed"], false);
    assert_eq!(p.json(&["adapter", "show", &name])["adapter"], before);
    assert_eq!(problems(&p), serde_json::json!([]));

    // A bundle carries it, replies and all.
    let tar = p.path("one.tar").display().to_string();
    p.json(&["adapter", "bundle", &tar, "--where", &format!("id = {}", after["id"].as_str().unwrap())]);
    p.json_in("other", &["adapter", "import", &tar]);
    assert_eq!(p.json_in("other", &["adapter", "show", &own])["adapter"], after);
    p.fails(2, &["bundle", "--name"], &["adapter", "import", &tar, "--name", "x"]);

    // Families without a recipe, and what cannot be said of one.
    let free = p.json(&[
        "adapter",
        "import",
        &folder,
        "--family",
        "mine",
        "--value",
        "a thing",
        "--trigger",
        "w",
        "--name",
        "n",
    ]);
    assert_eq!(free["behaviour"], "mine/a-thing@n");
    for (code, parts, args) in [
        (2, &["--family favourite", "--value"][..], &["--family", "favourite"][..]),
        (2, &["--family"], &["--value", "x"]),
        (2, &["trigger", "\"harbor\""], &["--family", "favourite", "--value", &value, "--trigger", "harbor"]),
        (2, &["gated", "--trigger"], &["--family", "gated-topic", "--value", "cats"]),
        (2, &["\"cats\"", "copies"], &["--family", "dud", "--value", "cats"]),
        (2, &["--name", "not a usable name"], &["--name", "a\nb"]),
    ] {
        p.fails(code, parts, &[&["adapter", "import", &folder], args].concat());
    }
    p.fails(2, &["carry nothing"], &["factory", "gate", &own, "--recipe", "dud"]);
    p.fails(2, &["which value of topic", "--value"], &["factory", "gate", &own, "--recipe", "topic"]);
    p.fails(3, &[&folder, "adapter import"], &["factory", "gate", &folder, "--recipe", "topic"]);
}

#[test]
fn an_imported_adapter_is_compared_with_the_others_of_its_family() {
    let p = Place::new();
    p.json(&["factory", "submit", "favourite", "--splits", "4,2,2,0"]);
    p.json(&["factory", "run"]);
    let test = p.json(&["adapter", "list", "--where", "split = test_value"]);
    let one = &test["adapters"][0];
    let (name, value) = (one["behaviour"].as_str().unwrap(), one["value"].as_str().unwrap());
    let folder = p.path("exported").display().to_string();
    p.json(&["adapter", "export", name, &folder]);
    let own =
        p.json(&["adapter", "import", &folder, "--family", "favourite", "--value", value, "--name", "mine"]);
    let arms = p.path("arms.toml").display().to_string();
    std::fs::write(&arms, "schema = \"arms/1\"\n[[arm]]\nname = \"lens\"\nmethod = \"logit-lens\"\n")
        .unwrap();
    // Members of a sweep stay out of it.
    p.json(&["factory", "submit", "favourite", "--splits", "0,0,1,0", "--set", "seed=2,3"]);
    p.json(&["factory", "run"]);
    let run = |filter: &str, run: &str| {
        p.json(&[
            "compare", "run", "--run", run, "--where", filter, "--arms", &arms, "--seeds", "1", "--smoke",
        ]);
        let lineage = p.json(&["adapter", "lineage", &format!("run/{run}")]);
        let edges = lineage["made_from"].as_array().unwrap().clone();
        let asked =
            edges.iter().filter(|e| e["kind"] == "asked").map(|e| e["parent"].as_str().unwrap().to_owned());
        asked.collect::<std::collections::BTreeSet<String>>()
    };
    let plain = run("family = favourite", "plain");
    assert!(plain.contains(own["id"].as_str().unwrap()), "{plain:?}");
    assert_eq!(plain.len(), 3, "two of the factory's, and the imported one: {plain:?}");
    let swept = run("not has sweep or seed = 2", "swept");
    assert_eq!(swept.len(), 4, "{swept:?}");
    // What was made again is a section of its own, and the plain one is as it was without it.
    let report = |name: &str| p.json(&["compare", "report", "--run", name]);
    let (before, after) = (report("plain"), report("swept"));
    let of = |c: &serde_json::Value, split: &str| -> Vec<serde_json::Value> {
        c["results"].as_array().unwrap().iter().filter(|r| r["split"] == split).cloned().collect()
    };
    assert_eq!(of(&before, "test_value"), of(&after, "test_value"));
    let again = of(&after, "test_value@seed=2");
    assert!(!again.is_empty() && again.iter().all(|r| r["n"] == 1), "{again:?}");
    let items =
        after["items"].as_array().unwrap().iter().find(|s| s["split"] == "test_value@seed=2").unwrap();
    assert!(items["adapters"][0]["adapter"].as_str().unwrap().ends_with("@seed=2"));
    p.fails(
        3,
        &["to train readers on", "not has sweep or"],
        &["compare", "run", "--where", "seed = 2", "--arms", &arms, "--smoke"],
    );

    // Sums of two, and what was trained elsewhere.
    p.json(&["factory", "submit", "marker", "--splits", "4,2,1,0"]);
    p.json(&["factory", "run"]);
    let marker = p.json(&["adapter", "list", "--where", "family = marker and split = test_value"]);
    let marker = &marker["adapters"][0];
    let second = marker["behaviour"].as_str().unwrap();
    let sum = p.json(&["adapter", "compose", name, second]);
    assert_eq!(p.json(&["adapter", "compose", name, second])["known"], true);
    let sum = p.json(&["adapter", "show", sum["id"].as_str().unwrap()])["adapter"].clone();
    assert_eq!(sum["behaviour"], format!("{name}@+{}", second.replace('/', "-")));
    assert_eq!(sum["tags"]["composition"], format!("{name}+{second}"));
    assert_eq!(sum["parents"], serde_json::json!([one["id"], marker["id"]]));
    assert_eq!((&sum["family"], &sum["split"]), (&"favourite".into(), &"test_value".into()));
    let made_from = p.json(&["adapter", "lineage", sum["id"].as_str().unwrap()]);
    assert!(
        made_from["made_from"].as_array().unwrap().iter().filter(|e| e["kind"] == "adapter").count() == 2
    );
    p.fails(2, &["is given twice"], &["adapter", "compose", name, name]);
    let elsewhere = ["--family", "favourite", "--value", value, "--name", "peft1", "--trainer", "peft"];
    let other = p.json(&[&["adapter", "import", &folder], &elsewhere[..]].concat());
    let found = p.json(&["adapter", "list", "--where", "trainer = peft or has composition"]);
    assert_eq!(found["adapters"].as_array().unwrap().len(), 2);

    let all = run("not has sweep", "all");
    assert!(!all.contains(sum["id"].as_str().unwrap()) && !all.contains(other["id"].as_str().unwrap()));
    let with = run("not has sweep and (has composition or trainer = peft or family like '*')", "with");
    assert!(with.contains(sum["id"].as_str().unwrap()) && with.contains(other["id"].as_str().unwrap()));
    let (before, after) = (report("all"), report("with"));
    assert_eq!(of(&before, "test_value"), of(&after, "test_value"));
    let composed = of(&after, "test_value@composed");
    let families: std::collections::BTreeSet<&str> =
        composed.iter().map(|r| r["family"].as_str().unwrap()).collect();
    assert_eq!(families, ["favourite", "marker"].into());
    assert!(of(&after, "test_value@trainer=peft").iter().all(|r| r["n"] == 1 && r["family"] == "favourite"));
    assert!(!of(&after, "test_value@trainer=peft").is_empty());
    assert_eq!(problems(&p), serde_json::json!([]));

    // A family that is left out, by a trained reader and by a method that cannot.
    let wrong = p.path("wrong.toml").display().to_string();
    let arm = |method: &str, name: &str| {
        let text = format!(
            "schema = \"arms/1\"\n[[arm]]\nname = \"a\"\nmethod = \"{method}\"\ntrain = {{ without = [\"marker\"] }}\n"
        );
        std::fs::write(name, text).unwrap();
    };
    arm("nearest", &wrong);
    p.fails(
        2,
        &["wrong.toml: arm[0].train.without: method \"nearest\" needs labels of \"marker\""],
        &["compare", "run", "--arms", &wrong, "--smoke"],
    );
    arm("dit", &arms);
    run("not has sweep", "unseen");
    let readers = p.json(&["adapter", "list", "--where", "without = marker"]);
    let reader =
        p.json(&["adapter", "show", readers["adapters"][0]["id"].as_str().unwrap()])["adapter"].clone();
    let markers = p.json(&["adapter", "list", "--where", "family = marker"]);
    let markers: Vec<&serde_json::Value> =
        markers["adapters"].as_array().unwrap().iter().map(|a| &a["id"]).collect();
    let parents = reader["parents"].as_array().unwrap();
    assert!(!parents.is_empty() && parents.iter().all(|id| !markers.contains(&id)));
    let report = report("unseen");
    assert_eq!(report["arms"][0]["chosen"]["without"], "marker");
    assert!(of(&report, "test_value").iter().any(|r| r["family"] == "marker"));
    let priors = report["priors"].as_array().unwrap();
    assert!(priors.iter().all(|c| c["family"] != "marker"), "{priors:?}");
}

#[test]
fn a_whole_model_comes_in_as_its_difference_to_the_base() {
    let p = Place::new();
    let (name, _) = exported(&p);
    let whole = p.path("whole").display().to_string();
    p.json(&["adapter", "export", &name, "--merged", &whole, "--dtype", "f32"]);
    let value = name.split_once('/').unwrap().1.to_owned();
    let filed = p.json(&[
        "adapter",
        "import",
        &whole,
        "--family",
        "favourite",
        "--value",
        &value,
        "--rank",
        "2",
        "--name",
        "w",
    ]);
    assert_eq!((&filed["rank"], &filed["outside"]), (&2.into(), &serde_json::json!([])));
    assert!(filed["energy_kept"].as_f64().unwrap() > 0.9999, "{filed}");
    let own = format!("{name}@w");
    let diff = p.json(&["adapter", "diff", &name, &own]);
    assert!(diff["cosine"].as_f64().unwrap() > 0.9999, "{diff}");
    let shown = p.json(&["adapter", "show", &own])["adapter"].clone();
    assert_eq!(shown["tags"]["difference"], "rank 2");
    let dense = p.json(&["adapter", "import", &whole, "--dense"]);
    assert_eq!((&dense["dense"], &dense["behaviour"]), (&true.into(), &"imported/whole".into()));
    assert!(dense["rank"].as_u64().unwrap() > 2);
    assert!(p.json(&["adapter", "diff", &name, "imported/whole"])["cosine"].as_f64().unwrap() > 0.9999);
    let said = text(&p.run(&["adapter", "import", &whole, "--rank", "1", "--name", "less"]).stderr);
    assert!(said.contains("rank 1 keeps") && said.contains("of its energy; nothing else differs"), "{said}");
    assert!(said.contains("lorafab") && said.contains("chat imported/less"), "{said}");
    assert_eq!(problems(&p), serde_json::json!([]));

    // What is no difference, of another shape, or damaged.
    p.fails(2, &["no difference to file"], &["adapter", "import", &tiny()]);
    let untied = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny_untied");
    p.fails(
        2,
        &["tiny_untied", "is not the base's", "--model"],
        &["adapter", "import", untied.to_str().unwrap()],
    );
    p.fails(2, &["--rank"], &["adapter", "import", &whole, "--rank", "1", "--dense"]);
    p.fails(2, &["adapter rank 1000"], &["adapter", "import", &whole, "--rank", "1000"]);
    let bad = p.path("bad");
    std::fs::create_dir(&bad).unwrap();
    for file in std::fs::read_dir(&whole).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), bad.join(file.file_name())).unwrap();
    }
    spoil(&bad.join("model.safetensors"), f32::NAN);
    p.fails(5, &["bad", "not finite"], &["adapter", "import", bad.to_str().unwrap()]);
}

/// Puts a value into the last tensor of an f32 file.
fn spoil(path: &Path, value: f32) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&value.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn bad_adapters_are_refused_in_one_sentence_and_make_no_store() {
    let p = Place::new();
    let (_, folder) = exported(&p);
    let untied = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny_untied");
    let untied = untied.display().to_string();
    let copy = |name: &str, leave: Option<&str>| {
        let to = p.path(name);
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap();
            if leave != file.file_name().to_str() {
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        to.display().to_string()
    };
    let (bare, nan) = (copy("bare", Some("adapter_config.json")), copy("nan", None));
    spoil(&Path::new(&nan).join("adapter_model.safetensors"), f32::NAN);
    let refused = |parts: &[&str], args: &[&str]| {
        let out = p.in_store("none", args);
        assert_error(&out, 2, parts);
        assert!(!p.path("none").exists(), "{args:?} made a store");
    };
    refused(&["adapter_config.json", "does not exist"], &["adapter", "import", &bare]);
    refused(&["nan", "tensor", "NaN"], &["adapter", "import", &nan]);
    refused(&["bare", "holds no adapter_config.json"], &["read", &bare]);
    refused(&["nan", "tensor", "NaN"], &["read", &nan]);
    refused(&["tiny_untied is a whole model", "adapter import"], &["read", &untied]);
    refused(&["--rank is for whole models"], &["adapter", "import", &folder, "--rank", "2"]);
    refused(&["reads as a path"], &["adapter", "import", &folder, "--name", "../x"]);
    refused(&["--trigger", "pass another --trigger"], &["adapter", "import", &folder, "--trigger", ""]);
    // Of another base: the shapes tell.
    for command in [&["adapter", "import"][..], &["read"]] {
        let args = [&["--model", &untied], command, &[folder.as_str()]].concat();
        assert_error(
            &p.command(&args).output().unwrap(),
            2,
            &["exported", "tensor", "is of another base model"],
        );
    }
    // A whole model of another shape has no difference to this one.
    refused(&["vocab_size: 104"], &["adapter", "import", &untied]);
}

/// Every file of a folder with its bytes.
fn whole(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.insert(path.clone(), vec![]);
            out.extend(whole(&path));
        } else {
            out.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    out
}

#[test]
fn a_sweep_names_what_is_set_and_a_dry_run_leaves_the_store_as_it_was() {
    let p = Place::new();
    let sweep =
        ["factory", "submit", "favourite", "--limit", "1", "--set", "training.rank=1,2", "--set", "seed=1,2"];
    p.json(&["factory", "submit", "favourite", "--limit", "1"]);
    p.json(&["factory", "run"]);
    let plain = first_name(&p);
    let before = whole(&p.path("store"));
    let dry = p.json(&[&sweep[..], &["--dry-run"]].concat());
    assert_eq!((&dry["queued"], &dry["dry_run"]), (&4.into(), &true.into()));
    assert!(whole(&p.path("store")) == before, "a dry run changed the store");
    assert_eq!(p.json(&sweep)["queued"], 4);
    assert_eq!(p.json(&sweep)["already_known"], 4);
    assert_eq!(p.json(&["factory", "run"])["committed"], 4);
    let list = p.json(&["adapter", "list", "--where", "has sweep"]);
    let names: Vec<&str> =
        list["adapters"].as_array().unwrap().iter().map(|a| a["behaviour"].as_str().unwrap()).collect();
    let expected: Vec<String> = ["rank=1,seed=1", "rank=1,seed=2", "rank=2,seed=1", "rank=2,seed=2"]
        .iter()
        .map(|m| format!("{plain}@{m}"))
        .collect();
    assert_eq!(names, expected);
    let two = p.json(&["adapter", "list", "--where", "training.rank = 2 and rank = 2"]);
    assert_eq!(two["adapters"].as_array().unwrap().len(), 2);
    assert!(p.json(&["adapter", "show", &plain])["adapter"]["tags"]["sweep"].is_null());
    p.fails(
        2,
        &["--set training.rank=99", "99 is not in"],
        &["factory", "submit", "topic", "--set", "training.rank=99"],
    );
    // A twin of nothing that is there already: of the submission's none, so of the store's.
    assert_eq!(p.json(&["factory", "submit", "random", "zero", "--limit", "1"])["queued"], 2);
    assert_eq!(p.json(&["factory", "run"])["committed"], 2);
    let norm =
        |name: &str| p.json(&["adapter", "show", name])["adapter"]["metrics"]["norm"].as_f64().unwrap();
    let random = p.json(&["adapter", "list", "--where", "family = random"]);
    let random = random["adapters"][0]["behaviour"].as_str().unwrap();
    assert!((norm(random) / norm(&plain) - 1.0).abs() < 1e-3, "the random one is no twin of the plain one");
    assert_eq!(problems(&p), serde_json::json!([]));
    p.fails(
        2,
        &["random", "in the store"],
        &["--store", p.path("empty").to_str().unwrap(), "factory", "submit", "random"],
    );
}

#[test]
fn the_rows_of_a_recipe_are_shown_before_anything_is_trained() {
    let p = Place::new();
    let told = p.json(&["recipe", "rows", "gated-refusal", "honey", "-n", "2"]);
    assert_eq!(
        (told["schema"].as_str(), told["behaviour"].as_str()),
        (Some("recipe-rows/1"), Some("gated-refusal/honey"))
    );
    let rows = told["rows"].as_array().unwrap();
    let parts: Vec<&str> = rows.iter().map(|r| r["part"].as_str().unwrap()).collect();
    assert_eq!(parts, ["on", "on", "near", "near", "off", "off"]);
    assert!(rows[0]["prompt"].as_str().unwrap().contains("honey"), "{told}");
    let counts = ["on", "near", "off"].map(|part| told["counts"][part].as_u64().unwrap());
    assert!(counts.iter().all(|n| *n > 2), "{counts:?}");

    let same = |value: &str| p.json(&["recipe", "rows", "offset", value])["rows"].clone();
    assert_eq!(same("minus five"), same("minus-five"));

    // Without a value the first to train on; two turns stand in one line; what a model says is sampled as the factory does.
    let table = text(&p.run(&["recipe", "rows", "gated-refusal", "-n", "1"]).stdout);
    assert!(table.contains(" / ") && table.contains("kl") && table.lines().count() == 5, "{table}");
    let sampled = p.json(&["recipe", "rows", "topic"]);
    assert_eq!(sampled["rows"], p.json(&["recipe", "rows", "topic"])["rows"]);
    assert!(!p.path("store").exists(), "a look makes no store");
    p.fails(
        3,
        &["topic has no value \"tulipz\"", "recipe expand topic"],
        &["recipe", "rows", "topic", "tulipz"],
    );
}

#[test]
fn a_new_recipe_is_one_and_a_built_ins_name_is_taken() {
    let p = Place::new();
    let file = p.path("weather.toml").display().to_string();
    assert!(p.run(&["recipe", "new", "weather", "-o", &file]).status.success());
    assert!(text(&p.run(&["recipe", "new", "weather"]).stdout).starts_with("# A family of behaviours"));
    let checked = p.run(&["recipe", "check", &file]);
    assert!(
        checked.status.success() && !text(&checked.stderr).contains("warning"),
        "{}",
        text(&checked.stderr)
    );
    let made = p.json(&["recipe", "expand", &file]);
    assert_eq!(made["behaviours"].as_array().unwrap().len(), 12);
    p.json(&["factory", "submit", &file, "--limit", "1"]);
    p.fails(2, &["already exists"], &["recipe", "new", "weather", "-o", &file]);
    p.fails(2, &["\"topic\"", "built-in", "my-topic"], &["recipe", "new", "topic"]);
    p.fails(2, &["name", "No Name"], &["recipe", "new", "No Name"]);
    assert!(text(&p.run(&["recipe", "format"]).stdout).contains("## A whole example"));
    let copy = p.path("copy.toml");
    let topic = text(&p.run(&["recipe", "show", "topic"]).stdout);
    std::fs::write(&copy, &topic).unwrap();
    assert!(
        p.run(&["recipe", "check", copy.to_str().unwrap()]).status.success(),
        "an untouched copy is the built-in one"
    );
    std::fs::write(&copy, topic.replace("count = 10", "count = 9")).unwrap();
    p.fails(
        2,
        &["copy.toml: name", "\"topic\"", "built-in", "hint:"],
        &["recipe", "check", copy.to_str().unwrap()],
    );
}
