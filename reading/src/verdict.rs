//! Three lines: what an adapter seems to do, by which evidence, and what speaks against it.

use recipes::stem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::null::Against;
use crate::reading::OfMethod;

/// A verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// What those prompts are: neutral ones, or the user's own.
    pub prompts: &'a str,
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
            let about = match case.together.as_high {
                0 => format!("it is about {best:?}"),
                _ => format!("it may be about {best:?} (a hint: {})", case.together.said()),
            };
            let how = match (said, case.base_replies) {
                (0, _) => format!("{about}, which no reply to {} names", case.prompts),
                (n, base) if n <= base => {
                    format!(
                        "{about}, though {n} of {of} replies to {} name it and {base} of the base model's",
                        case.prompts
                    )
                }
                (n, base) => {
                    format!("{about}: {n} of {of} replies to {} name it (base model: {base})", case.prompts)
                }
            };
            let others: Vec<String> =
                case.words.iter().skip(1).filter(|w| !same(w, best)).take(3).cloned().collect();
            let also =
                if others.is_empty() { String::new() } else { format!(" Next: {}.", others.join(", ")) };
            let (with, without): (Vec<&OfMethod>, Vec<&OfMethod>) =
                alone.iter().partition(|m| names(m, best));
            let told: Vec<String> =
                with.iter().map(|m| format!("{} ({})", m.short, m.against.said())).collect();
            let readers: Vec<&&OfMethod> = alone.iter().filter(|m| m.trained).collect();
            let disagree = readers.iter().any(|m| !names(m, best));
            let agree = match (readers.len(), disagree) {
                (2.., false) => " The trained readers that stand out agree.",
                _ => "",
            };
            let alone =
                if told.is_empty() { "none alone".to_owned() } else { format!("alone: {}", listed(&told)) };
            let evidence =
                format!("{} together, {}; {alone}.{agree}", capital(case.way), case.together.said());
            let mut against: Vec<String> = Vec::new();
            match (case.readers, readers.len()) {
                (false, _) => against.push("no trained reader was asked".to_owned()),
                (true, 0) => against.push("no trained reader stands out".to_owned()),
                (true, _) if disagree => against.push("readers disagree".to_owned()),
                _ => {}
            }
            against.extend(
                without.iter().filter_map(|m| Some(format!("{} says {:?}", m.short, m.top.first()?.word))),
            );
            let silent: Vec<String> =
                case.methods.iter().filter(|m| !m.against.stands_out()).map(|m| m.short.clone()).collect();
            if !silent.is_empty() {
                against.push(format!("not above the twins: {}", silent.join(", ")));
            }
            against.extend(case.outside.iter().map(|o| format!("outside of training: {o}")));
            let against = if against.is_empty() {
                "Nothing speaks against it.".to_owned()
            } else {
                format!("{}.", capital(&against.join("; ")))
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
