//! The file of arms (`arms/1`): what a comparison compares, as data.
//!
//! ```toml
//! schema = "arms/1"
//!
//! [primary]                  # the one contrast that is declared beforehand
//! arm = "oracle-posttrained"
//! minus = "dit"
//! family = "gated-topic"
//! split = "test_value"
//! context = "neutral"
//! metric = "top1"
//!
//! [[arm]]
//! name = "oracle-raw-20"
//! method = "oracle"
//! reader = "scratch"
//! input = { layers = [20, 27], scaling = "raw" }
//! train = { steps = 96 }
//! seeds = [1, 2, 3]
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use lm::Outline;
use oracle_posttrain::Collector;
use readers::{Arm, Which, Wrong};
use recipes::{Context, Polarity, Recipe};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::comparison::Primary;
use crate::method;

/// A file of arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arms {
    /// `arms/1`.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// The one contrast that is declared beforehand; all others are exploratory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<Primary>,
    /// The arms.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
}

/// The default comparison.
pub const DEFAULT: &str = include_str!("../arms/default.toml");

/// The schema.
const SCHEMA: &str = "arms/1";

/// Where an arm's reader comes from, if it names one that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// In the catalogue.
    Named(String),
    /// A folder on disk.
    Folder(std::path::PathBuf),
}

/// Arms of one comparison.
const MOST_ARMS: usize = 1000;

/// Reads a TOML file that names its schema and whose lists have bounds; `source` names it in messages.
///
/// # Errors
/// One sentence with the place.
pub fn from_toml<T: DeserializeOwned>(
    source: &str,
    text: &str,
    schema: &str,
    lists: &[(&str, usize)],
) -> Result<T, Wrong> {
    let table: toml::Table =
        toml::from_str(text).map_err(|e| Wrong::at(source, e.message().replace('\n', " ")))?;
    match table.get("schema").and_then(toml::Value::as_str) {
        Some(found) if found == schema => {}
        Some(other) => return Err(Wrong::at(source, format!("schema: {other:?}; \"{schema}\" is read"))),
        None => return Err(Wrong::at(source, format!("schema: is missing; give \"{schema}\""))),
    }
    for (list, most) in lists {
        let n = table.get(*list).and_then(toml::Value::as_array).map_or(0, Vec::len);
        if n > *most {
            return Err(Wrong::at(source, format!("{list}: there are {n}, more than {most}")));
        }
    }
    serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
        let place = e.path().to_string();
        let message = e.into_inner().message().replace('\n', " ");
        Wrong::at(source, if place == "." { message } else { format!("{place}: {message}") })
    })
}

impl Arms {
    /// Reads a file's text; `source` names it in messages.
    ///
    /// # Errors
    /// One sentence with the place.
    pub fn parse(source: &str, text: &str) -> Result<Self, Wrong> {
        from_toml(source, text, SCHEMA, &[("arm", MOST_ARMS)])
    }

