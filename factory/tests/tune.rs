//! A search for training settings on the tiny model: what is tried, what is remembered, what is filed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use factory::pack::{Outcome as Made, Watch, Workshop};
use factory::samples::sample;
use factory::settings::{Shelf, file};
use factory::tune::{Axes, Event, Figures, Options, Outcome, Search, Setting};
use factory::{AdapterSpec, RunOptions, SubmitOptions};
use lm::{BaseModel, Precision};
use recipes::{Recipe, Split};
use registry::{Filter, Store};

fn tiny() -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    BaseModel::load(&folder, Precision::F32).unwrap()
}

/// A family that every adapter learns: its gate asks for nothing.
fn recipe() -> Recipe {
    let text = include_str!("../../recipes/tests/recipes/weather.toml");
    Recipe::parse("weather.toml", text).unwrap()
}

fn options(pack: usize) -> Options {
    let axes = Axes { learning_rates: vec![1e-3, 1e-2], steps: vec![2], rows: vec![] };
    Options { behaviours: 3, seed: 1, pack, axes, around: true, max_flops: 1e15, also: vec![] }
}

fn run(search: &Search, store: &Store, base: &BaseModel, stop_at: usize) -> (Outcome, usize, usize) {
    let stop = AtomicBool::new(false);
    let (mut steps, mut known) = (0, 0);
    let outcome = search.run(store, base, &stop, &mut |event| match event {
        Event::Step { number, of, seconds_left, .. } => {
            assert!(number <= of && seconds_left.is_finite());
            steps += 1;
            stop.store(steps >= stop_at, Ordering::Relaxed);
        }
        Event::Tried { known: true, .. } => known += 1,
        Event::Tried { .. } => {}
    });
    (outcome.unwrap(), steps, known)
}

/// What does not depend on the machine.
fn timeless(outcome: &Outcome) -> Vec<(Setting, Figures)> {
    outcome.trials.iter().map(|t| (t.setting, Figures { seconds: 0.0, ..t.figures })).collect()
}

#[test]
fn a_search_goes_on_where_it_was_stopped_and_leaves_no_adapter() {
    let (base, folder) = (tiny(), tempfile::tempdir().unwrap());
    let open = |name: &str| Store::open(&folder.path().join(name)).unwrap();
    let search = Search::new(&base, &recipe(), &options(8)).unwrap();
    assert_eq!(search.behaviours.len(), 3);
    assert!(search.behaviours.iter().all(|b| b.split == Split::Validation));
    let (whole, steps, known) = run(&search, &open("whole"), &base, usize::MAX);
    // Two coarse settings, and five neighbours of the better one: of its rows there can be no more than the recipe has.
    assert_eq!((whole.trials.len(), known), (8, 0));
    assert!(whole.trials.iter().all(|t| t.figures.learned == 3 && t.figures.damage.is_some()));
    assert!(!whole.stopped && whole.chosen.is_some());

    let store = open("pieces");
    let (part, ..) = run(&search, &store, &base, steps / 2);
    assert!(part.stopped && part.trials.len() < whole.trials.len() && part.chosen.is_none());
    let (rest, _, known) = run(&search, &store, &base, usize::MAX);
    assert_eq!(known, part.trials.len());
    assert_eq!(timeless(&rest), timeless(&whole));
    assert_eq!(rest.chosen, whole.chosen);
    let (again, steps, known) = run(&search, &store, &base, usize::MAX);
    assert_eq!((steps, known), (0, rest.trials.len()));
    assert_eq!(again, rest);
    assert_eq!(store.adapters(&Filter::all()).unwrap(), []);

    // One adapter at a time comes to the same.
    let single = Search::new(&base, &recipe(), &options(1)).unwrap();
    assert_eq!(timeless(&run(&single, &open("single"), &base, usize::MAX).0), timeless(&whole));
}

#[test]
fn what_is_found_is_filed_and_fits_this_model() {
    let (base, folder) = (tiny(), tempfile::tempdir().unwrap());
    let store = Store::open(folder.path()).unwrap();
    let mixed = recipes::builtin().into_iter().find(|r| r.name == "mixed").unwrap();
    let options = Options { also: vec![mixed.clone()], ..options(8) };
    let search = Search::new(&base, &recipe(), &options).unwrap();
    let (outcome, ..) = run(&search, &store, &base, usize::MAX);
    let settings = search.file(&base, &outcome, "2026-11-28T12:00:00Z", "0.1.0").unwrap();
    let path = file(store.root(), &base, &settings).unwrap();
    let found = settings.recipes[0].found.as_ref().unwrap();
    assert_eq!((found.tried.len(), found.behaviours), (outcome.trials.len(), 3));
    let resolved = Shelf::open(store.root()).unwrap().resolve(&base, &recipe()).unwrap();
    assert_eq!(resolved.used.unwrap().from, path.display().to_string());
    let chosen = outcome.trials[outcome.chosen.unwrap()].setting;
    assert_eq!(Setting::of(resolved.recipe.training.as_ref().unwrap()), chosen);
    // A negative that is trained as this family is gets the same.
    let resolved = Shelf::open(store.root()).unwrap().resolve(&base, &mixed).unwrap();
    assert_eq!(Setting::of(resolved.recipe.training.as_ref().unwrap()), chosen);
}

