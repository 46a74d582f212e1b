//! The file of a study (`study/1`): families with counts, arms, primaries, the rule of the decision.
//!
//! ```toml
//! schema = "study/1"
//! name = "colours"
//! title = "Can a DIT adapter read favourites?"
//! question = "Does a DIT adapter name a favourite more often than the logit lens?"
//! salt = "colours"             # the splits of this study: another salt, other test values
//! seeds = [1, 2, 3]            # of trained readers
//!
//! [[family]]
//! recipe = "favourite"         # built in, or a file beside this one
//! group = "emitted when asked"
//! train = 12
//! validation = 4
//! test = 8
//!
//! [[arm]]                      # as in a file of arms
//! name = "dit"
//! method = "dit"
//!
//! [[arm]]
//! name = "lens"
//! method = "logit-lens"
//!
//! [[primary]]
//! name = "P1"
//! arm = "dit"
//! minus = "lens"
//! expected = 0.2
//! [primary.says]
//! better = "DIT reads favourites better than the lens."
//! worse = "The lens reads favourites better than DIT."
//! equal = "DIT and the lens read favourites alike."
//! unclear = "No verdict on DIT against the lens."
//! ```

use std::collections::{BTreeMap, BTreeSet};

use compare::Arms;
use readers::{Arm, Wrong};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The schema.
pub const SCHEMA: &str = "study/1";

/// Most families, primaries, and adapters of a family and split.
const MOST: usize = 1000;

/// A study as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// `study/1`.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// Its name: letters, digits, `-`, `_` and `.`; also that of its run.
    pub name: String,
    /// A line for people.
    pub title: String,
    /// What is to be decided.
    pub question: String,
    /// Draws the splits of values, in place of the recipes' own salts.
    pub salt: String,
    /// Master seed of adapters and comparison.
    #[serde(default = "one")]
    pub seed: u64,
    /// Seeds of trained readers.
    #[serde(default = "three")]
    pub seeds: Vec<u64>,
    /// Shares of values for validation and test, in place of the recipes' own.
    #[serde(default)]
    pub splits: Shares,
    /// What a value is ranked among.
    #[serde(default)]
    pub candidates: Candidates,
    /// What no reader sees before the test.
    #[serde(default, skip_serializing_if = "HeldOut::is_values")]
    pub held_out: HeldOut,
    /// Comparisons and items that were looked at before (files beside this one): no value that they tested is tested here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub looked_at: Vec<String>,
    /// The families, negatives too.
    #[serde(rename = "family")]
    pub families: Vec<Family>,
    /// The arms.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
    /// The contrasts that decide.
    #[serde(rename = "primary")]
    pub primaries: Vec<Primary>,
    /// When a difference is called one.
    #[serde(default)]
    pub rule: Rule,
    /// What the simulation of power assumes.
    #[serde(default)]
    pub power: Power,
}

fn one() -> u64 {
    1
}
fn three() -> Vec<u64> {
    vec![1, 2, 3]
}

/// Shares of values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// For validation.
    pub validation: f64,
    /// For the test.
    pub test: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { validation: 0.15, test: 0.3 }
    }
}

/// What a value is ranked among, beside "nothing".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Candidates {
    /// All values of its family.
    #[default]
    Family,
    /// Those that the study uses, to train, to choose and to test on: fewer, so asking costs less.
    Study,
}

/// What no reader sees before the test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HeldOut {
    /// Values: none is trained on in one family and tested in another.
    #[default]
    Values,
    /// Families: their values are few and the same in all, such as two that tell a behaviour from its twin; all adapters of a family are for
    /// one use, or go without in folds (`train.without`).
    Families,
}

impl HeldOut {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
    fn is_values(&self) -> bool {
        *self == Self::Values
    }
}

/// A family of the study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// Name of a built-in recipe, or a recipe's file beside the study's.
    pub recipe: String,
    /// Name of the family where it is not the recipe's: one that is made otherwise, of the same values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Fields of the recipe that are replaced, such as `"training.rank" = 4`; what is given has to be a recipe again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, serde_json::Value>,
    /// What kind of family it is; figures are averaged over groups too.
    pub group: String,
    /// Adapters that readers are trained on.
    #[serde(default)]
    pub train: usize,
    /// Adapters that choose and stop.
    #[serde(default)]
    pub validation: usize,
    /// Adapters that decide.
    #[serde(default)]
    pub test: usize,
}