    /// Checks everything that can be checked without weights.
    ///
    /// # Errors
    /// The first place that is wrong, as `arm[2].input.layers[0]`.
    pub fn check(&self, outline: &Outline, recipes: &[Recipe]) -> Result<(), Wrong> {
        let mut names = BTreeSet::new();
        if self.arms.is_empty() {
            return Err(Wrong::at("arm", "there is no [[arm]]"));
        }
        for (i, arm) in self.arms.iter().enumerate() {
            let at = format!("arm[{i}]");
            let wrong = |field: &str, what: String| Err(Wrong::at(format!("{at}.{field}"), what));
            if registry::check_name(&arm.name).is_err() {
                let what = format!("{:?} is not made of letters, digits, -, _ and .", arm.name);
                return wrong("name", what);
            }
            if !names.insert(&arm.name) {
                return wrong("name", format!("{:?} is taken by another arm", arm.name));
            }
            let Some(method) = method::find(&arm.method) else {
                let known: Vec<&str> = method::METHODS.iter().map(|m| m.name()).collect();
                return wrong(
                    "method",
                    format!("{:?} is unknown; there are {}", arm.method, known.join(", ")),
                );
            };
            arm.check(outline).map_err(|e| e.within(&at))?;
            method.check(arm, outline).map_err(|e| e.within(&at))?;
            let depths = method.depths(arm);
            if !depths.is_empty() {
                Collector::of(&arm.input, outline, &depths)
                    .plan(outline, "x")
                    .map_err(|e| Wrong::at(format!("{at}.input"), e.to_string()))?;
            }
            let mut seeds = BTreeSet::new();
            if let Some(seed) = arm.seeds.iter().find(|s| **s == 0 || !seeds.insert(**s)) {
                let what = if *seed == 0 { "0 is no seed; they begin at 1" } else { "is given twice" };
                return wrong("seeds", format!("{seed}: {what}"));
            }
            for family in arm.train.at_most.keys() {
                if !recipes.iter().any(|r| r.name == *family) {
                    return wrong(
                        &format!("train.at_most.{family}"),
                        "no adapter of this comparison is of that family".into(),
                    );
                }
            }
            for (j, family) in arm.asks.iter().enumerate() {
                if !recipes.iter().any(|r| r.name == *family) {
                    return wrong(
                        &format!("asks[{j}]"),
                        format!("{family:?} is no family of this comparison"),
                    );
                }
            }
            for family in &arm.train.without {
                if !recipes.iter().any(|r| r.name == *family) {
                    let what = format!("{family:?}: no adapter of this comparison is of that family");
                    return wrong("train.without", what);
                }
                if method.needs_labels() {
                    let what = format!("method {:?} needs labels of {family:?}", arm.method);
                    return wrong("train.without", what);
                }
            }
            let taught =
                |r: &&Recipe| r.polarity == Polarity::Positive && !arm.train.without.contains(&r.name);
            if !arm.train.without.is_empty() && !recipes.iter().any(|r| taught(&r)) {
                return wrong("train.without", "leaves no family to train on".into());
            }
            for (field, contexts) in [("contexts", &arm.contexts), ("train.contexts", &arm.train.contexts)] {
                for (j, context) in contexts.iter().enumerate() {
                    if *context != Context::Neutral && !recipes.iter().any(|r| r.contexts().contains(context))
                    {
                        return wrong(
                            &format!("{field}[{j}]"),
                            format!("{:?}: no family of this comparison has that context", context.name()),
                        );
                    }
                    let reads = matches!(context, Context::Acting | Context::Idle | Context::Told);
                    if reads && method.depths(arm).is_empty() {
                        return wrong(
                            &format!("{field}[{j}]"),
                            format!(
                                "{:?}: method {:?} reads no activations, so it is asked the same everywhere",
                                context.name(),
                                arm.method
                            ),
                        );
                    }
                }
            }
        }
        if let Some(p) = &self.primary {
            for (field, arm) in [("arm", &p.arm), ("minus", &p.minus)] {
                if !names.contains(arm) {
                    return Err(Wrong::at(
                        format!("primary.{field}"),
                        format!("{arm:?} is no arm of this file"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The same without what these families lack: contexts that they do not have, and a declared contrast about a family that is not
    /// there. For the default comparison, which is of whatever a store has.
    pub fn about(mut self, recipes: &[Recipe]) -> Self {
        let has = |c: &Context| *c == Context::Neutral || recipes.iter().any(|r| r.contexts().contains(c));
        for arm in &mut self.arms {
            arm.contexts.retain(has);
            arm.train.contexts.retain(has);
        }
        self.primary = self.primary.filter(|p| recipes.iter().any(|r| r.name == p.family));
        self
    }

    /// The readers that arms name and that must exist.
    pub fn known(&self) -> Vec<(usize, Known)> {
        let of = |arm: &Arm| match arm.which() {
            Which::Known(name) if Path::new(name).is_dir() => Some(Known::Folder(name.into())),
            Which::Known(name) => Some(Known::Named(name.to_owned())),
            _ => None,
        };
        self.arms.iter().enumerate().filter_map(|(i, arm)| Some((i, of(arm)?))).collect()
    }

    /// The same arms with a few steps each, for smoke runs.
    pub fn smoke(mut self) -> Self {
        for arm in &mut self.arms {
            arm.train = readers::Train {
                steps: 4,
                tflop: None,
                rank: 2,
                batch: 8,
                warmup_steps: 2,
                evaluate_every: 4,
                ..arm.train.clone()
            };
            arm.pretrain = readers::Pretrain { steps: 4, evaluate_every: 4, ..arm.pretrain.clone() };
        }
        self
    }

    /// Gives arms without seeds of their own as many as asked for; arms that need none keep none.
    pub fn with_seeds(mut self, count: usize) -> Self {
        for arm in &mut self.arms {
            let fits = method::find(&arm.method).is_some_and(|m| !m.stages(arm).is_empty());
            if !fits {
                arm.seeds = vec![];
            } else if arm.seeds.is_empty() {
                arm.seeds = (1..=count as u64).collect();
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lm::Precision;

    use super::*;

    fn outline() -> Outline {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        Outline::load(&tiny, Precision::F32).unwrap()
    }

    fn refused(text: &str) -> String {
        let text = format!("schema = \"arms/1\"\n{text}");
        let topic = vec![recipes::builtin().into_iter().find(|r| r.name == "topic").unwrap()];
        match Arms::parse("mine.toml", &text) {
            Err(e) => e.to_string(),
            Ok(arms) => arms.check(&outline(), &topic).unwrap_err().to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let arm = |rest: &str| format!("[[arm]]\nname = \"a\"\n{rest}");
        for (text, parts) in [
            (arm("method = \"magic\""), ["arm[0].method", "magic", "logit-lens"]),
            (arm("method = \"oracle\"\ninput = { layers = [99] }"), ["arm[0].input.layers[0]", "99", "beyond"]),
            (arm("method = \"dit\"\nseeds = [0]"), ["arm[0].seeds", "0", "begin at 1"]),
            (arm("method = \"dit\"\ncontexts = [\"triggered\"]"), ["arm[0].contexts[0]", "triggered", "trigger"]),
            (arm("method = \"dit\"\nreader = \"posttrained\""), ["arm[0].reader", "scratch", "DIT"]),
            (arm("method = \"prior\"\nreader = \"x\""), ["arm[0].reader", "x", "no readers"]),
            (arm("method = \"dit\"\n[[arm]]\nname = \"a\"\nmethod = \"dit\""), ["arm[1].name", "\"a\"", "taken"]),
            (arm("method = \"dit\"\ntrain = { stepz = 3 }"), ["arm[0].train", "stepz", "unknown"]),
            (arm("method = \"dit\"\ntrain = { steps = 0 }"), ["arm[0].train.steps", "0", "1..="]),
            (arm("method = \"dit\"\ntrain = { at_most = { marsh = 3 } }"), ["arm[0].train.at_most.marsh", "family", "comparison"]),
            (arm("method = \"dit\"\nasks = [\"marsh\"]"), ["arm[0].asks[0]", "marsh", "comparison"]),
            (arm("method = \"dit\"\ntrain = { without = [\"marsh\"] }"), ["arm[0].train.without", "marsh", "comparison"]),
            (arm("method = \"dit\"\ntrain = { without = [\"topic\"] }"), ["arm[0].train.without", "no family", "train on"]),
            (arm("method = \"nearest\"\ntrain = { without = [\"topic\"] }"), ["arm[0].train.without:", "method \"nearest\" needs labels", "of \"topic\""]),
            (arm("method = \"ridge\"\ntrain = { without = [\"topic\"] }"), ["arm[0].train.without:", "\"ridge\"", "needs labels"]),
            (arm("method = \"dit\"\nreader = \"x\"\ntrain = { without = [\"topic\"] }"), ["arm[0].train.without", "\"topic\"", "\"x\""]),
            (arm("method = \"oracle\"\npretrain = { context = 0.5 }"), ["arm[0].pretrain", "1.35", "sum"]),
            ("[primary]\narm = \"x\"\nminus = \"a\"\nfamily = \"topic\"\nsplit = \"test_value\"\ncontext = \"neutral\"\nmetric = \"top1\"\n".to_owned() + &arm("method = \"dit\""), ["primary.arm", "x", "no arm"]),
        ] {
            let said = refused(&text);
            for part in parts {
                assert!(said.contains(part), "{part:?} is not in {said:?}");
            }
        }
        assert!(Arms::parse("x", "schema = \"arms/9\"").unwrap_err().to_string().contains("arms/9"));
    }

    #[test]
    fn an_arm_that_leaves_no_family_out_is_spelled_as_before() {
        let spelled = |arm: &Arm| serde_json::to_value(arm).unwrap();
        let mut arm = Arm::of("dit");
        let plain = spelled(&arm);
        assert!(plain["train"].is_object() && plain["train"].get("without").is_none());
        arm.train.without.insert("topic".into());
        assert_eq!(spelled(&arm.made_by())["train"]["without"], serde_json::json!(["topic"]));
        // Another reader, by what decides how it comes out.
        assert_ne!(
            registry::spec_hash(&spelled(&arm.made_by())),
            registry::spec_hash(&spelled(&Arm::of("dit").made_by()))
        );
        let back: Arm = serde_json::from_value(spelled(&arm)).unwrap();
        assert_eq!(back, arm);
    }

    #[test]
    fn the_default_arms_are_good_and_only_trained_arms_have_seeds() {
        let arms = Arms::parse("default.toml", DEFAULT).unwrap();
        arms.check(&outline(), &recipes::builtin()).unwrap();
        let seeded = arms.with_seeds(3);
        for arm in &seeded.arms {
            let trained = method::find(&arm.method).unwrap().trained();
            assert_eq!(arm.seeds.len(), if trained { 3 } else { 0 }, "{}", arm.name);
        }
    }
}
