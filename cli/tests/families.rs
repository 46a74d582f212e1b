//! The whole product on a tiny random checkpoint of every family of models. Numbers mean nothing; that it runs to its report does.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Place, text};

/// A copy of a fixture with room for the prompts of readers (fixtures have 128 tokens).
fn roomy(family: &Path, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for entry in std::fs::read_dir(family).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let nested = config["text_config"].is_object();
    let decoder = if nested { &mut config["text_config"] } else { &mut config };
    decoder["max_position_embeddings"] = 2048.into();
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn quickstart_runs_on_every_family() {
    let families = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/families");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(families).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    all.sort();
    assert!(all.len() >= 10);
    for family in all {
        let place = Place::new();
        let model = place.path("model");
        roomy(&family, &model);
        let model = model.display().to_string();
        let out = place.command(&["--json", "--model", &model, "quickstart", "--smoke"]).output().unwrap();
        assert!(out.status.success(), "{}: {}", family.display(), text(&out.stderr));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["schema"], "comparison/2");
        let arms = ["dit", "oracle-prompts-post", "logit-lens", "weight-lens"];
        let results = report["results"].as_array().unwrap();
        for arm in arms {
            assert!(results.iter().any(|r| r["arm"] == arm), "{}: {arm}", family.display());
        }
        // Its adapters go out and come in again, under the names that the family has.
        let list = place.command(&["--json", "--model", &model, "adapter", "list"]).output().unwrap();
        let list: Value = serde_json::from_slice(&list.stdout).unwrap();
        let id = list["adapters"][0]["id"].as_str().unwrap().to_owned();
        let folder = place.path("exported").display().to_string();
        let run = |args: &[&str]| {
            let out = place.command(&[&["--model", &model], args].concat()).output().unwrap();
            assert!(out.status.success(), "{}: {}", family.display(), text(&out.stderr));
        };
        run(&["adapter", "export", &id, &folder]);
        run(&["--store", &place.path("other").display().to_string(), "adapter", "import", &folder]);
    }
}
