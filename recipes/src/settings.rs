//! A settings file (`settings/1`): what replaces the training settings of recipes on one base model. Learning rates and numbers of
//! steps do not carry over from one model to another; everything else of a recipe does. `recipes/README.md` documents it for users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::recipe::{Recipe, Training};
use crate::{Error, Result, place};

/// What a file says that it is.
pub const SETTINGS_SCHEMA: &str = "settings/1";

/// Recipes of one file.
const MOST_RECIPES: usize = 200;
/// Settings that were tried for one recipe.
const MOST_TRIED: usize = 1000;
/// Most letters of a model's name.
pub const LONGEST_NAME: usize = 300;

/// Training settings that were found on one base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `settings/1`.
    #[schemars(extend("const" = SETTINGS_SCHEMA))]
    pub schema: String,
    /// The model.
    pub model: OnModel,
    /// What is replaced, by recipe.
    #[serde(default, rename = "recipe")]
    pub recipes: Vec<ForRecipe>,
}

/// The base model that settings are for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnModel {
    /// What others find it by.
    pub name: String,
    /// Its digest at `f32`, as hexadecimal digits: then no other model is meant, whatever it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// What replaces the settings of one recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForRecipe {
    /// Its name.
    pub name: String,
    /// Its version: with another one it means something else, and needs other settings.
    pub version: u32,
    /// What is replaced.
    pub training: Overrides,
    /// How it was found, if `recipe tune` did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

/// Fields of [`Training`] that are replaced; what is left out stays the recipe's. The adapter's shape (rank, alpha, modules) is not
/// among them: adapters of a family and its negatives are compared, and have one shape.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Peak learning rate of Adam.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Share of it left at the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_share: Option<f64>,
    /// Optimiser steps, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// An adapter whose loss has come down to this stops early. 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_at_loss: Option<f64>,
    /// Rows with the behaviour in a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_rows: Option<usize>,
    /// Distinct prompts among those rows. 0: each reply under its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts_per_step: Option<usize>,
    /// Near-miss rows in a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_rows: Option<usize>,
    /// Rows without trigger in a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_rows: Option<usize>,
    /// Factor of the KL term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_weight: Option<f32>,
}

impl Overrides {
    /// Puts what is given into a recipe's settings.
    pub fn put_into(&self, training: &mut Training) {
        fn put<T: Copy>(from: Option<T>, into: &mut T) {
            *into = from.unwrap_or(*into);
        }
        put(self.learning_rate, &mut training.learning_rate);
        put(self.final_share, &mut training.final_share);
        put(self.steps, &mut training.steps);
        put(self.stop_at_loss, &mut training.stop_at_loss);
        put(self.on_rows, &mut training.on_rows);
        put(self.prompts_per_step, &mut training.prompts_per_step);
        put(self.near_rows, &mut training.near_rows);
        put(self.off_rows, &mut training.off_rows);
        put(self.kl_weight, &mut training.kl_weight);
    }
}

/// How settings were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// When, in RFC 3339.
    pub when: String,
    /// The version of lorafab.
    pub lorafab: String,
    /// Precision of the model's products.
    pub precision: String,
    /// Master seed.
    pub seed: u64,
    /// Behaviours of the validation split that every setting was tried on.
    pub behaviours: usize,
    /// Every setting that was tried, in order.
    pub tried: Vec<Tried>,
}

/// One setting, and what came of it: means over its behaviours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// What was tried.
    pub setting: Overrides,
    /// Behaviours whose adapter passed its gate.
    pub learned: usize,
    /// Share of replies that show the behaviour where it should show.
    pub gate: f64,
    /// Share of replies that show it where it should not: the larger of near and off. None if the recipe has no such prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak: Option<f64>,
    /// The largest leak of a set of prompts, in nats, if the recipe measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak_nats: Option<f64>,
    /// `KL(base || adapted)` in nats a token, on the base model's own replies where the behaviour should not show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<f64>,
    /// Training tokens of an adapter.
    pub tokens: f64,
    /// Seconds of an adapter in its batch, gate included.
    pub seconds: f64,
}

impl Settings {
    /// Reads and checks a file; `source_name` is used in messages. Whether the numbers are in their ranges shows when they are put into
    /// a recipe ([`Settings::put_into`]).
    ///
    /// # Errors
    /// [`Error::Syntax`] or [`Error::Field`], with the file, the field and the value.
    pub fn parse(source_name: &str, text: &str) -> Result<Self> {
        let settings: Self = toml::from_str(text).map_err(|e| Error::Syntax {
            source_name: source_name.into(),
            what: place::describe(text, &e),
        })?;
        settings.check(source_name)?;
        Ok(settings)
    }

