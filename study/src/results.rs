//! From items to figures: each primary by the registered rule, means by family and group, what is saturated.

use std::collections::BTreeMap;
use std::fmt::Write;

use compare::bootstrap::{
    Difference, Interval, Scale, few_rows_difference, holm, macro_difference, macro_share, two_way,
};
use compare::measures::Grid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::file::{HeldOut, Primary, Rule, Study, Term};
use crate::items::{Items, Unit, positive};

/// All figures of a study. They follow from its file and its items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// `study-results/1`.
    #[schemars(extend("const" = Results::SCHEMA))]
    pub schema: String,
    /// The study's name.
    pub study: String,
    /// Digest of its registration.
    pub registration: String,
    /// blake3 of the items.
    pub items: String,
    /// Test adapters that carry something.
    pub test_adapters: usize,
    /// The primaries in order.
    pub primaries: Vec<Found>,
    /// The best arm without training in each family, chosen on validation adapters.
    pub lens: Vec<Untrained>,
    /// Means over adapters and seeds, by family.
    pub families: Vec<Level>,
    /// Means over families, by group and over all.
    pub groups: Vec<Level>,
    /// Share of adapters that carry nothing, or nothing of what was asked, about which an arm says so.
    pub silent: Vec<Level>,
}

impl Results {
    /// Schema of this version.
    pub const SCHEMA: &'static str = "study-results/1";
}

/// What became of a primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// In words.
    pub contrast: String,
    /// What is measured.
    pub metric: String,
    /// Families that it is over.
    pub families: Vec<String>,
    /// Families left out as saturated.
    pub saturated: Vec<String>,
    /// Adapters.
    pub n: usize,
    /// Mean difference; none where no adapter has all arms.
    pub value: Option<f64>,
    /// 95% interval, lower end.
    pub low: Option<f64>,
    /// 95% interval, upper end.
    pub high: Option<f64>,
    /// 90% interval, lower end: what equality and being not inferior are judged by.
    pub low90: Option<f64>,
    /// 90% interval, upper end.
    pub high90: Option<f64>,
    /// Two-sided p of no difference.
    pub p: Option<f64>,
    /// The same, adjusted over the primaries (Holm).
    pub p_holm: Option<f64>,
    /// `better`, `worse`, `equal`, `not inferior` or `no verdict`.
    pub verdict: String,
    /// The registered sentence for it.
    pub says: String,
}

/// The best arm without training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Untrained {
    /// Family.
    pub family: String,
    /// Arm.
    pub arm: String,
    /// Its share on validation adapters.
    pub validation: f64,
    /// Its share on test adapters.
    pub test: Option<f64>,
    /// Whether it leaves too little to read.
    pub saturated: bool,
}

/// A mean with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Level {
    /// Family, group, or `all`.
    pub of: String,
    /// Split and, where it is not neutral, context.
    pub section: String,
    /// Arm.
    pub arm: String,
    /// What is measured.
    pub metric: String,
    /// Mean.
    pub value: f64,
    /// 95% interval, lower end.
    pub low: f64,
    /// 95% interval, upper end.
    pub high: f64,
    /// Adapters.
    pub n: usize,
}

#[cfg(test)]
mod tests;

/// better, worse, equal or no verdict; with a margin of inferiority only: not inferior, worse or no verdict.
pub fn word(d: &Difference, rule: &Rule, not_inferior_by: Option<f64>) -> &'static str {
    if let Some(margin) = not_inferior_by {
        return if d.low90 > -margin {
            "not inferior"
        } else if d.high90 < -margin {
            "worse"
        } else {
            "no verdict"
        };
    }
    if d.low > 0.0 && d.value >= rule.least {
        "better"
    } else if d.high < 0.0 && d.value <= -rule.least {
        "worse"
    } else if d.low90 > -rule.margin && d.high90 < rule.margin {
        "equal"
    } else {
        "no verdict"
    }
}

