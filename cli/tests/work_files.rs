//! Work as files: interventions and jobs, from what a user writes to what is done; on the tiny fixture model.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use serde_json::{Value, json};
use support::Place;

fn write(place: &Place, name: &str, text: &str) -> String {
    std::fs::write(place.path(name), text).unwrap();
    place.path(name).display().to_string()
}

const JOBS: &str = r#"
schema = "jobs/1"

[[job]]
name = "some"
kind = "adapters"
recipes = ["topic"]
limit = 40
tags = ["first"]

[[job]]
name = "others"
kind = "adapters"
recipes = ["random", "topic"]
limit = 2

[[job]]
name = "look"
kind = "intervention"
spec = "look.json"

[[job]]
name = "mine"
kind = "comparison"
of = ["some", "others"]
smoke = true
after_any = ["look"]
"#;

/// The base model's next words after a prompt.
fn look() -> Value {
    json!({"v": 1, "inputs": {"x": {"chat": {"user": "Tell me a thing."}}}, "out": ["h"], "steps": [
        {"op": "forward", "id": "f", "input": "x", "collect": [{"id": "h", "depth": 0.99, "pos": {"last": 2}}]},
        {"op": "unembed_topk", "id": "words", "a": "h", "k": 3},
        {"op": "generate", "id": "reply", "input": "x", "sample": {"max": 4}}]})
}

/// The same, and a reply of an adapter.
fn look_at(adapter: &str) -> Value {
    let mut spec = look();
    spec["steps"].as_array_mut().unwrap().push(
        json!({"op": "generate", "id": "theirs", "model": {"adapters": [adapter]}, "input": "x", "sample": {"max": 4}}),
    );
    spec
}

