//! Adapter by adapter: at which place the right answer came with each arm, and what came first instead. Folded by section.

use std::collections::BTreeMap;
use std::fmt::Write;

use page::escape;

use super::Part;
use crate::comparison::{ArmRow, Comparison};
use crate::items::{ItemAnswers, SectionItems};
use crate::report::charts::cut;
use crate::report::sections::ordered;
use crate::scores::NOTHING;
use crate::warnings::title;

/// Letters of an answer that have room in a cell; its title has it whole.
const LETTERS: usize = 14;

/// What one arm answered about one adapter, for a person.
struct Cell {
    class: &'static str,
    text: String,
    small: String,
    /// Seed by seed.
    more: String,
}

const HOW: &str = "A column is an arm, a row an adapter, by its value; ranked as in the tables above, with \"nothing\" on offer. \u{2713}: the right answer comes first with every reader seed. 2/3: with two of three. (\u{2713}), (2/3): not first, but first where \"nothing\" is not on offer. A number alone: the place of the right answer, 1 being first; with more than one seed the middle one. Below it stands what comes first instead, most often. Pointing at a cell shows each seed.";

fn place(place: f64) -> String {
    if place.fract() == 0.0 { format!("{place:.0}") } else { format!("{place:.1}") }
}

fn cell(answers: &[&ItemAnswers], i: usize) -> Cell {
    let ranked: Vec<(f64, &ItemAnswers)> =
        answers.iter().filter_map(|a| Some((a.all.place.get(i).copied()??, *a))).collect();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for value in answers.iter().filter_map(|a| a.all.instead(i)) {
        *count.entry(value).or_default() += 1;
    }
    let most = count.values().copied().max().unwrap_or(0);
    let small =
        count.into_iter().find(|(_, n)| *n == most).map_or(String::new(), |(value, _)| value.to_owned());
    if ranked.is_empty() {
        return stated(answers, i, small);
    }
    let n = ranked.len();
    let full = |hit: &dyn Fn(&ItemAnswers) -> Option<f64>| {
        ranked.iter().filter(|(_, a)| hit(a) == Some(1.0)).count()
    };
    let (first, next) = (full(&|a| a.all.hit(i)), full(&|a| a.values.hit(i)));
    let share = |of: usize| if of == n { "\u{2713}".to_owned() } else { format!("{of}/{n}") };
    if first == n {
        return Cell { class: "hit", text: share(n), small: String::new(), more: String::new() };
    }
    let more: Vec<String> = ranked.iter().map(|(at, a)| one(*at, a, i)).collect();
    let mut places: Vec<f64> = ranked.iter().map(|r| r.0).collect();
    places.sort_unstable_by(f64::total_cmp);
    let (class, text) = match (first, next) {
        (0, 0) if small.is_empty() && places[n / 2] < 2.0 => ("some", place(places[n / 2])),
        (0, 0) => ("miss", place(places[n / 2])),
        (0, _) => ("next", format!("({})", share(next))),
        _ => ("some", share(first)),
    };
    let small = if small.is_empty() { "tied".to_owned() } else { small };
    Cell { class, text, small, more: more.join("; ") }
}

/// One seed, in words.
fn one(at: f64, a: &ItemAnswers, i: usize) -> String {
    let mut out = if a.seed == 0 { String::new() } else { format!("seed {}: ", a.seed) };
    let _ = match (a.all.instead(i), a.all.hit(i)) {
        (Some(value), _) => write!(out, "place {} after {value}", place(at)),
        (None, Some(1.0)) => write!(out, "first"),
        (None, hit) => write!(out, "one of {:.0} that share the first place", 1.0 / hit.unwrap_or(1.0)),
    };
    if a.all.instead(i) == Some(NOTHING)
        && let Some(Some(at)) = a.values.place.get(i)
    {
        let _ = match a.values.instead(i) {
            Some(value) => write!(out, ", of the values alone place {} after {value}", place(*at)),
            None => write!(out, ", first of the values alone"),
        };
    }
    out
}