/// All figures. `untrained` are the arms that no adapter trains.
pub fn results(study: &Study, registration: &str, items: &Items, untrained: &[String]) -> Results {
    let lens = best_untrained(study, items, untrained);
    let mut primaries: Vec<Found> = study.primaries.iter().map(|p| found(study, p, items, &lens)).collect();
    let adjusted = holm(&primaries.iter().map(|p| p.p.unwrap_or(1.0)).collect::<Vec<_>>());
    for (p, adjusted) in primaries.iter_mut().zip(adjusted) {
        p.p_holm = p.p.map(|_| round(adjusted));
    }
    let tested = |u: &&Unit| u.kind == "positive" && u.split.starts_with("test") && u.context == "neutral";
    Results {
        schema: Results::SCHEMA.into(),
        study: study.name.clone(),
        registration: registration.to_owned(),
        items: blake3::hash(items.to_csv().as_bytes()).to_hex().to_string(),
        test_adapters: items.rows.keys().filter(tested).count(),
        primaries,
        families: by_family(study, items),
        groups: by_group(study, items, &lens),
        silent: silent(items),
        lens,
    }
}

/// To nine digits: enough for every table, and the same text wherever it is computed.
fn round(x: f64) -> f64 {
    (x * 1e9).round() / 1e9
}

/// Names of the study's families that carry something and were tested.
fn positives<'a>(study: &'a Study, items: &Items) -> Vec<&'a str> {
    let tested = items.families("positive", "test_value");
    study.families.iter().map(crate::file::Family::name).filter(|f| tested.contains(f)).collect()
}

fn best_untrained(study: &Study, items: &Items, untrained: &[String]) -> Vec<Untrained> {
    let mean = |arm: &str, family: &str, split: &str| {
        let units = items.grid(arm, "top1_values", false, positive(family, split, "neutral"))?.by_adapter();
        Some(units.iter().sum::<f64>() / units.len() as f64)
    };
    let mut out = Vec::new();
    for family in positives(study, items) {
        // Ties: the first in the file.
        let best = items
            .arms()
            .into_iter()
            .filter(|a| untrained.iter().any(|u| u == a))
            .filter_map(|arm| Some((arm, mean(arm, family, "validation")?)))
            .fold(None, |best: Option<(&str, f64)>, x| match best {
                Some(b) if b.1 >= x.1 => Some(b),
                _ => Some(x),
            });
        if let Some((arm, validation)) = best {
            out.push(Untrained {
                family: family.to_owned(),
                arm: arm.to_owned(),
                validation: round(validation),
                test: mean(arm, family, "test_value").map(round),
                saturated: validation >= study.rule.saturated,
            });
        }
    }
    out
}

/// The weighted sum of terms on the adapters (or values) that all have: adapters x seeds. `family` is the one in turn.
fn combined(items: &Items, p: &Primary, terms: &[Term], family: Option<&str>) -> Option<Grid> {
    let by_label = terms.iter().any(|t| t.family.is_some());
    let mut out: Option<Grid> = None;
    for term in terms {
        let of = match (term.family.as_deref(), family) {
            (Some(own), Some(f)) => own.replace('*', f),
            (Some(own), None) => own.to_owned(),
            (None, f) => f?.to_owned(),
        };
        let split = term.split.as_deref().unwrap_or(&p.split);
        let context = term.context.as_deref().unwrap_or(&p.context);
        let metric = term.metric.as_deref().unwrap_or(&p.metric);
        let grid_of = |arm: &str| items.grid(arm, metric, by_label, positive(&of, split, context));
        let grid = match term.arm.strip_suffix('*') {
            None => grid_of(&term.arm),
            Some(begin) => items.arms().into_iter().filter(|a| a.starts_with(begin)).find_map(grid_of),
        }?;
        // Minus a grid of the opposite weight: pairing of seeds and adapters has one home.
        let weighted = |g: Grid, w: f64| {
            let values = g.values.into_iter().map(|r| r.into_iter().map(|v| v * w).collect()).collect();
            Grid { values, ..g }
        };
        out = Some(match out {
            None => weighted(grid, term.weight),
            Some(sum) => sum.minus(&weighted(grid, -term.weight))?,
        });
    }
    if let (Some(grid), Some(than)) = (&mut out, p.than) {
        grid.values.iter_mut().flatten().for_each(|v| *v -= than);
    }
    out
}

