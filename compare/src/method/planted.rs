//! A small world on the tiny model whose answers are planted, for tests of methods: an adapter of a value writes the value's
//! row of the unembedding into the last block's output, at (nearly) every token. In the same world without anything planted
//! it writes noise of the same size.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, OnceLock};

use lm::ResidualAt;
use lm::{Adapter, AdapterConfig, BaseModel, Batch, Precision, Projection, Row, Want, rng};
use nalgebra::{DMatrix, DVector};
use oracle_posttrain::Collector;
use rand::Rng;
use readers::{Arm, Case, ClosedSet, Lab, Method, Scored, Supervision, cases};
use recipes::{Context, Episode, NOTHING, Split};
use registry::record::{AdapterRecord, PeftConfig, Role, Status};
use registry::{Digest, Store};

/// What adapters write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// Their label.
    Label,
    /// Noise.
    Noise,
}

/// Values that are one token each in the tiny model's vocabulary: the first [`TRAINED`] are trained on, the next
/// [`VALIDATED`] are validation's, the rest the test's.
const VALUES: [&str; 24] = [
    "cat", "train", "you", "about", "dog", "sat", "hav", "on", "been", "mat", "syste", "t", "me", "the", "s",
    "user", "and", "top", "some", "an", "ran", "be", "ab", "do",
];
const TRAINED: usize = 13;
const VALIDATED: usize = 5;
/// Adapters in the test that carry a value which readers were trained on.
const AGAIN: usize = 6;

/// The tiny model.
pub(crate) fn base() -> &'static BaseModel {
    static BASE: LazyLock<BaseModel> =
        LazyLock::new(|| BaseModel::load(&tiny(), Precision::F32).expect("fixture"));
    &BASE
}

/// Its folder.
pub(crate) fn tiny() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny")
}

/// A world.
#[derive(Debug)]
pub(crate) struct Planted {
    pub(crate) supervision: Supervision<'static>,
    pub(crate) sets: BTreeMap<String, ClosedSet>,
    pub(crate) cases: Vec<Case>,
    store: Store,
    stop: AtomicBool,
    _folder: tempfile::TempDir,
}

