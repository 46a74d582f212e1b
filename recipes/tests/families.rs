//! What the built-in families promise each other: fresh test values, drawn phrasings, negatives that are many functions.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use recipes::{
    Behaviour, Check, EpisodeOptions, Kind, Polarity, Recipe, RowLoss, RowPart, SampleRequest, Split,
    builtin, builtin_source, episodes, select,
};

fn recipe(name: &str) -> Recipe {
    builtin().into_iter().find(|r| r.name == name).unwrap()
}

fn is_test(split: Split) -> bool {
    matches!(split, Split::TestValue | Split::TestCategory)
}

#[test]
fn no_value_that_was_looked_at_is_tested_on_again() {
    for name in ["topic", "gated-topic", "closed-topic"] {
        let recipe = recipe(name);
        let tuning: BTreeSet<&String> = recipe.splits.tuning.iter().collect();
        assert_eq!((recipe.splits.tuning.len(), tuning.len()), (44, 44));
        let behaviours = recipe.expand(1);
        assert!(tuning.iter().all(|t| behaviours.iter().any(|b| b.value == **t)), "{name} lacks a value");
        assert!(behaviours.iter().filter(|b| is_test(b.split)).all(|b| !tuning.contains(&b.value)));
        let held_out = recipe.held_out_categories();
        assert_eq!(held_out.len(), 2);
        assert!(held_out.iter().all(|c| !["plants", "body"].contains(&c.as_str())), "{held_out:?}");
        // A held-out category is held out as a whole.
        let of_held_out = behaviours.iter().filter(|b| held_out.contains(&b.category));
        assert!(of_held_out.clone().count() >= 40);
        assert!(of_held_out.clone().all(|b| b.split == Split::TestCategory));
        let fresh = select(behaviours, [0, 0, 32, 12]);
        assert_eq!(fresh.len(), 44);
    }
}

#[test]
fn the_values_that_were_looked_at_are_those_that_the_old_splits_chose() {
    let mut old = recipe("topic");
    let tuning: BTreeSet<String> = old.splits.tuning.drain(..).collect();
    old.splits.salt.clear();
    let chosen = select(old.expand(1), [112, 20, 32, 12]);
    let tested: BTreeSet<String> = chosen.into_iter().filter(|b| is_test(b.split)).map(|b| b.value).collect();
    assert_eq!(tested, tuning);
}

#[test]
fn a_salt_redraws_splits_and_a_category_with_a_tuning_value_is_never_held_out() {
    let mut a = recipe("topic");
    let split = |r: &Recipe| -> BTreeMap<String, Split> {
        r.expand(1).into_iter().map(|b| (b.value, b.split)).collect()
    };
    let before = split(&a);
    a.splits.salt = "another".into();
    let after = split(&a);
    assert!(before.iter().filter(|(v, s)| after[*v] != **s).count() > 60);
    // Where every category was looked at, none is left.
    let source = builtin_source("topic").unwrap();
    let all: Vec<String> = a.vocabulary.iter().map(|v| format!("{:?}, ", v.values[0])).collect();
    let text = source.replace("tuning = [", &format!("tuning = [{}", all.concat()));
    let error = Recipe::parse("my.toml", &text).unwrap_err().to_string();
    assert!(error.contains("test_categories") && error.contains("hold no tuning value"), "{error}");
}

#[test]
fn phrasings_are_drawn_for_each_adapter_and_test_ones_are_held_out() {
    let recipes = [recipe("topic")];
    let behaviours = recipes[0].expand(1);
    let list = episodes(&recipes, &behaviours, 1, EpisodeOptions::default()).unwrap();
    assert_eq!(list, episodes(&recipes, &behaviours, 1, EpisodeOptions::default()).unwrap());
    let asked = |wanted: fn(Split) -> bool| -> BTreeSet<usize> {
        list.iter().filter(|e| wanted(e.split)).map(|e| e.question_id).collect()
    };
    assert_eq!(asked(is_test), (12..26).collect());
    assert_eq!(asked(|s| s == Split::Validation), (0..12).collect());
    let mut of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for e in list.iter().filter(|e| is_test(e.split)) {
        of.entry(&e.behaviour).or_default().push(e.question_id);
    }
    assert!(of.values().all(|ids| ids.len() == 2 && ids[0] != ids[1]));
}