impl Primary {
    /// Whether it is over the values of families that its terms name, and no others.
    pub(crate) fn names_families(&self) -> bool {
        self.terms.iter().any(|t| t.family.as_deref().is_some_and(|f| !f.contains('*')))
    }
}

/// Where families are held out their group is what a reader never saw, and what another study would draw anew: one row for each, the mean over
/// what was tested of it.
fn of_groups(study: &Study, grids: &[(String, Grid)]) -> Vec<Vec<f64>> {
    let group = |name: &str| study.families.iter().find(|f| f.name() == name).map(|f| f.group.as_str());
    study
        .groups()
        .into_iter()
        .map(|of| {
            let of = grids.iter().filter(|g| group(&g.0) == Some(of));
            of.flat_map(|g| g.1.values.iter()).collect::<Vec<_>>()
        })
        .filter(|rows| !rows.is_empty())
        .map(|rows| mean_row(&rows))
        .collect()
}

/// Mean over rows, column by column; at least one row.
pub(crate) fn mean_row(rows: &[&Vec<f64>]) -> Vec<f64> {
    let mean = |i: usize| rows.iter().map(|r| r[i]).sum::<f64>() / rows.len() as f64;
    (0..rows[0].len()).map(mean).collect()
}

/// What is resampled: the adapters of each family, or, where families are held out, groups.
fn parts(study: &Study, grids: &[(String, Grid)]) -> Vec<Vec<Vec<f64>>> {
    match study.held_out {
        HeldOut::Families => vec![of_groups(study, grids)],
        HeldOut::Values => grids.iter().map(|g| g.1.values.clone()).collect(),
    }
}

/// The test of [`parts`].
pub(crate) fn difference(
    held_out: HeldOut,
    parts: &[Vec<Vec<f64>>],
    scale: Scale,
    purpose: &str,
) -> Difference {
    match (held_out, parts) {
        (HeldOut::Families, [rows]) => few_rows_difference(rows, scale, purpose),
        _ => macro_difference(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), scale, purpose),
    }
}

fn found(study: &Study, p: &Primary, items: &Items, lens: &[Untrained]) -> Found {
    let terms = p.terms();
    let own_families = p.names_families();
    let is_saturated = |f: &str| p.leave_out_saturated && lens.iter().any(|l| l.family == f && l.saturated);
    let over = |f: &&str| study.families.iter().any(|of| of.name() == *f && p.is_over(of));
    let (saturated, kept): (Vec<&str>, Vec<&str>) = if own_families {
        (vec![], vec![])
    } else {
        positives(study, items).into_iter().filter(over).partition(|f| is_saturated(f))
    };
    let grids: Vec<(String, Grid)> = if own_families {
        let names: Vec<&str> = terms.iter().filter_map(|t| t.family.as_deref()).collect();
        combined(items, p, &terms, None).map(|g| (names.join(" and "), g)).into_iter().collect()
    } else {
        kept.iter().filter_map(|f| Some(((*f).to_owned(), combined(items, p, &terms, Some(f))?))).collect()
    };
    let same_seeds = grids.windows(2).all(|w| w[0].1.seeds == w[1].1.seeds);
    let n = grids.iter().map(|g| g.1.values.len()).sum();
    let parts = parts(study, &grids);
    let rows: usize = parts.iter().map(Vec::len).sum();
    let d = (rows >= 2 && same_seeds).then(|| {
        // Shares' own lower bound on uncertainty holds for plain differences of two shares.
        let plain = terms.len() == 2 && p.than.is_none() && terms.iter().all(|t| t.weight.abs() == 1.0);
        let scale = if plain { Scale::Share } else { Scale::Open };
        difference(study.held_out, &parts, scale, &format!("study|{}|{}", study.name, p.name))
    });
    let verdict = d.as_ref().map_or("no verdict", |d| word(d, &study.rule, p.not_inferior_by));
    let says = match verdict {
        "better" | "not inferior" => &p.says.better,
        "worse" => &p.says.worse,
        "equal" => &p.says.equal,
        _ => &p.says.unclear,
    };
    let number = |of: fn(&Difference) -> f64| d.as_ref().map(|d| round(of(d)));
    Found {
        name: p.name.clone(),
        contrast: contrast(p, &terms),
        metric: p.metric.clone(),
        families: grids.iter().map(|g| g.0.clone()).collect(),
        saturated: saturated.into_iter().map(str::to_owned).collect(),
        n,
        value: number(|d| d.value),
        low: number(|d| d.low),
        high: number(|d| d.high),
        low90: number(|d| d.low90),
        high90: number(|d| d.high90),
        p: number(|d| d.p),
        p_holm: None,
        verdict: verdict.into(),
        says: says.clone(),
    }
}

