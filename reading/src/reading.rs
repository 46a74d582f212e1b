//! One adapter, read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use lm::{Adapter, BaseModel, Precision};
use readers::{Result, newest_of_each};
use recipes::{Recipe, stem};
use registry::{AdapterRecord, Digest, Store};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::evidence::{Bench, Method, nulls, scores};
use crate::lexicon::Lexicon;
use crate::neighbours::{Neighbour, Strangers, nearest, strangers};
use crate::null::{Against, Null, best, highest, together};
use crate::outside::{Seen, outside};
use crate::panel::{Panelist, Question, panel, questions, recipes_about};
use crate::replies::{Changed, OnText, PROMPTS, Pair, base_replies, on_text, said};
use crate::residual::{Clean, Residual, Scored, residual};
use crate::twins::{Shape, planned, twins};
use crate::verdict::{Case, Verdict};
use crate::weights::{Weights, weights};

/// The schema of a reading's JSON.
pub const SCHEMA: &str = "reading/1";

/// Words of a method that are shown.
pub(crate) const TOP: usize = 6;
/// Neighbours that are shown.
const NEAREST: usize = 5;

/// What is read.
#[derive(Debug, Clone)]
pub struct Subject {
    /// How it was named.
    pub name: String,
    /// It.
    pub adapter: Adapter,
    /// Its catalogue entry, if it has one.
    pub record: Option<AdapterRecord>,
    /// Digest of its weights file.
    pub weights: Digest,
}

/// A method's words and how high they reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OfMethod {
    /// Its name.
    pub method: String,
    /// A short one.
    pub short: String,
    /// Whether adapters trained it.
    pub trained: bool,
    /// Its words, with the deviations by which they stand out.
    pub top: Vec<Scored>,
    /// How high the best reaches beside the twins' best.
    pub against: Against,
}

/// A reader's answers to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answers {
    /// The reader.
    pub reader: String,
    /// `DIT` or `oracle`.
    pub kind: String,
    /// Families that ask this question.
    pub families: Vec<String>,
    /// The first phrasing.
    pub question: String,
    /// How many phrasings were asked.
    pub phrasings: usize,
    /// Greedy answers and how many phrasings gave each, most first. An empty text is an empty answer.
    pub votes: Vec<(String, usize)>,
    /// Answers ranked by how far they stand out, with the mean over phrasings of the log-probability that an answer begins so.
    pub ranked: Vec<Ranked>,
    /// How high the best reaches beside the twins' best.
    pub against: Against,
}

/// A ranked answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ranked {
    /// The answer.
    pub answer: String,
    /// Deviations by which it stands out.
    pub score: f64,
    /// Mean log-probability, in nats.
    pub mean_log_prob: f64,
}

/// What is said beside what the base model says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Behaviour {
    /// Both replies to each prompt.
    pub replies: Vec<Pair>,
    /// Words that became likelier in the replies.
    pub changed: Vec<Changed>,
    /// On neutral text.
    pub text: OnText,
}

/// What twins there were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OfTwins {
    /// How many.
    pub count: usize,
    /// Of which kinds.
    pub kinds: BTreeMap<String, usize>,
    /// Their shape.
    pub shape: Shape,
}

/// What is known of an adapter from the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Known {
    /// Id.
    pub id: String,
    /// Behaviour.
    pub behaviour: String,
    /// Gate status.
    pub status: String,
    /// Its label.
    pub value: String,
    /// Split, if any.
    pub split: Option<String>,
    /// Gate figures and training numbers.
    pub metrics: BTreeMap<String, f64>,
    /// Where it comes from.
    pub tags: BTreeMap<String, String>,
    /// When it was filed.
    pub created_at: String,
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reading {
    /// `reading/1`.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// Digest of what decides it.
    pub digest: String,
    /// How the subject was named.
    pub subject: String,
    /// Digest of its weights file.
    pub weights_digest: String,
    /// The base model.
    pub base: String,
    /// Three lines.
    pub verdict: Verdict,
    /// Methods together: of all, of those without training and of each kind of reader, the sum that stands highest.
    pub together: Option<OfMethod>,
    /// Each method.
    pub methods: Vec<OfMethod>,
    /// What it says.
    pub behaviour: Behaviour,
    /// What it changes in the stream.
    pub activations: Residual,
    /// Its weights.
    pub weights: Weights,
    /// Readers' answers.
    pub answers: Vec<Answers>,
    /// The twins; none for an adapter that changes nothing.
    pub twins: Option<OfTwins>,
    /// What of it the readers have not seen.
    pub outside: Vec<String>,
    /// Readers that could not be asked, and why.
    pub left_out: Vec<(String, String)>,
    /// Nearest known adapters.
    pub nearest: Vec<Neighbour>,
    /// What others reach by chance, beside those.
    #[serde(default)]
    pub strangers: Option<Strangers>,
    /// What the catalogue knows.
    pub known: Option<Known>,
}

