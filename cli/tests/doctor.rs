//! `doctor` says what a model is and needs, and a model that cannot fit is refused before it is loaded.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use support::{Place, text, tiny};

#[test]
fn a_model_at_hand_is_described_without_being_loaded() {
    let place = Place::new();
    let found = place.json(&["doctor"]);
    let model = &found["model"];
    assert_eq!(found["schema"], "doctor/2");
    assert_eq!(model["problems"], serde_json::json!([]));
    assert_eq!(model["path"], tiny().as_str());
    let outline = &model["outline"];
    let config = std::fs::read_to_string(std::path::Path::new(&tiny()).join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for key in ["num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"] {
        assert_eq!(outline[key], config[key], "{key}");
    }
    // What the file holds is the parameters in f32, a header and the norms.
    let file = std::path::Path::new(&tiny()).join("model.safetensors").metadata().unwrap().len();
    let share = outline["parameters"].as_f64().unwrap() * 4.0 / file as f64;
    assert!((0.85..=1.0).contains(&share), "{share}");
    assert_eq!(model["weights_bytes"], file);
    assert!(outline["chat_template_example"].as_str().unwrap().contains("How are you?"));
    assert!(outline["most_tokens_per_second"]["read"].as_f64().unwrap() > 0.0);
    assert_eq!(outline["fits"], true);
    let people = text(&place.run(&["doctor"]).stdout);
    for part in ["family: LlamaForCausalLM", "it fits", "How are you?", "gemma-3-270m", "smollm2-135m"] {
        assert!(people.contains(part), "{part}: {people}");
    }
    assert!(!people.contains("would not work"), "{people}");
}

#[test]
fn the_version_says_what_is_in_it_and_which_vector_instructions_are_here() {
    let place = Place::new();
    let said = text(&place.run(&["--version"]).stdout);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("lorafab {} (", env!("CARGO_PKG_VERSION"))), "{said}");
    assert_eq!(lines[1], "features: cpu");
    assert_eq!(lines[2], format!("vector level: {}", place.json(&["doctor"])["simd"].as_str().unwrap()));
    assert_eq!(text(&place.run(&["-V"]).stdout).trim(), format!("lorafab {}", env!("CARGO_PKG_VERSION")));
}

/// A built-in model is not fetched for it, and what is no model is named with the reason.
#[test]
fn what_is_not_at_hand_is_not_fetched_and_what_is_wrong_is_said() {
    let place = Place::new();
    let doctor = |model: &str, code: i32| {
        let out = place
            .command(&["--json", "--model", model, "doctor"])
            .env("LORAFAB_PYTHON", "/bin/false")
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(code), "{}", text(&out.stderr));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()["model"].clone()
    };
    for (name, built_in) in [("gemma-3-270m", true), ("default", true), ("smollm2-135m", true)] {
        let model = doctor(name, 0);
        assert_eq!((&model["path"], &model["problems"]), (&().into(), &serde_json::json!([])), "{name}");
        assert_eq!(model["built_in"], built_in);
    }
    let message = |model: &serde_json::Value| model["problems"][0]["message"].as_str().unwrap().to_owned();
    assert!(message(&doctor("/nowhere/model.gguf", 5)).contains("does not exist"));
    let bad = place.path("bad.gguf");
    std::fs::write(&bad, "this is no model").unwrap();
    assert!(!place.path("store").exists(), "a look made a store");
    assert!(message(&doctor(bad.to_str().unwrap(), 5)).contains("GGUF"));
}

#[test]
fn a_model_that_cannot_fit_is_refused_with_the_figures_before_it_is_loaded() {
    let place = Place::new();
    place.json(&["factory", "submit", "gated-topic", "--limit", "1"]);
    let parts = ["while it loads", "after)", "are free (as --memory says)", "hint:", "LORAFAB_MEMORY"];
    place.fails(5, &parts, &["--memory", "100KB", "factory", "run"]);
    let by_variable = place
        .command(&Place::arguments(&["factory", "run"]).iter().map(String::as_str).collect::<Vec<_>>())
        .env("LORAFAB_MEMORY", "100KB")
        .output()
        .unwrap();
    support::assert_error(&by_variable, 5, &parts);
    assert!(!text(&by_variable.stderr).contains("loading"), "it was loaded first");
    let doctor = place.run(&["--json", "--memory", "100KB", "doctor"]);
    assert_eq!(doctor.status.code(), Some(5), "it would not work");
    let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(doctor["available_memory_bytes"], 100_000);
    assert_eq!(doctor["model"]["outline"]["fits"], false);
    let plan = place.json(&["--memory", "100KB", "factory", "plan"]);
    assert_eq!((&plan["available_memory_bytes"], &plan["fits"]), (&100_000.into(), &false.into()));
    let people = text(&place.run(&["--memory", "100KB", "factory", "plan"]).stdout);
    assert!(people.contains("while it loads") && people.contains("does NOT fit"), "{people}");
    place.fails(2, &["--memory", "8GB"], &["--memory", "much", "doctor"]);
    let enough = place.run(&["--memory", "8GB", "factory", "run"]);
    assert!(enough.status.success(), "{}", text(&enough.stderr));
}
