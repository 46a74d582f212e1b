//! What every arm answered about every adapter: one row for each adapter, family asked about and context; a column for each arm, reader seed
//! and metric. All figures of a report follow from it.

use std::collections::{BTreeMap, BTreeSet};

use compare::measures::{Grid, Read, Reading, read};
use compare::scores::{Kind, Scores};

use crate::{Error, Result};

/// Columns that say what a row is about.
const ABOUT: [&str; 7] = ["kind", "family", "split", "context", "carries", "adapter", "label"];

/// What a row is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    /// `positive`; `negative`: carries nothing; `foreign`: carries something of another family.
    pub kind: String,
    /// Family asked about.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// Family that the adapter is of.
    pub carries: String,
    /// Behaviour id.
    pub adapter: String,
    /// Right answer.
    pub label: String,
}

/// An arm, a seed, and what is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column {
    /// Arm.
    pub arm: String,
    /// Reader seed.
    pub seed: u64,
    /// One of [`crate::file::METRICS`] or [`crate::file::OF_TEXTS`].
    pub metric: String,
}

/// All answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Items {
    /// Columns.
    pub columns: Vec<Column>,
    /// Rows, in order.
    pub rows: BTreeMap<Unit, Vec<Option<f64>>>,
}

fn kind(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Positive => Some("positive"),
        Kind::Negative => Some("negative"),
        Kind::Foreign => Some("foreign"),
        Kind::Base => None,
    }
}

/// Family, split and context: what the two adapters of a pair have in common.
type Pair<'a> = (&'a str, &'a str, &'a str);

fn pair(r: &Reading) -> Pair<'_> {
    (&r.family, &r.split, &r.context)
}

/// Whether a family's two adapters, one of each of its two values, are told apart: by how much likelier the first value is than the second,
/// before priors are taken off, since what is the same for both changes nothing. With the adapter of the first value.
fn apart(read: &Read) -> BTreeMap<Pair<'_>, (String, f64)> {
    let mut sides: BTreeMap<Pair<'_>, [Vec<(&str, f64)>; 2]> = BTreeMap::new();
    for r in read.readings.iter().filter(|r| r.kind == Kind::Positive) {
        // Two values and "nothing".
        if let ([first, second, _], Some(label)) = (&r.raw[..], read.label_at(r))
            && label < 2
        {
            sides.entry(pair(r)).or_default()[label].push((&r.adapter, first - second));
        }
    }
    let told = |sides: [Vec<(&str, f64)>; 2]| match (&sides[0][..], &sides[1][..]) {
        ([(adapter, of_first)], [(_, of_second)]) => {
            let apart = if of_first > of_second {
                1.0
            } else if of_first < of_second {
                0.0
            } else {
                0.5
            };
            Some(((*adapter).to_owned(), apart))
        }
        _ => None,
    };
    sides.into_iter().filter_map(|(pair, sides)| Some((pair, told(sides)?))).collect()
}

impl Items {
    /// Of the scores of all arms, `metrics` of each; phrasings are averaged and priors taken off as in every report.
    pub fn of(scores: &[Scores], metrics: &[&str]) -> Self {
        let mut out = Self::default();
        for s in scores {
            let read = read(s);
            let apart = apart(&read);
            let first = out.columns.len();
            let column =
                |metric: &&str| Column { arm: s.arm.clone(), seed: s.seed, metric: (*metric).to_owned() };
            out.columns.extend(metrics.iter().map(column));
            for r in read.readings.iter().filter(|r| r.split != "train") {
                let Some(kind) = kind(r.kind) else { continue };
                let unit = Unit {
                    kind: kind.to_owned(),
                    family: r.family.clone(),
                    split: r.split.clone(),
                    context: r.context.clone(),
                    carries: r.carries.clone(),
                    adapter: r.adapter.clone(),
                    label: r.label.clone(),
                };
                let mut measures: BTreeMap<&str, f64> = read.measures(r).into_iter().collect();
                measures.extend(
                    apart.get(&pair(r)).filter(|(of, _)| *of == r.adapter).map(|(_, v)| ("apart", *v)),
                );
                let row = out.rows.entry(unit).or_default();
                row.resize(first, None);
                row.extend(metrics.iter().map(|m| measures.get(m).map(|v| (v * 1e6).round() / 1e6)));
            }
        }
        let n = out.columns.len();
        out.rows.values_mut().for_each(|row| row.resize(n, None));
        out
    }