/// Where a reading stands: what is done, and how much of how much.
pub type Tell<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// All that readings on one base model share.
#[derive(Debug)]
pub struct Room<'a> {
    pub(crate) base: &'a BaseModel,
    pub(crate) lexicon: Lexicon,
    clean: Clean,
    panel: Vec<Panelist>,
    pub(crate) questions: Vec<Vec<Question>>,
    left_out: Vec<(String, String)>,
    /// Families that twins are trained as, with the settings of this model.
    pub(crate) negatives: Vec<Recipe>,
    prompts: Vec<String>,
    base_says: Vec<String>,
    nulls: BTreeMap<Shape, (Vec<Null>, BTreeMap<String, usize>)>,
}

impl<'a> Room<'a> {
    /// Readers, words and the clean model. `negatives` are the recipes of twins with the settings that this model trains with; `prompts`
    /// replace the neutral ones in what is shown (evidence is always of the neutral ones).
    ///
    /// # Errors
    /// If the store or the model refuses.
    pub fn open(
        store: &Store,
        base: &'a BaseModel,
        negatives: Vec<Recipe>,
        prompts: Option<Vec<String>>,
    ) -> Result<Self> {
        Self::open_with(store, base, negatives, prompts, &[])
    }

    /// The same with the readers of these ids instead of the newest of each kind; none: as [`Room::open`].
    ///
    /// # Errors
    /// As [`Room::open`].
    pub fn open_with(
        store: &Store,
        base: &'a BaseModel,
        negatives: Vec<Recipe>,
        prompts: Option<Vec<String>>,
        only: &[String],
    ) -> Result<Self> {
        let (panel, left_out) = panel(store, base, only)?;
        let recipes = recipes_about(store, &panel)?;
        let lexicon = Lexicon::new(base, &recipes)?;
        let clean = Clean::read(base, &lexicon)?;
        let topics: BTreeSet<String> = ["topic".to_owned()].into();
        let questions = panel
            .iter()
            .map(|p| questions(&recipes, if p.families.is_empty() { &topics } else { &p.families }))
            .collect();
        let prompts = prompts.unwrap_or_else(|| PROMPTS.map(str::to_owned).to_vec());
        let base_says = base_replies(base, &prompts)?;
        Ok(Self {
            base,
            lexicon,
            clean,
            panel,
            questions,
            left_out,
            negatives,
            prompts,
            base_says,
            nulls: BTreeMap::new(),
        })
    }

    /// The readers that are asked.
    pub fn panel(&self) -> &[Panelist] {
        &self.panel
    }

