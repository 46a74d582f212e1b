//! Base activations, gates, what goes with a hit, and arms, as tables.

use std::collections::{BTreeMap, BTreeSet};

use super::sections::ordered;
use super::{Block, Table, heading, names};
use crate::comparison::Comparison;
use crate::warnings::{split_title, title};

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
                split_title(&g.split),
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
                    split_title(&r.split),
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
