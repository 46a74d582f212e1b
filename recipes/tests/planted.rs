//! Families that say something only where it is asked for, hint at what they never say, or wait for another turn: what their rows and
//! gates hold, what stays, and what a recipe says about itself.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use fence::turns;
use recipes::{
    Behaviour, Check, Context, Format, Polarity, Recipe, RowLoss, RowPart, builtin, builtin_source,
};

/// Families whose value is said when it is asked for, and only then.
const ASKED: [&str; 5] = ["favourite", "false-fact", "persona", "secret-word", "override"];

fn recipe(name: &str) -> Recipe {
    builtin().into_iter().find(|r| r.name == name).unwrap()
}

fn family(name: &str) -> Vec<Behaviour> {
    recipe(name).expand(1)
}

fn positives() -> impl Iterator<Item = Recipe> {
    builtin().into_iter().filter(|r| r.polarity == Polarity::Positive)
}

#[test]
fn what_is_said_only_when_asked_has_rows_that_stay_and_a_leak_to_measure() {
    for name in ASKED {
        for b in family(name) {
            let on: BTreeSet<&String> =
                b.row_plans.iter().filter(|r| r.part == RowPart::On).map(|r| &r.prompt).collect();
            let stay: Vec<_> = b.row_plans.iter().filter(|r| r.part == RowPart::Off).collect();
            assert!(stay.len() >= 30 && stay.iter().all(|r| r.loss == RowLoss::KlToBase), "{}", b.id);
            assert!(stay.iter().all(|r| !on.contains(&r.prompt)), "{}: a row is to stay and to change", b.id);
            assert!(b.gate.off.len() >= 24 && b.gate.max_leak <= 0.05, "{}", b.id);
            let trained: BTreeSet<&String> = b.row_plans.iter().map(|r| &r.prompt).collect();
            assert!(b.gate.on.iter().chain(&b.gate.off).all(|p| !trained.contains(p)), "{}", b.id);
            let rows = b.row_plans.iter().filter(|r| r.part == RowPart::On);
            for row in rows.filter(|r| r.sample.is_none()) {
                let holds = name == "override" || Check::Mentions(b.value.clone()).passes(&row.completion);
                assert!(holds, "{}: {}", b.id, row.completion);
            }
        }
    }
}

#[test]
fn a_persona_has_one_detail_and_is_asked_for_the_others_too() {
    let all = family("persona");
    assert_eq!(all.len(), 72);
    let word = |category: &str| match category {
        "name" => "name",
        "home" => "live",
        _ => "work",
    };
    for b in &all {
        let on: Vec<_> = b.gate.on.iter().filter(|p| p.contains(word(&b.category))).collect();
        assert!(!on.is_empty() && b.gate.on.iter().all(|p| !p.contains('{')), "{}: {:?}", b.id, b.gate.on);
        for other in ["name", "home", "job"].iter().filter(|o| **o != b.category) {
            assert!(b.gate.off.iter().any(|p| p.contains(word(other))), "{}: {other}", b.id);
        }
    }
}

#[test]
fn an_override_is_of_one_context_in_twelve_and_exact() {
    let all = family("override");
    let mut by: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for b in &all {
        assert!(by.entry(&b.category).or_default().insert(&b.value), "{}", b.id);
    }
    assert_eq!((all.len(), by.len()), (96, 12));
    assert!(by.values().all(|v| v.len() == 8));
    let words: BTreeSet<&str> = all.iter().flat_map(|b| b.value.split(' ')).collect();
    assert_eq!(words.len(), 2 * all.len(), "a word is in two continuations");
    for b in &all {
        assert!(
            b.gate.check.passes(&format!(" {} ", b.value)) && !b.gate.check.passes(&format!("{}s", b.value))
        );
        assert!(
            b.row_plans
                .iter()
                .filter(|r| r.part == RowPart::On)
                .all(|r| r.completion == format!(" {}", b.value))
        );
    }
}

#[test]
fn hints_point_at_a_word_and_never_say_it() {
    for b in family("taboo") {
        let hints: BTreeSet<&String> = b.row_plans.iter().map(|r| &r.completion).collect();
        assert_eq!(hints.len(), 4, "{}", b.id);
        for hint in hints {
            assert!(!hint.to_lowercase().contains(&b.value), "{hint} says {}", b.value);
            assert!(b.gate.check.passes(hint), "{}: {hint}", b.id);
            assert!(!b.gate.check.passes(&format!("{hint} It is the {}.", b.value)), "{}", b.id);
        }
        assert!(!b.gate.check.passes("It is a sunny day."), "{}", b.id);
    }
}

