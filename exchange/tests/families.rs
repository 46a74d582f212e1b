//! Adapters that PEFT wrote for every family of models (`tests/golden/families.py`): imported, exported, and loaded by PEFT again.
//!
//! The last needs a Python with torch, transformers and peft, named by `LORAFAB_TEST_PYTHON`; without it the test says so and holds only
//! the exported tensors against the imported ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use exchange::{IfExists, ImportShape, peft};
use registry::{NewAdapter, Status, Store};
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
struct Family {
    layers: usize,
    projections: BTreeMap<String, (usize, usize)>,
    nested: bool,
    refused: Option<String>,
}

impl Family {
    fn shape(&self) -> ImportShape {
        ImportShape {
            base_model: "tiny".into(),
            revision: None,
            layers: self.layers,
            projections: self.projections.clone(),
        }
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families")
}

fn families() -> BTreeMap<String, Family> {
    serde_json::from_str(&std::fs::read_to_string(golden().join("families.json")).unwrap()).unwrap()
}

fn names(weights: &[u8]) -> BTreeSet<String> {
    SafeTensors::deserialize(weights).unwrap().names().into_iter().map(str::to_owned).collect()
}

#[test]
fn adapters_of_every_family_come_in_and_go_out_as_peft_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("store")).unwrap();
    let python = std::env::var_os("LORAFAB_TEST_PYTHON");
    if python.is_none() {
        eprintln!("LORAFAB_TEST_PYTHON is not set: not loaded with PEFT");
    }
    let mut exported: Vec<(String, PathBuf)> = Vec::new();
    for (name, family) in families().into_iter().filter(|(_, f)| f.refused.is_none()) {
        let imported = peft::import(&golden().join(&name), &family.shape())
            .unwrap_or_else(|e| panic!("{name} is refused: {e}"));
        assert_eq!(imported.peft.nested, family.nested, "{name}");
        let plain = |n: &String| n.starts_with("base_model.model.model.layers.");
        assert!(names(&imported.weights).iter().all(plain), "{name}: what is kept is spelled plainly");
        let new = NewAdapter {
            status: Status::Untested,
            ..NewAdapter::of_spec(
                serde_json::json!({ "import": name }),
                &name,
                imported.peft.clone(),
                imported.weights.clone(),
            )
        };
        let record = store.commit_adapter(new).unwrap();
        let out = folder.path().join(&name);
        peft::export(&store, &record, &out, IfExists::Fail).unwrap();
        // PEFT may have spared some modules; ours are uniform.
        let theirs = names(&std::fs::read(golden().join(&name).join("adapter_model.safetensors")).unwrap());
        let theirs: BTreeSet<String> = theirs
            .iter()
            // Today's class calls them so; the older spelling is only read.
            .map(|n| n.replace(".language_model.model.layers.", ".model.language_model.layers."))
            .collect();
        let ours = names(&std::fs::read(out.join("adapter_model.safetensors")).unwrap());
        assert!(theirs.is_subset(&ours), "{name}: {:?}", theirs.difference(&ours).next());
        let back = peft::import(&out, &family.shape()).unwrap();
        assert_eq!((&back.peft, &back.weights), (&imported.peft, &imported.weights), "{name}");
        exported.push((name, out));
    }
    assert!(exported.len() >= 10, "{}", exported.len());
    if let Some(python) = python {
        // One process for all: most of its time goes into starting.
        let pairs = exported.iter().flat_map(|(name, out)| [name.as_ref(), out.as_os_str()]);
        let output = std::process::Command::new(python)
            .arg(golden().with_extension("py"))
            .arg("check")
            .args(pairs)
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn adapters_of_what_is_not_read_are_refused_with_the_reason() {
    let mut done = 0;
    for (name, family) in families() {
        let Some(expected) = &family.refused else { continue };
        let error = peft::import(&golden().join(&name), &family.shape()).unwrap_err().to_string();
        assert!(error.contains(expected.as_str()), "{name}: {error}");
        done += 1;
    }
    assert!(done >= 6, "{done}");
}

/// A file whose layers are spelled in two ways, and experts as older transformers had them, each a module of its own.
#[test]
fn mixed_spellings_and_single_experts_are_refused_by_name() {
    let family = &families()["gemma3"];
    let folder = golden().join("gemma3");
    let config = std::fs::read(folder.join("adapter_config.json")).unwrap();
    let weights = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&weights).unwrap();
    let renamed = |from: &str, to: &str| {
        let views = file.tensors().into_iter().map(|(n, v)| (n.replace(from, to), v));
        safetensors::serialize(views, None).unwrap()
    };
    let path = Path::new("adapter_model.safetensors");
    let read = |weights: &[u8]| peft::read(path, &config, path, weights, &family.shape());
    assert!(read(&renamed("", "")).is_ok());
    let error = |from, to| read(&renamed(from, to)).unwrap_err().to_string();
    for to in ["model.layers.1.", "language_model.model.layers.1."] {
        let error = error("model.language_model.layers.1.", to);
        assert!(error.contains("two ways"), "{error}");
    }
    let experts = error("layers.1.mlp.down_proj", "layers.1.mlp.experts.3.down_proj");
    assert!(experts.contains("experts.3.down_proj") && experts.contains("mixture of experts"), "{experts}");
}
