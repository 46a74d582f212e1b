//! Negatives, base activations, gates, what goes with a hit, budgets, trainings and arms.

use std::collections::{BTreeMap, BTreeSet};

use super::charts::Lines;
use super::sections::ordered;
use super::{Block, Table, interval};
use crate::comparison::{AurocRow, BudgetRow, Comparison, NegativeRow};
use crate::negatives::{FOREIGN, MATCHED, POOLED};
use crate::warnings::{split_title, title};

fn names(header: &[&str]) -> Vec<String> {
    header.iter().map(|s| (*s).to_owned()).collect()
}

fn heading(text: &str, remark: &str) -> Block {
    Block::Heading(text.to_owned(), remark.to_owned())
}

/// The pooled group first, foreign adapters last.
fn group_order(groups: BTreeSet<&str>) -> Vec<&str> {
    let mut out: Vec<&str> = groups.into_iter().collect();
    out.sort_by_key(|g| (*g != POOLED, *g == MATCHED, *g == FOREIGN, *g));
    out
}

/// Arms x groups of negatives: the first group with its interval.
fn by_group<'a, R>(
    arms: impl Iterator<Item = &'a str>,
    groups: &[&str],
    find: impl Fn(&str, &str) -> Option<R>,
    show: impl Fn(&R) -> (f64, f64, f64),
) -> Vec<Vec<String>> {
    arms.filter_map(|arm| {
        let found: Vec<Option<R>> = groups.iter().map(|g| find(arm, g)).collect();
        found.iter().any(Option::is_some).then(|| {
            let cells = found.iter().enumerate().map(|(i, r)| match r.as_ref().map(&show) {
                None => "–".to_owned(),
                Some((v, low, high)) if i == 0 => interval(v, low, high),
                Some((v, ..)) => format!("{v:.2}"),
            });
            std::iter::once(arm.to_owned()).chain(cells).collect()
        })
    })
    .collect()
}

pub(crate) fn negatives(c: &Comparison) -> Vec<Block> {
    let mut out = Vec::new();
    let keys: BTreeSet<(&str, &str)> =
        c.negatives.iter().map(|r| (r.asked.as_str(), r.context.as_str())).collect();
    for (asked, context) in keys {
        for (metric, caption) in [
            ("false_positive_rate", "False positives: share of stated answers other than \"nothing\""),
            ("nothing_top1", "Share of subjects for which \"nothing\" ranks first"),
        ] {
            let here: Vec<&NegativeRow> = c
                .negatives
                .iter()
                .filter(|r| r.asked == asked && r.context == context && r.metric == metric)
                .collect();
            if here.is_empty() {
                continue;
            }
            let groups = group_order(here.iter().map(|r| r.carries.as_str()).collect());
            let mut header = vec!["arm".to_owned()];
            header.extend(groups.iter().enumerate().map(|(i, g)| {
                let n = here.iter().filter(|r| r.carries == **g).map(|r| r.n).max().unwrap_or(0);
                format!("{g} (n = {n}){}", if i == 0 { " [95% CI]" } else { "" })
            }));
            let rows = by_group(
                ordered(c).into_iter().map(|a| a.arm.as_str()),
                &groups,
                |arm, group| here.iter().copied().find(|r| r.arm == arm && r.carries == group),
                |r| (r.value, r.ci_low, r.ci_high),
            );
            let context = if context == "neutral" { String::new() } else { format!(", {context}") };
            out.push(Block::Table(Table {
                header,
                rows,
                caption: format!("Asked about {asked}{context}. {caption}."),
                words: 1,
                ..Table::default()
            }));
        }
    }
    out.extend(aurocs(c));
    if !out.is_empty() {
        out.insert(0, heading("Negatives", "subjects that carry nothing that was asked"));
    }
    out
}