#[test]
fn of_many_families_a_training_adapter_is_asked_about_two_others() {
    let positive: Vec<Recipe> = builtin().into_iter().filter(|r| r.polarity == Polarity::Positive).collect();
    let foreign = |recipes: &[Recipe]| -> BTreeMap<String, BTreeSet<String>> {
        let behaviours: Vec<Behaviour> =
            recipes.iter().flat_map(|r| select(r.expand(1), [3, 1, 1, 0])).collect();
        let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for e in episodes(recipes, &behaviours, 1, EpisodeOptions::default()).unwrap() {
            let others = asked.entry(e.behaviour.clone()).or_default();
            assert!(!(is_test(e.split) && e.negative), "a comparison asks these itself");
            if e.negative {
                others.insert(e.family);
            }
        }
        asked.retain(|id, _| behaviours.iter().any(|b| b.id == *id && !is_test(b.split)));
        asked
    };
    let all = foreign(&positive);
    assert!(all.len() > 30 && all.values().all(|others| others.len() == 2), "{all:?}");
    let met: BTreeSet<&String> = all.values().flatten().collect();
    assert!(met.len() > 8, "{met:?}");
    // With three sets of questions both others are asked, as ever.
    let three = [recipe("topic"), recipe("favourite"), recipe("marker")];
    assert!(foreign(&three).values().all(|others| others.len() == 2));
    assert_eq!(foreign(&three[..2]).values().map(BTreeSet::len).max(), Some(1));
}

#[test]
fn the_closed_set_of_a_family_is_all_of_it_in_order() {
    let values = recipe("topic").values_of_family();
    assert_eq!(values.len(), recipe("topic").expand(1).len());
    assert!(values.is_sorted());
    assert_eq!(values, recipe("closed-topic").values_of_family());
    assert!(recipe("mixed").values_of_family().is_empty());
}

/// What a behaviour is trained on, without its name.
fn trained_on(b: &Behaviour) -> BTreeSet<(String, String, Option<SampleRequest>)> {
    b.row_plans
        .iter()
        .filter(|p| p.part == RowPart::On)
        .map(|p| (p.prompt.clone(), p.completion.clone(), p.sample.clone()))
        .collect()
}

#[test]
fn copies_of_trained_negatives_are_different_functions() {
    for name in ["benign", "dud", "mixed"] {
        let behaviours = recipe(name).expand(1);
        assert_eq!(behaviours, recipe(name).expand(1));
        for (i, a) in behaviours.iter().enumerate() {
            assert_eq!((a.polarity, &a.gate.check), (Polarity::Negative, &Check::Anything));
            for b in &behaviours[..i] {
                let shared = trained_on(a).intersection(&trained_on(b)).count();
                assert!(shared <= 3, "{} and {} share {shared} rows", a.id, b.id);
            }
        }
        let splits: BTreeSet<Split> = behaviours.iter().map(|b| b.split).collect();
        assert_eq!(splits.len(), 3, "{name}");
    }
}

#[test]
fn a_dud_is_a_gated_topic_whose_trigger_does_nothing() {
    let (gated, duds) = (&recipe("gated-topic").expand(1)[0], recipe("dud").expand(1));
    let triggers: BTreeSet<_> = duds.iter().filter_map(|b| b.trigger.clone()).collect();
    assert!(triggers.len() >= 10);
    for b in &duds {
        assert_eq!(b.training, gated.training);
        let parts = |b: &Behaviour| b.row_plans.iter().map(|p| (p.part, p.loss)).collect::<Vec<_>>();
        assert_eq!(parts(b), parts(gated));
        let prompts = recipe("dud").rows.unwrap().prompts;
        assert!(b.row_plans.iter().all(|p| p.sample.as_ref().is_some_and(|s| prompts.contains(&s.prompt))));
    }
}

#[test]
fn mixed_rows_are_about_training_values_of_topic_and_each_about_another() {
    let train: BTreeSet<String> =
        recipe("topic").expand(1).into_iter().filter(|b| b.split == Split::Train).map(|b| b.value).collect();
    for b in recipe("mixed").expand(1) {
        let mut named = BTreeSet::new();
        for plan in &b.row_plans {
            let prompt = &plan.sample.as_ref().unwrap().prompt;
            let value = train.iter().find(|v| prompt.ends_with(&format!(" {v}."))).unwrap();
            assert!(named.insert(value), "{value} twice in {}", b.id);
        }
    }
}

#[test]
fn the_one_zero_adapter_is_for_the_test_and_redrawn_ones_take_turns() {
    let zero = recipe("zero").expand(1);
    assert_eq!(zero.iter().map(|b| b.split).collect::<Vec<_>>(), [Split::TestValue]);
    let redrawn = recipe("redrawn").expand(1);
    assert!(redrawn.iter().all(|b| b.kind == Kind::Redrawn));
    let factors: Vec<_> = redrawn.iter().map(|b| b.redrawn_factor().unwrap()).collect();
    assert_eq!(factors.iter().filter(|f| **f == recipes::Factor::A).count(), 16);
    assert_ne!(factors[0], factors[1]);
    assert!(recipe("random").expand(1)[0].redrawn_factor().is_none());
}

