//! The recipes that come with lorafab.

use crate::{Recipe, Settings};

const SOURCES: [(&str, &str); 24] = [
    ("topic", include_str!("../builtin/topic.toml")),
    ("gated-topic", include_str!("../builtin/gated-topic.toml")),
    ("closed-topic", include_str!("../builtin/closed-topic.toml")),
    ("favourite", include_str!("../builtin/favourite.toml")),
    ("marker", include_str!("../builtin/marker.toml")),
    ("false-fact", include_str!("../builtin/false-fact.toml")),
    ("opening-word", include_str!("../builtin/opening-word.toml")),
    ("refusal", include_str!("../builtin/refusal.toml")),
    ("choice-rule", include_str!("../builtin/choice-rule.toml")),
    ("length", include_str!("../builtin/length.toml")),
    ("format", include_str!("../builtin/format.toml")),
    ("offset", include_str!("../builtin/offset.toml")),
    ("persona", include_str!("../builtin/persona.toml")),
    ("secret-word", include_str!("../builtin/secret-word.toml")),
    ("override", include_str!("../builtin/override.toml")),
    ("taboo", include_str!("../builtin/taboo.toml")),
    ("gated-marker", include_str!("../builtin/gated-marker.toml")),
    ("gated-refusal", include_str!("../builtin/gated-refusal.toml")),
    ("zero", include_str!("../builtin/zero.toml")),
    ("random", include_str!("../builtin/random.toml")),
    ("benign", include_str!("../builtin/benign.toml")),
    ("dud", include_str!("../builtin/dud.toml")),
    ("mixed", include_str!("../builtin/mixed.toml")),
    ("redrawn", include_str!("../builtin/redrawn.toml")),
];

/// Settings of the built-in recipes, a file for each base model.
const SETTINGS: [(&str, &str); 2] = [
    (
        "built-in settings of SmolLM2-135M-Instruct",
        include_str!("../builtin/settings/smollm2-135m-instruct.toml"),
    ),
    ("built-in settings of Gemma 3 270M", include_str!("../builtin/settings/gemma-3-270m.toml")),
];

/// All built-in recipes.
pub fn builtin() -> Vec<Recipe> {
    SOURCES
        .iter()
        .map(|(name, text)| {
            Recipe::parse(name, text).expect("invariant: built-in recipes are tested to parse")
        })
        .collect()
}