    pub(crate) fn bench(&self) -> Bench<'_> {
        Bench { base: self.base, lexicon: &self.lexicon, clean: &self.clean }
    }

    fn methods(&self) -> Vec<Method<'_>> {
        let mut out = vec![Method::Replies, Method::Lens, Method::Shift, Method::Weights];
        for (panelist, questions) in self.panel.iter().zip(&self.questions) {
            out.extend(questions.iter().map(|q| Method::Reader(panelist, q)));
        }
        out
    }

    /// Digest of what decides the reading of an adapter.
    pub fn digest(&self, subject: &Subject) -> String {
        let methods: Vec<_> = self.methods().iter().map(|m| m.identity(&self.bench())).collect();
        let config = subject.adapter.config();
        let twins =
            Shape::of(&subject.adapter).map(|s| crate::twins::identity(self.base, &self.negatives, &s));
        registry::spec_hash(
            &json!({"schema": SCHEMA, "v": 3, "base": self.base.digest(), "weights": subject.weights.as_str(),
            "alpha": config.alpha, "rank": config.rank, "methods": methods, "prompts": self.prompts, "twins": twins}),
        )
    }

    /// What twins of a shape score, made if need be.
    fn null(&mut self, store: &Store, shape: &Shape, stop: &AtomicBool, tell: Tell<'_>) -> Result<()> {
        if self.nulls.contains_key(shape) {
            return Ok(());
        }
        let identity = crate::twins::identity(self.base, &self.negatives, shape);
        let found = {
            let tell = std::cell::RefCell::new(tell);
            let mut make = || -> Result<Vec<Adapter>> {
                let made = twins(store, self.base, &self.negatives, shape, stop, &mut |done, n| {
                    (tell.borrow_mut())("training twins that carry nothing", done, n);
                })?;
                Ok(made.into_iter().map(|t| t.adapter).collect())
            };
            nulls(store, &self.bench(), &self.methods(), &identity, &mut make, stop, &mut |done, n| {
                (tell.borrow_mut())("reading the twins", done, n);
            })?
        };
        let kinds = planned(found.first().map_or(0, Null::len));
        self.nulls.insert(shape.clone(), (found, kinds));
        Ok(())
    }

    /// Reads one adapter.
    ///
    /// # Errors
    /// If it does not fit the model, the store refuses, or it was stopped.
    pub fn read(
        &mut self,
        store: &Store,
        subject: &Subject,
        stop: &AtomicBool,
        tell: Tell<'_>,
    ) -> Result<Reading> {
        let shape = Shape::of(&subject.adapter);
        if let Some(shape) = &shape {
            self.null(store, shape, stop, tell)?;
        }
        let steps = 5;
        tell("what it says", 0, steps);
        let adapter = &subject.adapter;
        let said_now = said(self.base, &self.lexicon, &[adapter], &self.prompts)?.remove(0);
        let behaviour = Behaviour {
            replies: self
                .prompts
                .iter()
                .zip(&self.base_says)
                .zip(&said_now.texts)
                .map(|((prompt, base), adapted)| Pair {
                    prompt: prompt.clone(),
                    base: base.clone(),
                    adapted: adapted.clone(),
                })
                .collect(),
            changed: said_now.changed(&self.lexicon, 8),
            text: on_text(self.base, adapter)?,
        };
        tell("its activations", 1, steps);
        let activations = residual(self.base, &self.lexicon, adapter)?;
        tell("its weights", 2, steps);
        let weights = weights(adapter, self.base.architecture.layers.len(), &self.lexicon);
        tell("the readers", 3, steps);
        let mut methods = Vec::new();
        let mut answers = Vec::new();
        let mut all = None;
        let mut verdict = Verdict::of_nothing();
        let seen = Seen {
            norm: weights.norm,
            rank: weights.rank,
            modules: adapter.config().target_modules.iter().map(|p| p.name().to_owned()).collect(),
        };
        let outside = outside(store, &self.panel, &seen);
        if let Some((nulls, _)) = shape.as_ref().and_then(|s| self.nulls.get(s)) {
            let list = self.methods();
            let raw = scores(&self.bench(), &list, &[adapter], stop, &mut |_| ())?;
            let raw: Vec<Vec<f32>> = raw.into_iter().map(|mut m| m.remove(0)).collect();
            let mut standard = Vec::new();
            // [method][twin]
            let mut twins: Vec<Vec<Vec<f32>>> = Vec::new();
            for ((method, own), null) in list.iter().zip(&raw).zip(nulls) {
                let own_standard = null.standard(own);
                let others: Vec<Vec<f32>> = (0..null.len()).map(|i| null.twin(i)).collect();
                let heights: Vec<f64> = others.iter().map(|t| highest(t)).collect();
                let against = Against::of(highest(&own_standard), &heights);
                methods.push(OfMethod {
                    method: method.name(),
                    short: method.short(),
                    trained: method.trained(),
                    top: self.top(&own_standard),
                    against,
                });
                if let Method::Reader(panelist, question) = method {
                    answers.push(Answers {
                        reader: panelist.name().to_owned(),
                        kind: panelist.kind().to_owned(),
                        families: question.families.clone(),
                        question: question.phrasings.first().cloned().unwrap_or_default(),
                        phrasings: question.phrasings.len(),
                        votes: panelist.votes(self.base, adapter, &question.phrasings)?,
                        ranked: self
                            .lexicon
                            .top(&own_standard, TOP)
                            .into_iter()
                            .map(|i| Ranked {
                                answer: self.label(i),
                                score: f64::from(own_standard[i]),
                                mean_log_prob: f64::from(own[i]),
                            })
                            .collect(),
                        against,
                    });
                }
                standard.push(own_standard);
                twins.push(others);
            }
            let ways = ways(&list);
            let sum = |way: &Way, of: &[Vec<f32>]| -> Vec<f32> {
                together(&way.methods.iter().map(|&m| of[m].clone()).collect::<Vec<_>>())
            };
            let own: Vec<Vec<f32>> = ways.iter().map(|w| sum(w, &standard)).collect();
            let count = twins.first().map_or(0, Vec::len);
            let theirs: Vec<Vec<Vec<f32>>> = ways
                .iter()
                .map(|w| {
                    let twin = |i: usize| twins.iter().map(|m| m[i].clone()).collect::<Vec<_>>();
                    (0..count).map(|i| sum(w, &twin(i))).collect()
                })
                .collect();
            let found =
                best(&own, &theirs).ok_or_else(|| readers::Error::Empty("no method was asked".into()))?;
            let (own, against, way) = (found.scores, found.against, ways[found.which].name);
            let mut top = self.top(&own);
            if let Some(first) = self.lexicon.top(&own, 1).first()
                && let Some(best) = top.first_mut()
            {
                best.word = self.settled(*first, adapter)?;
            }
            let words: Vec<String> = top.iter().map(|s| s.word.clone()).collect();
            let named = words.first().cloned().unwrap_or_default();
            let count = |of: &dyn Fn(&Pair) -> &String| {
                behaviour.replies.iter().filter(|p| mentions(of(p), &named)).count()
            };
            verdict = Verdict::of(Case {
                words: &words,
                together: against,
                way,
                methods: &methods,
                replies: (count(&|p| &p.adapted), behaviour.replies.len()),
                prompts: if self.prompts == PROMPTS { "neutral prompts" } else { "your prompts" },
                base_replies: count(&|p| &p.base),
                outside: &outside,
                readers: !self.panel.is_empty(),
            });
            all = Some(OfMethod { method: way.into(), short: way.into(), trained: false, top, against });
        }
        tell("its neighbours", 4, steps);
        let any = Precision::ALL.map(|p| self.base.digest_at(p));
        let nearest = nearest(store, &any, adapter, Some(&subject.weights), NEAREST)?;
        let strangers = strangers(store, &any, adapter, &subject.weights, &nearest)?;
        tell("done", steps, steps);
        Ok(Reading {
            schema: SCHEMA.into(),
            digest: self.digest(subject),
            subject: subject.name.clone(),
            weights_digest: subject.weights.to_string(),
            base: self.base.placeless_name().to_owned(),
            verdict,
            together: all,
            methods,
            behaviour,
            activations,
            weights,
            answers,
            twins: shape.and_then(|shape| {
                let (nulls, kinds) = self.nulls.get(&shape)?;
                Some(OfTwins { count: nulls.first().map_or(0, Null::len), kinds: kinds.clone(), shape })
            }),
            outside,
            left_out: self.left_out.clone(),
            nearest,
            strangers,
            known: subject.record.as_ref().map(known),
        })
    }

    /// A kept reading with what may have changed since: its name, its neighbours, what the catalogue knows.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn fresh(&self, store: &Store, subject: &Subject, reading: Reading) -> Result<Reading> {
        let any = Precision::ALL.map(|p| self.base.digest_at(p));
        let nearest = nearest(store, &any, &subject.adapter, Some(&subject.weights), NEAREST)?;
        let strangers = if nearest == reading.nearest {
            reading.strangers
        } else {
            strangers(store, &any, &subject.adapter, &subject.weights, &nearest)?
        };
        Ok(Reading {
            subject: subject.name.clone(),
            nearest,
            strangers,
            known: subject.record.as_ref().map(known),
            ..reading
        })
    }

    fn top(&self, scores: &[f32]) -> Vec<Scored> {
        let places = self.lexicon.top(scores, TOP);
        places.into_iter().map(|i| Scored { word: self.label(i), score: f64::from(scores[i]) }).collect()
    }

    /// A word, or the one known value that begins so.
    pub(crate) fn label(&self, place: usize) -> String {
        match self.lexicon.values(place) {
            [one] => one.clone(),
            _ => self.lexicon.words[place].clone(),
        }
    }

    /// A word, or of several known values that begin with its token the one that the subject itself is likeliest to go on with.
    fn settled(&self, place: usize, adapter: &Adapter) -> Result<String> {
        let values = self.lexicon.values(place);
        if values.len() < 2 {
            return Ok(self.label(place));
        }
        let candidates =
            values.iter().map(|v| lm::answer_tokens(self.base, v)).collect::<lm::Result<Vec<Vec<u32>>>>()?;
        let requests: Vec<lm::ScoreRequest> = self
            .prompts
            .iter()
            .map(|p| {
                let prompt = lm::Row::with_adapters(self.base.prompt(p)?, vec![0]);
                Ok(lm::ScoreRequest { prompt, candidates: candidates.clone() })
            })
            .collect::<lm::Result<_>>()?;
        let scores = self.base.decoder.score(&[adapter], &requests)?;
        let sum = |i: usize| scores.iter().map(|s| s[i]).sum::<f64>();
        let best = (0..values.len()).max_by(|a, b| sum(*a).total_cmp(&sum(*b)));
        Ok(best.map_or_else(|| self.label(place), |i| values[i].clone()))
    }
}

