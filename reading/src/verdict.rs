//! Three lines: what an adapter seems to do, by which evidence, and what speaks against it.

use recipes::stem;
use serde::{Deserialize, Serialize};

use crate::null::Against;
use crate::reading::OfMethod;

/// A verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The word that all methods together name, if it stands out of what twins reach.
    pub answer: Option<String>,
    /// What it seems to do.
    pub does: String,
    /// By which evidence.
    pub evidence: String,
    /// What speaks against it.
    pub against: String,
}

/// What a verdict is made from.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// Words that methods together name, best first.
    pub words: &'a [String],
    /// How the best of them compares with the twins' best.
    pub together: Against,
    /// Which methods those are.
    pub way: &'a str,
    /// Each method's own words.
    pub methods: &'a [OfMethod],
    /// How many of the replies to neutral prompts name the best word, and of how many.
    pub replies: (usize, usize),
    /// How many of the base model's do.
    pub base_replies: usize,
    /// What of the adapter the readers have not seen.
    pub outside: &'a [String],
    /// Whether there is any trained reader.
    pub readers: bool,
}

/// Methods named in a line, at most.
const NAMED: usize = 4;
/// Words of a method among which the answer counts as named by it.
const AMONG: usize = 3;

fn same(a: &str, b: &str) -> bool {
    recipes::same_answer(a, b) || stem(a) == stem(b)
}

fn names(method: &OfMethod, word: &str) -> bool {
    method.top.iter().take(AMONG).any(|s| s.word.split(" / ").any(|w| same(w, word)))
}

fn listed(of: &[String]) -> String {
    match of {
        [] => String::new(),
        many if many.len() > NAMED => format!("{} and {} more", many[..NAMED].join("; "), many.len() - NAMED),
        few => few.join("; "),
    }
}

impl Verdict {
    /// Of an adapter whose every number is nothing.
    pub fn of_nothing() -> Self {
        Self {
            answer: None,
            does: "Nothing: it changes nothing.".into(),
            evidence: "The norm of its weight difference is 0.".into(),
            against: "Nothing speaks against it.".into(),
        }
    }

    /// Of what was found.
    pub fn of(case: Case<'_>) -> Self {
        let best = case.words.first().map_or("", String::as_str);
        let alone: Vec<&OfMethod> = case.methods.iter().filter(|m| m.against.stands_out()).collect();
        if case.together.stands_out() {
            let (said, of) = case.replies;
            let how = match said {
                0 => format!("it holds {best:?} without naming it in {of} replies to neutral prompts"),
                n => format!(
                    "it is about {best:?}: {n} of {of} replies to neutral prompts name it (base model: {})",
                    case.base_replies
                ),
            };
            let others: Vec<String> =
                case.words.iter().skip(1).filter(|w| !same(w, best)).take(3).cloned().collect();
            let also =
                if others.is_empty() { String::new() } else { format!(" Next: {}.", others.join(", ")) };
            let (with, without): (Vec<&OfMethod>, Vec<&OfMethod>) =
                alone.iter().partition(|m| names(m, best));
            let told: Vec<String> =
                with.iter().map(|m| format!("{} ({})", m.short, m.against.said())).collect();
            let evidence = if told.is_empty() {
                format!("{} together, {}; none alone.", capital(case.way), case.together.said())
            } else {
                format!("{} together, {}; alone: {}.", capital(case.way), case.together.said(), listed(&told))
            };
            let mut against: Vec<String> = without
                .iter()
                .filter_map(|m| Some(format!("{} says {:?}", m.short, m.top.first()?.word)))
                .collect();
            let silent: Vec<String> = case
                .methods
                .iter()
                .filter(|m| m.trained && !m.against.stands_out())
                .map(|m| m.short.clone())
                .collect();
            if !silent.is_empty() {
                against.push(format!("no answer above the twins from {}", silent.join(", ")));
            }
            against.extend(case.outside.iter().map(|o| format!("outside of training: {o}")));
            let readers: Vec<&OfMethod> = case.methods.iter().filter(|m| m.trained).collect();
            let agree = readers.iter().filter(|m| m.against.stands_out()).all(|m| names(m, best));
            let about = match (case.readers, agree && readers.iter().any(|m| m.against.stands_out())) {
                (false, _) => "No trained reader was asked",
                (true, true) => "The readers that stand out agree",
                (true, false) => "Readers disagree, or none stands out",
            };
            let against = if against.is_empty() {
                format!("{about}.")
            } else {
                format!("{about}; {}.", listed(&against))
            };
            return Self {
                answer: Some(best.to_owned()),
                does: format!("{}.{also}", capital(&how)),
                evidence,
                against,
            };
        }
        let told: Vec<String> = alone
            .iter()
            .filter_map(|m| {
                Some(format!("{} says {:?} ({})", m.short, m.top.first()?.word, m.against.said()))
            })
            .collect();
        let against = if told.is_empty() {
            "No method alone is above the twins.".to_owned()
        } else {
            // So many methods were tried that one of them is expected to stand out now and then.
            format!("Alone, of {} methods: {}.", case.methods.len(), listed(&told))
        };
        Self {
            answer: None,
            does: "Nothing above the twins.".into(),
            evidence: format!(
                "{} together come highest, at {best:?}: {}.",
                capital(case.way),
                case.together.said()
            ),
            against,
        }
    }

    /// Whether it names a value, in either number.
    pub fn is_right(&self, value: &str) -> bool {
        self.answer.as_deref().is_some_and(|a| same(a, value))
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
