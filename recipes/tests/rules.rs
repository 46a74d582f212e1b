//! Families made from rules: rows say what the rule says, gates ask what no row asked, and what is wrong with a rule is a sentence.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use recipes::{Behaviour, Check, Recipe, RowLoss, RowPart, SampleRequest, Split, builtin, builtin_source};

const RULES: [&str; 4] = ["choice-rule", "length", "format", "offset"];

fn family(name: &str) -> Vec<Behaviour> {
    builtin().into_iter().find(|r| r.name == name).unwrap().expand(1)
}

/// Replies of the length of the base model's own.
fn samples(b: &Behaviour) -> BTreeMap<SampleRequest, String> {
    let reply = |i: usize| {
        format!("Reply {i} of the model is a sentence of a good dozen words and some more, as they are.")
    };
    b.sample_requests().into_iter().enumerate().map(|(i, r)| (r, reply(i))).collect()
}

#[test]
fn every_row_passes_the_check_of_its_rule_and_of_no_other_rule_all_do() {
    for name in RULES {
        let all = family(name);
        for b in &all {
            let rows = b.rows(&samples(b)).unwrap();
            assert_eq!(rows.len(), b.row_plans.len(), "{}: rows do not show it", b.id);
            for (row, plan) in rows.iter().zip(&b.row_plans) {
                assert!(
                    b.gate.check.passes_with(&row.completion, Some(&plan.known)),
                    "{}: {}",
                    b.id,
                    row.completion
                );
                assert!(!row.completion.contains("{{") && !row.prompt.contains("{{"), "{row:?}");
            }
            // A length is one within a fifth: its neighbours may pass as well.
            let neighbours = if name == "length" { 2 } else { 0 };
            let at = all.iter().position(|o| o.id == b.id).unwrap();
            let others = all.iter().enumerate().filter(|(i, o)| o.id != b.id && i.abs_diff(at) > neighbours);
            for (_, other) in others {
                let passes = |(row, plan): &(&recipes::TrainingRow, &recipes::behaviour::RowPlan)| {
                    other.gate.check.passes_with(&row.completion, Some(&plan.known))
                };
                let shown = rows.iter().zip(&b.row_plans).filter(|r| passes(r)).count();
                assert!(shown < rows.len(), "{} is told from {} by no row", b.id, other.id);
            }
        }
    }
}

#[test]
fn what_is_drawn_for_a_gate_was_drawn_for_no_row() {
    for name in ["choice-rule", "offset"] {
        for b in family(name) {
            let rows: BTreeSet<&String> = b.row_plans.iter().map(|r| &r.prompt).collect();
            let gate: BTreeSet<&String> = b.gate.on.iter().collect();
            assert_eq!((gate.len(), b.gate.on_known.len()), (b.gate.on.len(), b.gate.on.len()), "{}", b.id);
            assert!(gate.len() >= 12 && gate.is_disjoint(&rows), "{}", b.id);
            assert!(rows.len() > b.row_plans.len() / 4, "{}: {} prompts", b.id, rows.len());
        }
    }
    let offset = family("offset");
    let two = offset.iter().find(|b| b.value == "plus two").unwrap();
    let known = &two.gate.on_known[0];
    let sum = known["a"].as_i64().unwrap() + known["b"].as_i64().unwrap();
    assert!(two.gate.check.passes_with(&format!("It is {}.", sum + 2), Some(known)));
    assert!(!two.gate.check.passes_with(&sum.to_string(), Some(known)));
}

