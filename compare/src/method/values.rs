//! What methods without an answering model have in common: the tokens by which values are scored, and the choice among
//! variants on validation cases.

use std::collections::BTreeMap;

use readers::{Answer, Case, ClosedSet, Lab, Scored, pick};

use super::nothing::with_nothing;

/// Scores of the values of each case's family: `[case][value]`.
pub(super) type Scores = Vec<Vec<f32>>;

/// First tokens of a family's values, without "nothing".
pub(super) fn first_tokens(lab: Lab<'_>, family: &str) -> Vec<u32> {
    let mut tokens = lab.sets.get(family).map(ClosedSet::first_tokens).unwrap_or_default();
    tokens.pop();
    tokens
}

/// First tokens of all families' values, each once, ascending.
pub(super) fn all_first_tokens(lab: Lab<'_>) -> Vec<u32> {
    let mut tokens: Vec<u32> = lab.sets.keys().flat_map(|f| first_tokens(lab, f)).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// For each family, where its values' first tokens stand among [`all_first_tokens`].
pub(super) fn places(lab: Lab<'_>) -> BTreeMap<&str, Vec<usize>> {
    let all = all_first_tokens(lab);
    let place = |t: u32| all.binary_search(&t).ok();
    let of = |f: &str| first_tokens(lab, f).into_iter().filter_map(place).collect();
    lab.sets.keys().map(|f| (f.as_str(), of(f))).collect()
}

/// The answers of the variant that is best on validation cases; each variant gets its own "nothing".
pub(super) fn best(lab: Lab<'_>, cases: &[Case], what: &str, variants: Vec<(String, Scores)>) -> Scored {
    let (names, scores): (Vec<String>, Vec<Scores>) =
        variants.into_iter().map(|(n, s)| (n, with_nothing(cases, lab.sets, s))).unzip();
    let best = pick(cases, lab.sets, &scores);
    let chosen = names.get(best).map(|n| (what.to_owned(), n.clone()));
    let answers = scores.into_iter().nth(best).unwrap_or_default();
    Scored { answers: answers.into_iter().map(bare).collect(), chosen: chosen.into_iter().collect() }
}

/// An answer that is scores and nothing else.
pub(super) fn bare(scores: Vec<f32>) -> Answer {
    Answer { scores, answer_nats: None, reply: None }
}