/// Such as `dit - lens (favourite)`.
fn contrast(p: &Primary, terms: &[Term]) -> String {
    let mut out = String::new();
    for (i, t) in terms.iter().enumerate() {
        let sign = match (i, t.weight < 0.0) {
            (0, false) => "",
            (0, true) => "-",
            (_, false) => " + ",
            (_, true) => " - ",
        };
        out += sign;
        if t.weight.abs() != 1.0 {
            let _ = write!(out, "{} ", t.weight.abs());
        }
        out += &t.arm;
        let places = [&t.family, &t.split, &t.context, &t.metric];
        let own: Vec<&str> = places.into_iter().flatten().map(String::as_str).collect();
        if !own.is_empty() {
            let _ = write!(out, " ({})", own.join(", "));
        }
    }
    if let Some(than) = p.than {
        let _ = write!(out, " - {than}");
    }
    if p.context != "neutral" {
        let _ = write!(out, ", {}", p.context);
    }
    out
}

/// Sections that were tested: split and context, the neutral one first.
fn sections(items: &Items) -> Vec<(String, String)> {
    let tested = |u: &&Unit| u.kind == "positive" && u.split.starts_with("test");
    let all: std::collections::BTreeSet<(bool, String, String)> = items
        .rows
        .keys()
        .filter(tested)
        .map(|u| (u.context != "neutral", u.split.clone(), u.context.clone()))
        .collect();
    all.into_iter().map(|(_, split, context)| (split, context)).collect()
}

fn section_name(split: &str, context: &str) -> String {
    if context == "neutral" { split.to_owned() } else { format!("{split}, {context}") }
}

/// A mean: of what, in which section, of which arm and metric.
fn level((of, section, arm, metric): (&str, &str, &str, &str), i: Interval, n: usize) -> Level {
    Level {
        of: of.to_owned(),
        section: section.to_owned(),
        arm: arm.to_owned(),
        metric: metric.to_owned(),
        value: round(i.value),
        low: round(i.low),
        high: round(i.high),
        n,
    }
}

fn by_family(study: &Study, items: &Items) -> Vec<Level> {
    let mut out = Vec::new();
    for family in positives(study, items) {
        for (split, context) in sections(items) {
            for arm in items.arms() {
                for metric in study.metrics() {
                    let Some(grid) = items.grid(arm, metric, false, positive(family, &split, &context))
                    else {
                        continue;
                    };
                    let i = two_way(
                        &grid.values,
                        Scale::Share,
                        &format!("study-family|{family}|{split}|{context}|{arm}|{metric}"),
                    );
                    let section = section_name(&split, &context);
                    out.push(level((family, &section, arm, metric), i, grid.values.len()));
                }
            }
        }
    }
    out
}