fn aurocs(c: &Comparison) -> Vec<Block> {
    let mut out = Vec::new();
    for v in &c.verdicts {
        let here: Vec<&AurocRow> = c
            .auroc
            .iter()
            .filter(|r| r.family == v.family && r.split == v.split && r.context == v.context)
            .collect();
        if here.is_empty() {
            continue;
        }
        let groups = group_order(here.iter().map(|r| r.against.as_str()).collect());
        let mut header = vec!["arm".to_owned()];
        header.extend(
            groups.iter().enumerate().map(|(i, g)| format!("{g}{}", if i == 0 { " [95% CI]" } else { "" })),
        );
        let rows = by_group(
            ordered(c).into_iter().map(|a| a.arm.as_str()).chain([crate::assembly::NORM_ONLY]),
            &groups,
            |arm, group| here.iter().copied().find(|r| r.arm == arm && r.against == group),
            |r| (r.value, r.ci_low, r.ci_high),
        );
        out.push(Block::Table(Table {
            header,
            rows,
            caption: format!(
                "AUROC of -log p(\"nothing\"): {} against subjects that carry nothing that was asked; {} knows no more than the size of the weights, and pairs of the {MATCHED} leave it next to nothing.",
                title(&v.family, &v.split, &v.context),
                crate::assembly::NORM_ONLY
            ),
            words: 1,
            ..Table::default()
        }));
    }
    out
}

pub(crate) fn base(c: &Comparison) -> Vec<Block> {
    if c.base.is_empty() {
        return vec![];
    }
    let rows = c
        .base
        .iter()
        .map(|r| {
            let mut hits: Vec<&crate::comparison::ResultRow> = c
                .results
                .iter()
                .filter(|x| {
                    x.metric == "base_top1"
                        && x.arm == r.arm
                        && x.family == r.family
                        && x.context == r.context
                })
                .collect();
            hits.sort_by_key(|x| (x.split != "test_value", x.split.clone()));
            let hits: Vec<String> = hits
                .into_iter()
                .filter_map(|x| {
                    let at = x.seeds.iter().position(|s| *s == r.seed)?;
                    Some(format!("{:.2}", x.by_seed.get(at)?))
                })
                .collect();
            vec![
                r.arm.clone(),
                if r.context == "neutral" {
                    r.family.clone()
                } else {
                    format!("{}, {}", r.family, r.context)
                },
                r.says.clone(),
                r.seed.to_string(),
                format!("{:.2}", r.share),
                r.n.to_string(),
                if hits.is_empty() { "–".into() } else { hits.join(" / ") },
            ]
        })
        .collect();
    vec![
        heading("Base activations", "the same questions with no adapter on"),
        Block::Table(Table {
            header: names(&["arm", "asked about", "says most", "seed", "share", "n", "right by chance"]),
            rows,
            caption: "Right by chance: share of test adapters whose label is what ranks first without any adapter; held-out values / held-out categories.".into(),
            folded: (c.base.len() > 16).then(|| format!("{} rows", c.base.len())),
            words: 3,
            ..Table::default()
        }),
    ]
}

pub(crate) fn gates(c: &Comparison) -> Vec<Block> {
    if c.gates.is_empty() {
        return vec![];
    }
    let rate = |v: Option<f64>| v.map_or("–".into(), |v| format!("{v:.2}"));
    let sets: BTreeSet<&str> = c.gates.iter().flat_map(|g| g.leak_nats.keys().map(String::as_str)).collect();
    let mut header = names(&["family", "split", "n", "on", "base", "near", "off"]);
    header.extend(sets.iter().map(|s| format!("{s} (nats)")));
    header.extend(names(&["learned", "weak", "failed"]));
    let rows = c
        .gates
        .iter()
        .map(|g| {
            let n = |s: &str| g.statuses.get(s).copied().unwrap_or(0).to_string();
            let mut row = vec![
                g.family.clone(),
                split_title(&g.split).to_owned(),
                g.n.to_string(),
                rate(Some(g.on)),
                rate(Some(g.floor)),
                rate(g.near),
                rate(g.off),
            ];
            row.extend(sets.iter().map(|s| rate(g.leak_nats.get(*s).copied())));
            row.extend([n("learned"), n("weak"), n("failed")]);
            row
        })
        .collect();
    vec![
        heading("Gates", "what the adapters do"),
        Block::Table(Table {
            header,
            rows,
            caption: "Share of greedy replies that show the behaviour. Leak: how much likelier the adapter makes its label where it should not show, mean in nats.".into(),
            words: 2,
            ..Table::default()
        }),
    ]
}

