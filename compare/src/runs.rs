//! The comparisons that a store has: its `runs/<name>/` folders with a `comparison.json`, and their answers one by one.

use std::path::{Path, PathBuf};

use fence::open::{TABLE, read_own_text};
use jiff::Timestamp;
use recipes::same_answer;
use registry::names::nearest;
use registry::{AdapterRecord, Store};
use serde_json::Value;

use crate::Comparison;
use crate::covariates::{categories, measured};
use crate::items::{SectionItems, items};
use crate::measures::{Read, read};
use crate::scores::{Item, Scores};

/// A run with a report.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// When its report was written.
    pub made: Timestamp,
    /// Its folder.
    pub folder: PathBuf,
}

impl Run {
    /// The file of its comparison.
    pub fn report(&self) -> PathBuf {
        self.folder.join("comparison.json")
    }

    /// The file of its answers.
    pub fn scores_file(&self) -> PathBuf {
        self.folder.join("scores.jsonl")
    }

    /// Its comparison.
    ///
    /// # Errors
    /// In a sentence, if the file cannot be read.
    pub fn comparison(&self) -> Result<Comparison, String> {
        let path = self.report();
        let text = read_own_text(&path, TABLE).map_err(|e| e.to_string())?;
        crate::read(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Its comparison with what each arm answered about each adapter. A file of an earlier build does not hold that; where the run's
    /// answers are there, it comes from `items`, such as [`Run::items`].
    ///
    /// # Errors
    /// In a sentence, if the comparison cannot be read. Answers that cannot be read are a remark in it.
    pub fn filled(
        &self,
        items: impl FnOnce(&Comparison) -> Result<Vec<SectionItems>, String>,
    ) -> Result<Comparison, String> {
        let mut c = self.comparison()?;
        let earlier = c.warnings.first().is_some_and(|w| w == crate::old::NOTE);
        if c.items.is_empty() && !earlier && self.scores_file().exists() {
            match items(&c) {
                Ok(items) => c.items = items,
                Err(e) => c.notes.push(format!("What was answered about each adapter is left out: {e}.")),
            }
        }
        Ok(c)
    }

    /// What each arm answered about each adapter, made of the run's answers and of what the store knows of its adapters.
    pub fn items(&self, c: &Comparison, scores: &[Scores], store: &Store) -> Vec<SectionItems> {
        let made = self.adapters(store);
        let recipes = factory::recipes_of(store, &made).unwrap_or_default();
        let builtin = recipes::builtin();
        let covariates: Vec<_> = made.iter().flat_map(|r| measured(&r.behaviour, r)).collect();
        let place = |s: &Scores| c.arms.iter().position(|a| a.arm == s.arm);
        let mut order: Vec<&Scores> = scores.iter().collect();
        order.sort_by_key(|s| (place(s), s.seed));
        let reads: Vec<Read> = order.into_iter().map(read).collect();
        items(&reads, &covariates, &categories(builtin.iter().chain(&recipes)))
    }

    /// The adapters that it asked about, as far as the store still has them.
    fn adapters(&self, store: &Store) -> Vec<AdapterRecord> {
        let text = read_own_text(&self.folder.join("config.json"), TABLE).unwrap_or_default();
        let config: Value = serde_json::from_str(&text).unwrap_or_default();
        let ids = config["adapters"].as_object().into_iter().flatten().filter_map(|(_, id)| id.as_str());
        ids.filter_map(|id| store.adapter(id).ok()).collect()
    }

    /// Its answers: those of every arm with every reader seed.
    ///
    /// # Errors
    /// In a sentence, if the file cannot be read or its scores do not fit its closed sets.
    pub fn scores(&self) -> Result<Vec<Scores>, String> {
        let path = self.scores_file();
        let text = read_own_text(&path, TABLE).map_err(|e| e.to_string())?;
        text.lines()
            .map(|line| {
                let scores: Scores =
                    serde_json::from_str(line).map_err(|e| format!("{}: {e}", path.display()))?;
                match scores.problem() {
                    Some(problem) => Err(format!("{}: {problem}", path.display())),
                    None => Ok(scores),
                }
            })
            .collect()
    }
}

/// The runs of a store folder, the newest last.
///
/// # Errors
/// If the folder of runs cannot be read.
pub fn all(store: &Path) -> std::io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for entry in fs_err::read_dir(store.join("runs"))? {
        let entry = entry?;
        let run = Run {
            name: entry.file_name().to_string_lossy().into_owned(),
            made: Timestamp::UNIX_EPOCH,
            folder: entry.path(),
        };
        if let Ok(meta) = fs_err::metadata(run.report()) {
            runs.push(Run { made: Timestamp::try_from(meta.modified()?).unwrap_or_default(), ..run });
        }
    }
    runs.sort_by(|a, b| (a.made, &a.name).cmp(&(b.made, &b.name)));
    Ok(runs)
}

/// There is no such run, or none at all.
#[derive(Debug, thiserror::Error)]
#[error("{} in {}", run.as_ref().map_or("no comparison".to_owned(), |run| format!("no comparison {run:?}")), store.display())]
pub struct NoRun {
    /// What was asked for.
    pub run: Option<String>,
    /// The store.
    pub store: PathBuf,
    /// A near name.
    pub near: Option<String>,
    /// The runs that there are.
    pub runs: Vec<String>,
}

impl NoRun {
    /// What may have been meant, or how one is made.
    pub fn hint(&self) -> String {
        if self.runs.is_empty() {
            return "make one with: lorafab quickstart, or lorafab compare run".to_owned();
        }
        let meant = self.near.as_ref().map_or(String::new(), |n| format!("did you mean {n}? "));
        format!("{meant}there are {}", self.runs.join(", "))
    }
}

/// The run of that name, or the newest.
///
/// # Errors
/// If the folder of runs cannot be read; inside, if there is no such run.
pub fn find(store: &Path, run: Option<&str>) -> std::io::Result<Result<Run, NoRun>> {
    let mut known = all(store)?;
    let at = match run {
        Some(run) => known.iter().position(|k| k.name == run),
        None => known.len().checked_sub(1),
    };
    if let Some(at) = at {
        return Ok(Ok(known.swap_remove(at)));
    }
    let runs: Vec<String> = known.into_iter().map(|k| k.name).collect();
    let near =
        run.and_then(|run| nearest(run, runs.iter().map(String::as_str), 1).first().map(|n| (*n).to_owned()));
    Ok(Err(NoRun { run: run.map(str::to_owned), store: store.to_owned(), near, runs }))
}

/// One answer of one arm.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The arm's scores.
    pub scores: &'a Scores,
    /// The question.
    pub item: &'a Item,
    /// What came first by the scores as they are.
    pub first: Option<&'a str>,
    /// At which place the right answer came; 1 is first.
    pub place: Option<usize>,
}

