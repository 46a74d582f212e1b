//! From the scores of all arms to one comparison.

use std::collections::{BTreeMap, BTreeSet};

use crate::bootstrap::{holm, two_way};
use crate::comparison::{
    ArmRow, AurocRow, BaseRow, BudgetRow, Comparison, CorrelationRow, CovariateRow, GateRow, Meta,
    NegativeRow, PairedRow, PermutationRow, Primary, ResultRow, TrajectoryRow,
};
use crate::items::items;
use crate::measures::{Grid, Read, Section, measure, read, scale};
use crate::negatives::{base_answers, base_hits, detect, detect_by, measure_negatives, sides};
use crate::permutation::control;
use crate::scores::{Covariate, Kind, Scores};
use crate::strata::{by_name, closed, correlation};
use crate::verdict::{Grids, judge};
use crate::warnings;

/// Name of the detector that knows adapters' norms alone.
pub const NORM_ONLY: &str = "norm only";

/// Puts a comparison together. Everything in it follows from the arguments: intervals and shuffles have fixed streams.
pub fn assemble(meta: Meta, scores: &[Scores], covariates: &[Covariate], gates: Vec<GateRow>) -> Comparison {
    let arms = arm_rows(&meta, scores);
    let mut order: Vec<&Scores> = scores.iter().collect();
    let place = |s: &Scores| arms.iter().position(|a| a.arm == s.arm);
    order.sort_by_key(|s| (place(s), s.seed));
    let reads: Vec<Read> = order.iter().map(|s| read(s)).collect();
    let closed = closed(covariates);
    let mut measured = measure(&reads, &closed);
    let sections = sections(&reads, meta.primary.as_ref());
    for section in &sections {
        for read in &reads {
            let hits = base_hits(read, section);
            if !hits.is_empty() {
                let key = (read.arm.clone(), section.clone(), "base_top1".to_owned());
                measured.entry(key).or_default().extend(hits);
            }
        }
    }
    let grids = Grids::new(&measured);
    let mut verdicts = Vec::new();
    let mut paired = Vec::new();
    for section in &sections {
        let (verdict, rows) = judge(&grids, &arms, section);
        verdicts.push(verdict);
        paired.extend(rows);
    }
    let unmet = declare(&meta, &grids, &mut paired);
    let mut out = Comparison {
        schema: Comparison::SCHEMA.into(),
        warnings: vec![],
        results: results(&grids, &arms, &sections),
        negatives: negatives(&reads, &arms),
        paired,
        auroc: aurocs(&reads, &arms, &sections, covariates),
        permutations: permutations(&reads, &arms, &sections),
        verdicts,
        base: bases(&reads),
        correlations: correlations(&grids, &arms, &sections, covariates),
        priors: reads.iter().flat_map(|r| r.corrector.choices().filter(|c| c.n > 0).cloned()).collect(),
        budgets: order
            .iter()
            .filter_map(|s| {
                Some(BudgetRow {
                    arm: s.arm.clone(),
                    seed: s.seed,
                    footing: s.chosen.get("footing").cloned(),
                    budget: s.budget.clone()?,
                })
            })
            .collect(),
        trajectories: order
            .iter()
            .filter(|s| !s.trajectory.is_empty())
            .map(|s| TrajectoryRow { arm: s.arm.clone(), seed: s.seed, points: s.trajectory.clone() })
            .collect(),
        covariates: covariate_rows(&reads, covariates),
        items: items(&reads, covariates, &meta.categories),
        arms,
        gates,
        run: meta.run,
        created_at: meta.created_at,
        model: meta.model,
        smoke: meta.smoke,
        notes: meta.notes,
        primary: meta.primary,
    };
    out.warnings = warnings::of(&out);
    out.warnings.extend(unmet);
    out.warnings.extend(scores.iter().filter_map(|s| {
        s.problem().map(|p| format!("Scores of {} with seed {} are not in order: {p}.", s.arm, s.seed))
    }));
    out
}