pub(crate) fn correlations(c: &Comparison) -> Vec<Block> {
    let mut out = Vec::new();
    if !c.covariates.is_empty() {
        let rows = c
            .covariates
            .iter()
            .map(|r| {
                vec![
                    r.family.clone(),
                    split_title(&r.split).to_owned(),
                    r.name.clone(),
                    r.n.to_string(),
                    format!("{:.2}", r.mean),
                    format!("{:.2}", r.min),
                    format!("{:.2}", r.max),
                ]
            })
            .collect();
        out.push(Block::Table(Table {
            header: names(&["adapters", "split", "property", "n", "mean", "least", "most"]),
            rows,
            caption: "Properties of the test adapters; nats where the name says so.".into(),
            folded: Some(format!("{} properties", c.covariates.len())),
            words: 3,
            ..Table::default()
        }));
    }
    if !c.correlations.is_empty() {
        let rows = c
            .correlations
            .iter()
            .map(|r| {
                vec![
                    r.arm.clone(),
                    title(&r.family, &r.split, &r.context),
                    r.covariate.clone(),
                    super::signed(r.rho, r.ci_low, r.ci_high),
                    r.n.to_string(),
                ]
            })
            .collect();
        out.push(Block::Table(Table {
            header: names(&["arm", "section", "property", "Spearman [95% CI]", "n"]),
            rows,
            caption: "Rank correlation of an adapter's top-1 with a property of the adapter.".into(),
            folded: Some(format!("{} correlations", c.correlations.len())),
            words: 3,
            ..Table::default()
        }));
    }
    if !out.is_empty() {
        out.insert(0, heading("What goes with a hit", ""));
    }
    out
}

pub(crate) fn budgets(c: &Comparison) -> Vec<Block> {
    let footings: BTreeSet<Option<&str>> = c.budgets.iter().map(|b| b.footing.as_deref()).collect();
    let mut out = Vec::new();
    for footing in footings {
        let arms = ordered(c);
        let rows: Vec<Vec<String>> = arms
            .iter()
            .filter_map(|a| {
                let of: Vec<&BudgetRow> =
                    c.budgets.iter().filter(|b| b.arm == a.arm && b.footing.as_deref() == footing).collect();
                (!of.is_empty()).then(|| budget(&a.arm, &of))
            })
            .collect();
        out.push(Block::Table(Table {
            header: names(&[
                "arm",
                "seeds",
                "episodes",
                "rows seen",
                "kept/steps",
                "tokens",
                "pretrain tokens",
                "TFLOP",
                "pretrain TFLOP",
                "total TFLOP",
                "parameters",
            ]),
            rows,
            caption: format!(
                "{}Means over seeds. TFLOP: training and collecting activations (estimated).",
                footing.map_or(String::new(), |f| format!("Footing: {f}. "))
            ),
            words: 1,
            ..Table::default()
        }));
    }
    if !out.is_empty() {
        out.insert(0, heading("Budgets", "what trained readers cost"));
    }
    out
}