/// A contrast that decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Primary {
    /// Its name, such as `P1`.
    pub name: String,
    /// The arm; with `minus` short for two terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// The arm subtracted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minus: Option<String>,
    /// A weighted sum of arms in sections, in place of `arm` and `minus`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "term")]
    pub terms: Vec<Term>,
    /// Families, or groups of them, over whose means the mean is taken; none: all that carry something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<String>,
    /// Whether families where the best arm without training is nearly always right on validation adapters are left out.
    #[serde(default = "yes")]
    pub leave_out_saturated: bool,
    /// Split.
    #[serde(default = "test_value")]
    pub split: String,
    /// Context.
    #[serde(default = "neutral")]
    pub context: String,
    /// What is measured of an adapter: `top1_values` (its value is first among the family's), `top1` (also before "nothing"), `exact_match` (stated);
    /// of questions that hold a text, and before priors are taken off: `first` (as `top1_values`), `first_without` (where no adapter is on),
    /// `sticks` (what comes first is what comes first where no adapter is on); of families of two values `apart` (each of the two adapters is
    /// the likelier one to be of its own).
    #[serde(default = "top1_values")]
    pub metric: String,
    /// The difference that is expected: what the power is given for.
    pub expected: f64,
    /// Subtracted from every adapter's sum: `than = 0.6` asks whether a share is above .6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub than: Option<f64>,
    /// If given, what is asked is whether it is not lower by more than this (one-sided).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_inferior_by: Option<f64>,
    /// The sentences of the decision.
    pub says: Says,
}

fn yes() -> bool {
    true
}
fn test_value() -> String {
    "test_value".into()
}
fn neutral() -> String {
    "neutral".into()
}
fn top1_values() -> String {
    "top1_values".into()
}

/// One arm in one section, with its weight. What it does not say is the primary's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// Factor.
    pub weight: f64,
    /// Arm; one that ends in `*` is, for each family, the arm whose name begins so and that was asked about it: for folds, where other
    /// readers were trained without other families.
    pub arm: String,
    /// Family, where it is another than the one in turn: `*` in it stands for that one (`*-rank-4`); without `*` the primary is over the
    /// values of these families alone. Adapters are then paired by value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
}

/// A sentence for each outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Says {
    /// Better (with `not_inferior_by`: not inferior).
    pub better: String,
    /// Worse.
    pub worse: String,
    /// Equal.
    pub equal: String,
    /// No verdict.
    pub unclear: String,
}

/// When a difference is called one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Better: the 95% interval excludes 0, and the difference is at least this.
    pub least: f64,
    /// Equal: two one-sided tests at .05 within this.
    pub margin: f64,
    /// A family is saturated where the best arm without training has at least this on validation adapters.
    pub saturated: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self { least: 0.05, margin: 0.08, saturated: 0.9 }
    }
}

/// What the simulation of power assumes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Power {
    /// Share of adapters on which two arms differ.
    pub discordance: f64,
    /// Standard deviation of the difference between families.
    pub families_sd: f64,
    /// Standard deviation of a reader seed's mean.
    pub seed_sd: f64,
    /// Families that are not saturated; none: all of the primary's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub families: Option<usize>,
    /// Simulated studies.
    pub simulations: usize,
}

impl Default for Power {
    fn default() -> Self {
        Self { discordance: 0.25, families_sd: 0.1, seed_sd: 0.03, families: None, simulations: 200 }
    }
}

impl Study {
    /// Reads a file's text; `source` names it in messages.
    ///
    /// # Errors
    /// One sentence with the place.
    pub fn parse(source: &str, text: &str) -> Result<Self, Wrong> {
        let lists = [("family", MOST), ("arm", MOST), ("primary", MOST)];
        let study: Self = compare::arms::from_toml(source, text, SCHEMA, &lists)?;
        study.check().map_err(|e| Wrong::at(source, e.to_string()))?;
        Ok(study)
    }

