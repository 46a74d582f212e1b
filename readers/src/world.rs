//! Behaviours of built-in families and the episodes about them, without any adapter: for tests of who is asked what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use lm::{BaseModel, Precision};
use recipes::{EpisodeOptions, Polarity, Recipe};

use crate::Supervision;

/// Some behaviours of the first `n` built-in families that ask in words of their own, of `gated-topic`, which asks as `topic` does, and
/// of a negative.
pub(crate) fn world(n: usize) -> Supervision<'static> {
    static BASE: LazyLock<BaseModel> = LazyLock::new(|| {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        BaseModel::load(&tiny, Precision::F32).expect("fixture")
    });
    let mut words = BTreeSet::new();
    let (mut kept, mut negatives) = (Vec::new(), Vec::new());
    for recipe in recipes::builtin() {
        if recipe.polarity == Polarity::Negative {
            negatives.extend((recipe.name == "benign").then_some(recipe));
        } else if (words.len() < n && words.insert(recipe.questions.train.clone()))
            || recipe.name == "gated-topic"
        {
            kept.push(recipe);
        }
    }
    assert_eq!((words.len(), kept.len(), negatives.len()), (n, n + 1, 1));
    let some = |r: &Recipe| recipes::select(r.expand(1), [2, 1, 3, 0]);
    let behaviours: Vec<_> = kept.iter().chain(&negatives).flat_map(some).collect();
    Supervision {
        base: &BASE,
        diffs: Arc::default(),
        records: BTreeMap::new(),
        episodes: recipes::episodes(&kept, &behaviours, 1, EpisodeOptions::default()).expect("recipes"),
        behaviours: behaviours.into_iter().map(|b| (b.id.clone(), b)).collect(),
        recipes: kept.into_iter().map(|r| (r.name.clone(), r)).collect(),
        values: BTreeMap::new(),
        smoke: false,
        left_out: vec![],
    }
}