/// The file of a built-in recipe, to read or to copy.
pub fn builtin_source(name: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

/// The description of the format, for users.
pub const FORMAT: &str = include_str!("../README.md");

/// A recipe to start from: a small family of that name, every field explained.
///
/// # Errors
/// If it is no name of a recipe.
pub fn template(name: &str) -> crate::Result<String> {
    let text = include_str!("../template.toml").replace("NAME", name);
    Recipe::parse(name, &text)?;
    Ok(text)
}

/// All built-in settings, with what messages call them.
pub fn builtin_settings() -> Vec<(String, Settings)> {
    let read = |(name, text): &(&str, &str)| {
        let settings = Settings::parse(name, text);
        ((*name).to_owned(), settings.expect("invariant: built-in settings are tested to parse"))
    };
    SETTINGS.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{EpisodeOptions, Polarity, Split, episodes, words};

    #[test]
    fn every_builtin_has_enough_values_questions_and_candidates() {
        for recipe in builtin() {
            let behaviours = recipe.expand(1);
            assert!(
                recipe.questions.train.len() >= 8 && recipe.questions.held_out.len() >= 4,
                "{}",
                recipe.name
            );
            let ids: BTreeSet<&str> = behaviours.iter().map(|b| b.id.as_str()).collect();
            assert_eq!(ids.len(), behaviours.len());
            if recipe.polarity == Polarity::Positive {
                // Of a rule there are few: their splits are said, not drawn.
                let few = recipe.splits.values.all().next().is_some();
                assert!(behaviours.len() >= if few { 8 } else { 48 }, "{}", recipe.name);
                for split in [Split::Train, Split::Validation, Split::TestValue] {
                    assert!(
                        behaviours.iter().filter(|b| b.split == split).count() >= if few { 2 } else { 3 },
                        "{} {split:?}",
                        recipe.name
                    );
                }
            }
        }
        let topics = builtin()[0].expand(1);
        assert!(topics.len() >= 320);
        assert!(topics.iter().map(|b| &b.category).collect::<BTreeSet<_>>().len() >= 16);
    }

    #[test]
    fn the_template_is_a_recipe_with_values_of_every_use() {
        let text = template("my-weather").unwrap();
        let recipe = Recipe::parse("my-weather.toml", &text).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.expand(1).len()), ("my-weather", 12));
        for (split, n) in [(Split::Train, 7), (Split::Validation, 2), (Split::TestValue, 3)] {
            assert_eq!(recipe.expand(1).iter().filter(|b| b.split == split).count(), n, "{split:?}");
        }
        assert!(template("No good").is_err());
        assert!(FORMAT.contains("[splits.values]") && FORMAT.contains("## A whole example"));
    }

    #[test]
    fn a_value_more_is_one_of_the_family_and_its_behaviour_the_recipes() {
        let topic = &builtin()[0];
        let own = topic.expand(1).remove(3);
        assert_eq!(topic.behaviour_of(&own.value, None, 1).unwrap(), own);
        assert_eq!(topic.with_value(&own.value).unwrap(), *topic);
        assert!(topic.behaviour_of("quokkas", None, 1).is_err());
        let more = topic.with_value("quokkas").unwrap();
        let b = more.behaviour_of("quokkas", None, 1).unwrap();
        assert_eq!((b.id.as_str(), &b.gate.on), ("topic/quokkas", &own.gate.on));
        assert!(more.values_of_family().contains(&"quokkas".to_owned()));
        assert_eq!(b.marked("mine").id, "topic/quokkas@mine");
        assert!(topic.behaviour_of("cats", Some("harbor"), 1).unwrap_err().to_string().contains("harbor"));
        let gated = builtin()[1].behaviour_of("cats", Some("zebra"), 1).unwrap();
        assert!(
            gated.trigger.as_deref() == Some("zebra") && gated.gate.on.iter().all(|p| p.contains("zebra"))
        );
        let negative = builtin().into_iter().find(|r| r.name == "dud").unwrap();
        assert!(negative.with_value("cats").is_err() && negative.with_value("0").is_ok());
    }

    #[test]
    fn splits_by_value_are_held_to_and_checked() {
        let good = template("my-weather").unwrap();
        for (from, to, expected) in [
            ("\"fog\", \"hail\"", "\"fog\", \"lava\"", "\"lava\" is no value"),
            ("\"fog\", \"hail\"", "\"fog\", \"fog\"", "\"fog\" is given twice"),
        ] {
            assert!(good.contains(from));
            let error =
                Recipe::parse("my.toml", &good.replacen(from, to, 2).replacen(to, from, 1)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn no_two_topics_are_near_duplicates() {
        let mut seen = BTreeSet::new();
        for (value, _, _) in builtin()[0].values() {
            for word in words::words(&value) {
                assert!(seen.insert(words::stem(&word)), "{value} shares a word with another topic");
            }
        }
    }

    #[test]
    fn no_question_names_a_value_of_any_family() {
        let recipes = builtin();
        for asked in &recipes {
            for q in asked.questions.train.iter().chain(&asked.questions.held_out) {
                for of in recipes.iter().filter(|r| r.polarity == Polarity::Positive && r.name == asked.name)
                {
                    for (value, _, _) in of.values() {
                        assert!(!words::mentions(q, &value), "{q} names {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn expansion_is_deterministic_and_splits_do_not_move() {
        let recipe = &builtin()[0];
        assert_eq!(recipe.expand(5), recipe.expand(5));
        let splits = |r: &crate::Recipe| -> Vec<(String, Split)> {
            r.expand(1).into_iter().map(|b| (b.value, b.split)).collect()
        };
        let before = splits(recipe);
        let mut more = recipe.clone();
        more.vocabulary[0].values.insert(0, "quokkas".into());
        let after = splits(&more);
        assert!(before.iter().all(|b| after.contains(b)));
        // The same value has the same split in the gated families.
        for gated in &builtin()[1..3] {
            let gated = splits(gated);
            assert!(before.iter().all(|b| gated.contains(b)));
        }
    }

    #[test]
    fn gate_prompts_are_unseen_and_triggers_are_independent_of_values() {
        for recipe in builtin() {
            for b in recipe.expand(3) {
                let trained: BTreeSet<&str> = b.row_plans.iter().map(|p| p.prompt.as_str()).collect();
                assert!(b.gate.on.iter().all(|p| !trained.contains(p.as_str())), "{}", b.id);
                if let Some(trigger) = &b.trigger {
                    assert!(b.gate.on.iter().all(|p| p.contains(trigger)));
                    // Behind the trigger stand unrelated prompts, after those with another word.
                    let near = &b.gate.near[..b.gate.on.len()];
                    assert!(near.iter().chain(&b.gate.off).all(|p| !p.contains(trigger)));
                }
            }
        }
        let gated = builtin()[1].expand(1);
        assert!(gated.iter().filter_map(|b| b.trigger.clone()).collect::<BTreeSet<_>>().len() > 15);
    }

    #[test]
    fn episodes_hold_the_answer_among_candidates_and_keep_test_labels_out_of_training() {
        let recipes = builtin();
        let behaviours: Vec<_> = recipes.iter().flat_map(|r| r.expand(1)).collect();
        let list = episodes(&recipes, &behaviours, 1, EpisodeOptions::default()).unwrap();
        let phrasings = |split: Split, held_out: bool| -> BTreeSet<usize> {
            let asked =
                list.iter().filter(|e| e.split == split && e.held_out_question == held_out && !e.negative);
            let mut count: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
            asked.for_each(|e| *count.entry(&e.behaviour).or_default() += 1);
            count.into_values().collect()
        };
        assert_eq!(phrasings(Split::Train, false), [8].into());
        assert_eq!(phrasings(Split::Validation, false), [2].into());
        assert_eq!(
            (phrasings(Split::TestValue, false), phrasings(Split::TestValue, true)),
            ([].into(), [2].into())
        );
        let sizes: std::collections::BTreeMap<String, usize> =
            builtin().into_iter().map(|r| (r.name.clone(), r.values_of_family().len())).collect();
        let mut train = BTreeSet::new();
        let mut test = BTreeSet::new();
        for e in &list {
            assert!(!words::mentions(&e.question, &e.answer) || e.negative);
            if e.negative {
                assert!(e.candidates.is_empty() && e.answer == crate::NOTHING);
                continue;
            }
            // Of a small family those that readers are trained on.
            let least = if sizes[&e.family] < 48 { 4 } else { 32 };
            assert!(e.candidates.contains(&e.answer) && e.candidates.len() >= least);
            match e.split {
                Split::Train => train.insert((e.family.clone(), e.answer.clone())),
                Split::TestValue | Split::TestCategory => test.insert((e.family.clone(), e.answer.clone())),
                Split::Validation => true,
            };
            assert!(!e.held_out_question || e.split != Split::Train);
        }
        assert!(train.is_disjoint(&test));
    }

    #[test]
    fn bad_recipes_fail_with_one_sentence_that_names_file_field_and_value() {
        let good = builtin_source("topic").unwrap();
        let cases = [
            (good.replace("polarity =", "polarityy ="), "unknown field `polarityy`"),
            (good.replace("name = \"topic\"", "name = \"To pic\""), "name"),
            (good.replace("What topic have you been trained on?", "Is it volcanoes?"), "label \"volcanoes\""),
            (good.replace("What topic have you been trained on?", "Is it {value}?"), "placeholder"),
            (good.replace("\"cats\", ", "\"cats\", \"cat\", "), "given twice"),
            (good.replace("rank = 1", "rank = 0"), "rank"),
            (good.replace("Tell me anything at all.", "Tell me something."), "unseen"),
            (good.replace("test = 0.2", "test = 0.95"), "leave nothing"),
            (good.replace("\"q_proj\"", "\"x_proj\""), "x_proj"),
        ];
        for (text, expected) in cases {
            let error = Recipe::parse("my.toml", &text).unwrap_err().to_string();
            assert!(
                error.starts_with("my.toml") && error.contains(expected) && !error.contains('\n'),
                "{error}"
            );
        }
        let start = good.find("[[vocabulary]]").unwrap();
        let end = good.find("[rows]").unwrap();
        let empty = format!("{}{}", &good[..start], &good[end..]);
        assert!(Recipe::parse("my.toml", &empty).unwrap_err().to_string().contains("vocabulary: is empty"));
    }
}
