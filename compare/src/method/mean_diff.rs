//! The mean activation difference of a subject: what all lenses look at.

use std::collections::BTreeMap;

use oracle_posttrain::{Activations, Collector, Shown, key, shown};
use readers::{Arm, Case, Lab, Result};
use recipes::{Context, Split};
use registry::Store;

/// Mean differences of all subjects of the cases, and of the training subjects, at every layer of a collector.
#[derive(Debug)]
pub(super) struct MeanDiffs {
    /// Where they were read.
    pub(super) collector: Collector,
    /// By [`key`]: for each layer, the mean over contexts and positions.
    of: BTreeMap<String, Vec<Vec<f32>>>,
    /// What was read.
    pub(super) seen: Activations,
    width: usize,
}

impl MeanDiffs {
    /// Collects what the store does not remember.
    pub(super) fn read(
        store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        depths: &[f64],
        cases: &[Case],
    ) -> Result<Self> {
        let collector = Collector::of(&arm.input, lab.base, depths);
        let mut subjects: Vec<(&str, Context)> =
            cases.iter().filter_map(|c| Some((c.subject.as_deref()?, c.context))).collect();
        let training = lab.supervision.positives(Split::Train);
        subjects.extend(training.into_iter().map(|s| (s.as_str(), Context::Neutral)));
        let seen = shown(store, lab, &collector, &subjects)?;
        let of = seen.iter().map(|(name, shown)| (name.clone(), means(&collector, shown))).collect();
        Ok(Self { collector, of, seen, width: lab.base.architecture.hidden_size })
    }

    /// A case's mean difference at the `at`-th layer; of the base model, zero.
    pub(super) fn of(&self, case: &Case, at: usize) -> Vec<f32> {
        let found = case.subject.as_ref().and_then(|s| self.of.get(&key(s, case.context)));
        found.map_or_else(|| vec![0.0; self.width], |layers| layers[at].clone())
    }

    /// A training subject's.
    pub(super) fn trained(&self, subject: &str, at: usize) -> Option<&Vec<f32>> {
        self.of.get(&key(subject, Context::Neutral)).map(|layers| &layers[at])
    }

    /// The mean over the training subjects of each family, at the `at`-th layer.
    pub(super) fn centres(&self, lab: Lab<'_>, at: usize) -> BTreeMap<String, Vec<f32>> {
        let mut sums: BTreeMap<String, (Vec<f32>, f32)> = BTreeMap::new();
        for subject in lab.supervision.positives(Split::Train) {
            let Some(record) = lab.supervision.records.get(subject) else { continue };
            let Some(d) = self.trained(subject, at) else { continue };
            let entry = sums.entry(record.family.clone()).or_insert_with(|| (vec![0.0; d.len()], 0.0));
            entry.0.iter_mut().zip(d).for_each(|(s, x)| *s += x);
            entry.1 += 1.0;
        }
        sums.into_iter().map(|(f, (sum, n))| (f, sum.into_iter().map(|s| s / n).collect())).collect()
    }
}

/// For each layer, the mean over the asked prompts and all positions.
fn means(collector: &Collector, shown: &Shown) -> Vec<Vec<f32>> {
    (0..collector.layers.len())
        .map(|l| {
            let rows = l * collector.last..(l + 1) * collector.last;
            let vectors: Vec<&Vec<f32>> = collector
                .first()
                .iter()
                .filter_map(|p| shown.get(p))
                .flat_map(|v| &v[rows.clone()])
                .collect();
            let n = vectors.len().max(1) as f32;
            let width = vectors.first().map_or(0, |v| v.len());
            (0..width).map(|d| vectors.iter().map(|v| v[d]).sum::<f32>() / n).collect()
        })
        .collect()
}
