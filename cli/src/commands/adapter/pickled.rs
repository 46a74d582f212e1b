//! `adapter import FILE.pt`: what Diff Interpretation Tuning published.

use std::collections::BTreeMap;
use std::path::Path;

use exchange::ImportShape;
use serde_json::json;

use super::import::{Filing, Found, file, told};
use super::sound::{effect, shape};
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

/// Diffs or a DIT adapter as Diff Interpretation Tuning published them. All are checked before the first is filed.
pub(super) fn import(context: &Context<'_>, path: &Path, filing: &Filing<'_>) -> Result {
    let stem = path.file_stem().map_or_else(|| "pickled".into(), |s| s.to_string_lossy().into_owned());
    let name = filing.name.unwrap_or(&stem);
    crate::trial::tried(crate::trial::What::Pickle, path, None)?;
    let diffs = lm::pickled::read(path)?;
    let base = context.base()?;
    let shape = shape(&base);
    let source = registry::Digest::of(&fence::read(path, u64::MAX)?).to_string();
    let mut new = Vec::new();
    for (i, diff) in diffs.iter().enumerate() {
        let wrong =
            |what: String| CommandError::new(Kind::Usage, format!("{}: element {i}: {what}", path.display()));
        let (config, weights) = as_peft(diff, &shape).map_err(wrong)?;
        let imported = exchange::peft::read(path, config.to_string().as_bytes(), path, &weights, &shape)?;
        let effect = effect(&base, &imported).map_err(wrong)?;
        let mut tags = BTreeMap::from([("source".to_owned(), source.clone())]);
        tags.extend(diff.topic.clone().map(|t| ("topic".to_owned(), t)));
        tags.extend(diff.trigger.clone().map(|t| ("trigger".to_owned(), t)));
        if let Some(bad) = tags.values().find(|t| t.len() > 1000 || t.chars().any(char::is_control)) {
            return Err(wrong(format!(
                "holds an unusable text: {:?}",
                bad.chars().take(40).collect::<String>()
            )));
        }
        let label = if diffs.len() == 1 { name.to_owned() } else { format!("{name}-{i:03}") };
        let metrics = BTreeMap::from([("logit_change".to_owned(), effect)]);
        let found = Found { imported, tags, metrics, topic: diff.topic.as_deref() };
        new.push(filing.adapter(&base, found, &label)?);
    }
    let mut store = context.store()?;
    let filed = new.into_iter().map(|n| file(&mut store, n, filing)).collect::<Result<Vec<_>>>()?;
    let ids: Vec<&str> = filed.iter().map(|f| f.record.id.as_str()).collect();
    told(context, &filed);
    if context.global.json {
        let known: Vec<&str> = filed.iter().filter(|f| f.known).map(|f| f.record.id.as_str()).collect();
        return print_json(&json!({"schema": "adapter-import/2", "ids": ids, "known": known}));
    }
    print(&ids.join("\n"))
}

/// The two factors of every module as PEFT names and turns them; scaling is 1 / rank. Diffs hold `A [r, out], B [in, r]`, DIT
/// adapters `A [out, r], B [r, in]`: the base model's shapes say which.
pub(in crate::commands) fn as_peft(
    diff: &lm::pickled::PickledDiff,
    shape: &ImportShape,
) -> std::result::Result<(serde_json::Value, Vec<u8>), String> {
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let (mut ranks, mut largest) = (serde_json::Map::new(), 1);
    for (module, [a, b]) in &diff.modules {
        let projection = module.rsplit('.').next().unwrap_or_default();
        let Some(&(input, output)) = shape.projections.get(projection) else {
            return Err(format!("module {module:?} is none of the model's projections"));
        };
        let turned = |m: &lm::pickled::Matrix| -> Vec<f32> {
            (0..m.columns).flat_map(|c| (0..m.rows).map(move |r| m.data[r * m.columns + c])).collect()
        };
        let (r, down, up) = if a.columns == output && b.rows == input && a.rows == b.columns {
            (a.rows, turned(b), turned(a))
        } else if a.rows == output && b.columns == input && a.columns == b.rows {
            (a.columns, b.data.clone(), a.data.clone())
        } else {
            return Err(format!(
                "module {module:?}: factors [{}, {}] and [{}, {}] do not make a difference of [{output}, {input}]",
                a.rows, a.columns, b.rows, b.columns
            ));
        };
        largest = largest.max(r);
        ranks.insert(module.replace('.', r"\."), r.into());
        tensors.insert(format!("{module}.lora_A.weight"), (vec![r, input], down));
        tensors.insert(format!("{module}.lora_B.weight"), (vec![output, r], up));
    }
    let targets: Vec<&String> = diff.modules.keys().collect();
    let config = json!({"peft_type": "LORA", "r": largest, "lora_alpha": 1, "target_modules": targets, "rank_pattern": ranks});
    Ok((config, lm::geometry::to_safetensors(&tensors).map_err(|e| e.to_string())?))
}

