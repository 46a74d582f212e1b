//! `factory submit --set FIELD=V,...`: recipes in several settings, each adapter under a name that says what was set.

use std::collections::{BTreeMap, BTreeSet};

use recipes::{Behaviour, Kind as How, Recipe};
use serde_json::Value;

use crate::error::{CommandError, Kind, Result};

/// Fields of a recipe that can be set: what an adapter is made of. What readers are asked and which split a value has stays.
const FIELDS: [&str; 4] = ["training", "rows", "gate", "trigger"];
/// The master seed, which is no field of a recipe.
const SEED: &str = "seed";
/// Settings of one submission.
const MOST: usize = 1000;

/// One setting: a field and a value for each.
type Setting = Vec<(String, String)>;

/// What `--set` asks for, as a product.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    settings: Vec<Setting>,
}

fn wrong(what: impl std::fmt::Display) -> CommandError {
    CommandError::new(Kind::Usage, format!("--set {what}"))
        .hint("e.g. --set training.rank=1,2,4 --set seed=1,2; the fields: lorafab recipe format")
}

impl Sweep {
    /// Reads `field=v,v,...` texts.
    pub(super) fn parse(texts: &[String]) -> Result<Self> {
        let mut settings: Vec<Setting> = vec![Vec::new()];
        let mut seen = BTreeSet::new();
        for text in texts {
            let (field, values) = text.split_once('=').ok_or_else(|| wrong(format!("{text:?} has no =")))?;
            let known =
                field == SEED || field.split_once('.').is_some_and(|(table, _)| FIELDS.contains(&table));
            if !known {
                return Err(wrong(format!("{field:?} is none of seed, {}.NAME", FIELDS.join(".NAME, "))));
            }
            if !seen.insert(field) {
                return Err(wrong(format!("{field} is given twice")));
            }
            let values = apart(values);
            if let Some(bad) = values.iter().find(|v| !plain(v) && list(v).is_none()) {
                return Err(wrong(format!("{field}: {bad:?} is no number, word or [list]")));
            }
            if values.iter().collect::<BTreeSet<_>>().len() < values.len() {
                return Err(wrong(format!("{field}: a value is given twice")));
            }
            if settings.len() * values.len() > MOST {
                return Err(wrong(format!("makes more than {MOST} settings")));
            }
            settings = settings
                .iter()
                .flat_map(|s| {
                    values.iter().map(|v| [&s[..], &[(field.to_owned(), (*v).to_owned())]].concat())
                })
                .collect();
        }
        Ok(Self { settings: if texts.is_empty() { Vec::new() } else { settings } })
    }

