//! What is committed of a study: its file, its registration, items, adapters, arms; and what follows from these: results and report.

use std::path::Path;

use compare::scores::Scores;
use fence::open::{SMALL, TABLE};
use registry::AdapterRecord;
use serde::Serialize;

use crate::adapters::{self, AdapterRow};
use crate::registration::Registration;
use crate::report::to_html;
use crate::{Error, Items, Result, Results, Study, results};

/// An arm with one seed: how it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct ArmRow {
    /// Arm.
    pub arm: String,
    /// Method.
    pub method: String,
    /// Reader seed; 0 where there is none.
    pub seed: u64,
    /// Whether adapters train it.
    pub trained: bool,
    /// What it is shown.
    pub input: String,
    /// TFLOP of training on the adapter set.
    pub train_tflop: f64,
    /// TFLOP of pretraining.
    pub pretrain_tflop: f64,
    /// TFLOP of collecting activations.
    pub collect_tflop: f64,
    /// Steps taken.
    pub steps: usize,
    /// Step that validation chose.
    pub chosen_step: usize,
    /// What else validation chose.
    pub chosen: String,
}

/// All parts.
#[derive(Debug, Clone)]
pub struct Folder {
    /// The study's file as it was given.
    pub source: String,
    /// Its registration.
    pub registration: Registration,
    /// Answers.
    pub items: Items,
    /// Gates.
    pub adapters: Vec<AdapterRow>,
    /// Arms.
    pub arms: Vec<ArmRow>,
    /// Figures.
    pub results: Results,
}

/// Names of the files.
const FILES: [&str; 7] = [
    "study.toml",
    "registration.json",
    "items.csv",
    "adapters.csv",
    "arms.csv",
    "results.json",
    "report.html",
];

fn tera(flops: f64) -> f64 {
    (flops / 1e9).round() / 1e3
}

impl Folder {
    /// Of a finished run.
    pub fn of(source: String, registration: Registration, scores: &[Scores], made: &[AdapterRecord]) -> Self {
        let order = registration.study.arms();
        let place = |s: &Scores| order.arms.iter().position(|a| a.name == s.arm);
        let mut scores: Vec<&Scores> = scores.iter().collect();
        scores.sort_by_key(|s| (place(s), s.seed));
        let arms = scores.iter().map(|s| arm_row(s)).collect();
        let items =
            Items::of(&scores.into_iter().cloned().collect::<Vec<_>>(), &registration.study.metrics());
        Self::from_parts(source, registration, items, adapters::of(made), arms)
    }

    fn from_parts(
        source: String,
        registration: Registration,
        items: Items,
        adapters: Vec<AdapterRow>,
        arms: Vec<ArmRow>,
    ) -> Self {
        let mut untrained: Vec<String> = arms.iter().filter(|a| !a.trained).map(|a| a.arm.clone()).collect();
        untrained.dedup();
        let results = results(&registration.study, &registration.digest, &items, &untrained);
        Self { source, registration, items, adapters, arms, results }
    }

    /// Every file with its text.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let results = serde_json::to_string_pretty(&self.results).expect("invariant: plain data") + "\n";
        let texts = [
            self.source.clone(),
            self.registration.to_json(),
            self.items.to_csv(),
            adapters::to_csv(&self.adapters),
            arms_to_csv(&self.arms),
            results,
            to_html(self),
        ];
        FILES.into_iter().zip(texts).collect()
    }

    /// Writes all files into a folder, the report last.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        for (name, text) in self.files() {
            registry::blobs::write_atomic(&folder.join(name), text.as_bytes())?;
        }
        Ok(())
    }
}

fn arm_row(s: &Scores) -> ArmRow {
    let b = s.budget.clone().unwrap_or_default();
    let chosen: Vec<String> = s.chosen.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    ArmRow {
        arm: s.arm.clone(),
        method: s.method.clone(),
        seed: s.seed,
        trained: s.trained,
        input: s.input.clone(),
        train_tflop: tera(b.train_flops),
        pretrain_tflop: tera(b.pretrain_flops),
        collect_tflop: tera(b.collect_flops),
        steps: b.steps,
        chosen_step: b.chosen_step,
        chosen: chosen.join("; "),
    }
}

fn arms_to_csv(rows: &[ArmRow]) -> String {
    let mut out = csv::Writer::from_writer(vec![]);
    for row in rows {
        out.serialize(row).expect("invariant: memory takes all, and a row is flat");
    }
    String::from_utf8(out.into_inner().expect("invariant: memory takes all"))
        .expect("invariant: text was written")
}

fn read(folder: &Path, name: &str) -> Result<String> {
    fence::read_text(&folder.join(name), if name == "study.toml" { SMALL } else { TABLE })
        .map_err(|e| Error::Verify(e.to_string()))
}

/// What follows from a folder's study, registration, items, adapters and arms; its results and report are not read.
///
/// # Errors
/// One sentence that names the file.
pub fn recompute(folder: &Path) -> Result<Folder> {
    let read = |name: &str| read(folder, name);
    let at = |name: &str| folder.join(name).display().to_string();
    let source = read(FILES[0])?;
    let told = |e: &dyn std::fmt::Display| Error::Verify(e.to_string());
    let registration = Registration::parse(&at(FILES[1]), &read(FILES[1])?).map_err(|e| told(&e))?;
    let study = Study::parse(&at(FILES[0]), &source).map_err(|e| told(&e))?;
    let registered = if registration.smoke { study.smoke() } else { study };
    if registered != registration.study {
        return Err(Error::Verify(format!("{}: is not the study that was registered", at(FILES[0]))));
    }
    let items = Items::parse(&at(FILES[2]), &read(FILES[2])?)?;
    let adapters = adapters::parse(&at(FILES[3]), &read(FILES[3])?)?;
    let arms_text = read(FILES[4])?;
    let mut arms = Vec::new();
    for (i, row) in csv::Reader::from_reader(arms_text.as_bytes()).deserialize().enumerate() {
        arms.push(row.map_err(|e| Error::Verify(format!("{}, line {}: {e}", at(FILES[4]), i + 2)))?);
    }
    Ok(Folder::from_parts(source, registration, items, adapters, arms))
}

/// Recomputes a committed folder from its items: registration, results and report have to be the same bytes.
///
/// # Errors
/// One sentence that names the file and, where there is one, the first line that differs.
pub fn verify(folder: &Path) -> Result<Folder> {
    let made = recompute(folder)?;
    // Results hold the digest of the items, the report shows adapters and arms: whatever was changed, a file differs.
    for (name, expected) in made.files() {
        let found = read(folder, name)?;
        if found != expected {
            let line = expected.lines().zip(found.lines()).position(|(a, b)| a != b).map_or(0, |i| i + 1);
            return Err(Error::Verify(format!(
                "{}: does not follow from the folder's items: line {line} differs from what is recomputed",
                folder.join(name).display()
            )));
        }
    }
    Ok(made)
}