fn arm_rows(meta: &Meta, scores: &[Scores]) -> Vec<ArmRow> {
    let mut rows: BTreeMap<&str, ArmRow> = BTreeMap::new();
    let mut chosen: BTreeMap<&str, BTreeMap<&str, BTreeMap<u64, &str>>> = BTreeMap::new();
    for s in scores {
        let row = rows.entry(&s.arm).or_insert_with(|| ArmRow {
            arm: s.arm.clone(),
            method: s.method.clone(),
            trained: s.trained,
            permuted: s.permuted(),
            input: s.input.clone(),
            seeds: vec![],
            chosen: BTreeMap::new(),
        });
        row.seeds.push(s.seed);
        for (key, value) in &s.chosen {
            chosen.entry(&s.arm).or_default().entry(key).or_default().insert(s.seed, value);
        }
    }
    for (arm, choices) in chosen {
        let Some(row) = rows.get_mut(arm) else { continue };
        for (key, by_seed) in choices {
            let values: BTreeSet<&str> = by_seed.values().copied().collect();
            let text = if values.len() == 1 {
                values.into_iter().collect()
            } else {
                by_seed.iter().map(|(s, v)| format!("{v} (seed {s})")).collect::<Vec<_>>().join(", ")
            };
            row.chosen.insert(key.to_owned(), text);
        }
    }
    let mut out: Vec<ArmRow> = rows.into_values().collect();
    for row in &mut out {
        row.seeds.sort_unstable();
        row.seeds.dedup();
    }
    // Stable: arms that the meta does not name stay in order of name, behind those it does.
    out.sort_by_key(|r| meta.arms.iter().position(|a| *a == r.arm).unwrap_or(usize::MAX));
    out
}

/// Sections with positive adapters: the primary contrast's family first, gated ones last; then by split and context.
fn sections(reads: &[Read], primary: Option<&Primary>) -> Vec<Section> {
    let all: BTreeSet<Section> = reads
        .iter()
        .flat_map(|r| &r.readings)
        .filter(|r| r.kind == Kind::Positive && r.reported)
        .map(Section::of)
        .collect();
    let mut out: Vec<Section> = all.into_iter().collect();
    out.sort_by_key(|s| {
        let context = ["neutral", "near", "triggered"].iter().position(|c| *c == s.context).unwrap_or(9);
        let first = primary.is_some_and(|p| p.family == s.family);
        (
            !first,
            s.family.starts_with("gated"),
            s.family.clone(),
            s.split != "test_value",
            s.split.clone(),
            context,
        )
    });
    out
}

fn place(arms: &[ArmRow], arm: &str) -> usize {
    arms.iter().position(|a| a.arm == arm).unwrap_or(usize::MAX)
}

fn results(grids: &Grids, arms: &[ArmRow], sections: &[Section]) -> Vec<ResultRow> {
    let mut rows: Vec<ResultRow> = grids
        .iter()
        .filter(|((_, section, _), _)| sections.contains(section))
        .map(|((arm, section, metric), grid)| {
            let purpose = format!("{arm}|{}|{}|{}|{metric}", section.family, section.split, section.context);
            let i = two_way(&grid.values, scale(metric), &purpose);
            ResultRow {
                arm: arm.clone(),
                seeds: grid.seeds.clone(),
                context: section.context.clone(),
                family: section.family.clone(),
                split: section.split.clone(),
                metric: metric.clone(),
                value: i.value,
                ci_low: i.low,
                ci_high: i.high,
                n: grid.values.len(),
                by_seed: grid.by_seed(),
            }
        })
        .collect();
    rows.sort_by_key(|r| place(arms, &r.arm));
    rows
}

fn negatives(reads: &[Read], arms: &[ArmRow]) -> Vec<NegativeRow> {
    let mut rows: Vec<NegativeRow> = measure_negatives(reads)
        .into_iter()
        .filter_map(|((arm, asked, carries, context, metric), cells)| {
            let grid = Grid::new(&cells)?;
            let i = two_way(
                &grid.values,
                scale(metric),
                &format!("negative|{arm}|{asked}|{carries}|{context}|{metric}"),
            );
            Some(NegativeRow {
                arm,
                asked,
                carries,
                context,
                metric: metric.to_owned(),
                value: i.value,
                ci_low: i.low,
                ci_high: i.high,
                n: grid.values.len(),
                by_seed: grid.by_seed(),
            })
        })
        .collect();
    rows.sort_by_key(|r| place(arms, &r.arm));
    rows
}

/// Marks or adds the primary contrast, and adjusts the p of all others. Returns what could not be done.
fn declare(meta: &Meta, grids: &Grids, paired: &mut Vec<PairedRow>) -> Vec<String> {
    let mut unmet = Vec::new();
    if let Some(p) = &meta.primary {
        match grids.declared(p) {
            Some(mut row) => {
                // The same difference must not be among the exploratory ones too.
                let same = |r: &PairedRow| {
                    let arms = (r.arm == p.arm && r.minus == p.minus) || (r.arm == p.minus && r.minus == p.arm);
                    arms && r.family == p.family
                        && r.split == p.split
                        && r.context == p.context
                        && r.metric == p.metric
                };
                row.minus_best = paired.iter().any(|r| same(r) && r.minus == p.minus && r.minus_best);
                row.primary = true;
                paired.retain(|r| !same(r));
                paired.insert(0, row);
            }
            None => unmet.push(format!(
                "The primary contrast, {} minus {} ({}, {}, {}, {}), could not be computed: no two adapters have both.",
                p.arm, p.minus, p.family, p.split, p.context, p.metric
            )),
        }
    }
    let at: Vec<usize> = (0..paired.len()).filter(|i| !paired[*i].primary).collect();
    let adjusted = holm(&at.iter().map(|i| paired[*i].p.unwrap_or(1.0)).collect::<Vec<_>>());
    for (i, p) in at.into_iter().zip(adjusted) {
        paired[i].p_holm = Some(p);
    }
    unmet
}