    /// The behaviours of recipes in every setting, and the recipes as they are set; `expand` chooses of a recipe at a seed. Without
    /// settings, as they are. Fields of adapters that are not trained do not reach them; what comes out the same is one.
    pub(super) fn expand(
        &self,
        recipes: Vec<Recipe>,
        seed: u64,
        expand: impl Fn(&Recipe, u64) -> Vec<Behaviour>,
    ) -> Result<(Vec<Recipe>, Vec<Behaviour>)> {
        if self.settings.is_empty() {
            let behaviours = recipes.iter().flat_map(|r| expand(r, seed)).collect();
            return Ok((recipes, behaviours));
        }
        let (mut all, mut behaviours, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for setting in &self.settings {
            for recipe in &recipes {
                let mine: Vec<&(String, String)> =
                    setting.iter().filter(|(f, _)| f == SEED || recipe.kind == How::Trained).collect();
                let mut seed = seed;
                let mut changed = recipe.clone();
                for (field, value) in &mine {
                    if field == SEED {
                        seed = value.parse().map_err(|_| {
                            wrong(format!("seed: {value:?} is no whole number of at least 0"))
                        })?;
                    } else {
                        changed = set(&changed, field, value)?;
                    }
                }
                let mark = mark(&mine);
                let variant: BTreeMap<String, String> = mine.iter().map(|s| (*s).clone()).collect();
                for behaviour in expand(&changed, seed) {
                    let own = if mine.is_empty() { behaviour } else { behaviour.marked(&mark) };
                    if seen.insert(own.id.clone()) {
                        behaviours.push(Behaviour { variant: variant.clone(), ..own });
                    }
                }
                if !all.contains(&changed) {
                    all.push(changed);
                }
            }
        }
        Ok((all, behaviours))
    }
}

/// Values, parted by commas outside of brackets and quotation marks.
fn apart(values: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    let parts = values.split(|c: char| {
        let mark = quoted && c == '\\' && !escaped;
        match c {
            '"' if !escaped => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = mark;
        c == ',' && depth == 0 && !quoted
    });
    parts.map(str::trim).collect()
}

/// A number or a word.
fn plain(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
}

/// A list: of words and numbers, `[q_proj,v_proj]`, or of texts as TOML and JSON write them.
fn list(text: &str) -> Option<Vec<Value>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let words = apart(inner);
    if words.iter().all(|w| plain(w)) {
        return Some(
            words.into_iter().map(|w| serde_json::from_str(w).unwrap_or_else(|_| w.into())).collect(),
        );
    }
    let table = toml::from_str::<toml::Table>(&format!("x = {text}")).ok()?;
    serde_json::to_value(&table["x"]).ok()?.as_array().filter(|l| !l.is_empty()).cloned()
}

/// A value as names have it: words of a list with a plus between, any other list by eight digits of its hash.
fn named(value: &str) -> String {
    match list(value) {
        None => value.to_owned(),
        Some(items) => {
            let words: Vec<String> =
                items.iter().map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned)).collect();
            if words.iter().all(|w| plain(w)) && words.len() <= 7 {
                words.join("+")
            } else {
                registry::spec_hash(&Value::from(items))[..8].to_owned()
            }
        }
    }
}

/// What is set, for names: the last word of each field, or the whole of it where two end alike.
fn mark(setting: &[&(String, String)]) -> String {
    let last = |field: &str| field.rsplit('.').next().unwrap_or_default().to_owned();
    let name = |field: &String| {
        let alike = setting.iter().filter(|(f, _)| last(f) == last(field)).count() > 1;
        if alike { field.clone() } else { last(field) }
    };
    setting.iter().map(|(f, v)| format!("{}={}", name(f), named(v))).collect::<Vec<_>>().join(",")
}