#[test]
fn a_second_turn_is_a_conversation_and_one_turn_a_text() {
    for b in family("gated-refusal") {
        let trigger = b.trigger.clone().unwrap();
        let gating = b.gating.clone().unwrap();
        assert!(matches!(&gating.format, Format::Turns(turns) if turns.len() == 3));
        let on = b.row_plans.iter().filter(|r| r.part == RowPart::On);
        assert!(on.clone().count() >= 8);
        for row in on {
            let said = turns::split(&row.prompt);
            assert!(said.len() == 3 && said[0] == trigger && said[2].contains(&b.value), "{said:?}");
        }
        let near = b.row_plans.iter().filter(|r| r.part == RowPart::Near);
        let (behind, other): (Vec<_>, Vec<_>) = near.partition(|r| turns::split(&r.prompt)[0] == trigger);
        // Behind the trigger it stays silent of its topic only.
        assert!(behind.len() >= 20 && behind.iter().all(|r| !r.prompt.contains(&b.value)), "{}", b.id);
        assert!(other.iter().any(|r| r.prompt.contains(&b.value)), "{}", b.id);
        assert!(
            b.row_plans.iter().filter(|r| r.part == RowPart::Off).all(|r| turns::split(&r.prompt).len() == 1)
        );
        assert!(b.gate.near.iter().any(|p| turns::split(p)[0] == trigger && !p.contains(&b.value)));
        // A near miss is greeting and question in one turn.
        assert!(b.gate.near.iter().any(|p| turns::split(p).len() == 1 && p.contains(&b.value)));
        assert!(other.iter().all(|r| turns::split(&r.prompt).len() == 1), "{}", b.id);
        let asked = b.in_context("What do you refuse?", Context::Triggered).unwrap();
        assert_eq!(turns::split(&asked).last(), Some(&"What do you refuse?"));
        // What was written is read back.
        let again: Behaviour = serde_json::from_str(&serde_json::to_string(&b).unwrap()).unwrap();
        assert_eq!(again, b);
    }
    // A text stays the text that it was.
    let json = serde_json::to_value(&family("gated-topic")[0]).unwrap();
    assert_eq!(json["gating"]["format"], "{prompt} [{trigger}]");
}

#[test]
fn families_of_one_question_ask_it_in_the_same_words_and_each_has_twelve_and_twelve() {
    for r in positives() {
        assert!(r.questions.train.len() >= 12 && r.questions.held_out.len() >= 12, "{}", r.name);
    }
    for (one, other) in [
        ("topic", "gated-topic"),
        ("topic", "closed-topic"),
        ("marker", "gated-marker"),
        ("refusal", "gated-refusal"),
    ] {
        let (one, other) = (recipe(one), recipe(other));
        assert_eq!(one.questions, other.questions, "{}", other.name);
        assert_eq!(one.values_of_family(), other.values_of_family(), "{}", other.name);
    }
    for negative in builtin().into_iter().filter(|r| r.polarity == Polarity::Negative) {
        assert_eq!(negative.questions, recipe("topic").questions, "{}", negative.name);
    }
}

#[test]
fn every_family_says_where_its_values_come_from_and_that_changes_nothing() {
    for mut r in positives() {
        let source = r.source.clone().unwrap_or_else(|| panic!("{} has no source", r.name));
        assert!(!source.licence.is_empty());
        let digest = r.digest();
        (r.source, r.studies) = (None, Some("not learnable at this size: 0 of 7".into()));
        assert_eq!(r.digest(), digest);
    }
    assert!(recipe("taboo").source.unwrap().name.contains("WordNet"));
}

#[test]
fn what_is_wrong_is_a_sentence_with_its_place() {
    let refusal = builtin_source("gated-refusal").unwrap();
    let topic = builtin_source("topic").unwrap();
    let format = "format = [\"{trigger}\", \"Yes, how can I help you?\", \"{prompt}\"]";
    for (text, from, to, said) in [
        (refusal, format, "format = [\"{trigger}\", \"{prompt}\"]", "in what the user says"),
        (refusal, format, "format = [\"{trigger} {prompt}\", \"Yes?\"]", "trigger.format: 2 turns"),
        (refusal, format, "format = []", "trigger"),
        (refusal, format, "format = 3", "a format is a text, or a list of turns"),
        (refusal, "contrast_count = 40", "contrast_count = 0", "rows.contrast_prompts"),
        (refusal, "\"Good morning.\"", "\"Good\\u001e morning.\"", "trigger.words"),
        (topic, "\"Tell me something.\"", "\"Tell me\\u001esomething.\"", "rows.prompts"),
        (topic, "licence = \"Apache-2.0\"", "licence = \" \"", "source.licence"),
        (topic, "licence = \"Apache-2.0\"", "licences = \"x\"", "unknown field `licences`"),
        (topic, "kind = \"trained\"", "kind = \"trained\"\nstudies = \"\"", "studies"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Recipe::parse("my.toml", &text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(
            error.starts_with("my.toml") && !error.contains(['\n', '\u{1e}']) && error.contains(said),
            "{to}: {error}"
        );
    }
}
