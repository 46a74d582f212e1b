//! What was asked, the primary contrast, one section for each family and split, and the exploratory contrasts.

use std::fmt::Write;

use super::{Block, Table, interval, p_value, signed};
use crate::comparison::{ArmRow, Comparison, PairedRow, Verdict};
use crate::verdict::FEWEST;
use crate::warnings::title;

/// How the numbers were made; printed with the notes.
pub(crate) const RULES: [&str; 5] = [
    "Scores are log-softmaxed over the closed set (all values of the family, trained ones too, and \"nothing\"), corrected by a prior that validation adapters chose among none, the training adapters' mean, the base model and the training negatives' mean, and averaged over phrasings before they are ranked. Top-1 has \"nothing\" on offer; its prior is chosen by hits among validation adapters that carry something and that carry nothing, weighed alike. Top-1 without \"nothing\", MRR and bits rank the values alone, under a prior chosen for that. No test item enters a correction.",
    "Intervals: 95%, adapters and reader seeds resampled independently; for shares at least as wide as Wilson's, for differences of shares as the adjusted Wald interval of matched pairs.",
    "Better: the interval of the difference excludes 0 and the difference is at least .05. Equal: two one-sided tests at .08 pass. Else: no verdict. An arm is said to read only if it is above the best of direct, blackbox, logit lens, weight lens and the permuted-label reader, with its interval.",
    "Bits: information about the label in answers restricted to the section's labels (symmetric channel), in brackets p of as many under 1,000 shuffles of the labels.",
    "Exact match is equality up to case, a leading article and number. AUROC: of -log p(\"nothing\") over the closed set, ties half.",
];

pub(crate) fn asked(c: &Comparison) -> Vec<Block> {
    let seeds = c.arms.iter().filter(|a| a.trained).map(|a| a.seeds.len()).max().unwrap_or(0);
    let adapters = c.results.iter().filter(|r| r.metric == "top1").map(|r| r.n).max().unwrap_or(0);
    let mut out = "What was asked: given a model with an adapter on, and not told which, name the value that the adapter carries, among all values of its family and \"nothing\". Top-1 is the share of adapters whose own value ranks first.".to_owned();
    if c.schema == Comparison::SCHEMA && !c.arms.is_empty() {
        let free = c.arms.iter().filter(|a| !a.trained).count();
        let count = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let _ = write!(
            out,
            " {} without training and {} were asked of up to {} a section",
            count(free, "method", "methods"),
            count(c.arms.len() - free, "trained reader", "trained readers"),
            count(adapters, "adapter", "adapters"),
        );
        if seeds > 0 {
            let _ = write!(out, ", with {}", count(seeds, "reader seed", "reader seeds"));
        }
        out.push('.');
    }
    vec![Block::Sentence(out)]
}

/// A metric in words.
pub(crate) fn metric(name: &str) -> String {
    match name {
        "top1" => "top-1".into(),
        "top1_values" => "top-1 without \"nothing\"".into(),
        "top1_closed" => "top-1, closed below .5 nats".into(),
        "exact_match" => "stated (exact)".into(),
        other => other.replace('_', " "),
    }
}

pub(crate) fn primary(c: &Comparison) -> Vec<Block> {
    let Some(r) = c.paired.iter().find(|r| r.primary) else { return vec![] };
    let seeds = c.arms.iter().find(|a| a.arm == r.arm).map_or(0, |a| a.seeds.len());
    vec![
        Block::Heading("Primary".into(), "declared beforehand".into()),
        Block::Sentence(format!(
            "{} minus {}, {}, {}: {}, n = {} adapters, {seeds} seed{} of {}, {}. Verdict: {}.",
            r.arm,
            r.minus,
            metric(&r.metric),
            title(&r.family, &r.split, &r.context),
            signed(r.value, r.ci_low, r.ci_high),
            r.n,
            if seeds == 1 { "" } else { "s" },
            r.arm,
            match p_value(r.p) {
                p if p.starts_with('<') => format!("p {p}"),
                p => format!("p = {p}"),
            },
            r.verdict
        )),
    ]
}

/// Arms in the order of tables: those without training first.
pub(crate) fn ordered(c: &Comparison) -> Vec<&ArmRow> {
    let free = c.arms.iter().filter(|a| !a.trained);
    free.chain(c.arms.iter().filter(|a| a.trained)).collect()
}

pub(crate) fn section(c: &Comparison, v: &Verdict) -> Vec<Block> {
    let at = |arm: &str, metric: &str| c.result(arm, &v.family, &v.split, &v.context, metric);
    let arms: Vec<&ArmRow> = ordered(c)
        .into_iter()
        .filter(|a| at(&a.arm, "top1").is_some() || at(&a.arm, "exact_match").is_some())
        .collect();
    let n = arms.iter().filter_map(|a| at(&a.arm, "top1")).map(|r| r.n).max().unwrap_or(0);
    let chance = arms.iter().find_map(|a| at(&a.arm, "chance")).map(|r| r.value);
    let mut remark = format!("n = {n} adapters");
    if let Some(chance) = chance {
        let _ = write!(remark, ", chance {chance:.3}");
    }
    let mut out = vec![Block::Heading(title(&v.family, &v.split, &v.context), remark)];
    if !v.sentence.is_empty() {
        out.push(Block::Sentence(v.sentence.clone()));
    }
    let best = v.best_untrained.as_ref().map(|b| b.arm.as_str());
    let name = |a: &ArmRow| if Some(a.arm.as_str()) == best { format!("{} *", a.arm) } else { a.arm.clone() };
    out.push(Block::Table(arm_table(c, v, &arms, best, &name)));
    out.extend(closed(c, v, &arms, &name));
    out
}