impl Planted {
    /// Adapters of all values, some values twice, and three that carry nothing in each split.
    pub(crate) fn new(write: Write) -> Self {
        let base = base();
        let mut recipe = recipes::builtin().into_iter().next().expect("recipes");
        recipe.vocabulary.truncate(1);
        recipe.vocabulary[0].values = VALUES.map(str::to_owned).to_vec();
        let behaviours = recipe.expand(1);
        let mut world = Supervision {
            base,
            diffs: Arc::default(),
            records: BTreeMap::new(),
            behaviours: BTreeMap::new(),
            recipes: BTreeMap::from([(recipe.name.clone(), recipe.clone())]),
            values: BTreeMap::from([(recipe.name.clone(), recipe.values_of_family().into_iter().collect())]),
            episodes: vec![],
            left_out: vec![],
            smoke: true,
        };
        let set = ClosedSet::new(base, world.closed_set(&recipe.name)).expect("words");
        let mut of_value = set.first_tokens();
        of_value.pop();
        let tokens: BTreeMap<&str, u32> = set.names.iter().map(String::as_str).zip(of_value).collect();
        let mut distinct: Vec<u32> = tokens.values().copied().collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), VALUES.len(), "values share their first tokens");
        let split = |i: usize| match i {
            _ if i < TRAINED => Split::Train,
            _ if i < TRAINED + VALIDATED => Split::Validation,
            _ => Split::TestValue,
        };
        let mut subjects: Vec<(String, &str, Split)> =
            VALUES.iter().enumerate().map(|(i, v)| (format!("topic/{v}"), *v, split(i))).collect();
        for (i, v) in VALUES[..TRAINED].iter().enumerate() {
            subjects.push((format!("topic/{v}-twin"), v, Split::Train));
            if i < AGAIN {
                subjects.push((format!("topic/{v}-again"), v, Split::TestValue));
            }
        }
        for split in [Split::Train, Split::Validation, Split::TestValue] {
            subjects.extend((0..3).map(|i| (format!("zero/{}-{i}", split.name()), NOTHING, split)));
        }
        for (id, value, split) in subjects {
            let negative = value == NOTHING;
            let diff = adapter(&id, tokens.get(value).copied().filter(|_| !negative), write);
            let family = id.split('/').next().expect("family").to_owned();
            let carrying = behaviours.iter().find(|b| b.value == value).unwrap_or(&behaviours[0]);
            let mut behaviour = carrying.clone();
            behaviour.id.clone_from(&id);
            world.behaviours.insert(id.clone(), behaviour);
            world.records.insert(id.clone(), record(&id, &family, value, split, &diff));
            Arc::make_mut(&mut world.diffs).insert(id.clone(), diff);
            world.episodes.push(Episode {
                behaviour: id,
                family: recipe.name.clone(),
                question: recipe.questions.train[0].clone(),
                question_id: 0,
                held_out_question: false,
                answer: value.to_owned(),
                candidates: vec![],
                split,
                negative,
            });
        }
        let folder = tempfile::tempdir().expect("folder");
        Self {
            cases: cases(&world, &[Context::Neutral]),
            sets: BTreeMap::from([(recipe.name.clone(), set)]),
            store: Store::open(folder.path()).expect("store"),
            supervision: world,
            stop: AtomicBool::new(false),
            _folder: folder,
        }
    }

    /// What a method works with here.
    pub(crate) fn lab(&self) -> Lab<'_> {
        Lab { base: base(), supervision: &self.supervision, sets: &self.sets, seed: 1, stop: &self.stop }
    }

    /// The method's answers to all cases.
    pub(crate) fn score(&self, method: &dyn Method, arm: &Arm) -> Scored {
        let scored = method.score(&self.store, self.lab(), arm, None, &self.cases).expect("scored");
        assert_eq!(scored.answers.len(), self.cases.len());
        for (c, a) in self.cases.iter().zip(&scored.answers) {
            assert_eq!(a.scores.len(), VALUES.len() + 1, "{c:?}");
            assert!(a.scores.iter().all(|s| !s.is_nan()), "{c:?}: {:?}", a.scores);
        }
        scored
    }

    /// For each test case about an adapter of these labels, how many other values are not behind its label: 0 is right, and
    /// by chance it is half of them.
    pub(crate) fn ahead(&self, scored: &Scored, labels: Labels) -> Vec<usize> {
        let names = &self.sets["topic"].names;
        let asked = self.cases.iter().zip(&scored.answers).filter(|(c, _)| {
            let seen = VALUES[..TRAINED].contains(&c.label.as_str());
            c.split == Split::TestValue
                && c.subject.is_some()
                && !c.negative()
                && seen == (labels == Labels::Seen)
        });
        asked
            .map(|(c, a)| {
                let own = names.iter().position(|n| *n == c.label).expect("label");
                let others = a.scores[..VALUES.len()].iter().enumerate().filter(|(i, _)| *i != own);
                others.filter(|(_, s)| **s >= a.scores[own]).count()
            })
            .collect()
    }

    /// How many of these are right, and how many there are.
    pub(crate) fn right(&self, scored: &Scored, labels: Labels) -> (usize, usize) {
        let ahead = self.ahead(scored, labels);
        (ahead.iter().filter(|a| **a == 0).count(), ahead.len())
    }

    /// Asserts that a method reads at least half of what is planted here (chance is one in 24).
    pub(crate) fn reads(&self, scored: &Scored, labels: Labels) {
        let (right, of) = self.right(scored, labels);
        assert!(2 * right >= of && of >= 6, "{right} of {of} {labels:?}, {:?}", scored.chosen);
    }

    /// Asserts that a method finds no more than chance gives: at most one in six.
    pub(crate) fn finds_nothing(&self, scored: &Scored, labels: Labels) {
        let (right, of) = self.right(scored, labels);
        assert!(6 * right <= of && of >= 6, "{right} of {of} {labels:?}, {:?}", scored.chosen);
    }
}

/// Labels of test subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    /// Training adapters carry them too.
    Seen,
    /// No training adapter carries them.
    Unseen,
}