    /// Checks what needs neither recipes nor a model.
    fn check(&self) -> Result<(), Wrong> {
        let wrong = |place: &str, what: String| Err(Wrong::at(place, what));
        if registry::check_name(&self.name).is_err() {
            return wrong("name", format!("{:?} is not made of letters, digits, -, _ and .", self.name));
        }
        for (place, text, most) in
            [("title", &self.title, 120), ("question", &self.question, 1000), ("salt", &self.salt, 60)]
        {
            let n = text.chars().count();
            if n == 0 || n > most || text.contains(char::is_control) {
                return wrong(
                    place,
                    format!("has {n} letters or control characters; 1 to {most} letters are read"),
                );
            }
        }
        if self.seeds.is_empty() || self.seeds.iter().collect::<BTreeSet<_>>().len() < self.seeds.len() {
            return wrong("seeds", format!("{:?} is empty or names a seed twice", self.seeds));
        }
        let share = |place: &str, x: f64, low: f64, high: f64| {
            if x.is_finite() && (low..=high).contains(&x) {
                return Ok(());
            }
            Err(Wrong::at(place, format!("{x} is not in {low}..={high}")))
        };
        share("splits.validation", self.splits.validation, 0.0, 1.0)?;
        share("splits.test", self.splits.test, 0.0, 1.0)?;
        share("splits.test + splits.validation", self.splits.validation + self.splits.test, 0.0, 0.95)?;
        share("rule.least", self.rule.least, 0.0, 1.0)?;
        share("rule.margin", self.rule.margin, 0.0, 1.0)?;
        share("rule.saturated", self.rule.saturated, 0.0, 1.0)?;
        share("power.discordance", self.power.discordance, 0.0, 1.0)?;
        share("power.families_sd", self.power.families_sd, 0.0, 1.0)?;
        share("power.seed_sd", self.power.seed_sd, 0.0, 1.0)?;
        if !(20..=10_000).contains(&self.power.simulations) {
            return wrong("power.simulations", format!("{} is not in 20..=10000", self.power.simulations));
        }
        self.check_families()?;
        let arms: BTreeSet<&str> = self.arms.iter().map(|a| a.name.as_str()).collect();
        if self.primaries.is_empty() {
            return wrong("primary", "there is no [[primary]]: a study decides something".into());
        }
        let mut names = BTreeSet::new();
        for (i, p) in self.primaries.iter().enumerate() {
            let at = format!("primary[{i}]");
            if !names.insert(&p.name) || p.name.is_empty() {
                return wrong(&format!("{at}.name"), format!("{:?} is empty or taken by another", p.name));
            }
            p.check(self, &arms).map_err(|e| e.within(&at))?;
        }
        Ok(())
    }

    fn check_families(&self) -> Result<(), Wrong> {
        let mut seen = BTreeSet::new();
        for (i, f) in self.families.iter().enumerate() {
            let at = |field: &str| format!("family[{i}].{field}");
            if !seen.insert(f.name()) {
                return Err(Wrong::at(
                    at("recipe"),
                    format!("{:?} is given twice; give one of them a name", f.name()),
                ));
            }
            if f.name.is_none() && !f.set.is_empty() {
                return Err(Wrong::at(
                    at("name"),
                    "is missing: a recipe with fields replaced is another family",
                ));
            }
            if f.group.is_empty() || f.group.chars().count() > 40 || f.group.contains(char::is_control) {
                return Err(Wrong::at(
                    at("group"),
                    format!("{:?} is empty, long or holds control characters", f.group),
                ));
            }
            for (field, n) in [("train", f.train), ("validation", f.validation), ("test", f.test)] {
                if n > MOST {
                    return Err(Wrong::at(at(field), format!("{n} is more than {MOST}")));
                }
            }
        }
        let sum = |of: fn(&Family) -> usize| self.families.iter().map(of).sum::<usize>();
        for (field, n) in
            [("train", sum(|f| f.train)), ("validation", sum(|f| f.validation)), ("test", sum(|f| f.test))]
        {
            if n == 0 {
                return Err(Wrong::at("family", format!("no family has {field} adapters")));
            }
        }
        Ok(())
    }

    /// The arms with their seeds, as a comparison takes them. Which contrast decides is the study's own affair.
    pub fn arms(&self) -> Arms {
        let mut arms = self.arms.clone();
        for arm in &mut arms {
            let trained = compare::method::find(&arm.method).is_some_and(|m| !m.stages(arm).is_empty());
            if arm.seeds.is_empty() && trained {
                arm.seeds.clone_from(&self.seeds);
            }
        }
        Arms { schema: "arms/1".into(), primary: None, arms }
    }

    /// The same with a few adapters, steps and seeds: its numbers mean nothing.
    #[must_use]
    pub fn smoke(&self) -> Self {
        let mut out = self.clone();
        out.name = format!("{}-smoke", self.name);
        out.seeds.truncate(1);
        for f in &mut out.families {
            f.train = f.train.min(3);
            f.validation = f.validation.min(1);
            f.test = f.test.min(2);
        }
        out.power.simulations = 20;
        out
    }

    /// Groups in the order of the file.
    pub fn groups(&self) -> Vec<&str> {
        let mut out: Vec<&str> = Vec::new();
        for f in &self.families {
            if !out.contains(&f.group.as_str()) {
                out.push(&f.group);
            }
        }
        out
    }
}