fn arm_table(
    c: &Comparison,
    v: &Verdict,
    arms: &[&ArmRow],
    best: Option<&str>,
    name: &dyn Fn(&ArmRow) -> String,
) -> Table {
    let at = |arm: &str, metric: &str| c.result(arm, &v.family, &v.split, &v.context, metric);
    let dash = || "–".to_owned();
    let here = |r: &&PairedRow| {
        r.family == v.family && r.split == v.split && r.context == v.context && r.metric == "top1"
    };
    let rows = arms
        .iter()
        .map(|a| {
            let share = |metric| at(&a.arm, metric).map_or_else(dash, |r| format!("{:.2}", r.value));
            let full =
                |metric| at(&a.arm, metric).map_or_else(dash, |r| interval(r.value, r.ci_low, r.ci_high));
            let bits = c
                .permutations
                .iter()
                .find(|p| {
                    p.arm == a.arm && p.family == v.family && p.split == v.split && p.context == v.context
                })
                .map_or_else(dash, |p| format!("{:.2} ({})", p.bits, p_value(Some(p.p))));
            let minus = c
                .paired
                .iter()
                .filter(here)
                .find(|r| r.arm == a.arm && (r.minus_best || Some(r.minus.as_str()) == best))
                .map_or_else(dash, |r| signed(r.value, r.ci_low, r.ci_high));
            vec![
                name(a),
                full("top1"),
                share("top1_values"),
                share("exact_match"),
                share("says_nothing"),
                share("mrr"),
                bits,
                minus,
            ]
        })
        .collect();
    let marked = arms.iter().enumerate().filter(|(_, a)| Some(a.arm.as_str()) == best).map(|x| x.0).collect();
    let mut table = Table {
        header: [
            "arm",
            "top-1 [95% CI]",
            "without \"nothing\"",
            "stated (exact)",
            "says nothing",
            "MRR",
            "bits (p)",
            "minus best untrained",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        marked,
        caption: if best.is_some() { "* best without training".into() } else { String::new() },
        folded: None,
        words: 1,
    };
    table.drop_empty_columns();
    table
}

/// The same for adapters whose gate is closed at the readers' questions.
fn closed(c: &Comparison, v: &Verdict, arms: &[&ArmRow], name: &dyn Fn(&ArmRow) -> String) -> Option<Block> {
    let at = |arm: &str, metric: &str| c.result(arm, &v.family, &v.split, &v.context, metric);
    let n = arms.iter().filter_map(|a| at(&a.arm, "top1_closed")).map(|r| r.n).max()?;
    let rows = arms
        .iter()
        .filter_map(|a| {
            let r = at(&a.arm, "top1_closed")?;
            let exact = at(&a.arm, "exact_match_closed")
                .map_or_else(|| "–".to_owned(), |r| interval(r.value, r.ci_low, r.ci_high));
            let minus = c
                .paired
                .iter()
                .find(|p| {
                    p.arm == a.arm
                        && p.minus_best
                        && p.metric == "top1_closed"
                        && p.family == v.family
                        && p.split == v.split
                        && p.context == v.context
                })
                .map_or_else(|| "–".to_owned(), |r| signed(r.value, r.ci_low, r.ci_high));
            Some(vec![name(a), interval(r.value, r.ci_low, r.ci_high), exact, minus])
        })
        .collect();
    if n < FEWEST {
        return Some(Block::Sentence(format!(
            "Closed below .5 nats: {n} adapter{}, too few for a table of their own.",
            if n == 1 { "" } else { "s" }
        )));
    }
    Some(Block::Table(Table {
        header: ["arm", "top-1 [95% CI]", "stated (exact) [95% CI]", "minus best untrained"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        caption: format!(
            "Closed below .5 nats: the {n} adapters whose label gains less than that at the readers' own questions."
        ),
        words: 1,
        ..Table::default()
    }))
}

pub(crate) fn exploratory(c: &Comparison) -> Vec<Block> {
    let mut rows: Vec<&PairedRow> = c.paired.iter().filter(|r| !r.primary).collect();
    if rows.is_empty() {
        return vec![];
    }
    rows.sort_by(|a, b| a.p_holm.unwrap_or(1.0).total_cmp(&b.p_holm.unwrap_or(1.0)));
    let cells = rows
        .iter()
        .map(|r| {
            vec![
                format!("{} - {}", r.arm, r.minus),
                title(&r.family, &r.split, &r.context),
                metric(&r.metric),
                signed(r.value, r.ci_low, r.ci_high),
                r.n.to_string(),
                p_value(r.p),
                p_value(r.p_holm),
                r.verdict.clone(),
            ]
        })
        .collect();
    vec![
        Block::Heading("Exploratory contrasts".into(), format!("{}, none declared beforehand", rows.len())),
        Block::Table(Table {
            header: ["arms", "section", "metric", "difference [95% CI]", "n", "p", "p (Holm)", "verdict"]
                .map(str::to_owned)
                .to_vec(),
            rows: cells,
            caption: "Paired on the same adapters; Holm over all of these. The verdict follows the interval, which is not adjusted: read it with the last p.".into(),
            folded: Some(format!("{} contrasts", rows.len())),
            words: 3,
            ..Table::default()
        }),
    ]
}