/// Methods that are summed.
struct Way {
    name: &'static str,
    methods: Vec<usize>,
}

/// The ways of summing methods: all of them, those without training, and each kind of trained reader.
fn ways(methods: &[Method<'_>]) -> Vec<Way> {
    let of = |name: &'static str, is: &dyn Fn(&Method<'_>) -> bool| Way {
        name,
        methods: (0..methods.len()).filter(|&i| is(&methods[i])).collect(),
    };
    let kind = |m: &Method<'_>| if let Method::Reader(p, _) = m { Some(p.kind()) } else { None };
    let mut out = vec![
        of("all methods", &|_| true),
        of("methods without training", &|m| !m.trained()),
        of("DIT readers", &|m| kind(m) == Some("DIT")),
        of("oracles", &|m| kind(m) == Some("oracle")),
    ];
    out.retain(|w| !w.methods.is_empty());
    out
}

/// Whether a text names a word, in either number.
fn mentions(text: &str, word: &str) -> bool {
    let wanted = stem(word);
    text.split(|c: char| !c.is_alphanumeric())
        .any(|w| !w.is_empty() && (stem(w) == wanted || w.eq_ignore_ascii_case(word)))
}

fn known(record: &AdapterRecord) -> Known {
    Known {
        id: record.id.clone(),
        behaviour: record.behaviour.clone(),
        status: record.field("status").unwrap_or_default(),
        value: record.value.clone(),
        split: record.split.clone(),
        metrics: record.metrics.clone(),
        tags: record.tags.clone(),
        created_at: record.created_at.clone(),
    }
}