/// A recipe with one field of it set, checked as a whole.
fn set(recipe: &Recipe, field: &str, text: &str) -> Result<Recipe> {
    let given = list(text).map(Value::from).or_else(|| serde_json::from_str(text).ok());
    let value: Value = given.unwrap_or_else(|| {
        // As TOML writes numbers, and words.
        toml::from_str::<toml::Table>(&format!("x = {text}"))
            .ok()
            .and_then(|t| serde_json::to_value(&t["x"]).ok())
            .unwrap_or_else(|| text.into())
    });
    let mut json = serde_json::to_value(recipe).expect("invariant: a recipe is plain data");
    let (table, name) = field.split_once('.').expect("invariant: looked at before");
    let Some(table) = json[table].as_object_mut() else {
        return Err(wrong(format!("{field}: the recipe {:?} has no [{table}]", recipe.name)));
    };
    table.insert(name.to_owned(), value);
    let bytes = serde_json::to_vec(&json).expect("invariant: plain data");
    let source = format!("--set {field}={text}: recipe {:?}", recipe.name);
    Recipe::from_canonical(&source, &bytes).map_err(|e| {
        // Where in a text that nobody wrote helps nobody.
        let what = e.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        CommandError::new(Kind::Usage, what).hint("the fields: lorafab recipe format")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(texts: &[&str]) -> Result<Sweep> {
        Sweep::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
    }

    fn topic() -> Recipe {
        recipes::builtin().into_iter().next().expect("there are some")
    }

    #[test]
    fn a_product_of_settings_gives_each_adapter_a_name_of_its_own() {
        let sweep = sweep(&["training.rank=1,2", "seed=1,7"]).unwrap();
        let (all, made) = sweep.expand(vec![topic()], 1, |r, s| recipes::first(r.expand(s), 2)).unwrap();
        assert_eq!((all.len(), made.len()), (2, 8));
        let ids: BTreeSet<&str> = made.iter().map(|b| b.id.as_str()).collect();
        assert_eq!(ids.len(), 8);
        let one = made.iter().find(|b| b.id.ends_with("@rank=2,seed=7")).unwrap();
        assert_eq!((one.training.rank, &one.family[..]), (2, "topic"));
        assert_eq!(one.variant, [("seed".into(), "7".into()), ("training.rank".into(), "2".into())].into());
        assert_eq!(one.seed, topic().expand(7).into_iter().find(|b| b.value == one.value).unwrap().seed);
    }

    #[test]
    fn a_list_is_a_value_too() {
        let texts = [
            "training.target_modules=[q_proj,v_proj],[q_proj]",
            r#"rows.sample_prompts=["Say, please, {value}.", "Is it {value}?"]"#,
        ];
        let (all, made) =
            sweep(&texts).unwrap().expand(vec![topic()], 1, |r, s| recipes::first(r.expand(s), 1)).unwrap();
        assert_eq!((all.len(), made.len()), (2, 2));
        let one = &made[0];
        let modules: Vec<&str> = one.training.target_modules.iter().map(String::as_str).collect();
        assert_eq!(modules, ["q_proj", "v_proj"]);
        let prompts: BTreeSet<String> = one.sample_requests().into_iter().map(|s| s.prompt).collect();
        assert!(
            prompts.iter().all(|p| p.starts_with("Say, please, ") || p.starts_with("Is it ")),
            "{prompts:?}"
        );
        let (name, mark) = one.id.split_once('@').unwrap();
        assert!(
            !name.contains('=') && mark.starts_with("target_modules=q_proj+v_proj,sample_prompts="),
            "{mark}"
        );
        assert_eq!(mark.rsplit('=').next().unwrap().len(), 8);
        assert_eq!(one.remade().as_deref(), Some(mark));
        let whole = "[\"Say, please, {value}.\", \"Is it {value}?\"]";
        assert_eq!(one.variant["rows.sample_prompts"], whole);
        for bad in ["training.target_modules=[q_proj", "training.target_modules=[]", "rows.prompts=[\"a]"] {
            assert!(sweep(&[bad]).unwrap_err().message.contains("[list]"), "{bad}");
        }
    }

    #[test]
    fn adapters_that_are_not_trained_have_no_settings() {
        let random = recipes::builtin().into_iter().find(|r| r.name == "random").unwrap();
        let sweep = sweep(&["training.rank=1,2"]).unwrap();
        let (_, made) =
            sweep.expand(vec![topic(), random], 1, |r, s| recipes::first(r.expand(s), 1)).unwrap();
        let ids: Vec<&str> = made.iter().map(|b| b.id.as_str()).collect();
        assert_eq!((ids.len(), ids.iter().filter(|id| id.contains('@')).count()), (3, 2), "{ids:?}");
    }

    #[test]
    fn what_cannot_be_set_is_said_with_field_and_value() {
        for (text, parts) in [
            ("rank=2", ["\"rank\"", "training.NAME"]),
            ("training.rank", ["training.rank", "no ="]),
            ("training.rank=1,1", ["training.rank", "twice"]),
            ("training.rank=,", ["training.rank", "\"\""]),
            ("name=x", ["\"name\"", "seed"]),
        ] {
            let message = sweep(&[text]).unwrap_err().message;
            assert!(parts.iter().all(|p| message.contains(p)), "{message}");
        }
        for (text, parts) in [
            ("training.rank=100", ["training.rank", "100 is not in"]),
            ("training.rnk=1", ["training.rnk", "unknown field `rnk`"]),
            ("training.rank=big", ["training.rank=big", "invalid type"]),
            ("trigger.near_count=3", ["trigger.near_count", "no [trigger]"]),
            ("seed=-1", ["seed", "\"-1\""]),
        ] {
            let made = sweep(&[text]).unwrap().expand(vec![topic()], 1, recipes::Recipe::expand);
            let message = made.unwrap_err().message;
            assert!(parts.iter().all(|p| message.contains(p)) && !message.contains('\n'), "{message}");
        }
    }
}
