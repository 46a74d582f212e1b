//! Where answers go: how many are right, "nothing", a value near the right one or another, and which wrong ones come again and
//! again. A closed set has hundreds of values, so a matrix of all pairs would be empty paper.

use std::collections::{BTreeMap, BTreeSet};

use super::Part;
use super::figures::figure;
use super::pieces::table;
use page::escape;

use crate::comparison::{ArmRow, Comparison, Verdict};
use crate::items::SectionItems;
use crate::report::Table;
use crate::report::charts::{self, Bar, Bars, ROOM, bars};
use crate::report::sections::ordered;
use crate::scores::NOTHING;
use crate::warnings::title;

/// Wrong answers that are named of an arm.
const NAMED: usize = 3;

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    Right,
    Tied,
    NothingNext,
    Nothing,
    Near,
    Other,
}

impl Is {
    const ALL: [Self; 6] =
        [Self::Right, Self::Tied, Self::NothingNext, Self::Nothing, Self::Near, Self::Other];

    /// Its class in the shared style.
    fn class(self) -> &'static str {
        match self {
            Self::Right => "is-right",
            Self::Tied => "is-tied",
            Self::NothingNext => "is-next",
            Self::Nothing => "is-nothing",
            Self::Near => "is-near",
            Self::Other => "is-other",
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Tied => "shared first place",
            Self::NothingNext => "\"nothing\", knows",
            Self::Nothing => "\"nothing\", else",
            Self::Near => "same category",
            Self::Other => "other value",
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Right => "right: the adapter's own value comes first",
            Self::Tied => "the own value shares the first place with others",
            Self::NothingNext => "\"nothing\", but of the values alone the own one comes first",
            Self::Nothing => "\"nothing\", and of the values alone the own one does not come first alone",
            Self::Near => "another value of the same category",
            Self::Other => "another value of the family, of another category or of an unknown one",
        }
    }
}

/// Answers of one arm: shares of places that are tied count in part.
#[derive(Debug, Default)]
struct Counts {
    answers: usize,
    by: BTreeMap<Is, f64>,
    /// Wrong value -> how often it came, and the adapters in whose place: label and number.
    wrong: BTreeMap<String, (usize, BTreeSet<(String, usize)>)>,
}

fn count(s: &SectionItems, arm: &str) -> Counts {
    let mut out = Counts::default();
    let whole = s.grid(arm, |a, i| a.all.hit(i));
    for a in s.of_arm(arm) {
        for (i, adapter) in whole.iter().map(|(i, _)| (*i, &s.adapters[*i])) {
            let Some(hit) = a.all.hit(i) else { continue };
            out.answers += 1;
            let is = match a.all.instead(i) {
                None => Is::Right,
                Some(NOTHING) if a.values.hit(i) == Some(1.0) => Is::NothingNext,
                Some(NOTHING) => Is::Nothing,
                Some(value) => {
                    let (count, labels) = out.wrong.entry(value.to_owned()).or_default();
                    *count += 1;
                    labels.insert((adapter.label.clone(), i));
                    let same =
                        adapter.category.is_some() && s.categories.get(value) == adapter.category.as_ref();
                    if same { Is::Near } else { Is::Other }
                }
            };
            if is == Is::Right {
                *out.by.entry(Is::Right).or_default() += hit;
                *out.by.entry(Is::Tied).or_default() += 1.0 - hit;
            } else {
                *out.by.entry(is).or_default() += 1.0;
            }
        }
    }
    out
}

impl Counts {
    fn of(&self, is: Is) -> f64 {
        self.by.get(&is).copied().unwrap_or(0.0)
    }

    /// The most frequent wrong values, and for whom.
    fn most(&self) -> Option<String> {
        let mut all: Vec<_> = self.wrong.iter().collect();
        all.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let named = all.iter().take(NAMED).map(|(value, (count, labels))| {
            let whose = match labels.iter().next() {
                Some((label, _)) if labels.len() == 1 => format!("for {label}"),
                _ => format!("for {} adapters", labels.len()),
            };
            format!("{value} {count}\u{d7} {whose}")
        });
        let named: Vec<String> = named.collect();
        (!named.is_empty()).then(|| named.join("; "))
    }
}

/// The arms whose answers are looked at: trained ones, and the best without training; all where none is trained.
fn arms<'a>(c: &'a Comparison, v: &Verdict) -> Vec<&'a ArmRow> {
    let best = v.best_untrained.as_ref().map(|b| b.arm.as_str());
    let trained = c.arms.iter().any(|a| a.trained);
    ordered(c).into_iter().filter(|a| a.trained || !trained || Some(a.arm.as_str()) == best).collect()
}

/// Answers of all sections.
pub(super) fn confusion(c: &Comparison) -> Option<Part> {
    let found: String = c.verdicts.iter().filter_map(|v| of_section(c, v, c.items_of(v)?)).collect();
    if found.is_empty() {
        return None;
    }
    let intro = "<p class=\"caption\">An answer is what an arm with one reader seed ranks first for one adapter, with \"nothing\" on offer. The closed set holds the values of the family that is asked about, so no answer is a value of another family. Trained readers, and the best method without training (*).</p>";
    Some(Part { title: "Where answers go".into(), remark: String::new(), body: format!("{intro}{found}") })
}

