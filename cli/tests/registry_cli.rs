//! The queue's and the registry's commands as a user types them, on adapters of the tiny fixture model.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Place, text};

fn names(list: &Value) -> Vec<&str> {
    list["adapters"].as_array().unwrap().iter().map(|a| a["behaviour"].as_str().unwrap()).collect()
}

#[test]
fn a_catalogue_is_searched_named_tagged_emptied_and_checked() {
    let p = Place::new();
    p.json(&["factory", "submit", "favourite", "random", "--limit", "4"]);
    assert_eq!(p.json(&["factory", "run"])["committed"], 8);
    let all = p.json(&["adapter", "list", "--sort=-norm"]);
    let norms: Vec<f64> =
        all["adapters"].as_array().unwrap().iter().map(|a| a["metrics"]["norm"].as_f64().unwrap()).collect();
    assert!(norms.len() == 8 && norms.windows(2).all(|w| w[0] >= w[1]), "{norms:?}");
    let some = p.json(&[
        "adapter",
        "list",
        "--where",
        "(family = random or value like 'a*') and not (norm < 0)",
        "--limit",
        "3",
    ]);
    assert_eq!(names(&some).len(), 3);
    let table =
        text(&p.run(&["adapter", "list", "--columns", "value,norm", "--where", "family = random"]).stdout);
    assert!(table.starts_with("value") && table.lines().count() == 5, "{table}");
    p.fails(2, &["no adapter has a field \"nrom\"", "norm"], &["adapter", "list", "--where", "nrom > 1"]);
    p.fails(2, &["no adapter has a field \"nrom\""], &["adapter", "list", "--sort", "nrom"]);
    p.fails(2, &["norm is a number", "\"high\""], &["adapter", "list", "--where", "norm > high"]);
    p.fails(2, &["expected", "character"], &["adapter", "list", "--where", "norm >"]);

    // Names that move, tags, lineage.
    let first = names(&all)[0].to_owned();
    let other = names(&all)[1].to_owned();
    p.json(&["adapter", "alias", "best", &first]);
    assert_eq!(p.json(&["adapter", "show", "best"])["adapter"]["behaviour"], first.as_str());
    p.fails(2, &["best", "needs it"], &["adapter", "rm", &first]);
    p.json(&["adapter", "alias", "best", &other]);
    assert_eq!(p.json(&["adapter", "show", "best"])["adapter"]["behaviour"], other.as_str());
    p.fails(2, &["\"cafe\""], &["adapter", "alias", "cafe", &first]);
    p.json(&["adapter", "tag", &first, "reviewed=yes", "by=me"]);
    assert_eq!(names(&p.json(&["adapter", "list", "--where", "reviewed = yes"])), [first.as_str()]);
    p.json(&["adapter", "tag", &first, "by="]);
    p.fails(2, &["tag \"norm\"", "column or metric"], &["adapter", "tag", &first, "norm=1"]);
    let lineage = p.json(&["adapter", "lineage", &first]);
    let kinds: Vec<&str> =
        lineage["made_from"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["base", "recipe", "trainer_version"]);

    // Geometry.
    let diff = p.json(&["adapter", "diff", &first, &first]);
    assert!(
        (diff["cosine"].as_f64().unwrap() - 1.0).abs() < 1e-9
            && diff["differing_fields"] == serde_json::json!([])
    );
    assert!(p.json(&["adapter", "diff", &first, &other])["cosine"].as_f64().unwrap() < 0.99);
    assert!(text(&p.run(&["adapter", "diff", &first, &other]).stdout).contains("write cos"));
    let similar = p.json(&["adapter", "similar", &first, "--limit", "3"]);
    let cosines: Vec<f64> =
        similar["similar"].as_array().unwrap().iter().map(|s| s["cosine"].as_f64().unwrap()).collect();
    assert!(cosines.len() == 3 && cosines.windows(2).all(|w| w[0] >= w[1]), "{cosines:?}");

    // A bundle into another store, and the same queries there.
    let tar = p.path("some.tar").display().to_string();
    p.json(&["adapter", "bundle", &tar]);
    assert_eq!(p.json_in("other", &["adapter", "import", &tar])["added"].as_array().unwrap().len(), 8);
    let here = p.json(&["adapter", "list", "--where", "reviewed = yes or family = random"]);
    assert_eq!(
        p.json_in("other", &["adapter", "list", "--where", "reviewed = yes or family = random"]),
        here
    );
    // What the other store has is done at once there.
    let known = p.json_in("other", &["factory", "submit", "favourite", "random", "--limit", "4"]);
    assert_eq!(known["already_made"], 8);
    assert_eq!(p.json_in("other", &["factory", "run"])["committed"], 0);

    // A data set, whose folders are adapters.
    let set = p.path("set").display().to_string();
    p.json(&["adapter", "dataset", &set, "--where", "family = favourite"]);
    let index = std::fs::read_to_string(p.path("set/index.jsonl")).unwrap();
    let line: Value = serde_json::from_str(index.lines().next().unwrap()).unwrap();
    assert_eq!(index.lines().count(), 4);
    assert!(std::fs::read(p.path("set/index.parquet")).unwrap().starts_with(b"PAR1"));
    let card = std::fs::read_to_string(p.path("set/README.md")).unwrap();
    assert!(card.starts_with("---\n") && card.contains("`metric_norm`"), "{card}");
    let one = p.path("set").join(line["folder"].as_str().unwrap()).display().to_string();
    p.json_in("third", &["adapter", "import", &one]);
    p.fails(2, &["already exists"], &["adapter", "dataset", &set]);
    p.fails(2, &["already exists", "--force"], &["adapter", "bundle", &tar]);

    // Removal, restoring, garbage, a lost catalogue.
    let before = p.json(&["adapter", "list"]);
    p.json(&["adapter", "rm", &first, "--dry-run"]);
    p.json(&["adapter", "rm", &first]);
    p.fails(3, &[&first], &["adapter", "show", &first]);
    assert_eq!(p.json(&["registry", "stats"])["stats"]["trashed"], 1);
    p.json(&["adapter", "restore", &first]);
    assert_eq!(p.json(&["adapter", "list"]), before);
    p.json(&["adapter", "rm", &first]);
    let plan = p.json(&["registry", "gc", "--keep-days", "0"]);
    assert_eq!(
        (plan["applied"].as_bool(), plan["plan"]["trash"].as_array().unwrap().len()),
        (Some(false), 1)
    );
    p.json(&["registry", "gc", "--keep-days", "0", "--apply"]);
    p.fails(3, &["0 adapters in the trash"], &["adapter", "restore", &first]);
    assert_eq!(p.json(&["registry", "check"])["report"]["problems"], serde_json::json!([]));
    // Submitting again makes it again, with the same identity.
    assert_eq!(p.json(&["factory", "submit", "favourite", "random", "--limit", "4"])["queued"], 1);
    p.json(&["factory", "run"]);
    let again = p.json(&["adapter", "list"]);
    assert_eq!(names(&again), names(&before));
    for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
        let _ = std::fs::remove_file(p.path("store").join(file));
    }
    assert!(!p.run(&["registry", "check"]).status.success());
    assert_eq!(p.json(&["registry", "check", "--repair"])["repaired"]["rows"], 8);
    assert_eq!(p.json(&["adapter", "list"]), again);
    assert_eq!(p.json(&["adapter", "show", "best"])["adapter"]["behaviour"], other.as_str());
}