    /// The file: shares as plain numbers, nothing where nothing was answered.
    pub fn to_csv(&self) -> String {
        let mut out = csv::Writer::from_writer(vec![]);
        let heads = self.columns.iter().map(|c| format!("{}/{}/{}", c.arm, c.seed, c.metric));
        let head: Vec<String> = ABOUT.iter().map(|s| (*s).to_owned()).chain(heads).collect();
        let mut write = |row: &[String]| {
            out.write_record(row).expect("invariant: memory takes all, and rows are as long");
        };
        write(&head);
        for (u, values) in &self.rows {
            let about = [&u.kind, &u.family, &u.split, &u.context, &u.carries, &u.adapter, &u.label];
            let values = values.iter().map(|v| v.map_or(String::new(), |v| v.to_string()));
            write(&about.into_iter().cloned().chain(values).collect::<Vec<_>>());
        }
        String::from_utf8(out.into_inner().expect("invariant: memory takes all"))
            .expect("invariant: text was written")
    }

    /// Reads the file; `source` names it in messages.
    ///
    /// # Errors
    /// One sentence with line and column.
    pub fn parse(source: &str, text: &str) -> Result<Self> {
        let wrong = |line: usize, what: String| Error::Verify(format!("{source}, line {line}: {what}"));
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let head = reader.headers().map_err(|e| wrong(1, e.to_string()))?.clone();
        let mut out = Self::default();
        for (i, name) in head.iter().enumerate() {
            if let Some(expected) = ABOUT.get(i) {
                if name != *expected {
                    return Err(wrong(1, format!("column {} is {name:?}, not {expected:?}", i + 1)));
                }
                continue;
            }
            let mut parts = name.rsplitn(3, '/');
            let (metric, seed, arm) = (parts.next(), parts.next().and_then(|s| s.parse().ok()), parts.next());
            let (Some(metric), Some(seed), Some(arm)) = (metric, seed, arm) else {
                return Err(wrong(1, format!("column {} is {name:?}, not arm/seed/metric", i + 1)));
            };
            out.columns.push(Column { arm: arm.to_owned(), seed, metric: metric.to_owned() });
        }
        if head.len() < ABOUT.len() {
            return Err(wrong(1, format!("has {} columns; the first are {}", head.len(), ABOUT.join(", "))));
        }
        for (i, record) in reader.records().enumerate() {
            let line = i + 2;
            let record = record.map_err(|e| wrong(line, e.to_string()))?;
            let text = |at: usize| record[at].to_owned();
            let unit = Unit {
                kind: text(0),
                family: text(1),
                split: text(2),
                context: text(3),
                carries: text(4),
                adapter: text(5),
                label: text(6),
            };
            let number = |(at, cell): (usize, &str)| match cell {
                "" => Ok(None),
                cell => match cell.parse::<f64>() {
                    Ok(v) if (0.0..=1.0).contains(&v) => Ok(Some(v)),
                    _ => Err(wrong(line, format!("{:?} in column {:?} is no share", cell, &head[at]))),
                },
            };
            let values =
                record.iter().enumerate().skip(ABOUT.len()).map(number).collect::<Result<Vec<_>>>()?;
            if out.rows.insert(unit, values).is_some() {
                return Err(wrong(line, format!("{} is asked twice", text(5))));
            }
        }
        Ok(out)
    }

    /// Arms in the order of the columns.
    pub fn arms(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        self.columns.iter().map(|c| c.arm.as_str()).filter(|a| seen.insert(*a)).collect()
    }

    /// Families of one kind of rows in one split.
    pub fn families(&self, kind: &str, split: &str) -> BTreeSet<&str> {
        let of = |u: &&Unit| u.kind == kind && u.split == split;
        self.rows.keys().filter(of).map(|u| u.family.as_str()).collect()
    }

    /// Values of an arm: adapters x seeds; `by_label` names rows by their labels. `None` where there are none.
    pub fn grid(
        &self,
        arm: &str,
        metric: &str,
        by_label: bool,
        wanted: impl Fn(&Unit) -> bool,
    ) -> Option<Grid> {
        let at: Vec<(usize, u64)> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, c)| c.arm == arm && c.metric == metric)
            .map(|(i, c)| (i, c.seed))
            .collect();
        let mut cells = compare::measures::Cells::new();
        for (unit, row) in self.rows.iter().filter(|(u, _)| wanted(u)) {
            let name = if by_label { &unit.label } else { &unit.adapter };
            for (i, seed) in &at {
                if let Some(v) = row[*i] {
                    cells.insert((name.clone(), *seed), v);
                }
            }
        }
        Grid::new(&cells)
    }
}