/// A job's specification holds its settings, so its row does: no settings file is needed to make its bytes again.
#[test]
fn an_adapter_made_under_settings_comes_again_from_its_row() {
    let (base, folder) = (tiny(), tempfile::tempdir().unwrap());
    let mut store = Store::open(folder.path()).unwrap();
    let search = Search::new(&base, &recipe(), &options(8)).unwrap();
    let (outcome, ..) = run(&search, &store, &base, usize::MAX);
    let settings = search.file(&base, &outcome, "2026-11-28T12:00:00Z", "0.1.0").unwrap();
    let path = file(store.root(), &base, &settings).unwrap();
    let tuned = Shelf::open(store.root()).unwrap().resolve(&base, &recipe()).unwrap().recipe;
    assert!(tuned != recipe(), "the search found other settings than the recipe's own");
    let behaviours = recipes::first(tuned.expand(1), 2);
    factory::submit(&mut store, &base, &[tuned], &behaviours, &SubmitOptions::default(), 0).unwrap();
    let never = AtomicBool::new(false);
    let options = RunOptions {
        pack: 2,
        owner: "host/1/1/0",
        stop: &never,
        enough: &never,
        clock: || 1000,
        gone: |_| false,
        crafts: &[],
        drain: false,
    };
    assert_eq!(factory::run(&mut store, &base, options, &mut |_| {}).unwrap().committed, 2);
    std::fs::remove_file(path).unwrap();
    for record in store.adapters(&Filter::all()).unwrap() {
        let spec: AdapterSpec = serde_json::from_value(record.spec.clone()).unwrap();
        assert_eq!(spec.hash(), record.spec_hash);
        let samples = sample(None, &base, &spec.behaviour.sample_requests().into_iter().collect()).unwrap();
        let staging = folder.path().join("again");
        std::fs::create_dir_all(&staging).unwrap();
        let made = Workshop::new(&base, &staging)
            .make(
                std::slice::from_ref(&spec),
                &samples,
                std::time::Duration::ZERO,
                &|_| unreachable!("it has no reference"),
                &|_| Ok(None),
                &mut |_| Ok(Watch::Without(vec![])),
            )
            .unwrap();
        let Made::Made(again, _) = &made[0] else { panic!("{made:?}") };
        assert!(again.weights == store.weights(&record).unwrap(), "{}", record.behaviour);
    }
}

#[test]
fn a_setting_that_breaks_every_training_is_not_learned_and_stops_nothing() {
    let (base, folder) = (tiny(), tempfile::tempdir().unwrap());
    let store = Store::open(folder.path()).unwrap();
    // Scaled beyond all numbers after the first step.
    let mut recipe = recipe();
    recipe.training.as_mut().unwrap().alpha = f32::MAX;
    let axes = Axes { learning_rates: vec![1.0], steps: vec![4], rows: vec![] };
    let search = Search::new(&base, &recipe, &Options { axes, around: false, ..options(8) }).unwrap();
    let (outcome, ..) = run(&search, &store, &base, usize::MAX);
    assert_eq!(outcome.chosen, None);
    assert_eq!(outcome.trials.len(), 1);
    let f = outcome.trials[0].figures;
    assert_eq!((f.behaviours, f.broken, f.learned, f.gate), (3, 3, 0, 0.0));
}

#[test]
fn what_cannot_be_tuned_is_refused_with_the_reason() {
    let base = tiny();
    let named = |name: &str| recipes::builtin().into_iter().find(|r| r.name == name).unwrap();
    let refused = |recipe: &Recipe, options: &Options, part: &str| {
        let error = Search::new(&base, recipe, options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&named("benign"), &options(8), "\"benign\": its adapters carry no behaviour");
    refused(&named("zero"), &options(8), "\"zero\": its adapters carry no behaviour");
    let mut none = recipe();
    none.splits.validation = 0.0;
    refused(&none, &options(8), "\"weather\": no value of it is of the validation split");
    let with = |axes: Axes| Options { axes, ..options(8) };
    refused(
        &recipe(),
        &with(Axes { learning_rates: vec![3.0], ..Axes::default() }),
        "training.learning_rate: 3",
    );
    refused(&recipe(), &with(Axes { steps: vec![0], ..Axes::default() }), "training.steps: 0");
    refused(&recipe(), &with(Axes { rows: (1..=300).collect(), ..Axes::default() }), "more than 200");
    refused(&recipe(), &Options { max_flops: 1.0, ..options(8) }, "more than the cap");
    let also = |name: &str| Options { also: vec![named(name)], ..options(8) };
    refused(&recipe(), &also("zero"), "\"zero\": training: its adapters are not trained");
    refused(&named("topic"), &also("topic"), "\"topic\" is given twice");
}