fn budget(arm: &str, of: &[&BudgetRow]) -> Vec<String> {
    let mean = |f: &dyn Fn(&BudgetRow) -> f64| of.iter().map(|b| f(b)).sum::<f64>() / of.len() as f64;
    let train = mean(&|b| b.budget.train_flops + b.budget.collect_flops) / 1e12;
    let pretrain = mean(&|b| b.budget.pretrain_flops) / 1e12;
    vec![
        arm.to_owned(),
        of.len().to_string(),
        format!("{:.0}", mean(&|b| b.budget.supervision_rows as f64)),
        format!("{:.0}", mean(&|b| b.budget.rows_seen as f64)),
        format!("{:.0}/{:.0}", mean(&|b| b.budget.chosen_step as f64), mean(&|b| b.budget.steps as f64)),
        format!("{:.0}k", mean(&|b| b.budget.train_tokens as f64) / 1e3),
        format!("{:.0}k", mean(&|b| b.budget.pretrain_tokens as f64) / 1e3),
        format!("{train:.1}"),
        format!("{pretrain:.1}"),
        format!("{:.1}", train + pretrain),
        format!("{:.2}M", mean(&|b| b.budget.trainable_parameters as f64) / 1e6),
    ]
}

pub(crate) fn trajectories(c: &Comparison) -> Vec<Block> {
    let mut by_arm: BTreeMap<&str, Vec<Vec<(f64, f64)>>> = BTreeMap::new();
    for t in &c.trajectories {
        let points = t.points.iter().map(|p| (p.step as f64, p.validation.top1)).collect();
        by_arm.entry(&t.arm).or_default().push(points);
    }
    let x_max = |series: &[Vec<(f64, f64)>]| series.iter().flatten().map(|p| p.0).fold(1.0, f64::max);
    let charts: Vec<Lines> = ordered(c)
        .into_iter()
        .filter_map(|a| {
            let series = by_arm.get(a.arm.as_str())?.clone();
            Some(Lines {
                title: a.arm.clone(),
                x_max: x_max(&series),
                series,
                y_max: 1.0,
                x_label: "training step".into(),
                y_label: "top-1".into(),
            })
        })
        .collect();
    if charts.is_empty() {
        return vec![];
    }
    let last = ordered(c)
        .into_iter()
        .filter_map(|a| {
            let ends: Vec<String> = c
                .trajectories
                .iter()
                .filter(|t| t.arm == a.arm)
                .filter_map(|t| t.points.last().map(|p| format!("{:.2}", p.validation.top1)))
                .collect();
            (!ends.is_empty()).then(|| format!("{} {}", a.arm, ends.join(" / ")))
        })
        .collect::<Vec<_>>()
        .join("; ");
    vec![
        heading("Training", "top-1 on validation adapters, one line for each seed"),
        Block::Lines(charts),
        Block::Sentence(format!("At the last step, by seed: {last}.")),
    ]
}

pub(crate) fn arms(c: &Comparison) -> Vec<Block> {
    if c.arms.iter().all(|a| a.input.is_empty() && a.chosen.is_empty()) {
        return vec![];
    }
    let rows = ordered(c)
        .into_iter()
        .map(|a| {
            let mut chosen: Vec<String> = a.chosen.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            let priors: BTreeMap<(&str, bool), BTreeSet<&str>> =
                c.priors.iter().filter(|p| p.arm == a.arm).fold(BTreeMap::new(), |mut m, p| {
                    m.entry((p.family.as_str(), p.values_only))
                        .or_insert_with(BTreeSet::new)
                        .insert(p.prior.name());
                    m
                });
            chosen.extend(priors.iter().map(|((family, values_only), kinds)| {
                let kinds: Vec<&str> = kinds.iter().copied().collect();
                let of = if *values_only { "values" } else { "all" };
                format!("prior of {family}, {of}: {}", kinds.join(" or "))
            }));
            let seeds: Vec<String> = a.seeds.iter().map(u64::to_string).collect();
            vec![a.arm.clone(), a.method.clone(), a.input.clone(), chosen.join("; "), seeds.join(", ")]
        })
        .collect();
    vec![
        heading("Arms", "what each is shown, and what validation chose"),
        Block::Table(Table {
            header: names(&["arm", "method", "input", "chosen", "seeds"]),
            rows,
            folded: Some(format!("{} arms", c.arms.len())),
            words: 4,
            ..Table::default()
        }),
    ]
}
