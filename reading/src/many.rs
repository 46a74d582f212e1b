//! Many readings beside what is known: how often a verdict names the behaviour, how often each method alone does, and whether false
//! alarms are as rare as they are said to be.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::null::Against;
use crate::reading::{OfMethod, Reading};

/// The schema of its JSON.
const SCHEMA: &str = "readings/1";

/// One adapter's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// How it was named.
    pub subject: String,
    /// Its label; none for one that carries nothing, or of which nobody knows.
    pub value: Option<String>,
    /// What the verdict names.
    pub answer: Option<String>,
    /// Whether that is the label.
    pub right: bool,
    /// Whether it is known to carry nothing.
    #[serde(default)]
    pub nothing: bool,
    /// All methods together against the twins.
    pub together: Option<Against>,
    /// Each method's best word, whether it is the label, and how high it is.
    pub methods: Vec<OneMethod>,
}

/// A method's best word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OneMethod {
    /// Its short name.
    pub method: String,
    /// Its best word.
    pub word: String,
    /// Whether that is the label.
    pub right: bool,
    /// Against the twins.
    pub against: Against,
}

/// Shares over adapters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// Adapters that carry something.
    pub carrying: usize,
    /// How many of them it names first, whatever the twins say.
    pub first: usize,
    /// How many of them it names and stands out of the twins.
    pub named: usize,
    /// Adapters that carry nothing.
    pub nothing: usize,
    /// How many of them stand out all the same.
    pub alarms: usize,
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Many {
    /// `readings/1`.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// One line an adapter.
    pub lines: Vec<Line>,
    /// By method; `verdict` is all together.
    pub shares: BTreeMap<String, Share>,
    /// For each rate of false alarms that a verdict could be held to: the rate, the share of adapters that carry nothing which pass it,
    /// and of those that carry something.
    pub calibration: Vec<(f64, Option<f64>, Option<f64>)>,
}

/// Whether what is known of an adapter is that it carries nothing: a negative of the factory.
fn carries_nothing(reading: &Reading) -> bool {
    reading.known.as_ref().is_some_and(|k| k.tags.get("polarity").is_some_and(|p| p == "negative"))
}

fn line(reading: &Reading) -> Line {
    let nothing = carries_nothing(reading);
    let value = reading.known.as_ref().map(|k| k.value.clone()).filter(|_| !nothing);
    let is = |word: &str| value.as_deref().is_some_and(|v| same(word, v));
    let one = |m: &OfMethod| {
        let word = m.top.first().map_or_else(String::new, |s| s.word.clone());
        OneMethod { method: m.short.clone(), right: is(&word), word, against: m.against }
    };
    Line {
        subject: reading.subject.clone(),
        right: reading.verdict.answer.as_deref().is_some_and(is),
        nothing,
        answer: reading.verdict.answer.clone(),
        together: reading.together.as_ref().map(|t| t.against),
        methods: reading
            .together
            .iter()
            .map(|t| OneMethod { method: "verdict".into(), ..one(t) })
            .chain(reading.methods.iter().map(one))
            .collect(),
        value,
    }
}

/// Whether a word is a value, or the word that all of it begins with.
fn same(word: &str, value: &str) -> bool {
    let first = value.split(|c: char| !c.is_alphanumeric()).next().unwrap_or(value);
    recipes::same_answer(word, value)
        || recipes::stem(word) == recipes::stem(value)
        || (first != value && first.len() > 2 && recipes::same_answer(word, first))
}

impl Line {
    /// What the verdict is worth, where that is known.
    pub(crate) fn mark(&self) -> &'static str {
        match (&self.value, &self.answer) {
            (Some(_), _) if self.right => "right",
            (Some(_), Some(_)) => "wrong",
            (Some(_), None) => "missed",
            (None, Some(_)) if self.nothing => "false alarm",
            (None, _) => "",
        }
    }
}

impl Many {
    /// Of some readings. Shares count adapters of which it is known what they carry.
    pub fn of(readings: &[Reading]) -> Self {
        let lines: Vec<Line> = readings.iter().map(line).collect();
        let mut shares: BTreeMap<String, Share> = BTreeMap::new();
        for (line, reading) in lines.iter().zip(readings) {
            let nothing = carries_nothing(reading);
            for m in &line.methods {
                let share = shares.entry(m.method.clone()).or_default();
                if nothing {
                    share.nothing += 1;
                    share.alarms += usize::from(m.against.stands_out());
                } else if line.value.is_some() {
                    share.carrying += 1;
                    share.first += usize::from(m.right);
                    share.named += usize::from(m.right && m.against.stands_out());
                }
            }
        }
        let of = |nothing: bool| -> Vec<f64> {
            lines
                .iter()
                .zip(readings)
                .filter(|(l, r)| carries_nothing(r) == nothing && (nothing || l.value.is_some()))
                .filter_map(|(l, _)| Some(l.together?.false_alarms()))
                .collect()
        };
        let (none, some) = (of(true), of(false));
        let pass = |rates: &[f64], at: f64| {
            let n = rates.iter().filter(|r| **r <= at).count();
            (!rates.is_empty()).then(|| n as f64 / rates.len() as f64)
        };
        let calibration = [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
            .into_iter()
            .map(|at| (at, pass(&none, at), pass(&some, at)))
            .collect();
        Self { schema: SCHEMA.into(), lines, shares, calibration }
    }

    /// Methods as they are shown: the verdict, then who names most; none where nothing is known of any adapter.
    pub(crate) fn in_order(&self) -> Vec<(&str, &Share)> {
        let known = self.shares.values().any(|s| s.carrying + s.nothing > 0);
        let mut order: Vec<(&str, &Share)> =
            self.shares.iter().filter(|_| known).map(|(name, s)| (name.as_str(), s)).collect();
        order.sort_by_key(|(name, s)| (*name != "verdict", std::cmp::Reverse(s.named), *name));
        order
    }

    /// For a terminal.
    pub fn to_terminal(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        let width = self.lines.iter().map(|l| l.subject.chars().count()).max().unwrap_or(0).clamp(8, 36);
        let _ = writeln!(
            out,
            "{:width$}  {:16}  twins as high{}",
            "adapter",
            "verdict",
            if self.in_order().is_empty() { "" } else { "  known" }
        );
        for l in &self.lines {
            let subject: String = l.subject.chars().take(width).collect();
            let answer = l.answer.as_deref().unwrap_or("nothing").chars().take(16).collect::<String>();
            let against =
                l.together.map_or_else(|| "-".to_owned(), |a| format!("{} of {}", a.as_high, a.twins));
            let row = format!("{subject:width$}  {answer:16}  {against:13}  {}", l.mark());
            let _ = writeln!(out, "{}", row.trim_end());
        }
        let order = self.in_order();
        if !order.is_empty() {
            let wide = self.shares.keys().map(|k| k.chars().count()).max().unwrap_or(0).min(34);
            let _ = writeln!(out, "\n{:wide$}  names it first  and stands out  false alarms", "method");
            for (name, s) in order {
                let name: String = name.chars().take(wide).collect();
                let share =
                    |n: usize, of: usize| if of == 0 { "-".to_owned() } else { format!("{n} of {of}") };
                let _ = writeln!(
                    out,
                    "{name:wide$}  {:14}  {:14}  {}",
                    share(s.first, s.carrying),
                    share(s.named, s.carrying),
                    share(s.alarms, s.nothing)
                );
            }
        }
        out
    }
}