/// Rows that carry something, of a family, split and context.
pub(crate) fn positive<'a>(family: &'a str, split: &'a str, context: &'a str) -> impl Fn(&Unit) -> bool + 'a {
    move |u| u.kind == "positive" && u.family == family && u.split == split && u.context == context
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::file::METRICS;

    /// Items of arms over adapters of families: (arm, seed, family, split, hits).
    pub(crate) fn items(of: &[(&str, u64, &str, &str, &[f64])]) -> Items {
        let mut out = Items::default();
        for (arm, seed, _, _, _) in of {
            for metric in METRICS {
                let c = Column { arm: (*arm).into(), seed: *seed, metric: metric.into() };
                if !out.columns.contains(&c) {
                    out.columns.push(c);
                }
            }
        }
        let n = out.columns.len();
        for (arm, seed, family, split, hits) in of {
            for (i, hit) in hits.iter().enumerate() {
                let unit = Unit {
                    kind: "positive".into(),
                    family: (*family).into(),
                    split: (*split).into(),
                    context: "neutral".into(),
                    carries: (*family).into(),
                    adapter: format!("{family}/{split}{i:03}"),
                    label: format!("{split}{i:03}"),
                };
                let row = out.rows.entry(unit).or_insert_with(|| vec![None; n]);
                for (c, column) in out.columns.iter().enumerate() {
                    if column.arm == *arm && column.seed == *seed {
                        row[c] = Some(*hit);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn twins_are_told_apart_by_which_is_likelier_whatever_both_are() {
        let reading = |adapter: &str, label: &str, raw: [f64; 3]| Reading {
            adapter: adapter.into(),
            carries: "x".into(),
            kind: Kind::Positive,
            split: "test_value".into(),
            reported: true,
            context: "neutral".into(),
            family: adapter.split('/').next().unwrap().into(),
            status: "learned".into(),
            label: label.into(),
            corrected: raw.to_vec(),
            values: raw[..2].to_vec(),
            raw: raw.to_vec(),
            exact: None,
            says_nothing: None,
            answer_nats: None,
            text: None,
            replies: vec![],
        };
        let set = ["correct", "wrong", "nothing"].map(str::to_owned).to_vec();
        let families = ["a", "b", "c", "d"];
        let read = Read {
            arm: "dit".into(),
            seed: 1,
            candidates: families.map(|f| (f.to_owned(), set.clone())).into(),
            corrector: compare::correct::Corrector::new(&empty()),
            readings: vec![
                // Both say wrong, the wrong one more so.
                reading("a/correct", "correct", [-3.0, -1.0, -9.0]),
                reading("a/wrong", "wrong", [-4.0, -1.0, -9.0]),
                reading("b/correct", "correct", [-3.0, -1.0, -9.0]),
                reading("b/wrong", "wrong", [-2.0, -1.0, -9.0]),
                reading("c/correct", "correct", [-2.0, -1.0, -9.0]),
                reading("c/wrong", "wrong", [-3.0, -2.0, -9.0]),
                // Its twin failed.
                reading("d/correct", "correct", [-2.0, -1.0, -9.0]),
            ],
        };
        let found: Vec<(String, f64)> = apart(&read).into_values().collect();
        let told = |adapter: &str, v: f64| (adapter.to_owned(), v);
        assert_eq!(found, [told("a/correct", 1.0), told("b/correct", 0.0), told("c/correct", 0.5)]);
    }

    fn empty() -> Scores {
        Scores {
            schema: Scores::SCHEMA.into(),
            arm: "dit".into(),
            method: "dit".into(),
            trained: true,
            input: String::new(),
            seed: 1,
            chosen: BTreeMap::new(),
            candidates: BTreeMap::new(),
            items: vec![],
            budget: None,
            trajectory: vec![],
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_wrong_is_told() {
        let all = items(&[
            ("dit", 1, "topic", "test_value", &[1.0, 0.5]),
            ("lens, raw", 0, "topic", "test_value", &[0.0]),
        ]);
        let text = all.to_csv();
        assert_eq!(Items::parse("items.csv", &text).unwrap(), all);
        assert_eq!(all.arms(), ["dit", "lens, raw"]);
        let grid = all.grid("dit", "top1", false, positive("topic", "test_value", "neutral")).unwrap();
        assert_eq!((grid.adapters.len(), grid.by_seed()), (2, vec![0.75]));
        assert!(all.grid("dit", "top1", false, positive("topic", "validation", "neutral")).is_none());
        for (from, to, expected) in [
            ("0.5", "1.5", "line 3: \"1.5\" in column \"dit/1/top1\" is no share"),
            ("kind,", "what,", "line 1: column 1 is \"what\""),
            ("dit/1/top1,", "dit,", "line 1: column 8 is \"dit\""),
            ("test_value001", "test_value000", "line 3:"),
        ] {
            assert!(text.contains(from));
            let e = Items::parse("items.csv", &text.replace(from, to)).unwrap_err().to_string();
            assert!(e.starts_with("items.csv") && e.contains(expected), "{e}");
        }
    }
}