#[test]
fn a_merged_model_is_written_whole_or_refused() {
    let p = Place::new();
    p.json(&["factory", "submit", "favourite", "--limit", "1"]);
    p.json(&["factory", "run"]);
    let list = p.json(&["adapter", "list"]);
    let (name, id) = (names(&list)[0], list["adapters"][0]["id"].as_str().unwrap());
    let out = p.path("whole").display().to_string();
    let said = p.json(&["adapter", "export", name, "--merged", &out, "--dtype", "f32"]);
    assert_eq!(
        (&said["schema"], &said["torch_dtype"], &said["folder"]),
        (&"adapter-merged/1".into(), &"float32".into(), &out.as_str().into())
    );
    let made = lm::Checkpoint::load(&p.path("whole")).unwrap();
    assert_eq!(said["weights_blake3"], made.checkpoint.digest);
    assert_eq!(said["dequantised_from"], serde_json::json!([]));
    let card: Value = serde_json::from_slice(&std::fs::read(p.path("whole/lorafab.json")).unwrap()).unwrap();
    assert_eq!(card["adapter"]["id"], id);

    let small = p.path("small").display().to_string();
    assert_eq!(text(&p.run(&["adapter", "export", name, &small, "--merged"]).stdout).trim(), small);
    let config: Value = serde_json::from_slice(&std::fs::read(p.path("small/config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");

    let other = p.path("other").display().to_string();
    p.fails(2, &["already exists", "another folder"], &["adapter", "export", name, &out, "--merged"]);
    p.fails(2, &["--force"], &["adapter", "export", name, &out, "--merged", "--force"]);
    p.fails(2, &["--merged"], &["adapter", "export", name, &other, "--dtype", "f32"]);
    p.fails(2, &["f16", "bf16, f32"], &["adapter", "export", name, &other, "--merged", "--dtype", "f16"]);
    p.fails(3, &["no adapter"], &["adapter", "export", "favourite/none", &other, "--merged"]);
    std::fs::write(p.path("file"), "").unwrap();
    let inside = p.path("file/inside").display().to_string();
    p.fails(5, &["file"], &["adapter", "export", name, &inside, "--merged"]);
    let untied = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny_untied");
    let model = untied.display().to_string();
    let wrong = p
        .command(&["--json", "--model", &model, "adapter", "export", name, &other, "--merged"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&wrong.stderr).into_owned();
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert!(error.to_string().contains("another base model"), "{stderr}");
    assert!(!p.path("other").exists());
    let left = std::fs::read_dir(p.folder.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(left.into_iter().all(|n| !n.to_string_lossy().starts_with('.')), "something is left behind");
}

#[test]
fn a_queue_is_planned_paused_limited_followed_and_explained() {
    let p = Place::new();
    p.json(&["factory", "submit", "favourite", "--limit", "3", "--tag", "slow", "--priority", "-1"]);
    assert_eq!(p.json(&["factory", "plan"])["measured"], false);
    p.fails(2, &["how many", "--none"], &["factory", "limit", "slow"]);
    assert_eq!(p.json(&["factory", "limit", "slow", "0"])["limits"][0]["most"], 0);
    assert_eq!(p.json(&["factory", "run", "--drain"])["committed"], 0, "a limit of 0 holds everything back");
    p.json(&["factory", "limit", "slow", "--none"]);
    p.json(&["factory", "pause"]);
    p.fails(1, &["paused", "factory resume"], &["factory", "run"]);
    assert_eq!(p.json(&["factory", "status"])["paused"], true);
    p.json(&["factory", "resume"]);
    p.json(&["factory", "plan"]);
    assert_eq!(p.json(&["factory", "run"])["committed"], 3);
    let check = p.json(&["factory", "plan", "--check"]);
    assert_eq!((check["planned_jobs"].as_u64(), check["finished_jobs"].as_u64()), (Some(3), Some(3)));
    // The second plan goes by the first's adapters.
    p.json(&["factory", "submit", "favourite", "--limit", "6"]);
    let plan = p.json(&["factory", "plan"]);
    assert_eq!((plan["measured"].as_bool(), plan["open_jobs"].as_u64()), (Some(true), Some(3)));
    p.json(&["factory", "run"]);
    let check = p.json(&["factory", "plan", "--check"]);
    let ratio = |i: usize| check["expected_over_actual"][i]["ratio"].as_f64().unwrap();
    assert!((0.5..2.0).contains(&ratio(0)) && (ratio(2) - 1.0).abs() < 0.05, "{check}");
    let list = p.json(&["adapter", "list"]);
    let log = p.json(&["factory", "logs", names(&list)[0]]);
    let states: Vec<&str> = log["log"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["to"].as_str().unwrap())
        .filter(|s| !s.is_empty())
        .collect();
    assert_eq!(states, ["queued", "leased", "running", "succeeded"]);
    assert!(text(&p.run(&["factory", "logs", names(&list)[0]]).stdout).contains("gate on"));
    p.fails(3, &["no job \"topic/none\""], &["factory", "logs", "topic/none"]);
    // Nothing open: the watch ends by itself.
    assert!(text(&p.run(&["factory", "status", "--watch"]).stdout).contains("favourite"));
}

/// Two worker processes on one store; one is told to end with SIGTERM in the middle, and the work goes on.
#[test]
fn processes_share_a_queue_and_a_terminated_one_leaves_its_work_to_the_others() {
    let p = Place::new();
    let (store, reference) = ("store", "reference");
    let slow =
        std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/slow.toml"))
            .unwrap()
            .replace("steps = 4000", "steps = 600");
    let recipe = p.path("slow.toml");
    std::fs::write(&recipe, slow).unwrap();
    let recipe = recipe.display().to_string();
    for s in [store, reference] {
        p.json_in(s, &["factory", "submit", &recipe, "--limit", "6"]);
    }
    let worker = || {
        std::process::Command::new(assert_cmd::cargo::cargo_bin("lorafab"))
            .args(Place::arguments(&["--quiet", "factory", "run", "--pack", "1"]))
            .env("LORAFAB_STORE", p.path(store))
            .env("HOME", p.folder.path())
            .env("RAYON_NUM_THREADS", "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let (mut first, mut second) = (worker(), worker());
    // Told to end once there is something to interrupt.
    let begin = Instant::now();
    while p.json(&["factory", "status"])["states"]["running"].as_u64().unwrap_or(0) < 2
        && begin.elapsed() < Duration::from_secs(20)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = first.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(first.wait().unwrap().code(), Some(130));
    assert!(second.wait().unwrap().success());
    let status = p.json(&["factory", "status"]);
    assert_eq!(status["states"]["succeeded"], 6, "{status}");
    assert!(status["workers"].as_array().unwrap().is_empty(), "workers that ended are still listed");
    p.json_in(reference, &["factory", "run", "--pack", "6"]);
    let ids = |s| {
        let list = p.json_in(s, &["adapter", "list"]);
        list["adapters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(store), ids(reference));
    assert_eq!(p.json(&["registry", "check"])["report"]["problems"], serde_json::json!([]));
}

/// One of two workers cannot file what it made: it says so at once, the other ends with what it has in hand, and the rest waits for the
/// next run.
#[test]
fn a_worker_that_fails_is_heard_at_once_and_the_others_finish_what_they_hold() {
    let p = Place::new();
    p.json_in("reference", &["factory", "submit", "favourite", "--limit", "1"]);
    p.json_in("reference", &["factory", "run"]);
    let name = names(&p.json_in("reference", &["adapter", "list"]))[0].to_owned();
    let shown = p.json_in("reference", &["adapter", "show", &name]);
    let one = shown["adapter"]["weights"].as_str().unwrap();
    p.json(&["factory", "submit", "favourite", "--limit", "1"]);
    p.json(&["factory", "submit", "favourite", "--limit", "12"]);
    // A folder lies where the first job's weights would be put.
    let in_the_way = p.path("store/blobs").join(&one[..2]).join(one);
    std::fs::create_dir_all(&in_the_way).unwrap();
    let out = p.run(&["factory", "run", "--workers", "2", "--pack", "1"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(5), "{stderr}");
    let said = stderr.find("a worker has failed: ").unwrap();
    assert!(said < stderr.find("\nerror: ").unwrap(), "{stderr}");
    assert!(stderr.contains("the others finish what they hold"), "{stderr}");
    let states = p.json(&["factory", "status"])["states"].clone();
    let n = |state: &str| states[state].as_u64().unwrap_or(0);
    assert!(n("queued") >= 4 && n("leased") + n("running") == 0 && n("retry_wait") == 1, "{states}");
    assert_eq!(n("queued") + n("succeeded"), 11, "{states}");
    std::fs::remove_dir(&in_the_way).unwrap();
    p.json(&["factory", "run", "--drain"]);
    assert!(p.json(&["factory", "status"])["states"]["succeeded"].as_u64().unwrap() >= 11);
}

/// What is refused leaves nothing behind, not even an empty store where there was none.
#[test]
fn a_refused_import_makes_no_store() {
    let p = Place::new();
    p.json(&["factory", "submit", "favourite", "--limit", "1"]);
    p.json(&["factory", "run"]);
    let tar = p.path("one.tar").display().to_string();
    p.json(&["adapter", "bundle", &tar]);
    let whole = std::fs::read(&tar).unwrap();
    let cut = p.path("cut.tar");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let exported = p.path("exported").display().to_string();
    let name = names(&p.json(&["adapter", "list"]))[0].to_owned();
    p.json(&["adapter", "export", &name, &exported]);
    for args in [
        &["adapter", "import", &cut.display().to_string()][..],
        &["adapter", "import", &exported, "--name", "a\nb"],
    ] {
        let out = p.in_store("none", args);
        assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(!p.path("none").exists(), "{args:?} made a store");
    }
    // What is good makes one.
    assert_eq!(p.json_in("none", &["adapter", "import", &tar])["added"].as_array().unwrap().len(), 1);
}