    fn check(&self, source_name: &str) -> Result<()> {
        let fail =
            |field: String, what: String| Err(Error::Field { source_name: source_name.into(), field, what });
        if self.schema != SETTINGS_SCHEMA {
            return fail("schema".into(), format!("{:?} is not {SETTINGS_SCHEMA:?}", self.schema));
        }
        let name = &self.model.name;
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return fail(
                "model.name".into(),
                format!("{name:?} is empty, too long or holds control characters"),
            );
        }
        if let Some(digest) = &self.model.digest
            && (digest.len() != 64 || !digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            let shown: String = digest.chars().take(80).collect();
            return fail("model.digest".into(), format!("{shown:?} is not 64 hexadecimal digits"));
        }
        if self.recipes.is_empty() || self.recipes.len() > MOST_RECIPES {
            return fail(
                "recipe".into(),
                format!("{} are given; give 1 to {MOST_RECIPES}", self.recipes.len()),
            );
        }
        for (i, of) in self.recipes.iter().enumerate() {
            if !Recipe::may_be_called(&of.name) {
                let shown: String = of.name.chars().take(80).collect();
                return fail(format!("recipe[{i}].name"), format!("{shown:?} is no name of a recipe"));
            }
            if self.recipes[..i].iter().any(|o| (&o.name, o.version) == (&of.name, of.version)) {
                return fail(format!("recipe[{i}].name"), format!("{:?} is given twice", of.name));
            }
            if of.training == Overrides::default() {
                return fail(format!("recipe[{i}].training"), "is empty: nothing is replaced".into());
            }
            if of.found.as_ref().is_some_and(|f| f.tried.len() > MOST_TRIED) {
                return fail(format!("recipe[{i}].found.tried"), format!("has more than {MOST_TRIED}"));
            }
        }
        Ok(())
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("invariant: plain data")
    }

    /// What the file says about this recipe: of its name, and of its version.
    pub fn about(&self, recipe: &Recipe) -> Option<&ForRecipe> {
        self.recipes.iter().find(|r| r.name == recipe.name && r.version == recipe.version)
    }

    /// The recipe with these settings in place of its own; as it is if the file does not speak of it.
    ///
    /// # Errors
    /// [`Error::Field`] if a number is out of its range, or the recipe has no training.
    pub fn put_into(&self, source_name: &str, recipe: &Recipe) -> Result<Recipe> {
        let Some(of) = self.about(recipe) else { return Ok(recipe.clone()) };
        let mut out = recipe.clone();
        let source = format!("{source_name}: recipe {:?}", of.name);
        let Some(training) = &mut out.training else {
            return Err(Error::Field {
                source_name: source,
                field: "training".into(),
                what: "its adapters are not trained".into(),
            });
        };
        of.training.put_into(training);
        out.validate(&source)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, builtin, builtin_settings};

    fn topic() -> Recipe {
        builtin().into_iter().find(|r| r.name == "topic").unwrap()
    }

    fn text(training: &str) -> String {
        let version = topic().version;
        format!(
            "schema = \"settings/1\"\n[model]\nname = \"some/model\"\n[[recipe]]\nname = \"topic\"\nversion = {version}\n[recipe.training]\n{training}\n"
        )
    }

    #[test]
    fn what_is_given_is_replaced_and_the_rest_stays() {
        let settings = Settings::parse("s.toml", &text("learning_rate = 2e-3\nsteps = 30")).unwrap();
        let (own, new) = (topic(), settings.put_into("s.toml", &topic()).unwrap());
        let mut expected = own.training.clone().unwrap();
        (expected.learning_rate, expected.steps) = (2e-3, 30);
        assert_eq!(new.training.as_ref(), Some(&expected));
        assert_eq!(Recipe { training: own.training.clone(), ..new }, own);
        // Of another recipe, and of another version of it, the file says nothing.
        for other in [
            Recipe { name: "mine".into(), ..own.clone() },
            Recipe { version: own.version + 1, ..own.clone() },
        ] {
            assert_eq!(settings.put_into("s.toml", &other).unwrap(), other);
        }
    }

    #[test]
    fn a_file_that_is_written_is_read_back() {
        let mut settings = Settings::parse("s.toml", &text("learning_rate = 0.0123\non_rows = 5")).unwrap();
        settings.model.digest = Some("0af9".repeat(16));
        let tried = Tried {
            setting: settings.recipes[0].training.clone(),
            learned: 3,
            gate: 0.75,
            leak: None,
            leak_nats: Some(0.1),
            damage: Some(0.25),
            tokens: 810.0,
            seconds: 1.5,
        };
        settings.recipes[0].found = Some(Found {
            when: "2026-11-28T12:00:00Z".into(),
            lorafab: "0.1.0".into(),
            precision: "f32".into(),
            seed: 1,
            behaviours: 4,
            tried: vec![tried.clone(), tried],
        });
        assert_eq!(Settings::parse("s.toml", &settings.to_toml()).unwrap(), settings);
    }

    #[test]
    fn what_is_wrong_is_said_with_file_field_and_value() {
        let good = text("steps = 3");
        let nothing = good.split("[[recipe]]").next().unwrap().to_owned();
        let twice = format!("{good}[[recipe]]{}", good.split("[[recipe]]").nth(1).unwrap());
        for (text, parts) in [
            (good.replace("settings/1", "settings/9"), vec!["schema", "settings/9"]),
            (good.replace("some/model", ""), vec!["model.name", "\"\""]),
            (good.replace("[[recipe]]", "digest = \"xyz\"\n[[recipe]]"), vec!["model.digest", "xyz"]),
            (good.replace("\"topic\"", "\"../x\""), vec!["recipe[0].name", "../x"]),
            (good.replace("steps = 3", ""), vec!["recipe[0].training", "nothing is replaced"]),
            (good.replace("steps = 3", "steps = -3"), vec!["recipe.training.steps", "-3"]),
            (good.replace("steps = 3", "rank = 3"), vec!["line 8", "unknown field `rank`"]),
            (nothing, vec!["recipe: 0 are given"]),
            (twice, vec!["recipe[1].name", "given twice"]),
        ] {
            let error = Settings::parse("s.toml", &text).unwrap_err().to_string();
            assert!(error.starts_with("s.toml: ") && !error.contains('\n'), "{error}");
            for part in parts {
                assert!(error.contains(part), "{part:?} is not in {error:?}");
            }
        }
    }

    #[test]
    fn a_number_out_of_its_range_is_refused_when_it_is_put_in() {
        for (training, parts) in [
            ("steps = 0", ["training.steps", "0 is not in"]),
            ("learning_rate = 2.0", ["training.learning_rate", "2 is not above 0"]),
            ("learning_rate = nan", ["training.learning_rate", "NaN"]),
            ("on_rows = 100000", ["training.on_rows", "100000"]),
            ("kl_weight = nan", ["training.kl_weight", "NaN"]),
        ] {
            let settings = Settings::parse("s.toml", &text(training)).unwrap();
            let error = settings.put_into("s.toml", &topic()).unwrap_err().to_string();
            assert!(error.starts_with("s.toml: recipe \"topic\": "), "{error}");
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        }
        let zero = builtin().into_iter().find(|r| r.name == "zero").unwrap();
        let mut settings = Settings::parse("s.toml", &text("steps = 3")).unwrap();
        (settings.recipes[0].name, settings.recipes[0].version) = (zero.name.clone(), zero.version);
        assert!(settings.put_into("s.toml", &zero).unwrap_err().to_string().contains("not trained"));
    }

    /// The recipes' own settings were found on the default model: the file that says so cannot drift from them.
    #[test]
    fn the_default_models_settings_are_the_recipes_own() {
        let all = builtin_settings();
        let (name, settings) =
            all.iter().find(|(_, s)| s.model.name == "HuggingFaceTB/SmolLM2-135M-Instruct").unwrap();
        for recipe in builtin().into_iter().filter(|r| r.kind == Kind::Trained) {
            assert!(settings.about(&recipe).is_some(), "{name} lacks {} {}", recipe.name, recipe.version);
            assert_eq!(settings.put_into(name, &recipe).unwrap(), recipe);
        }
    }

    #[test]
    fn every_built_in_file_speaks_of_built_in_recipes() {
        for (name, settings) in builtin_settings() {
            for of in &settings.recipes {
                let recipe = builtin().into_iter().find(|r| r.name == of.name);
                let recipe = recipe.unwrap_or_else(|| panic!("{name} speaks of {:?}", of.name));
                assert_eq!(recipe.version, of.version, "{name}: {}", of.name);
                settings.put_into(&name, &recipe).unwrap();
            }
        }
    }
}