/// Means over families: of each group, of all, and of those that are not saturated.
fn by_group(study: &Study, items: &Items, lens: &[Untrained]) -> Vec<Level> {
    let known = positives(study, items);
    let mut sets: BTreeMap<usize, (String, Vec<&str>)> = BTreeMap::new();
    for (i, group) in study.groups().into_iter().enumerate() {
        let members = |f: &&&str| study.families.iter().any(|of| of.name() == **f && of.group == group);
        sets.insert(i, (group.to_owned(), known.iter().filter(members).copied().collect()));
    }
    let open = |f: &&&str| !lens.iter().any(|l| l.family == ***f && l.saturated);
    sets.insert(usize::MAX - 1, ("all, not saturated".into(), known.iter().filter(open).copied().collect()));
    sets.insert(usize::MAX, ("all".into(), known.clone()));
    let mut out = Vec::new();
    for (name, families) in sets.into_values().filter(|(_, f)| !f.is_empty()) {
        for (split, context) in sections(items) {
            for arm in items.arms() {
                for metric in study.metrics() {
                    let of = |f: &&str| {
                        let grid = items.grid(arm, metric, false, positive(f, &split, &context))?;
                        Some(((*f).to_owned(), grid))
                    };
                    let grids: Vec<(String, Grid)> = families.iter().filter_map(of).collect();
                    if grids.is_empty() || grids.iter().any(|g| g.1.seeds != grids[0].1.seeds) {
                        continue;
                    }
                    // One group alone is what its families are.
                    let mut rows = parts(study, &grids);
                    if rows.iter().map(Vec::len).sum::<usize>() < 2 {
                        rows = grids.iter().map(|g| g.1.values.clone()).collect();
                    }
                    let parts: Vec<&[Vec<f64>]> = rows.iter().map(Vec::as_slice).collect();
                    let i =
                        macro_share(&parts, &format!("study-group|{name}|{split}|{context}|{arm}|{metric}"));
                    let section = section_name(&split, &context);
                    let n = grids.iter().map(|g| g.1.values.len()).sum();
                    out.push(level((&name, &section, arm, metric), i, n));
                }
            }
        }
    }
    out
}

/// How often an arm says "nothing", by what the adapter carries: nothing, or something of another family.
fn silent(items: &Items) -> Vec<Level> {
    let mut out = Vec::new();
    for kind in ["negative", "foreign"] {
        let families: std::collections::BTreeSet<&str> = items
            .rows
            .keys()
            .filter(|u| u.kind == kind && u.split.starts_with("test"))
            .map(|u| u.carries.as_str())
            .collect();
        for arm in items.arms() {
            for metric in ["top1", "exact_match"] {
                let sets =
                    families.iter().map(|f| ((*f).to_owned(), vec![*f])).filter(|_| kind == "negative");
                let all = std::iter::once((kind.to_owned(), families.iter().copied().collect::<Vec<_>>()));
                for (of, members) in sets.chain(all) {
                    let wanted = |u: &Unit| {
                        u.kind == kind && u.split.starts_with("test") && members.contains(&u.carries.as_str())
                    };
                    // One adapter asked about several families is one unit: the mean of its answers.
                    let Some(grid) = mean_by_adapter(items, arm, metric, &wanted) else { continue };
                    let i = two_way(&grid.values, Scale::Share, &format!("study-silent|{of}|{arm}|{metric}"));
                    out.push(level((&of, kind, arm, metric), i, grid.values.len()));
                }
            }
        }
    }
    out
}

fn mean_by_adapter(items: &Items, arm: &str, metric: &str, wanted: &dyn Fn(&Unit) -> bool) -> Option<Grid> {
    let mut sums: BTreeMap<(String, u64), (f64, f64)> = BTreeMap::new();
    for (i, c) in items.columns.iter().enumerate().filter(|(_, c)| c.arm == arm && c.metric == metric) {
        for (unit, row) in items.rows.iter().filter(|(u, _)| wanted(u)) {
            if let Some(v) = row[i] {
                let sum = sums.entry((unit.adapter.clone(), c.seed)).or_default();
                sum.0 += v;
                sum.1 += 1.0;
            }
        }
    }
    Grid::new(&sums.into_iter().map(|(k, (sum, n))| (k, sum / n)).collect())
}
