//! What may explain how well an adapter can be read, from the catalogue and the weights.

use std::collections::BTreeMap;

use readers::Supervision;
use recipes::Recipe;
use registry::AdapterRecord;

use crate::comparison::GateRow;
use crate::items::Categories;
use crate::scores::Covariate;

/// Metrics of a record that are covariates: leaks in nats, by where they were measured.
const MEASURED: [&str; 4] = ["leak_neutral_nats", "leak_question_nats", "leak_factual_nats", "on_nats"];

/// What a table of gates calls them.
const SETS: [(&str, &str); 4] = [
    ("neutral", "leak_neutral_nats"),
    ("questions", "leak_question_nats"),
    ("factual", "leak_factual_nats"),
    ("triggered", "on_nats"),
];

/// Covariates of all adapters of a comparison: leaks in nats as the gate measured them, and the norm of the weight difference.
pub(crate) fn covariates(s: &Supervision<'_>) -> Vec<Covariate> {
    let mut out = Vec::new();
    for (name, record) in &s.records {
        out.extend(measured(name, record));
        out.extend(s.diffs.get(name).map(|d| Covariate {
            adapter: name.clone(),
            name: "norm".to_owned(),
            value: d.norm(),
        }));
    }
    out
}

/// What the gate measured of an adapter.
pub(crate) fn measured(name: &str, record: &AdapterRecord) -> impl Iterator<Item = Covariate> {
    MEASURED.iter().filter_map(move |metric| {
        let value = *record.metrics.get(*metric)?;
        Some(Covariate { adapter: name.to_owned(), name: (*metric).to_owned(), value })
    })
}

/// Categories of the values of these recipes, by family.
pub(crate) fn categories<'a>(recipes: impl IntoIterator<Item = &'a Recipe>) -> Categories {
    let mut out = Categories::new();
    for recipe in recipes {
        out.entry(recipe.name.clone()).or_default().extend(recipe.categories());
    }
    out
}

/// Acquisition of each family in each split.
pub(crate) fn gates(s: &Supervision<'_>) -> Vec<GateRow> {
    let mut groups: BTreeMap<(String, String), Vec<&AdapterRecord>> = BTreeMap::new();
    for r in s.records.values().filter(|r| {
        r.metrics.contains_key("gate_on") && r.tags.get("polarity").is_some_and(|p| p == "positive")
    }) {
        let split = s.section(&r.behaviour, r.split.as_deref().unwrap_or_default());
        groups.entry((r.family.clone(), split)).or_default().push(r);
    }
    groups
        .into_iter()
        .map(|((family, split), members)| {
            let mean = |key: &str| -> Option<f64> {
                let found: Vec<f64> = members.iter().filter_map(|r| r.metrics.get(key).copied()).collect();
                (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
            };
            let mut statuses = BTreeMap::new();
            for r in &members {
                *statuses.entry(r.field("status").unwrap_or_default()).or_insert(0) += 1;
            }
            GateRow {
                n: members.len(),
                on: mean("gate_on").unwrap_or(0.0),
                floor: mean("gate_floor").unwrap_or(0.0),
                near: mean("gate_near"),
                off: mean("gate_off"),
                statuses,
                leak_nats: SETS.iter().filter_map(|(set, m)| Some(((*set).to_owned(), mean(m)?))).collect(),
                family,
                split,
            }
        })
        .collect()
}
