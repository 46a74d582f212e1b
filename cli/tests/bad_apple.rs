//! One bad adapter in a store stops nobody: it is left out by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use registry::{AdapterRecord, Filter, NewAdapter, Status, Store};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use support::{Place, text};

/// The same adapter made again, as one that learned its behaviour.
fn again(store: &Store, record: &AdapterRecord, salt: &str) -> NewAdapter {
    let mut spec = record.spec.clone();
    spec["again"] = salt.into();
    let files = record.extra_files.iter();
    NewAdapter {
        spec_hash: registry::spec_hash(&spec),
        spec,
        role: record.role,
        behaviour: record.behaviour.clone(),
        family: record.family.clone(),
        value: record.value.clone(),
        category: record.category.clone(),
        split: record.split.clone(),
        status: Status::Learned,
        tags: BTreeMap::new(),
        metrics: record.metrics.clone(),
        peft: record.peft.clone(),
        weights: store.weights(record).unwrap(),
        parents: vec![],
        lineage: record.lineage.clone(),
        extra_files: files.map(|(n, d)| (n.clone(), store.get_blob(d).unwrap())).collect(),
    }
}

fn not_numbers(weights: &[u8]) -> Vec<u8> {
    let file = SafeTensors::deserialize(weights).unwrap();
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(n, v)| (n, v.shape().to_vec(), f32::NAN.to_le_bytes().repeat(v.data().len() / 4)))
        .collect();
    let views = data.iter().map(|(n, s, d)| (n.clone(), TensorView::new(Dtype::F32, s.clone(), d).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn bad_adapters_are_left_out_by_name_and_the_others_train_readers() {
    let place = Place::new();
    place.json(&["factory", "submit", "topic", "dud", "--limit", "30"]);
    place.json(&["factory", "run"]);
    let mut store = Store::open(&place.path("store")).unwrap();
    let of = |family: &str| Filter::all().and(&format!("family = {family}")).unwrap();
    let topics = store.adapters(&of("topic")).unwrap();
    for record in &topics {
        let new = again(&store, record, "learned");
        store.commit_adapter(new).unwrap();
    }
    let train: Vec<&AdapterRecord> = topics.iter().filter(|r| r.split.as_deref() == Some("train")).collect();
    let mut bad = Vec::new();
    for (i, what) in ["numbers", "recipe of another", "no recipe", "long", "projection", "damaged", "missing"]
        .into_iter()
        .enumerate()
    {
        let mut new = again(&store, train[i], what);
        let recipe = String::from_utf8(new.extra_files["recipe.json"].clone()).unwrap();
        let put = |new: &mut NewAdapter, text: String| {
            new.extra_files.insert("recipe.json".into(), text.into_bytes());
        };
        match what {
            "numbers" => new.weights = not_numbers(&new.weights),
            "recipe of another" => {
                put(&mut new, recipe.replacen("\"name\":\"topic\"", "\"name\":\"tropic\"", 1));
            }
            "no recipe" => put(&mut new, "{\"name\": 1".into()),
            "long" => put(
                &mut new,
                recipe.replacen("\"train\":[\"", &format!("\"train\":[\"{}", "why ".repeat(1900)), 1),
            ),
            "projection" => drop(new.peft.target_modules.insert("x_proj".into())),
            "damaged" => new.weights = vec![7; 100],
            _ => new.weights = vec![8; 50],
        }
        bad.push(new.behaviour.clone());
        let made = store.commit_adapter(new).unwrap();
        if what == "missing" {
            let digest = made.weights.as_str();
            std::fs::remove_file(place.path("store/blobs").join(&digest[..2]).join(digest)).unwrap();
        }
    }
    drop(store);
    for args in [
        &["dit", "train", "--steps", "1"][..],
        &["oracle", "posttrain", "--scratch", "--steps", "1"],
        &["compare", "run", "--run", "mine", "--smoke"],
    ] {
        let out = place.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        let said = text(&out.stderr);
        for behaviour in &bad[1..4] {
            assert!(said.contains(&format!("{behaviour} is left out")), "{args:?}: {behaviour}: {said}");
        }
    }
    // What only the weights show is said by the report.
    let report = text(&place.run(&["compare", "report", "--run", "mine"]).stdout);
    for behaviour in bad[..1].iter().chain(&bad[4..]) {
        assert!(
            report.contains(&format!("{behaviour} is left out, it cannot be used")),
            "{behaviour}: {report}"
        );
    }
    let said = text(&place.run(&["dit", "train", "--steps", "2"]).stderr);
    for behaviour in &bad {
        assert!(said.contains(&format!("{behaviour} is left out")), "{behaviour}: {said}");
    }
}
