//! Whether an arm reads what leaks: hits against the gate's leak in nats, one small picture for each arm of a gated section.

use std::fmt::Write;

use super::figures::figure;
use crate::bootstrap::{Scale, two_way};
use crate::comparison::Comparison;
use crate::items::{ItemAdapter, SectionItems};
use crate::report::charts::{Bin, Doses, Kind, doses};
use crate::report::sections::ordered;
use crate::strata::CLOSED_NATS;
use crate::warnings::title;

/// Adapters that are summed up together, at least.
const EACH: usize = 8;
/// Groups at most.
const GROUPS: usize = 4;

/// What a section's adapters are sorted by.
struct Dose {
    of: fn(&ItemAdapter) -> Option<f64>,
    name: &'static str,
    axis: &'static str,
    how: &'static str,
    beside: Option<f64>,
}

const LEAK: Dose = Dose {
    of: |a| a.leak_nats,
    name: "leak",
    axis: "leak at the readers' questions (nats)",
    how: "how many nats likelier the adapter makes its label at the readers' own questions, where it should not show",
    beside: Some(CLOSED_NATS),
};

/// Where the trigger is given there is nothing to leak through.
const ON: Dose = Dose {
    of: |a| a.on_nats,
    name: "strength",
    axis: "strength where triggered (nats)",
    how: "how many nats likelier the adapter makes its label where its trigger is given",
    beside: None,
};

/// Whether an axis can show it: what a file says may be any number.
fn drawn(nats: f64) -> bool {
    nats.abs() < 1e6
}

/// Of all sections whose adapters have the number.
pub(super) fn pictures(c: &Comparison) -> String {
    c.verdicts.iter().filter_map(|v| c.items_of(v)).filter_map(|s| of_section(c, s)).collect()
}

fn of_section(c: &Comparison, s: &SectionItems) -> Option<String> {
    let dose = if s.context == "triggered" { ON } else { LEAK };
    let known: Vec<f64> = s.adapters.iter().filter_map(|a| (dose.of)(a)).filter(|v| drawn(*v)).collect();
    let most = known.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = known.iter().copied().fold(f64::INFINITY, f64::min);
    if known.len() < EACH || most <= least {
        return None;
    }
    let ends = (least.min(0.0), most.ceil());
    let (mut panels, mut never) = (Vec::new(), Vec::new());
    for a in ordered(c) {
        match panel(s, &dose, &a.arm, Kind::of(a), ends) {
            Some(picture) => panels.push(picture),
            None if !s.of_arm(&a.arm).is_empty() => never.push(a.arm.as_str()),
            None => {}
        }
    }
    if panels.is_empty() {
        return None;
    }
    let groups = groups(known.len());
    let mut how = format!(
        "A dot is an adapter: across, {}; up, the share of reader seeds that put its value first. Dots are shifted up and down a little, so that fewer hide each other. A mark is the mean of some {} adapters, neighbours across, its line the 95% interval; the dashed line is the same mean where \"nothing\" is not on offer. Rising to the right: the arm reads what shows. Flat: it reads as much where little shows.",
        dose.how,
        known.len() / groups
    );
    if dose.beside.is_some_and(|b| (ends.0..=ends.1).contains(&b)) {
        let _ =
            write!(how, " Left of the upright dashed line, at {CLOSED_NATS} nats, a gate counts as closed.");
    }
    if !never.is_empty() {
        let _ = write!(
            how,
            " Left out, as no adapter's value comes first with half of their seeds: {}.",
            never.join(", ")
        );
    }
    let heading = format!("Top-1 and {}: {}", dose.name, title(&s.family, &s.split, &s.context));
    Some(figure(&heading, &how, &format!("<div class=\"figures many\">{}</div>", panels.concat())))
}

fn groups(adapters: usize) -> usize {
    (adapters / EACH).clamp(1, GROUPS)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// `None` if the arm puts no adapter's value first in half of its seeds.
fn panel(s: &SectionItems, dose: &Dose, arm: &str, kind: Kind, ends: (f64, f64)) -> Option<String> {
    let second = s.grid(arm, |a, i| a.values.hit(i));
    let second = |at: usize| second.iter().find(|(i, _)| *i == at).map(|(_, row)| mean(row));
    let mut rows: Vec<(f64, usize, Vec<f64>)> = s
        .grid(arm, |a, i| a.all.hit(i))
        .into_iter()
        .filter_map(|(i, row)| Some(((dose.of)(s.adapters.get(i)?).filter(|v| drawn(*v))?, i, row)))
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ever = rows.iter().any(|(_, i, row)| mean(row).max(second(*i).unwrap_or(0.0)) >= 0.5);
    if !ever {
        return None;
    }
    let count = groups(rows.len());
    let bins = (0..count)
        .map(|g| {
            let group = &rows[g * rows.len() / count..(g + 1) * rows.len() / count];
            let values: Vec<Vec<f64>> = group.iter().map(|(_, _, row)| row.clone()).collect();
            let purpose = format!("dose|{arm}|{}|{}|{}|{}|{g}", s.family, s.split, s.context, dose.name);
            let i = two_way(&values, Scale::Share, &purpose);
            let seconds: Option<Vec<f64>> = group.iter().map(|(_, i, _)| second(*i)).collect();
            Bin {
                x: mean(&group.iter().map(|r| r.0).collect::<Vec<_>>()),
                value: i.value,
                low: i.low,
                high: i.high,
                second: seconds.map(|v| mean(&v)),
            }
        })
        .collect();
    Some(doses(&Doses {
        title: arm.to_owned(),
        kind,
        points: rows.iter().map(|(x, _, row)| (*x, mean(row))).collect(),
        bins,
        ends,
        beside: dose.beside,
        x_label: dose.axis.into(),
        y_label: "top-1 (share)".into(),
    }))
}
