//! Training settings that were found for a base model: searched for, filed, picked up, named, refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use serde_json::{Value, json};
use support::{Place, assert_fails, text};

/// A family that every adapter learns: its gate asks for nothing.
const RECIPE: &str = include_str!("../../recipes/tests/recipes/weather.toml");

struct Weather {
    place: Place,
    recipe: String,
}

impl Weather {
    fn new() -> Self {
        let place = Place::new();
        let recipe = place.path("weather.toml").display().to_string();
        std::fs::write(&recipe, RECIPE).unwrap();
        Self { place, recipe }
    }

    fn tune(&self, more: &[&str]) -> Value {
        let args = ["recipe", "tune", &self.recipe, "--behaviours", "2", "--learning-rate", "0.001,0.02"];
        self.place.json(&[&args, more].concat())
    }

    /// Submits into a store, and returns the hash of a job's specification and what was said.
    fn submitted(&self, store: &str, more: &[&str]) -> (String, String) {
        let out = self.place.in_store(store, &[&["factory", "submit", &self.recipe], more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        let job = self.place.json_in(store, &["factory", "logs", "weather/rain"])["job"].clone();
        let hash = job["spec_hash"].as_str().unwrap().to_owned();
        (hash, text(&out.stderr))
    }
}

#[test]
fn what_is_found_is_filed_and_submit_uses_and_names_it() {
    let weather = Weather::new();
    let place = &weather.place;
    // A look at the grid makes nothing.
    let plan = weather.tune(&["--steps", "3", "--dry-run"]);
    assert_eq!(
        (plan["schema"].as_str(), plan["further_settings"].as_u64()),
        (Some("recipe-tune-plan/1"), Some(6))
    );
    assert_eq!(plan["coarse"].as_array().unwrap().len(), 2);
    assert!(plan["coarse_flops"].as_f64() > Some(0.0));
    assert!(!place.path("store").exists());

    let tuned = weather.tune(&["--steps", "3", "--rows", "1,2", "--coarse"]);
    assert_eq!(tuned["schema"], "recipe-tune/1");
    let trials = tuned["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 4);
    for t in trials {
        assert_eq!((&t["learned"], &t["learned_share"]), (&json!(2), &json!(1.0)));
        assert!(t["damage_nats_per_token"].is_f64() && t["seconds_per_adapter"].as_f64() > Some(0.0), "{t}");
    }
    let splits = place.json(&["recipe", "expand", &weather.recipe]);
    for id in tuned["behaviours"].as_array().unwrap() {
        let b = splits["behaviours"].as_array().unwrap().iter().find(|b| b["id"] == *id).unwrap();
        assert_eq!(b["split"], "validation");
    }
    // Nothing of it is an adapter or a job.
    assert_eq!(place.json(&["adapter", "list"])["adapters"], json!([]));
    assert_eq!(place.json(&["registry", "check"])["report"]["problems"], json!([]));
    let file = tuned["settings_file"].as_str().unwrap().to_owned();
    assert!(file.starts_with(&place.path("store/settings").display().to_string()), "{file}");
    let chosen = &trials[tuned["chosen"].as_u64().unwrap() as usize]["setting"];

    let (hash, said) = weather.submitted("store", &[]);
    assert!(
        said.contains("weather: using settings tuned for ") && said.contains(&format!(" from {file}")),
        "{said}"
    );
    // Another store has none: the recipe's own, and a hint.
    let (own_hash, said) = weather.submitted("other", &[]);
    assert!(own_hash != hash && said.contains("recipe tune FILE"), "{said}");
    // The same by name, and not at all.
    let (named, said) = weather.submitted("named", &["--settings", &file]);
    assert!(named == hash && said.contains(&file), "{said}");
    let (none, said) = weather.submitted("none", &["--settings", "none"]);
    assert!(none == own_hash && !said.contains("settings"), "{said}");
    // A file of jobs, and what a dry run says.
    let jobs = place.path("jobs.toml").display().to_string();
    let list =
        "schema = \"jobs/1\"\n[[job]]\nname = \"all\"\nkind = \"adapters\"\nrecipes = [\"weather.toml\"]\n";
    std::fs::write(&jobs, list).unwrap();
    let again = place.json(&["factory", "submit", &jobs, "--dry-run"]);
    assert_eq!((&again["already_known"], &again["settings"][0]["from"]), (&json!(12), &json!(file)));

    // Made under them, an adapter is as it says.
    assert!(place.run(&["factory", "run"]).status.success());
    let made = place.json(&["adapter", "list", "--where", &format!("steps = {}", chosen["steps"])]);
    assert_eq!(made["adapters"].as_array().unwrap().len(), 12);
    let shown = place.json(&["adapter", "show", "weather/rain"]);
    let training = &shown["adapter"]["spec"]["behaviour"]["training"];
    for field in ["learning_rate", "steps", "on_rows"] {
        assert_eq!(training[field], chosen[field], "{field}: {shown}");
    }
    // Found again without work, and written again.
    let again = weather.tune(&["--steps", "3", "--rows", "1,2", "--coarse"]);
    assert_eq!(again["trials"], tuned["trials"]);
    let shown =
        place.run(&["recipe", "tune", &weather.recipe, "--coarse", "--behaviours", "2", "--steps", "2"]);
    let (shown, said) = (text(&shown.stdout), text(&shown.stderr));
    assert!(shown.contains("* chosen") && shown.contains("own"), "{shown}");
    assert!(said.contains("setting 4/4 (rate ") && said.contains("in place of earlier ones"), "{said}");
}

#[test]
fn a_bad_settings_file_is_refused_with_file_field_and_value() {
    let weather = Weather::new();
    let place = &weather.place;
    let named = place.path("mine.toml").display().to_string();
    let good = "schema = \"settings/1\"\n[model]\nname = \"some/model\"\n[[recipe]]\nname = \"weather\"\nversion = 2\n[recipe.training]\nsteps = 4\n";
    std::fs::write(&named, good).unwrap();
    let submit = ["factory", "submit", &weather.recipe];
    // Named, it is used on whatever model, and that is said.
    let (hash, said) = weather.submitted("named", &["--settings", &named]);
    assert!(hash != weather.submitted("none", &["--settings", "none"]).0);
    assert!(said.contains("tuned for some/model") && said.contains("warning: the model here is"), "{said}");
    for (from, to, parts) in [
        ("settings/1", "settings/2", ["schema", "settings/2"]),
        ("steps = 4", "steps = -4", ["recipe.training.steps", "-4"]),
        ("steps = 4", "steps = 0", ["training.steps", "0 is not in"]),
        ("steps = 4", "learning_rate = 7.5", ["training.learning_rate", "7.5"]),
        ("steps = 4", "rank = 3", ["unknown field", "rank"]),
        ("\"weather\"", "\"wea ther\"", ["recipe[0].name", "wea ther"]),
        ("version = 2", "version = 1", ["weather version 1", "weather version 2"]),
    ] {
        std::fs::write(&named, good.replace(from, to)).unwrap();
        let out = place.in_store("bad", &[&submit[..], &["--settings", &named]].concat());
        assert_fails(&out, 2, &[&[&named, "--settings none"], &parts[..]].concat());
    }
    std::fs::remove_file(&named).unwrap();
    place.fails(5, &[&named], &[&submit[..], &["--settings", &named]].concat());
    // The user's own folder is read by every submission; without settings it is not.
    let own = place.path("store/settings");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::write(own.join("x.toml"), "schema = \"settings/1\"\nmodel = 7\n").unwrap();
    let out = place.run(&submit);
    assert_fails(&out, 2, &["settings/x.toml: line 2: model", "7"]);
    assert!(place.run(&[&submit[..], &["--settings", "none"]].concat()).status.success());
    // A folder that is a link is none of ours.
    std::fs::remove_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(place.path("elsewhere"), &own).unwrap();
    assert_fails(&place.run(&submit), 5, &["settings", "is a link"]);
}

#[test]
fn what_cannot_be_tuned_or_is_not_learned_is_said() {
    let weather = Weather::new();
    let place = &weather.place;
    place.fails(2, &["\"benign\"", "carry no behaviour", "--also"], &["recipe", "tune", "benign"]);
    let tune = ["recipe", "tune", &weather.recipe];
    place.fails(2, &["training.learning_rate", "7"], &[&tune[..], &["--learning-rate", "7"]].concat());
    place.fails(3, &["no recipe \"nowhere\""], &["recipe", "tune", "nowhere"]);
    // A gate that nothing passes: the table, exit code 1, and no file.
    std::fs::write(&weather.recipe, RECIPE.replace("min_on = 0.0", "min_on = 1.0")).unwrap();
    let out = place.run(&[&tune[..], &["--behaviours", "2", "--steps", "1"]].concat());
    support::assert_error(&out, 1, &["no setting was learned by any of 2 behaviours", "--learning-rate"]);
    assert!(text(&out.stdout).contains("0/2"), "{}", text(&out.stdout));
    assert!(!place.path("store/settings").exists());
}