#[cfg(test)]
mod tests {
    use lm::LowRank;

    use super::super::sound::weigh;
    use super::*;

    /// Both orientations give the differences that their authors' code applies: `(B A)^T / r` and `A B / r`.
    #[test]
    fn published_files_become_peft_adapters_of_the_same_difference() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/pickled");
        let shape = ImportShape {
            base_model: "m".into(),
            revision: None,
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let module = "model.layers.0.self_attn.q_proj";
        for (file, diffs) in [("weight-diff-000.pt", true), ("dit-adapter.pt", false)] {
            for diff in lm::pickled::read(&golden.join(file)).unwrap() {
                let [a, b] = &diff.modules[module];
                let r = if diffs { a.rows } else { a.columns };
                let expected = |o: usize, i: usize| -> f64 {
                    let term = |k: usize| {
                        let (x, y) = if diffs {
                            (b.data[i * b.columns + k], a.data[k * a.columns + o])
                        } else {
                            (a.data[o * a.columns + k], b.data[k * b.columns + i])
                        };
                        f64::from(x) * f64::from(y)
                    };
                    (0..r).map(term).sum::<f64>() / r as f64
                };
                let (config, weights) = as_peft(&diff, &shape).unwrap();
                let path = Path::new("x");
                let imported =
                    exchange::peft::read(path, config.to_string().as_bytes(), path, &weights, &shape)
                        .unwrap();
                assert_eq!(imported.peft.r, r);
                let norm = weigh(&imported.weights, imported.peft.lora_alpha / r as f32).unwrap();
                let squares: f64 = (0..3).flat_map(|o| (0..4).map(move |i| expected(o, i).powi(2))).sum();
                assert!((norm - squares.sqrt()).abs() < 1e-5, "{norm} {}", squares.sqrt());
                // Entry by entry, through the inner product with single entries.
                let own = LowRank::from_safetensors(&imported.weights, imported.peft.lora_alpha / r as f32)
                    .unwrap();
                for (o, i) in (0..3).flat_map(|o| (0..4).map(move |i| (o, i))) {
                    let one = |n: usize, at: usize| (0..n).map(|j| if j == at { 1.0 } else { 0.0 }).collect();
                    let probe = BTreeMap::from([
                        (format!("base_model.model.{module}.lora_A.weight"), (vec![1, 4], one(4, i))),
                        (format!("base_model.model.{module}.lora_B.weight"), (vec![3, 1], one(3, o))),
                    ]);
                    let probe =
                        LowRank::from_safetensors(&lm::geometry::to_safetensors(&probe).unwrap(), 1.0)
                            .unwrap();
                    assert!((own.dot(&probe) - expected(o, i)).abs() < 1e-5, "{file} {o} {i}");
                }
            }
        }
        let other = ImportShape { projections: BTreeMap::from([("q_proj".to_owned(), (5, 3))]), ..shape };
        let diff = &lm::pickled::read(&golden.join("dit-adapter.pt")).unwrap()[0];
        assert!(as_peft(diff, &other).unwrap_err().contains("do not make a difference of [3, 5]"));
    }
}