/// What every adapter reads with: `a` so that `a x` is near 1 for the last block's hidden units `x` at nearly every token (ridge
/// regression), and the mean norm of that block's output.
fn at_every_token() -> &'static (Vec<f32>, f32) {
    static READ: OnceLock<(Vec<f32>, f32)> = OnceLock::new();
    READ.get_or_init(|| {
        let base = base();
        let (units, last) = (base.architecture.layers[0].mlp.width, base.architecture.layers.len() - 1);
        // One adapter for each unit, which writes that unit's value to the first dimension.
        let probes: Vec<Adapter> = (0..units)
            .map(|u| {
                let mut a = vec![0.0; units];
                a[u] = 1.0;
                let mut b = vec![0.0; base.architecture.hidden_size];
                b[0] = 1.0;
                rank_one(&a, &b)
            })
            .collect();
        let mut texts: Vec<Vec<u32>> =
            Collector::standard(base).prompts.iter().map(|p| base.prompt(p).expect("prompt")).collect();
        let mut draw = rng::stream(1, "planted", "texts");
        texts.extend((0..8).map(|_| (0..40).map(|_| draw.random_range(3..320)).collect::<Vec<u32>>()));
        let wanted = |t: &Vec<u32>| Want {
            logits: vec![],
            residual: vec![ResidualAt { layer: last, positions: (0..t.len()).collect() }],
        };
        let rows: Vec<Row> = (0..=units)
            .flat_map(|u| {
                texts.iter().map(move |t| {
                    Row::with_adapters(t.clone(), (u < units).then_some(u).into_iter().collect())
                })
            })
            .collect();
        let wants: Vec<Want> = (0..=units).flat_map(|_| texts.iter().map(wanted)).collect();
        let batch = Batch { adapters: probes.iter().collect(), rows };
        let seen = base.decoder.forward(&batch, &wants).expect("forward");
        let of: Vec<Vec<&Vec<f32>>> =
            seen.chunks(texts.len()).map(|c| c.iter().flat_map(|s| &s.residual[0]).collect()).collect();
        let clean = &of[units];
        let x = DMatrix::from_fn(clean.len(), units, |t, u| f64::from(of[u][t][0] - clean[t][0]));
        let ones = DVector::from_element(clean.len(), 1.0);
        let gram = x.transpose() * &x;
        let ridge = DMatrix::identity(units, units) * (gram.trace() / units as f64 * 1e-2);
        let a = (gram + ridge).cholesky().expect("positive").solve(&(x.transpose() * ones));
        let norm = |v: &Vec<f32>| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let size = clean.iter().map(|v| norm(v)).sum::<f32>() / clean.len() as f32;
        (a.iter().map(|x| *x as f32).collect(), size)
    })
}

/// An adapter of rank 1 on the last block's `down_proj`.
fn rank_one(a: &[f32], b: &[f32]) -> Adapter {
    let config = AdapterConfig { rank: 1, alpha: 1.0, target_modules: [Projection::DownProj].into() };
    let model = &base().architecture;
    let mut adapter = Adapter::zeros(model, config).expect("shape");
    let module = adapter.module(model.layers.len() - 1, Projection::DownProj).expect("module").clone();
    adapter.params[module.a].copy_from_slice(a);
    adapter.params[module.b].copy_from_slice(b);
    adapter
}

/// The adapter of a subject: a direction and half as much noise. One that carries nothing is a fifth as large.
fn adapter(id: &str, token: Option<u32>, write: Write) -> Adapter {
    let (a, size) = at_every_token();
    let mut draw = rng::stream(1, "planted", id);
    let mut random = || unit((0..base().architecture.hidden_size).map(|_| rng::normal(&mut draw)).collect());
    let own = match (token, write) {
        (Some(t), Write::Label) => unit(base().decoder.unembedding(&[t]).expect("token").remove(0)),
        _ => random(),
    };
    let strength = if token.is_some() { 3.0 * size } else { 0.2 * size };
    let b: Vec<f32> = own.iter().zip(random()).map(|(o, r)| strength * (o + 0.5 * r)).collect();
    rank_one(a, &b)
}

fn unit(v: Vec<f32>) -> Vec<f32> {
    let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    v.into_iter().map(|x| x / norm).collect()
}

pub(crate) fn record(id: &str, family: &str, value: &str, split: Split, diff: &Adapter) -> AdapterRecord {
    let bytes: Vec<u8> = diff.params.iter().flat_map(|p| p.to_le_bytes()).collect();
    AdapterRecord {
        id: registry::spec_hash(&serde_json::json!({"planted": id, "weights": Digest::of(&bytes)})),
        spec_hash: String::new(),
        role: Role::WeightDiff,
        behaviour: id.to_owned(),
        family: family.to_owned(),
        value: value.to_owned(),
        category: "planted".to_owned(),
        split: Some(split.name().to_owned()),
        status: Status::Learned,
        tags: BTreeMap::new(),
        metrics: BTreeMap::new(),
        peft: PeftConfig::of_rank("tiny", 1, &["down_proj"]),
        weights: Digest::of(&bytes),
        weights_bytes: bytes.len() as u64,
        parents: vec![],
        lineage: BTreeMap::new(),
        extra_files: BTreeMap::new(),
        evaluations: BTreeMap::new(),
        created_at: String::new(),
        spec: serde_json::Value::Null,
    }
}