#[test]
fn a_file_of_jobs_is_a_graph_that_runs_to_its_end_and_is_known_the_second_time() {
    let place = Place::new();
    // It names an adapter that the same file makes, before that is there.
    place.json_in("other", &["factory", "submit", "topic", "--limit", "8"]);
    place.json_in("other", &["factory", "run"]);
    let made = place.json_in("other", &["adapter", "list"]);
    let one = made["adapters"][0]["behaviour"].as_str().unwrap();
    write(&place, "look.json", &look_at(one).to_string());
    let file = write(&place, "jobs.toml", JOBS);
    let first = place.json(&["factory", "submit", &file]);
    // Topics (two are in both lists), random adapters, the intervention, and the comparison's jobs: one that collects, a score
    // for every arm, the fits that readers need, one report.
    let queued = first["queued"].as_u64().unwrap();
    let arms = place.json(&["compare", "arms", "--show"])["arm"].as_array().unwrap().len() as u64;
    let compared = queued - (40 + 2 + 1);
    assert!(compared > arms + 2 && compared < 3 * arms, "{first}");
    let again = place.json(&["factory", "submit", &file]);
    assert_eq!(again["queued"], 0);
    // A dependant is not begun before what it needs.
    let status = place.json(&["factory", "status"]);
    assert!(status.to_string().contains("intervention"), "{status}");
    let run = place.json(&["factory", "run"]);
    assert_eq!(run["failed"], 0, "{run}");
    assert_eq!(run["finished"].as_u64(), Some(compared + 1), "{run}");
    let report = place.json(&["compare", "report", "--run", "mine"]);
    assert_eq!(report["run"], "mine");
    let folder = std::fs::read_dir(place.path("store/runs"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.file_name().unwrap().to_string_lossy().starts_with("intervention-"))
        .unwrap();
    let outputs: Value =
        serde_json::from_slice(&std::fs::read(folder.join("outputs.json")).unwrap()).unwrap();
    // By hand it is the same.
    let spec = place.path("look.json").display().to_string();
    let vectors = place.path("v.safetensors").display().to_string();
    let by_hand = place.json(&["intervention", "run", &spec, "--vectors", &vectors]);
    for key in ["digest", "replies", "unembed_topk", "vectors", "cost"] {
        assert_eq!(outputs[key], by_hand[key], "{key}");
    }
    assert_eq!(
        std::fs::read(folder.join("vectors.safetensors")).unwrap(),
        std::fs::read(place.path("v.safetensors")).unwrap()
    );
    // An oracle's question as a file gives the oracle's answer.
    let adapter = place.json(&["adapter", "list", "--where", "family = topic"])["adapters"][0]["behaviour"]
        .as_str()
        .unwrap()
        .to_owned();
    let question = "What topic have you been trained on?";
    let shown = place.run(&["intervention", "show", &adapter, question]);
    let spec = write(&place, "question.json", &String::from_utf8(shown.stdout).unwrap());
    let answer = place.json(&["oracle", "ask", &adapter, question])["answer"].as_str().unwrap().to_owned();
    let found = place.json(&["intervention", "run", &spec]);
    assert_eq!(found["replies"]["answer"].as_str().unwrap().trim(), answer);
}

#[test]
fn what_is_wrong_with_a_file_is_said_before_anything_is_queued_or_loaded() {
    let place = Place::new();
    write(&place, "look.json", &look().to_string());
    for (from, to, parts) in [
        ("kind = \"comparison\"", "kind = \"magic\"", vec!["job[3].kind", "magic"]),
        ("limit = 40", "limit = -1", vec!["job[0].limit"]),
        ("limit = 40", "limits = 8", vec!["job[0]", "limits"]),
        ("after_any = [\"look\"]", "after_any = [\"lock\"]", vec!["job[3].after_any", "lock"]),
        ("name = \"mine\"", "name = \"../mine\"", vec!["job[3].name", "../mine"]),
        ("smoke = true", "smoke = true\nmax_tflop = 1.0", vec!["job[3]", "max_tflop"]),
        ("spec = \"look.json\"", "spec = \"../look.json\"", vec!["job[2].spec", "../look.json"]),
        ("spec = \"look.json\"", "spec = \"/dev/zero\"", vec!["job[2].spec", "/dev/zero"]),
        ("tags = [\"first\"]", "max_tflop = nan", vec!["FLOPs", "cap"]),
        ("of = [\"some\", \"others\"]", "of = [\"look\"]", vec!["job[3].of", "look"]),
        ("name = \"others\"", "name = \"some\"", vec!["job[1].name", "taken"]),
        ("limit = 40", "limit = 8", vec!["job[3].of", "validation"]),
        ("jobs/1", "jobs/2", vec!["schema", "jobs/1"]),
        ("spec = \"look.json\"", "spec = \"nowhere.json\"", vec!["nowhere.json"]),
        ("tags = [\"first\"]", "max_tflop = 0.000001", vec!["FLOPs", "cap"]),
    ] {
        let file = write(&place, "jobs.toml", &JOBS.replacen(from, to, 1));
        let out = place.run(&["factory", "submit", &file]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success(), "{to}");
        for part in parts {
            assert!(said.contains(part), "{to}: {said}");
        }
        let status = place.run(&["factory", "status", "--json"]);
        assert!(!String::from_utf8(status.stdout).unwrap().contains("queued"), "{to}: something was queued");
    }
    let spec = write(&place, "look.json", &look().to_string().replace("forward", "exec"));
    place.json(&["factory", "submit", "zero", "--limit", "1"]);
    place.fails(2, &["steps[0].op", "exec"], &["intervention", "check", &spec]);
    let spec = write(&place, "look.json", &look().to_string());
    place.fails(2, &["FLOPs", "cap"], &["intervention", "run", &spec, "--max-tflop", "0.0000001"]);
    place.fails(
        2,
        &["FLOPs", "cap"],
        &["factory", "submit", "topic", "--limit", "1", "--max-tflop", "0.0000001"],
    );
    let out = place.run(&["intervention", "check", &spec]);
    assert!(out.status.success());
    assert!(!String::from_utf8(out.stderr).unwrap().contains("loading"), "weights were loaded to check");
}

#[test]
fn a_plan_says_what_it_takes_and_whether_that_fits() {
    let place = Place::new();
    place.json(&["factory", "submit", "topic", "--limit", "4"]);
    let plan = place.json(&["factory", "plan", "--pack", "2"]);
    let family = &plan["families"]["topic"];
    // Nothing is finished: tokens are guessed, bytes follow from the shape, time is not known.
    assert_eq!(family["measured_on"], 0);
    assert_eq!(family["cost"]["seconds"], 0.0);
    let bytes = family["cost"]["bytes"].as_f64().unwrap();
    assert!(plan["fits"].as_bool().unwrap() && plan["memory_bytes"].as_f64().unwrap() > 1e5, "{plan}");
    place.json(&["factory", "run"]);
    let made = place.json(&["adapter", "list", "--where", "family = topic"]);
    let actual: f64 =
        made["adapters"].as_array().unwrap().iter().map(|a| a["weights_bytes"].as_f64().unwrap()).sum();
    // A safetensors header is all that the shape does not say.
    assert!(bytes <= actual && actual < bytes + 4.0 * 20_000.0, "{bytes} {actual}");
    let check = place.json(&["factory", "plan", "--check"]);
    assert_eq!(check["finished_jobs"], 4);
    // Another family is planned at the rate of this one.
    place.json(&["factory", "submit", "gated-topic", "--limit", "2"]);
    let plan = place.json(&["factory", "plan"]);
    let family = &plan["families"]["gated-topic"];
    assert!(family["measured_on"] == 0 && family["cost"]["seconds"].as_f64().unwrap() > 0.0, "{plan}");
    assert_eq!(plan["measured"], false);
}