/// An arm that only states answers.
fn stated(answers: &[&ItemAnswers], i: usize, small: String) -> Cell {
    let said: Vec<f64> = answers.iter().filter_map(|a| a.stated.get(i).copied()?).collect();
    let share = said.iter().sum::<f64>() / said.len().max(1) as f64;
    let (class, text) = match said.len() {
        0 => ("", "\u{2013}".to_owned()),
        _ if share == 1.0 => ("hit", "\u{2713}".to_owned()),
        _ if share > 0.0 => ("some", format!("{share:.2} said")),
        _ => ("miss", "not said".to_owned()),
    };
    Cell { class, text, small, more: String::new() }
}

fn nats(value: Option<f64>) -> String {
    value.map_or_else(|| "\u{2013}".to_owned(), |v| format!("{v:.2}"))
}

fn of_section(c: &Comparison, s: &SectionItems) -> Option<String> {
    let arms: Vec<(&ArmRow, Vec<&ItemAnswers>)> = ordered(c)
        .into_iter()
        .map(|a| (a, s.of_arm(&a.arm)))
        .filter(|(_, answers)| !answers.is_empty())
        .collect();
    if arms.is_empty() || s.adapters.is_empty() {
        return None;
    }
    let leak = s.adapters.iter().any(|a| a.leak_nats.is_some());
    let on = s.context == "triggered" && s.adapters.iter().any(|a| a.on_nats.is_some());
    let mut head = "<th class=\"w\">adapter</th>".to_owned();
    for name in [leak.then_some("leak (nats)"), on.then_some("on (nats)")].into_iter().flatten() {
        let _ = write!(head, "<th class=\"n\">{name}</th>");
    }
    for (a, _) in &arms {
        let _ = write!(head, "<th class=\"i\">{}</th>", escape(&a.arm));
    }
    let mut rows: Vec<usize> = (0..s.adapters.len()).collect();
    rows.sort_by_key(|i| &s.adapters[*i].label);
    let mut body = String::new();
    for i in rows {
        let a = &s.adapters[i];
        let category =
            a.category.as_ref().map_or(String::new(), |c| format!(" <small>{}</small>", escape(c)));
        let _ = write!(body, "<tr><td class=\"w\">{}{category}</td>", escape(&a.label));
        for value in [leak.then_some(a.leak_nats), on.then_some(a.on_nats)].into_iter().flatten() {
            let _ = write!(body, "<td class=\"n\">{}</td>", nats(value));
        }
        for (_, answers) in &arms {
            body += &html(&cell(answers, i));
        }
        body += "</tr>";
    }
    for (name, metric) in [("top-1", "top1"), ("without \"nothing\"", "top1_values")] {
        let _ = write!(body, "<tr class=\"sum\"><td class=\"w\">{}</td>", escape(name));
        body += &"<td></td>".repeat(usize::from(leak) + usize::from(on));
        for (a, _) in &arms {
            let value = c.result(&a.arm, &s.family, &s.split, &s.context, metric);
            let text = value.map_or_else(|| "\u{2013}".to_owned(), |r| format!("{:.2}", r.value));
            let _ = write!(body, "<td class=\"i\">{text}</td>");
        }
        body += "</tr>";
    }
    let n = s.adapters.len();
    Some(format!(
        "<details><summary>{}: {n} adapter{} with {} arm{}</summary><div class=\"keep items\"><div class=\"scroll\"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div></details>",
        escape(&title(&s.family, &s.split, &s.context)),
        if n == 1 { "" } else { "s" },
        arms.len(),
        if arms.len() == 1 { "" } else { "s" }
    ))
}

fn html(c: &Cell) -> String {
    let more = if c.more.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&c.more)) };
    let small = if c.small.is_empty() {
        String::new()
    } else {
        format!("<small>{}</small>", escape(&cut(&c.small, LETTERS)))
    };
    format!("<td class=\"i {}\"{more}>{}{small}</td>", c.class, escape(&c.text))
}

/// All sections, each folded.
pub(super) fn items(c: &Comparison) -> Option<Part> {
    let found: Vec<String> =
        c.verdicts.iter().filter_map(|v| c.items_of(v)).filter_map(|s| of_section(c, s)).collect();
    if found.is_empty() {
        return None;
    }
    let how = format!("<p class=\"caption\">{}</p>", escape(HOW));
    Some(Part {
        title: "Adapter by adapter".into(),
        remark: String::new(),
        body: format!("{how}{}", found.concat()),
    })
}