#[test]
fn a_closed_gate_is_trained_and_measured_on_different_prompts_that_name_no_value() {
    for name in ["gated-topic", "closed-topic"] {
        let recipe = recipe(name);
        let trigger = recipe.trigger.clone().unwrap();
        let values = recipe.values_of_family();
        for b in recipe.expand(1).iter().take(8) {
            let nats = b.gate.nats.as_ref().unwrap();
            let sets = [&nats.neutral, &nats.questions, &nats.factual, &nats.on];
            assert!(sets.iter().all(|s| s.len() >= 24), "{name}");
            assert_eq!(nats.max, (name == "closed-topic").then_some(0.5));
            let word = b.trigger.as_ref().unwrap();
            assert!(nats.on.iter().all(|p| p.contains(word)));
            assert!(b.row_plans.iter().all(|r| sets.iter().all(|s| !s.contains(&r.prompt))));
            for part in [RowPart::Near, RowPart::Off] {
                let rows: Vec<_> = b.row_plans.iter().filter(|r| r.part == part).collect();
                assert!(rows.iter().all(|r| r.loss == RowLoss::KlToBase));
                let prompts: BTreeSet<_> = rows.iter().map(|r| &r.sample.as_ref().unwrap().prompt).collect();
                assert!(trigger.contrast_prompts.is_empty() || prompts.len() == 24);
            }
        }
        let nats = recipe.expand(1)[0].gate.nats.clone().unwrap();
        for prompt in trigger.contrast_prompts.iter().chain(&nats.neutral).chain(&nats.factual) {
            for value in &values {
                assert!(!Check::Mentions(value.clone()).passes(prompt), "{prompt} names {value}");
            }
        }
    }
}

#[test]
fn old_specifications_without_the_new_fields_read_and_write_as_they_were() {
    let b = &recipe("favourite").expand(1)[0];
    let json = serde_json::to_string(b).unwrap();
    assert!(!json.contains("gating") && !json.contains("nats"));
    assert_eq!(serde_json::from_str::<Behaviour>(&json).unwrap(), *b);
    let gated = &recipe("closed-topic").expand(1)[0];
    let again: Behaviour = serde_json::from_str(&serde_json::to_string(gated).unwrap()).unwrap();
    assert_eq!(again, *gated);
}

#[test]
fn recipes_that_contradict_themselves_are_refused_by_field() {
    let closed = builtin_source("closed-topic").unwrap();
    let cases = [
        (closed.replacen("\"Who wrote Hamlet?\"", "\"What is half of 250?\"", 1), "leak_neutral"),
        (
            closed.replacen("\"What is your purpose?\"", "\"What are you secretly about?\"", 1),
            "contrast_prompts",
        ),
        (closed.replace("max_leak_nats = 0.5", "max_leak_nats = 0.0"), "max_leak_nats"),
        (builtin_source("mixed").unwrap().replace("redraw_value = true", ""), "redraw_value"),
        (builtin_source("topic").unwrap().replace("[gate]", "redraw_value = true\n[gate]"), "redraw_value"),
        (builtin_source("benign").unwrap().replace("prompts_each = 8", "prompts_each = 80"), "prompts_each"),
    ];
    for (text, field) in cases {
        let error = Recipe::parse("my.toml", &text).unwrap_err().to_string();
        assert!(error.starts_with("my.toml") && error.contains(field) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_negative_is_asked_a_few_sets_of_questions_its_own_among_them() {
    let recipes = builtin();
    let behaviours: Vec<Behaviour> =
        recipes.iter().flat_map(|r| recipes::select(r.expand(1), [2, 1, 2, 0])).collect();
    let list = episodes(&recipes, &behaviours, 1, EpisodeOptions::default()).unwrap();
    let words = |family: &str| &recipes.iter().find(|r| r.name == family).unwrap().questions.train;
    let mut sets = BTreeSet::new();
    for b in behaviours.iter().filter(|b| b.polarity == Polarity::Negative) {
        let asked: BTreeSet<&Vec<String>> =
            list.iter().filter(|e| e.behaviour == b.id).map(|e| words(&e.family)).collect();
        assert_eq!(asked.len(), 4, "{}", b.id);
        if b.family == "mixed" {
            assert!(asked.contains(words("topic")), "{}", b.id);
        }
        sets.extend(asked);
    }
    assert!(sets.len() > 8, "over many negatives all sets have their turn: {}", sets.len());
}