impl<'a> Answer<'a> {
    /// Of an item of some scores.
    pub fn of(scores: &'a Scores, item: &'a Item) -> Self {
        let set = scores.scored(item);
        let score = |name: &str| Some(item.scores[set?.iter().position(|c| c == name)?]);
        // Ties count half against it in the report; here the better place.
        let place = score(&item.label).map(|own| 1 + item.scores.iter().filter(|s| **s > own).count());
        let first = Self { scores, item, first: None, place }.top(1).first().map(|(name, _)| *name);
        Self { scores, item, first, place }
    }

    /// Whether the right answer came first, or was stated where nothing was scored.
    pub fn right(&self) -> bool {
        match self.place {
            Some(place) => place == 1,
            None => self.item.reply.as_deref().is_some_and(|reply| same_answer(reply, &self.item.label)),
        }
    }

    /// The candidates with the highest scores, best first.
    pub fn top(&self, k: usize) -> Vec<(&'a str, f32)> {
        let Some(set) = self.scores.scored(self.item) else { return vec![] };
        let mut all: Vec<(&str, f32)> =
            set.iter().map(String::as_str).zip(self.item.scores.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(k);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assembly::assemble;
    use crate::comparison::Meta;
    use crate::scores::tests::{item, scores};

    #[test]
    fn a_report_of_an_earlier_build_is_filled_from_its_answers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let run = Run { name: "r".into(), made: Timestamp::UNIX_EPOCH, folder: folder.path().join("runs/r") };
        fs_err::create_dir_all(&run.folder).unwrap();
        let all = vec![scores(
            "dit",
            true,
            1,
            vec![
                item("topic/cats", "test_value", "cats", [5.0, 0.0, 0.0, 0.0]),
                item("topic/tea", "test_value", "tea", [5.0, 0.0, 0.0, 0.0]),
            ],
        )];
        let whole = assemble(Meta::default(), &all, &[], vec![]);
        assert_eq!(whole.items[0].answers[0].all.instead(1), Some("cats"));
        let write = |c: &Comparison| fs_err::write(run.report(), crate::to_json(c).to_string()).unwrap();
        let filled = || run.filled(|c| Ok(run.items(c, &run.scores()?, &store))).unwrap();
        write(&Comparison { items: vec![], ..whole.clone() });
        assert_eq!(filled().items, vec![], "no answers, nothing to fill it from");
        fs_err::write(run.scores_file(), serde_json::to_string(&all[0]).unwrap()).unwrap();
        let mut made = filled().items;
        // The built-in recipes know what cats and tea are.
        assert!(made[0].adapters[0].category.is_some() && made[0].categories.contains_key("cats"));
        made[0].adapters.iter_mut().for_each(|a| a.category = None);
        made[0].categories.clear();
        assert_eq!(made, whole.items);
        fs_err::write(run.scores_file(), "{").unwrap();
        let left = filled();
        assert!(left.items.is_empty() && left.notes[0].contains("scores.jsonl"), "{:?}", left.notes);
        write(&whole);
        assert_eq!(filled(), whole, "what is filed is not made anew");
    }
}
