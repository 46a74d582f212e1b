//! The pictures: levels and differences of a section, what goes with leak, trainings. Each with how it is read.

use std::collections::BTreeSet;

use page::escape;

use super::section::differences;
use crate::comparison::{Comparison, Verdict};
use crate::report::charts::{Dot, Dots, Kind, Lines, dots, lines};
use crate::report::sections::ordered;
use crate::report::{interval, signed};
use crate::verdict::MARGIN;
use crate::warnings::title;

/// What is correlated with hits in a picture: how much likelier an adapter makes its label at the readers' own questions.
const LEAK: &str = "leak_question_nats";

pub(super) fn figure(title: &str, how: &str, picture: &str) -> String {
    format!("<figure><figcaption><b>{}</b>{}</figcaption>{picture}</figure>", escape(title), escape(how))
}

/// Top-1 of each arm, and beside it the differences from the best without training.
pub(super) fn of_section(c: &Comparison, v: &Verdict) -> String {
    let found: Vec<String> = [levels(c, v), steps(c, v)].into_iter().flatten().collect();
    if found.is_empty() { String::new() } else { format!("<div class=\"figures\">{}</div>", found.concat()) }
}

fn levels(c: &Comparison, v: &Verdict) -> Option<String> {
    let at = |arm: &str, metric: &str| c.result(arm, &v.family, &v.split, &v.context, metric);
    let best = v.best_untrained.as_ref().map(|b| b.arm.as_str());
    let rows: Vec<Dot> = ordered(c)
        .into_iter()
        .filter_map(|a| {
            let r = at(&a.arm, "top1")?;
            Some(Dot {
                label: format!("{}{}", a.arm, if Some(a.arm.as_str()) == best { " *" } else { "" }),
                kind: Kind::of(a),
                value: r.value,
                low: r.ci_low,
                high: r.ci_high,
                seeds: if r.by_seed.len() > 1 { r.by_seed.clone() } else { vec![] },
                text: interval(r.value, r.ci_low, r.ci_high),
            })
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let chance = ordered(c).into_iter().find_map(|a| at(&a.arm, "chance")).map(|r| (r.value, "chance"));
    let title = format!("Top-1 of each arm: {}", title(&v.family, &v.split, &v.context));
    let how = "A mark is an arm, its line the 95% interval, a small upright tick one reader seed. Further right is better; at the dashed line it is no better than chance. * best without training.";
    let chart = Dots {
        title: title.clone(),
        axis: "top-1: share of adapters, 0 to 1".into(),
        ends: (0.0, 1.0),
        beside: chance,
        band: None,
        rows,
    };
    Some(figure(&title, how, &dots(&chart)))
}

fn steps(c: &Comparison, v: &Verdict) -> Option<String> {
    let best = v.best_untrained.as_ref()?;
    let found = differences(c, v);
    let rows: Vec<Dot> = found
        .into_iter()
        .filter(|r| r.minus == best.arm)
        .map(|r| Dot {
            label: r.arm.clone(),
            kind: Kind::Trained,
            value: r.value,
            low: r.ci_low,
            high: r.ci_high,
            seeds: vec![],
            text: format!("{} {}", signed(r.value, r.ci_low, r.ci_high), r.verdict),
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let title = format!("Trained readers minus {}, the best without training", best.arm);
    let how = format!(
        "A mark is the difference in top-1 on the same adapters, its line the 95% interval. Right of 0 the reader names more, left of it fewer; a line that crosses 0 decides nothing, one well within the band (\u{b1}{MARGIN:.2}) is called equal."
    );
    let chart = Dots {
        title: title.clone(),
        axis: "difference in top-1 (share of adapters)".into(),
        ends: (-1.0, 1.0),
        beside: Some((0.0, "no difference")),
        band: Some(MARGIN),
        rows,
    };
    Some(figure(&title, &how, &dots(&chart)))
}

/// How hits go with leak, one picture for each section that has the number.
pub(super) fn leaks(c: &Comparison) -> String {
    let mut seen = BTreeSet::new();
    let sections = c.correlations.iter().filter(|r| r.covariate == LEAK);
    let sections: Vec<_> =
        sections.map(|r| (&r.family, &r.split, &r.context)).filter(|key| seen.insert(*key)).collect();
    let found: Vec<String> = sections
        .into_iter()
        .map(|(family, split, context)| {
            let rows: Vec<Dot> = ordered(c)
                .into_iter()
                .filter_map(|a| {
                    let r = c.correlations.iter().find(|r| {
                        r.covariate == LEAK
                            && r.arm == a.arm
                            && r.family == *family
                            && r.split == *split
                            && r.context == *context
                    })?;
                    Some(Dot {
                        label: a.arm.clone(),
                        kind: Kind::of(a),
                        value: r.rho,
                        low: r.ci_low,
                        high: r.ci_high,
                        seeds: vec![],
                        text: signed(r.rho, r.ci_low, r.ci_high),
                    })
                })
                .collect();
            let title = format!("Hits and leak: {}", title(family, split, context));
            let how = "Leak: how many nats likelier an adapter makes its label at the readers' own questions. Right of 0, an arm names mostly the adapters that leak; at 0, leak does not tell which.";
            let chart = Dots {
                title: title.clone(),
                axis: "rank correlation of top-1 with leak, -1 to 1 (Spearman)".into(),
                ends: (-1.0, 1.0),
                beside: Some((0.0, "zero")),
                band: None,
                rows,
            };
            figure(&title, how, &dots(&chart))
        })
        .collect();
    if found.is_empty() { String::new() } else { format!("<div class=\"figures\">{}</div>", found.concat()) }
}

/// One small picture for each trained arm.
pub(super) fn trainings(c: &Comparison) -> String {
    let charts: Vec<String> = ordered(c)
        .into_iter()
        .filter_map(|a| {
            let series: Vec<Vec<(f64, f64)>> = c
                .trajectories
                .iter()
                .filter(|t| t.arm == a.arm)
                .map(|t| t.points.iter().map(|p| (p.step as f64, p.validation.top1)).collect())
                .collect();
            let last = series.iter().flatten().map(|p| p.0).fold(1.0, f64::max);
            (!series.is_empty()).then(|| {
                lines(&Lines {
                    title: a.arm.clone(),
                    kind: Kind::of(a),
                    series,
                    x_max: last,
                    y_max: 1.0,
                    x_label: "training step (optimiser steps)".into(),
                    y_label: "top-1 (share)".into(),
                })
            })
        })
        .collect();
    if charts.is_empty() {
        return String::new();
    }
    let how = "One line for each seed, a point for each evaluation on validation adapters; the reader kept is that of the point with the best mean reciprocal rank, then the least loss. Lines that still rise at their end may have been stopped early.";
    format!(
        "<figure><figcaption><b>Top-1 on validation adapters while readers were trained</b>{}</figcaption><div class=\"figures many\">{}</div></figure>",
        escape(how),
        charts.concat()
    )
}