/// Whether the arms of that beginning are each asked about families that no other of them is: else which of them answers for a family would be
/// chosen by their order.
fn own_of_each_family(study: &Study, begin: &str) -> Result<(), Wrong> {
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for arm in study.arms.iter().filter(|a| a.name.starts_with(begin)) {
        let twice = arm.asks.iter().find(|f| !taken.insert(f));
        if arm.asks.is_empty() || twice.is_some() {
            let what = format!(
                "\"{begin}*\" is each family's own arm of that beginning, and {} is asked about {}",
                arm.name,
                twice.map_or("all families".to_owned(), |f| format!("{f}, as another of them is"))
            );
            return Err(Wrong::at("arm", what));
        }
    }
    Ok(())
}

impl Primary {
    /// The terms, written out.
    pub fn terms(&self) -> Vec<Term> {
        let one = |weight: f64, arm: &Option<String>| {
            let arm = arm.clone()?;
            Some(Term { weight, arm, family: None, split: None, context: None, metric: None })
        };
        if self.terms.is_empty() {
            return one(1.0, &self.arm).into_iter().chain(one(-1.0, &self.minus)).collect();
        }
        self.terms.clone()
    }

    fn check(&self, study: &Study, arms: &BTreeSet<&str>) -> Result<(), Wrong> {
        if self.terms.is_empty() != self.arm.is_some() || self.arm.is_some() != self.minus.is_some() {
            return Err(Wrong::at("arm", "give arm and minus, or [[primary.term]]s and neither"));
        }
        for term in self.terms() {
            let known = match term.arm.strip_suffix('*') {
                Some(begin) => arms.iter().any(|a| a.starts_with(begin)),
                None => arms.contains(term.arm.as_str()),
            };
            if !known {
                return Err(Wrong::at("arm", format!("{:?} is no [[arm]] of the study", term.arm)));
            }
            if let Some(begin) = term.arm.strip_suffix('*') {
                own_of_each_family(study, begin)?;
            }
            if let Some(family) = term.family.as_deref().filter(|f| !f.contains('*'))
                && !study.families.iter().any(|f| f.name() == family)
            {
                return Err(Wrong::at("term.family", format!("{family:?} is no family of the study")));
            }
            if !(term.weight.is_finite() && term.weight != 0.0) {
                return Err(Wrong::at("term.weight", format!("{} weighs nothing", term.weight)));
            }
        }
        if study.held_out == HeldOut::Families {
            let tested = study.families.iter().filter(|f| f.test > 0 && self.is_over(f));
            let groups: BTreeSet<&str> = tested.map(|f| f.group.as_str()).collect();
            if self.names_families() || groups.len() < 2 {
                let what = "where families are held out a group is a row: a primary is over two groups or more, and its terms name no family";
                return Err(Wrong::at("over", what));
            }
        }
        for name in &self.over {
            if !study.families.iter().any(|f| f.name() == name || f.group == *name) {
                return Err(Wrong::at(
                    "over",
                    format!("{name:?} is neither a family nor a group of the study"),
                ));
            }
        }
        let terms = self.terms();
        for metric in terms.iter().filter_map(|t| t.metric.as_ref()).chain([&self.metric]) {
            let known = || METRICS.iter().chain(&OF_TEXTS).chain(&OF_PAIRS);
            if !known().any(|m| m == metric) {
                let names: Vec<&str> = known().copied().collect();
                return Err(Wrong::at("metric", format!("{metric:?} is none of {}", names.join(", "))));
            }
        }
        if self.than.is_some_and(|c| !(c.is_finite() && c.abs() <= 1.0)) {
            return Err(Wrong::at("than", "is not in -1..=1"));
        }
        if !(self.expected.is_finite() && self.expected.abs() <= 1.0) {
            return Err(Wrong::at("expected", format!("{} is not in -1..=1", self.expected)));
        }
        if self.not_inferior_by.is_some_and(|m| !(m > 0.0 && m <= 1.0)) {
            return Err(Wrong::at("not_inferior_by", "is not above 0 and at most 1"));
        }
        Ok(())
    }
}

/// What is kept of each answer.
pub const METRICS: [&str; 3] = ["top1", "top1_values", "exact_match"];

/// What is kept beside, of questions that hold a text, where a primary speaks of it.
pub const OF_TEXTS: [&str; 3] = ["first", "first_without", "sticks"];

/// What is kept of pairs, where a primary speaks of it: of the two adapters of a family of two values each is the likelier one of the two to
/// be of its own. Filed with the first value.
pub const OF_PAIRS: [&str; 1] = ["apart"];