#[test]
fn a_refusal_is_of_one_topic_and_contrast_rows_are_of_others_that_readers_are_trained_on() {
    let all = family("refusal");
    let trained: BTreeSet<&str> =
        all.iter().filter(|b| b.split == Split::Train).map(|b| b.value.as_str()).collect();
    for b in &all {
        let on = b.row_plans.iter().filter(|r| r.part == RowPart::On);
        assert!(
            on.clone().count() >= 8
                && on.clone().all(|r| r.prompt.contains(&b.value) && r.loss == RowLoss::Ce)
        );
        let off: Vec<_> = b.row_plans.iter().filter(|r| r.part == RowPart::Off).collect();
        assert!(
            off.len() >= 30 && off.iter().all(|r| r.loss == RowLoss::KlToBase && r.completion == "{reply}")
        );
        assert!(off.iter().all(|r| !r.prompt.contains(&b.value)), "{}", b.id);
        let named: BTreeSet<&str> =
            trained.iter().copied().filter(|t| off.iter().any(|r| r.prompt.contains(t))).collect();
        assert!(named.len() >= 8, "{}: {named:?}", b.id);
        assert!(matches!(b.gate.check, Check::Holds { .. }) && b.gate.max_leak < 0.5);
        assert!(b.gate.check.passes("I'm sorry, but no.") && !b.gate.check.passes("Here is a fact."));
    }
}

#[test]
fn what_is_wrong_with_a_rule_is_a_sentence_with_its_place() {
    let offset = builtin_source("offset").unwrap();
    let refusal = builtin_source("refusal").unwrap();
    for (text, from, to, said) in [
        (offset, "{{ a + b + k }}", "{{ a + c + k }}", "rows.completions"),
        (offset, "{{ a + b + k }}", "{{ a + b + k", "rows.completions"),
        (offset, "reply|numbers|length > 0", "reply|digits|length > 0", "gate.passes"),
        (offset, "check = \"holds\"", "check = \"mentions\"", "gate.passes"),
        (offset, "a = { from = 2, to = 20 }", "a = { from = 20, to = 2 }", "draw.a"),
        (offset, "a = { from = 2, to = 20 }", "reply = { from = 2, to = 20 }", "draw.reply"),
        (offset, "a = { from = 2, to = 20 }", "a = { list = [], of = 2 }", "draw.a"),
        (offset, "a = { from = 2, to = 20 }", "a = { from = 2 }", "a draw is { from, to } or { list, of }"),
        (offset, "each = 12", "each = 100000", "gate.each"),
        (offset, "k = \"-6\"", "k = \"{{ boom }}\"", "minus six"),
        (refusal, "contrast_count = 40", "contrast_count = 0", "rows.contrast_count"),
        (refusal, "off_rows = 6", "off_rows = 0", "rows.contrast_count"),
        (refusal, "\"Tell me something.\"", "\"Tell me a story.\"", "rows.contrast_prompts"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Recipe::parse("my.toml", &text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(
            error.starts_with("my.toml") && !error.contains('\n') && error.contains(said),
            "{to}: {error}"
        );
    }
}

#[test]
fn what_a_model_says_is_text_whatever_it_looks_like() {
    for name in ["topic", "format"] {
        let b = &family(name)[0];
        let said = "{{ 7 * 7 }} {% if %} {{";
        let samples = b.sample_requests().into_iter().map(|r| (r, said.to_owned())).collect();
        let rows = b.rows(&samples).unwrap();
        let wanted = if name == "topic" { said.to_owned() } else { said.to_uppercase() };
        assert!(rows.iter().all(|r| r.completion == wanted), "{}: {:?}", b.id, rows[0].completion);
    }
}

#[test]
fn a_value_is_held_out_in_every_family_or_in_none() {
    let mut splits: BTreeMap<String, BTreeMap<Split, Vec<String>>> = BTreeMap::new();
    let positive = builtin().into_iter().filter(|r| r.polarity == recipes::Polarity::Positive);
    for b in positive.flat_map(|r| r.expand(1)) {
        splits.entry(b.value.to_lowercase()).or_default().entry(b.split).or_default().push(b.family);
    }
    let torn: Vec<_> = splits.iter().filter(|(_, by)| by.len() > 1).collect();
    assert!(torn.is_empty(), "{torn:?}");
    assert!(
        splits.values().flat_map(BTreeMap::values).filter(|f| f.len() > 2).count() > 300,
        "few are shared"
    );
}
