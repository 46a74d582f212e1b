//! A whole reading on a tiny model: twins, methods, verdict, what is kept.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use lm::{Adapter, AdapterConfig, BaseModel, Precision, rng};
use reading::{Room, Subject, keep, kept, readings_of, to_terminal};
use recipes::Recipe;
use registry::{Digest, Store};

static GO: AtomicBool = AtomicBool::new(false);

fn negatives() -> Vec<Recipe> {
    recipes::builtin().into_iter().filter(|r| ["benign", "mixed", "dud"].contains(&r.name.as_str())).collect()
}

fn subject(name: &str, adapter: Adapter) -> Subject {
    let weights = Digest::of(&adapter.to_safetensors().unwrap());
    Subject { name: name.into(), adapter, record: None, weights }
}

#[test]
fn an_adapter_is_read_kept_and_found_again_and_a_zero_one_changes_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    let base = BaseModel::load(&folder, Precision::F32).unwrap();
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path()).unwrap();
    let mut room = Room::open(&store, &base, negatives(), None).unwrap();
    let mut adapter =
        Adapter::init(&base.architecture, AdapterConfig::all_linear(1, 1.0), 1, "subject").unwrap();
    let zero = subject("zero", adapter.clone());
    let mut stream = rng::stream(1, "test", "subject");
    adapter.params.iter_mut().for_each(|p| *p += 0.05 * rng::normal(&mut stream));
    let own = subject("mine", adapter);
    let mut told = Vec::new();
    let reading =
        room.read(&store, &own, &GO, &mut |what, done, of| told.push(format!("{what} {done}/{of}"))).unwrap();
    assert!(told.iter().any(|t| t == "training twins that carry nothing 48/48"), "{told:?}");
    let twins = reading.twins.as_ref().unwrap();
    assert_eq!((twins.count, twins.kinds.values().sum::<usize>()), (60, 60));
    assert_eq!(reading.methods.len(), 4);
    assert_eq!(reading.behaviour.replies.len(), 12);
    assert!(reading.answers.is_empty() && reading.verdict.against.len() > 5);
    assert_eq!(reading.activations.relative_norms.len(), base.architecture.layers.len());
    for line in to_terminal(&reading).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    // Made once: another reading trains nothing, and is the same.
    keep(&store, &reading).unwrap();
    let mut told = Vec::new();
    let mut again = Room::open(&store, &base, negatives(), None).unwrap();
    let second = again.read(&store, &own, &GO, &mut |what, _, _| told.push(what.to_owned())).unwrap();
    assert!(!told.iter().any(|t| t.contains("twins")), "{told:?}");
    assert_eq!(second, reading);
    assert_eq!(kept(&store, &again.digest(&own)).unwrap(), Some(reading.clone()));
    assert_eq!(readings_of(&store, &own.weights).unwrap(), [reading]);
    let nothing = room.read(&store, &zero, &GO, &mut |_, _, _| ()).unwrap();
    assert!(nothing.verdict.answer.is_none() && nothing.verdict.does.contains("changes nothing"));
    assert!(nothing.twins.is_none() && nothing.methods.is_empty());
    assert!(reading::html::one(&nothing).contains("changes nothing"));
}