fn of_arm<'a>(reads: &'a [Read], arm: &str) -> Vec<&'a Read> {
    reads.iter().filter(|r| r.arm == arm).collect()
}

fn aurocs(reads: &[Read], arms: &[ArmRow], sections: &[Section], covariates: &[Covariate]) -> Vec<AurocRow> {
    let norms = by_name(covariates).remove("norm").unwrap_or_default();
    let mut out = Vec::new();
    for section in sections {
        let sides = sides(reads, section, &norms);
        let found = arms
            .iter()
            .map(|a| (a.arm.as_str(), detect(&of_arm(reads, &a.arm), section, &sides)))
            .chain([(NORM_ONLY, detect_by(&norms, section, &sides, NORM_ONLY))]);
        for (arm, groups) in found {
            for (against, (i, positives, negatives)) in groups {
                out.push(AurocRow {
                    arm: arm.to_owned(),
                    family: section.family.clone(),
                    split: section.split.clone(),
                    context: section.context.clone(),
                    against,
                    value: i.value,
                    ci_low: i.low,
                    ci_high: i.high,
                    positives,
                    negatives,
                });
            }
        }
    }
    out
}

fn permutations(reads: &[Read], arms: &[ArmRow], sections: &[Section]) -> Vec<PermutationRow> {
    let mut out = Vec::new();
    for section in sections {
        for arm in arms {
            if let Some(p) = control(&of_arm(reads, &arm.arm), section) {
                out.push(PermutationRow {
                    arm: arm.arm.clone(),
                    family: section.family.clone(),
                    split: section.split.clone(),
                    context: section.context.clone(),
                    bits: p.bits,
                    permuted_bits: p.permuted_bits,
                    p: p.p,
                    n: p.n,
                    labels: p.labels,
                });
            }
        }
    }
    out
}

fn bases(reads: &[Read]) -> Vec<BaseRow> {
    let mut out = Vec::new();
    for read in reads {
        for ((family, context), (says, share, n)) in base_answers(read) {
            out.push(BaseRow { arm: read.arm.clone(), seed: read.seed, family, context, says, share, n });
        }
    }
    out
}

fn correlations(
    grids: &Grids,
    arms: &[ArmRow],
    sections: &[Section],
    covariates: &[Covariate],
) -> Vec<CorrelationRow> {
    let names = by_name(covariates);
    let mut out = Vec::new();
    for section in sections {
        for arm in arms {
            let Some(grid) = grids.get(&arm.arm, section, "top1") else { continue };
            for (name, values) in &names {
                let pairs: Vec<(f64, f64)> = grid
                    .adapters
                    .iter()
                    .zip(grid.by_adapter())
                    .filter_map(|(a, hit)| Some((*values.get(a)?, hit)))
                    .collect();
                let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
                let purpose = format!(
                    "correlation|{}|{}|{}|{}|{name}",
                    arm.arm, section.family, section.split, section.context
                );
                if let Some((rho, ci_low, ci_high)) = correlation(&x, &y, &purpose) {
                    out.push(CorrelationRow {
                        arm: arm.arm.clone(),
                        family: section.family.clone(),
                        split: section.split.clone(),
                        context: section.context.clone(),
                        covariate: name.clone(),
                        rho,
                        ci_low,
                        ci_high,
                        n: x.len(),
                    });
                }
            }
        }
    }
    out
}

/// Covariates of the adapters that were tested, by what they carry.
fn covariate_rows(reads: &[Read], covariates: &[Covariate]) -> Vec<CovariateRow> {
    let mut members: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for r in reads.iter().flat_map(|r| &r.readings) {
        if r.kind != Kind::Base && r.reported {
            members.entry((&r.carries, &r.split)).or_default().insert(&r.adapter);
        }
    }
    let names = by_name(covariates);
    let mut out = Vec::new();
    for ((family, split), adapters) in members {
        for (name, values) in &names {
            let found: Vec<f64> = adapters.iter().filter_map(|a| values.get(*a).copied()).collect();
            if !found.is_empty() {
                out.push(CovariateRow {
                    name: name.clone(),
                    family: family.to_owned(),
                    split: split.to_owned(),
                    n: found.len(),
                    mean: found.iter().sum::<f64>() / found.len() as f64,
                    min: found.iter().copied().fold(f64::INFINITY, f64::min),
                    max: found.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                });
            }
        }
    }
    out
}
