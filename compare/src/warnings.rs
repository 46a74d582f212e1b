//! What decides how far the numbers of a comparison go, said before them.

use crate::comparison::{ALL_FAMILIES, Comparison};
use crate::negatives::POOLED;
use crate::strata::CLOSED_NATS;
use crate::verdict::SATURATED;

/// Below this many adapters a section is marked.
pub const SMALL: usize = 20;

/// A split in words; of adapters made again by other means (`test_value@rank=4`) with what they are.
pub fn split_title(split: &str) -> String {
    let (split, how) = split.split_once('@').map_or((split, None), |(split, how)| (split, Some(how)));
    let title = match split {
        "test_value" => "held-out values",
        "test_category" => "held-out categories",
        "validation" => "validation adapters",
        other => other,
    };
    match how {
        None => title.to_owned(),
        Some("composed") => format!("{title} in sums of two"),
        Some(how) => format!("{title} made again ({how})"),
    }
}

/// Title of a section.
pub fn title(family: &str, split: &str, context: &str) -> String {
    let split = split_title(split);
    let context = match context {
        "neutral" | "" => String::new(),
        other => format!(", {other}"),
    };
    let family = if family == ALL_FAMILIES { "mean over families" } else { family };
    format!("{family}, {split}{context}")
}

/// What is to be said of readers that were there before a comparison: made by a smoke run (in one that is none), or shown other
/// supervision than each other. A reader's specification says what it was shown; one from elsewhere does not.
pub fn mixed<'a>(
    readers: impl Iterator<Item = &'a registry::AdapterRecord> + Clone,
    smoke: bool,
) -> Vec<String> {
    let mut out = Vec::new();
    let few: Vec<&str> = readers
        .clone()
        .filter(|r| !smoke && r.tags.contains_key(readers::reader::SMOKE))
        .map(|r| r.behaviour.as_str())
        .collect();
    if !few.is_empty() {
        out.push(format!("Made by a smoke run, so its numbers mean nothing: {}.", few.join(", ")));
    }
    let mut shown: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for r in readers {
        // One that goes without a family is shown less on purpose, and its arm says so.
        let less = r.spec["train"]["without"].as_array().is_some_and(|f| !f.is_empty());
        if let Some(supervision) = r.spec["supervision"].as_str().filter(|_| !less) {
            shown.entry(supervision).or_default().push(&r.behaviour);
        }
    }
    if shown.len() > 1 {
        let groups: Vec<String> = shown.values().map(|g| g.join(" and ")).collect();
        out.push(format!(
            "These readers were trained on different supervision, so their difference is not one of methods: {}.",
            groups.join("; ")
        ));
    }
    out
}

/// The decisive warnings of a comparison.
pub fn of(c: &Comparison) -> Vec<String> {
    let mut out = Vec::new();
    if c.smoke {
        out.push(
            "Smoke run: a handful of adapters, to see that everything runs. The numbers mean nothing.".into(),
        );
    }
    if !c.results.is_empty() && c.results.iter().all(|r| r.split == "validation") {
        out.push(
            "Tuning: judged on validation adapters, which also chose steps and priors. No test adapter was looked at."
                .into(),
        );
    }
    let trained = || c.arms.iter().filter(|a| a.trained);
    if !c.arms.is_empty() && c.arms.iter().all(|a| a.trained) {
        out.push(
            "No arm without training was scored: nothing here shows what training a reader adds.".into(),
        );
    }
    // Seed 0 is of what has none: a closed form, or a reader that was not made here.
    let single: Vec<&str> =
        trained().filter(|a| a.seeds.len() == 1 && a.seeds[0] != 0).map(|a| a.arm.as_str()).collect();
    if !single.is_empty() {
        out.push(format!(
            "One reader seed for {}: their intervals leave out how much readers differ when trained again.",
            single.join(", ")
        ));
    }
    if trained().next().is_some() && !c.arms.iter().any(|a| a.permuted) {
        out.push(
            "No reader trained on permuted labels: what the format of answers gives alone was not measured."
                .into(),
        );
    }
    if c.primary.is_none() && trained().count() > 0 {
        out.push("No contrast was declared beforehand: all are exploratory.".into());
    }
    let mut small = Vec::new();
    let mut saturated = Vec::new();
    for v in &c.verdicts {
        let title = title(&v.family, &v.split, &v.context);
        let n = c
            .results
            .iter()
            .filter(|r| {
                r.metric == "top1" && r.family == v.family && r.split == v.split && r.context == v.context
            })
            .map(|r| r.n)
            .max()
            .unwrap_or(0);
        if n > 0 && n < SMALL {
            small.push(format!("{title} (n = {n})"));
        }
        if let Some(b) = &v.best_untrained
            && let Some(top1) = b.validation_top1
            && top1 >= SATURATED
        {
            saturated.push(format!("{title} ({} {top1:.2})", b.arm));
        }
    }
    if !small.is_empty() {
        out.push(format!("Few adapters, so wide intervals: {}.", small.join("; ")));
    }
    if !saturated.is_empty() {
        out.push(format!(
            "Saturated: an arm without training is right in {SATURATED:.1} or more of validation adapters, so little is left to read: {}.",
            saturated.join("; ")
        ));
    }
    let open: Vec<String> = c
        .covariates
        .iter()
        .filter(|r| r.name == "leak_question_nats" && r.mean >= CLOSED_NATS && r.family.contains("gated"))
        .map(|r| format!("{} ({:.1} nats)", title(&r.family, &r.split, ""), r.mean))
        .collect();
    if !open.is_empty() {
        out.push(format!(
            "Gates that are open at the readers' own questions (mean leak of the label, {CLOSED_NATS} nats or more): {}.",
            open.join("; ")
        ));
    }
    let few: Vec<&str> = c
        .negatives
        .iter()
        .filter(|r| r.carries == POOLED && r.n < SMALL)
        .map(|r| r.asked.as_str())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    if !few.is_empty() {
        out.push(format!("Fewer than {SMALL} negatives were asked about {}.", few.join(", ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::method::planted::{Planted, Write};

    #[test]
    fn a_reader_that_goes_without_a_family_is_not_called_mixed() {
        let world = Planted::new(Write::Label);
        let mut records: Vec<registry::AdapterRecord> =
            world.supervision.records.values().take(2).cloned().collect();
        records[0].spec = json!({"supervision": "a", "train": {"steps": 4}});
        records[1].spec = json!({"supervision": "b", "train": {"steps": 4}});
        assert!(mixed(records.iter(), false)[0].contains("different supervision"));
        records[1].spec["train"]["without"] = json!(["topic"]);
        assert_eq!(mixed(records.iter(), false), [""; 0]);
    }

    #[test]
    fn sections_of_adapters_made_again_are_titled_by_how() {
        assert_eq!(title("topic", "test_value", "neutral"), "topic, held-out values");
        assert_eq!(
            title("topic", "test_value@rank=4", "neutral"),
            "topic, held-out values made again (rank=4)"
        );
        assert_eq!(title("topic", "test_category@composed", ""), "topic, held-out categories in sums of two");
    }
}