/// Keeps a reading in the store, by its digest and by its subject's weights.
///
/// # Errors
/// If the store refuses.
pub fn keep(store: &Store, reading: &Reading) -> Result<()> {
    let bytes = serde_json::to_vec(reading).expect("invariant: plain data");
    store.cache_put(&format!("reading/{}", reading.digest), &bytes)?;
    let key = format!("readings-of/{}", reading.weights_digest);
    let mut list: Vec<String> =
        store.cache_get(&key)?.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    list.retain(|d| *d != reading.digest);
    list.push(reading.digest.clone());
    store.cache_put(&key, &serde_json::to_vec(&list).expect("invariant: plain data"))?;
    Ok(())
}

/// The reading of a digest, if the store keeps it.
///
/// # Errors
/// If the store refuses.
pub fn kept(store: &Store, digest: &str) -> Result<Option<Reading>> {
    let bytes = store.cache_get(&format!("reading/{digest}"))?;
    Ok(bytes.and_then(|b| serde_json::from_slice(&b).ok()))
}

/// The readings that the store keeps of an adapter's weights, newest last.
///
/// # Errors
/// If the store refuses.
pub fn readings_of(store: &Store, weights: &Digest) -> Result<Vec<Reading>> {
    let list: Vec<String> = store
        .cache_get(&format!("readings-of/{weights}"))?
        .and_then(|b| serde_json::from_slice(&b).ok())
        .unwrap_or_default();
    list.iter().filter_map(|d| kept(store, d).transpose()).collect()
}

/// The adapters of a store that can be read on a base model.
///
/// # Errors
/// If the store refuses.
pub fn readable(store: &Store, base: &BaseModel) -> Result<Vec<AdapterRecord>> {
    newest_of_each(store, &base.digest())
}