fn of_section(c: &Comparison, v: &Verdict, s: &SectionItems) -> Option<String> {
    let best = v.best_untrained.as_ref().map(|b| b.arm.as_str());
    let counted: Vec<(String, Counts)> = arms(c, v)
        .into_iter()
        .map(|a| {
            let star = if Some(a.arm.as_str()) == best { " *" } else { "" };
            (format!("{}{star}", a.arm), count(s, &a.arm))
        })
        .filter(|(_, counts)| counts.answers > 0)
        .collect();
    if counted.is_empty() {
        return None;
    }
    let shown: Vec<Is> =
        Is::ALL.into_iter().filter(|is| counted.iter().any(|(_, counts)| counts.of(*is) > 0.0)).collect();
    let key: Vec<String> = shown
        .iter()
        .map(|is| {
            format!(
                "<li><svg viewBox=\"0 0 12 12\" aria-hidden=\"true\"><rect class=\"{}\" width=\"12\" height=\"12\"/></svg>{}</li>",
                is.class(),
                escape(is.meaning())
            )
        })
        .collect();
    let rows = counted.iter().map(|(arm, counts)| Bar {
        label: arm.clone(),
        text: format!("{} answers", counts.answers),
        parts: shown
            .iter()
            .map(|is| charts::Part { class: is.class(), share: counts.of(*is) / counts.answers as f64 })
            .collect(),
    });
    let heading = format!("Where answers go: {}", title(&s.family, &s.split, &s.context));
    let picture = bars(&Bars {
        title: heading.clone(),
        axis: "share of answers (adapters \u{d7} reader seeds), 0 to 1".into(),
        rows: rows.collect(),
    });
    let how = format!(
        "A bar is all answers of an arm, its parts in the order of this key. Numbers in it are shares; a part without one is below {ROOM:.2}."
    );
    let figure = figure(&heading, &how, &format!("<ul class=\"key\">{}</ul>{picture}", key.concat()));
    let named = Table {
        header: ["arm", "wrong values, most frequent first"].map(str::to_owned).to_vec(),
        rows: counted.iter().filter_map(|(arm, counts)| Some(vec![arm.clone(), counts.most()?])).collect(),
        caption: "Which values come first in place of the right one, how often, and for whom.".into(),
        words: 2,
        ..Table::default()
    };
    let number = |n: f64| match n {
        0.0 => "\u{2013}".to_owned(),
        n if n.fract() == 0.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    };
    let numbers = Table {
        header: ["arm", "answers"]
            .into_iter()
            .chain(shown.iter().map(|is| is.head()))
            .map(str::to_owned)
            .collect(),
        rows: counted
            .iter()
            .map(|(arm, counts)| {
                let kinds = shown.iter().map(|is| number(counts.of(*is)));
                [arm.clone(), counts.answers.to_string()].into_iter().chain(kinds).collect()
            })
            .collect(),
        folded: Some("Numbers of answers".into()),
        words: 1,
        ..Table::default()
    };
    let named = if named.rows.is_empty() { String::new() } else { format!("<div>{}</div>", table(&named)) };
    Some(format!("<div class=\"figures\">{figure}{named}</div>{}", table(&numbers)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::{ItemAdapter, ItemAnswers, Places};

    #[test]
    fn bars_hold_what_the_tables_count() {
        let adapter = |label: &str| ItemAdapter {
            adapter: format!("topic/{label}"),
            label: label.into(),
            category: None,
            leak_nats: None,
            on_nats: None,
        };
        let answers = |seed: u64, place: [Option<f64>; 3], instead: [Option<&str>; 3]| {
            let all = Places { place: place.into(), instead: instead.map(|i| i.map(str::to_owned)).into() };
            ItemAnswers { arm: "dit".into(), seed, values: all.clone(), all, stated: vec![None; 3] }
        };
        // The second seed was not asked about dogs.
        let s = SectionItems {
            family: "topic".into(),
            split: "test_value".into(),
            context: "neutral".into(),
            adapters: ["cats", "dogs", "tea"].map(adapter).into(),
            answers: vec![
                answers(1, [Some(1.0), Some(1.0), Some(2.0)], [None, None, Some("cats")]),
                answers(2, [Some(1.0), None, Some(2.0)], [None, None, Some("cats")]),
            ],
            categories: BTreeMap::new(),
        };
        let counts = count(&s, "dit");
        let right: f64 = s.grid("dit", |a, i| a.all.hit(i)).iter().flat_map(|(_, row)| row).sum();
        assert_eq!((counts.answers, counts.of(Is::Right), counts.of(Is::Other)), (4, right, 2.0));
        assert_eq!(counts.most().unwrap(), "cats 2\u{d7} for tea");
    }
}