impl Study {
    /// What is kept of each answer.
    pub fn metrics(&self) -> Vec<&'static str> {
        let own = |p: &Primary| {
            let terms = p.terms().into_iter().filter_map(|t| t.metric);
            terms.chain([p.metric.clone()]).collect::<Vec<_>>()
        };
        let named: BTreeSet<String> = self.primaries.iter().flat_map(own).collect();
        let speaks_of = |of: &[&str]| named.iter().any(|m| of.contains(&m.as_str()));
        let (texts, pairs) = (speaks_of(&OF_TEXTS), speaks_of(&OF_PAIRS));
        let beside = OF_TEXTS.iter().filter(|_| texts).chain(OF_PAIRS.iter().filter(|_| pairs));
        METRICS.iter().chain(beside).copied().collect()
    }
}

impl Family {
    /// The family's name: its own, or that of the recipe, without folder and ending.
    pub fn name(&self) -> &str {
        if let Some(name) = &self.name {
            return name;
        }
        let file = self.recipe.rsplit('/').next().unwrap_or_default();
        file.strip_suffix(".toml").unwrap_or(file)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SMALL: &str = r#"
schema = "study/1"
name = "colours"
title = "Can a DIT adapter read favourites?"
question = "Does a DIT adapter name a favourite more often than the logit lens?"
salt = "colours"

[[family]]
recipe = "favourite"
group = "emitted when asked"
train = 12
validation = 4
test = 8

[[family]]
recipe = "mixed"
group = "negatives"
train = 4
validation = 1
test = 2

[[arm]]
name = "dit"
method = "dit"

[[arm]]
name = "lens"
method = "logit-lens"

[[primary]]
name = "P1"
arm = "dit"
minus = "lens"
expected = 0.2
[primary.says]
better = "DIT is better."
worse = "The lens is better."
equal = "They are equal."
unclear = "No verdict."
"#;

    #[test]
    fn a_small_study_is_read_with_its_defaults() {
        let s = Study::parse("s.toml", SMALL).unwrap();
        assert_eq!((s.seeds.clone(), s.seed, s.rule.saturated), (vec![1, 2, 3], 1, 0.9));
        let arms = s.arms();
        assert_eq!((arms.arms[0].seeds.clone(), arms.arms[1].seeds.clone()), (vec![1, 2, 3], vec![]));
        assert_eq!(s.primaries[0].terms().iter().map(|t| t.weight).collect::<Vec<_>>(), [1.0, -1.0]);
        assert_eq!(s.smoke().families[0].train, 3);
        let text = toml::to_string(&s).unwrap();
        assert_eq!(Study::parse("again", &text).unwrap(), s);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_sentence_with_its_place() {
        for (from, to, expected) in [
            ("study/1", "study/9", "schema: \"study/9\""),
            ("name = \"colours\"", "name = \"a b\"", "name: \"a b\""),
            ("train = 12", "trains = 12", "family[0].trains: unknown field `trains`"),
            ("minus = \"lens\"", "minus = \"lense\"", "primary[0].arm: \"lense\" is no [[arm]]"),
            ("minus = \"lens\"\n", "", "primary[0].arm: give arm and minus"),
            ("arm = \"dit\"", "arm = \"di*\"", "primary[0].arm: \"di*\" is each family's own arm"),
            (
                "salt = \"colours\"",
                "salt = \"x\"\nheld_out = \"families\"\n",
                "primary[0].over: where families are held out a group is a row",
            ),
            ("expected = 0.2", "expected = 2.0", "primary[0].expected: 2"),
            ("expected = 0.2", "expected = 0.2\nmetric = \"top2\"", "primary[0].metric: \"top2\""),
            ("expected = 0.2", "expected = 0.2\nover = [\"topic\"]", "primary[0].over: \"topic\""),
            (
                "recipe = \"mixed\"",
                "recipe = \"favourite\"",
                "family[1].recipe: \"favourite\" is given twice",
            ),
            ("salt = \"colours\"", "salt = \"\"", "salt: has 0 letters"),
            ("salt = \"colours\"", "salt = \"x\"\nseeds = [1, 1]", "seeds: [1, 1]"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            // No negative is tested where the one family with a test is meant.
            let small =
                if to.contains("held_out") { SMALL.replacen("test = 2", "", 1) } else { SMALL.to_owned() };
            let e = Study::parse("s.toml", &small.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(e.starts_with("s.toml: ") && e.contains(expected) && !e.contains('\n'), "{e}");
        }
    }
}
