//! The logit lens ranks values as NumPy does, from the vectors that the intervention language gives and the model's file.
//!
//! Needs a Python with NumPy (`lm/tests/python/requirements.txt` has it), named by `LORAFAB_TEST_PYTHON`; `.ci/run` provides
//! one. Without it the test says so and checks only that the lens reads what was planted. The same on a real model and a store
//! with topics of it, by hand (Python needs `gguf`, too):
//!
//! `LORAFAB_TEST_PYTHON=python3 LORAFAB_LENS_MODEL=model.gguf LORAFAB_LENS_STORE=store cargo test --release -p compare --test lens -- --ignored`

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test with helpers")]

#[path = "../src/method/planted.rs"]
#[expect(dead_code, reason = "the unit tests use the rest of it")]
mod planted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use lm::{BaseModel, Precision};
use oracle_posttrain::intervention::{Cap, Spec, Surroundings, check, run};
use oracle_posttrain::{ActivationKind, Collector};
use planted::{Labels, Planted, Write, base, tiny};
use readers::{Arm, Case, Lab, Scored, Supervision, cases, episode_options, newest_of_each};
use recipes::Split;
use registry::Store;
use serde_json::json;

/// Runs a spec as `lorafab intervention run --vectors` does, and writes the same file.
fn vectors(lab: Lab<'_>, spec: &Spec, adapter: Option<&str>, to: &Path) {
    let adapters: BTreeSet<String> = adapter.iter().map(|a| (*a).to_owned()).collect();
    let cap = Cap { flops: f64::INFINITY, bytes: f64::INFINITY };
    let around = Surroundings { outline: lab.base, adapters: &adapters, vectors: &BTreeMap::new(), cap };
    let plan = check(spec, around).unwrap();
    let named = adapter.iter().map(|a| ((*a).to_owned(), &lab.supervision.diffs[*a])).collect();
    let outputs = run(lab.base, &[&plan], &named, &[], &AtomicBool::new(false)).unwrap().remove(0);
    let tensors =
        outputs.vectors.into_iter().map(|(id, v)| (id, (vec![v.len(), v[0].len()], v.concat()))).collect();
    std::fs::write(to, lm::geometry::to_safetensors(&tensors).unwrap()).unwrap();
}

#[test]
fn the_lens_ranks_values_as_numpy_does() {
    // What validation chooses differs: the raw difference where something is planted, the last logits in noise.
    for write in [Write::Label, Write::Noise] {
        let world = Planted::new(write);
        let mut arm = Arm::of("logit-lens");
        arm.input.layers = vec![base().architecture.layers.len() - 1];
        let scored = world.score(compare::method::find("logit-lens").unwrap(), &arm);
        if write == Write::Label {
            world.reads(&scored, Labels::Seen);
            world.reads(&scored, Labels::Unseen);
        }
        compare_with_numpy(world.lab(), &tiny(), &arm, &world.cases, &scored);
    }
}

#[test]
#[ignore = "needs a real model and a store with topics of it"]
fn the_lens_ranks_values_of_a_real_model_as_numpy_does() {
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let model = path("LORAFAB_LENS_MODEL");
    let base = BaseModel::load(&model, Precision::fastest()).unwrap();
    let store = Store::open(&path("LORAFAB_LENS_STORE")).unwrap();
    let mut made = newest_of_each(&store, &base.digest()).unwrap();
    made.retain(|r| r.family == "topic");
    let mut taken: BTreeMap<Option<String>, usize> = BTreeMap::new();
    made.retain(|r| {
        let n = taken.entry(r.split.clone()).or_default();
        *n += 1;
        *n <= 10
    });
    let options = episode_options(false);
    let s = Supervision::of_adapters(&store, &base, made, &[], options, false, 1).unwrap();
    let sets = compare::work::closed_sets(&s).unwrap();
    let lab = Lab { base: &base, supervision: &s, sets: &sets, seed: 1, stop: &AtomicBool::new(false) };
    // The last block, so that all three forms of the lens are compared, each under its own choice.
    for layer in [base.architecture.layers.len() - 1, base.architecture.layers.len() * 9 / 10] {
        let mut arm = Arm::of("logit-lens");
        arm.input.layers = vec![layer];
        let cases = cases(&s, &arm.contexts);
        let method = compare::method::find("logit-lens").unwrap();
        let scored = method.score(&store, lab, &arm, None, &cases).unwrap();
        eprintln!("block {layer}: {:?}", scored.chosen);
        compare_with_numpy(lab, &model, &arm, &cases, &scored);
    }
}

fn compare_with_numpy(lab: Lab<'_>, model: &Path, arm: &Arm, cases: &[Case], scored: &Scored) {
    let Some(python) = std::env::var_os("LORAFAB_TEST_PYTHON") else {
        eprintln!("LORAFAB_TEST_PYTHON is not set: not compared with NumPy");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::of(&arm.input, lab.base, &[]);
    let prompts = collector.first();
    let training = lab.supervision.positives(Split::Train);
    let subjects: Vec<&String> = lab.supervision.diffs.keys().collect();
    let mut listed = vec![];
    for (i, subject) in subjects.iter().enumerate() {
        let file = folder.path().join(format!("{i}.safetensors"));
        vectors(lab, &collector.spec(&prompts, Some(subject), ""), Some(subject), &file);
        listed.push(json!({"vectors": file, "training": training.contains(*subject)}));
    }
    let clean = Collector { kind: ActivationKind::Orig, ..collector };
    let file = folder.path().join("base.safetensors");
    vectors(lab, &clean.spec(&prompts, None, ""), None, &file);
    let mut tokens = lab.sets["topic"].first_tokens();
    tokens.pop();
    let task = folder.path().join("task.json");
    let value = json!({"model": model, "subjects": listed, "base": file, "tokens": tokens});
    std::fs::write(&task, value.to_string()).unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/numpy/lens.py");
    let output = std::process::Command::new(python).arg(script).arg(&task).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: BTreeMap<String, Vec<Vec<f64>>> = serde_json::from_slice(&output.stdout).unwrap();

    let how = scored.chosen["lens"].rsplit(", ").next().unwrap();
    let theirs = &theirs[how];
    let mut compared = 0;
    for (case, answer) in cases.iter().zip(&scored.answers) {
        let Some(subject) = &case.subject else { continue };
        let theirs = &theirs[subjects.iter().position(|s| *s == subject).unwrap()];
        let ours = &answer.scores[..tokens.len()];
        let mut order: Vec<usize> = (0..ours.len()).collect();
        order.sort_by(|a, b| ours[*b].total_cmp(&ours[*a]));
        let highest = theirs.iter().fold(0f64, |m, x| m.max(x.abs()));
        for pair in order.windows(2) {
            // The same order down to the last value; what rounding alone could swap is no difference.
            let gap = theirs[pair[0]] - theirs[pair[1]];
            assert!(gap > -1e-5 * highest, "{subject}, {how}: {pair:?} lie {gap} apart");
        }
        for (x, y) in ours.iter().zip(theirs) {
            assert!((f64::from(*x) - y).abs() < 1e-4 * highest, "{subject}, {how}: {x} {y}");
        }
        compared += 1;
    }
    assert!(compared > 30, "{compared}");
}
