//! What a comparison comes to, in a few sentences: the sections' verdicts counted, never anything that they do not say.

use crate::comparison::{ArmVerdict, Comparison, Verdict};
use crate::warnings::title;

/// Verdicts in the order in which they are counted, and what is said of so many.
const WORDS: [(&str, &str, &str); 4] = [
    ("better", "is better", "are better"),
    ("equal", "is equal", "are equal"),
    ("worse", "is worse", "are worse"),
    ("no verdict", "is without verdict", "are without verdict"),
];

/// The answer first, then how it is counted, then who is said to read.
pub(crate) fn answer(c: &Comparison) -> Vec<String> {
    let judged: Vec<&Verdict> =
        c.verdicts.iter().filter(|v| v.best_untrained.is_some() && !v.arms.is_empty()).collect();
    if judged.is_empty() {
        let no_reader = !c.arms.is_empty() && c.arms.iter().all(|a| !a.trained);
        return vec![if no_reader {
            "No reader was trained: this compares methods without training with each other.".to_owned()
        } else {
            "No verdict: no trained reader was held against a method without training here.".to_owned()
        }];
    }
    vec![first(&judged), counted(&judged), readers(&judged)]
}

/// `topic, held-out values (dit, oracle)` of each section in which some arms are as asked.
fn named(judged: &[&Verdict], which: impl Fn(&ArmVerdict) -> bool) -> Vec<String> {
    judged
        .iter()
        .filter_map(|v| {
            let arms: Vec<&str> = v.arms.iter().filter(|a| which(a)).map(|a| a.arm.as_str()).collect();
            (!arms.is_empty())
                .then(|| format!("{} ({})", title(&v.family, &v.split, &v.context), arms.join(", ")))
        })
        .collect()
}

fn sections(n: usize) -> String {
    if n == 1 { "the one section".to_owned() } else { format!("any of {n} sections") }
}

fn first(judged: &[&Verdict]) -> String {
    let better = named(judged, |a| a.verdict == "better");
    if better.is_empty() {
        return format!(
            "No trained reader is better than the best method without training, in {}.",
            sections(judged.len())
        );
    }
    format!(
        "A trained reader is better than the best method without training in {} of {} section{}: {}.",
        better.len(),
        judged.len(),
        if judged.len() == 1 { "" } else { "s" },
        better.join("; ")
    )
}

fn counted(judged: &[&Verdict]) -> String {
    let all = || judged.iter().flat_map(|v| &v.arms);
    let counts: Vec<String> = WORDS
        .iter()
        .filter_map(|(word, one, many)| match all().filter(|a| a.verdict == *word).count() {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {many}")),
        })
        .collect();
    format!("Of {} verdicts, one for each reader in each section, {}.", all().count(), counts.join(", "))
}

fn readers(judged: &[&Verdict]) -> String {
    if judged.iter().all(|v| v.control.is_none()) {
        return "No control was scored, so no reader can be said to read.".to_owned();
    }
    let read = named(judged, |a| a.reads);
    if read.is_empty() {
        return "None is above the best control with its interval, so none is said to read.".to_owned();
    }
    format!("Above the best control with the interval, so said to read: {}.", read.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::{Best, read};

    /// An old file, which holds no verdicts, with one section judged as given.
    fn judged(arms: &[(&str, bool, &str)]) -> Vec<String> {
        let mut c = read(include_str!("../../tests/comparison_1.json")).unwrap();
        let best = Best {
            arm: "direct".into(),
            chosen_on: "validation".into(),
            validation_top1: None,
            test_top1: None,
        };
        let v = &mut c.verdicts[0];
        v.best_untrained = Some(best.clone());
        v.control = Some(best);
        v.arms = arms
            .iter()
            .map(|(arm, reads, verdict)| ArmVerdict {
                arm: (*arm).into(),
                reads: *reads,
                verdict: (*verdict).into(),
            })
            .collect();
        answer(&c)
    }

    #[test]
    fn the_answer_counts_verdicts_and_says_no_more() {
        let none = judged(&[("dit", false, "worse"), ("oracle", false, "no verdict")]);
        assert!(none[0].starts_with("No trained reader is better"), "{none:?}");
        assert!(none[1].contains("Of 2 verdicts") && none[1].contains("1 is worse, 1 is without verdict"));
        assert!(none[2].contains("none is said to read"));
        let some = judged(&[("dit", true, "better"), ("oracle", false, "equal")]);
        assert!(some[0].contains("in 1 of 1 section: topic, held-out values (dit)."), "{some:?}");
        assert!(some[2].ends_with("said to read: topic, held-out values (dit)."), "{some:?}");
        assert!(judged(&[])[0].starts_with("No verdict"));
    }
}
