//! A study's file with its recipes: which adapters are made and what each is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use compare::Comparison;
use fence::open::{SMALL, TABLE};
use recipes::{Behaviour, Polarity, Recipe, Split, builtin, select};

use crate::file::{Candidates, Family, HeldOut, Study};
use crate::items::Items;
use crate::{Error, Result};

/// A study with what it is about.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The file.
    pub study: Study,
    /// Its recipes, with the study's splits, in the file's order.
    pub recipes: Vec<Recipe>,
    /// All adapters.
    pub behaviours: Vec<Behaviour>,
    /// Values that were tested before, as the files of `looked_at` say.
    pub looked_at: BTreeSet<String>,
}

/// The recipes that a study names, as they are: built in, or files beside it.
///
/// # Errors
/// One sentence with the place.
pub fn recipes_of(study: &Study, beside: &Path) -> Result<Vec<Recipe>> {
    let own = builtin();
    let find = |(i, f): (usize, &Family)| {
        let at = |field: &str| format!("family[{i}].{field}");
        let recipe = load(&own, f, beside).map_err(|what| Error::at(at("recipe"), what))?;
        if let Some(why) = &recipe.studies {
            return Err(Error::at(at("recipe"), format!("{:?} is not for studies: {why}", recipe.name)));
        }
        let Some(name) = &f.name else { return Ok(recipe) };
        if own.iter().any(|r| r.name == *name) {
            return Err(Error::at(
                at("name"),
                format!("{name:?} is a built-in recipe; give the family a name of its own"),
            ));
        }
        replaced(&recipe, name, f).map_err(|what| Error::at(at("set"), what))
    };
    study.families.iter().enumerate().map(find).collect()
}

/// A recipe by its built-in name, or of a file beside a study.
fn load(own: &[Recipe], f: &Family, beside: &Path) -> Result<Recipe, String> {
    if Path::new(&f.recipe).extension().is_none_or(|e| e != "toml") {
        let known = own.iter().find(|r| r.name == f.recipe).cloned();
        return known.ok_or_else(|| {
            let names: Vec<&str> = own.iter().map(|r| r.name.as_str()).collect();
            format!(
                "{:?} is no built-in recipe ({}); give a file that ends in .toml",
                f.recipe,
                names.join(", ")
            )
        });
    }
    let path = beside.join(&f.recipe);
    let text = fence::read_text(&path, SMALL).map_err(|e| e.to_string())?;
    let recipe = Recipe::parse(&path.display().to_string(), &text).map_err(|e| e.to_string())?;
    if f.name.is_none() && recipe.name != f.name() {
        return Err(format!(
            "{} holds the recipe {:?}; name the file so, or give the family a name",
            path.display(),
            recipe.name
        ));
    }
    if own.iter().any(|r| r.name == recipe.name && *r != recipe) {
        return Err(format!(
            "{} is called as a built-in recipe, and is another: give it a name of its own",
            path.display()
        ));
    }
    Ok(recipe)
}

/// A recipe under another name, with fields replaced.
fn replaced(recipe: &Recipe, name: &str, f: &Family) -> Result<Recipe, String> {
    let mut json = serde_json::to_value(recipe).expect("invariant: plain data");
    json["name"] = name.into();
    for (field, value) in &f.set {
        let mut at = &mut json;
        let mut parts = field.split('.').peekable();
        while let Some(part) = parts.next() {
            let table =
                at.as_object_mut().ok_or_else(|| format!("{field:?} is no field of {:?}", recipe.name))?;
            if parts.peek().is_none() {
                table.insert(part.to_owned(), value.clone());
                break;
            }
            at = table.get_mut(part).ok_or_else(|| format!("{field:?} is no field of {:?}", recipe.name))?;
        }
    }
    // Numbers of a file are doubles or whole; the recipe's reader takes either where it can.
    Recipe::from_canonical(name, json.to_string().as_bytes()).map_err(|e| e.to_string())
}

/// Labels that comparisons or items (files beside a study) were tested on.
///
/// # Errors
/// If a file cannot be read.
pub fn looked_at(study: &Study, beside: &Path) -> Result<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for (i, name) in study.looked_at.iter().enumerate() {
        let at = format!("looked_at[{i}]");
        let path = beside.join(name);
        let text = fence::read_text(&path, TABLE).map_err(|e| Error::at(&at, e.to_string()))?;
        let source = path.display().to_string();
        if Path::new(name).extension().is_some_and(|e| e == "csv") {
            let items = Items::parse(&source, &text).map_err(|e| Error::at(&at, e.to_string()))?;
            let tested = items.rows.keys().filter(|u| u.kind == "positive" && u.split.starts_with("test"));
            out.extend(tested.map(|u| u.label.clone()));
        } else {
            let comparison = compare::read(&text).map_err(|e| Error::at(&at, format!("{source}: {e}")))?;
            out.extend(labels(&comparison).map(|(_, label)| label));
        }
    }
    Ok(out)
}

/// Families and labels that a comparison was tested on.
pub(crate) fn labels(c: &Comparison) -> impl Iterator<Item = (String, String)> {
    c.items
        .iter()
        .filter(|s| s.split.starts_with("test"))
        .flat_map(|s| s.adapters.iter().map(|a| (s.family.clone(), a.label.clone())))
}

/// Puts the study's splits into its recipes and chooses the adapters.
///
/// # Errors
/// If a recipe has too few values, or a value would be trained on in one family and tested in another.
pub fn resolve(study: Study, recipes: Vec<Recipe>, looked_at: BTreeSet<String>) -> Result<Resolved> {
    let mut tuning: BTreeSet<String> = recipes.iter().flat_map(|r| r.splits.tuning.iter().cloned()).collect();
    tuning.extend(looked_at.iter().cloned());
    let mut out = Resolved { recipes: vec![], behaviours: vec![], looked_at, study };
    let splits = |recipe: &mut Recipe| {
        recipe.splits.salt.clone_from(&out.study.salt);
        recipe.splits.validation = out.study.splits.validation;
        recipe.splits.test = out.study.splits.test;
        recipe.splits.test_categories = 0;
        // One list for all, so that a value has the same split in every family.
        recipe.splits.tuning = tuning.iter().cloned().collect();
    };
    let mut chosen: Vec<(Recipe, Vec<Behaviour>)> = Vec::new();
    // What a value is ranked among is the same for families that are made otherwise of the same values.
    let mut kept: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (i, (family, mut recipe)) in out.study.families.iter().zip(recipes).enumerate() {
        splits(&mut recipe);
        if out.study.held_out == HeldOut::Families && recipe.polarity == Polarity::Positive {
            one_use(family, &mut recipe).map_err(|what| Error::at(format!("family[{i}]"), what))?;
        } else if family.test > 0 {
            // A recipe that names its test values itself does not ask the salt: it may name one that was looked at.
            if let Some(value) = recipe.splits.values.test.iter().find(|v| tuning.contains(*v)) {
                let what = format!(
                    "{} tests {value:?}, which was looked at before; give it other values: [family.set] \"splits.values.test\" = [...]",
                    recipe.name
                );
                return Err(Error::at(format!("family[{i}].recipe"), what));
            }
        }
        let these = select(recipe.expand(out.study.seed), [family.train, family.validation, family.test, 0]);
        for (field, split, n) in [
            ("train", Split::Train, family.train),
            ("validation", Split::Validation, family.validation),
            ("test", Split::TestValue, family.test),
        ] {
            let has = these.iter().filter(|b| b.split == split).count();
            if has < n {
                let what = format!(
                    "{n} are wanted, and {} has {has} such values under the salt {:?}",
                    recipe.name, out.study.salt
                );
                return Err(Error::at(format!("family[{i}].{field}"), what));
            }
        }
        kept.entry(&family.recipe).or_default().extend(these.iter().map(|b| b.value.clone()));
        chosen.push((recipe, these));
    }
    let (mut all, mut behaviours) = (Vec::new(), Vec::new());
    for (i, (mut recipe, mut these)) in chosen.into_iter().enumerate() {
        if out.study.candidates == Candidates::Study && recipe.polarity == Polarity::Positive {
            recipe = only(recipe, &kept[out.study.families[i].recipe.as_str()])
                .map_err(|e| Error::at(format!("family[{i}].recipe"), e.to_string()))?;
            let mut by_value: BTreeMap<String, Behaviour> =
                recipe.expand(out.study.seed).into_iter().map(|b| (b.value.clone(), b)).collect();
            these = these.iter().filter_map(|b| by_value.remove(&b.value)).collect();
        }
        behaviours.extend(these);
        all.push(recipe);
    }
    drop(kept);
    (out.recipes, out.behaviours) = (all, behaviours);
    if out.study.held_out == HeldOut::Values {
        out.check_overlap()?;
    }
    Ok(out)
}

/// All values of a family for the one use that the study has for it.
fn one_use(family: &Family, recipe: &mut Recipe) -> Result<(), String> {
    let all = recipe.values_of_family();
    let uses = [family.train, family.validation, family.test].map(|n| n > 0);
    if uses.iter().filter(|used| **used).count() != 1 {
        return Err(format!(
            "where families are held out each is for one use: give {} one of train, validation and test",
            recipe.name
        ));
    }
    let said = &mut recipe.splits.values;
    for (used, values) in uses.into_iter().zip([&mut said.train, &mut said.validation, &mut said.test]) {
        *values = if used { all.clone() } else { vec![] };
    }
    Ok(())
}

/// The recipe with no other values than the chosen ones.
fn only(mut recipe: Recipe, kept: &BTreeSet<String>) -> recipes::Result<Recipe> {
    for of in &mut recipe.vocabulary {
        of.values.retain(|v| kept.contains(v));
        of.entries.retain(|e| e.get("value").is_some_and(|v| kept.contains(v)));
    }
    recipe.vocabulary.retain(|of| !(of.values.is_empty() && of.entries.is_empty()));
    let said = &mut recipe.splits.values;
    for values in [&mut said.train, &mut said.validation, &mut said.test] {
        values.retain(|v| kept.contains(v));
    }
    let json = serde_json::to_vec(&recipe).expect("invariant: plain data");
    Recipe::from_canonical(&recipe.name, &json)
}

impl Resolved {
    /// No value may be trained on, or stopped by, in one family and tested in another.
    fn check_overlap(&self) -> Result<()> {
        let positive = |b: &&Behaviour| b.polarity == Polarity::Positive;
        let taught: BTreeMap<&str, &Behaviour> = self
            .behaviours
            .iter()
            .filter(positive)
            .filter(|b| b.split != Split::TestValue)
            .map(|b| (b.value.as_str(), b))
            .collect();
        for b in self.behaviours.iter().filter(positive).filter(|b| b.split == Split::TestValue) {
            if let Some(other) = taught.get(b.value.as_str()) {
                return Err(Error::at(
                    "family",
                    format!(
                        "{} would be tested, and its value is that of {}, which readers are shown",
                        b.id, other.id
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Names of the families that carry something.
    pub fn carrying(&self) -> BTreeSet<&str> {
        let positive = |r: &&Recipe| r.polarity == Polarity::Positive;
        self.recipes.iter().filter(positive).map(|r| r.name.as_str()).collect()
    }

    /// Values by family and use, in the order of the file.
    pub fn values(&self) -> Vec<(String, BTreeMap<String, Vec<String>>)> {
        self.recipes
            .iter()
            .map(|r| {
                let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for b in self.behaviours.iter().filter(|b| b.family == r.name) {
                    uses.entry(b.split.name().to_owned()).or_default().push(b.value.clone());
                }
                (r.name.clone(), uses)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::SMALL;

    fn small() -> Study {
        Study::parse("s.toml", SMALL).unwrap()
    }

    fn resolved(study: Study, seen: &[&str]) -> Result<Resolved> {
        let recipes = recipes_of(&study, Path::new("."))?;
        resolve(study, recipes, seen.iter().map(|s| (*s).to_owned()).collect())
    }

    fn tested(r: &Resolved) -> Vec<&str> {
        let of = |b: &&Behaviour| b.family == "favourite" && b.split == Split::TestValue;
        r.behaviours.iter().filter(of).map(|b| b.value.as_str()).collect()
    }

    #[test]
    fn counts_are_met_and_values_that_were_looked_at_are_not_tested() {
        let first = resolved(small(), &[]).unwrap();
        assert_eq!(first.behaviours.len(), 12 + 4 + 8 + 7);
        let seen = tested(&first);
        let mut fewer = small();
        fewer.families[0].test = 5;
        let second = resolved(fewer, &seen).unwrap();
        assert!(tested(&second).iter().all(|v| !seen.contains(v)) && tested(&second).len() == 5);
        let mut other = small();
        other.salt = "another".into();
        assert_ne!(tested(&resolved(other, &[]).unwrap()), seen);
    }

    #[test]
    fn test_values_that_a_recipe_names_itself_are_refused_once_they_were_looked_at() {
        let mut study = small();
        study.families[0].recipe = "format".into();
        (study.families[0].train, study.families[0].validation, study.families[0].test) = (8, 3, 4);
        assert!(resolved(study.clone(), &["parentheses"]).is_ok());
        for candidates in [Candidates::Study, Candidates::Family] {
            study.candidates = candidates;
            let e = resolved(study.clone(), &["capitals"]).unwrap_err().to_string();
            assert!(e.starts_with("family[0].recipe: format tests \"capitals\", which was looked at"), "{e}");
        }
    }

    #[test]
    fn a_value_may_be_ranked_among_those_of_the_study_alone() {
        let all = resolved(small(), &[]).unwrap();
        let mut study = small();
        study.candidates = Candidates::Study;
        let few = resolved(study.clone(), &[]).unwrap();
        assert_eq!(few.values(), all.values());
        assert_eq!(few.recipes[0].values_of_family().len(), 24);
        assert!(all.recipes[0].values_of_family().len() > 24);
        // Resolved again from what was kept, it is the same.
        let again = resolve(study, few.recipes.clone(), BTreeSet::new()).unwrap();
        assert_eq!(again.behaviours, few.behaviours);
    }

    #[test]
    fn where_families_are_held_out_each_is_for_one_use_and_values_are_shared() {
        let shared = |test: &str| {
            let more = format!(
                "\n[[family]]\nrecipe = \"favourite\"\nname = \"again\"\ngroup = \"again\"\n{test}\nset = {{ version = 2 }}\n[[arm]]\nname = \"dit\""
            );
            let text = SMALL
                .replacen("\n[[arm]]\nname = \"dit\"", &more, 1)
                .replacen("validation = 4\ntest = 8", "", 1)
                .replacen("salt = \"colours\"", "salt = \"colours\"\nheld_out = \"families\"", 1);
            resolved(Study::parse("s.toml", &text).unwrap(), &[])
        };
        let r = shared("test = 12").unwrap();
        let of = |family: &str| -> Vec<(&str, Split)> {
            let all = r.behaviours.iter().filter(|b| b.family == family);
            all.map(|b| (b.value.as_str(), b.split)).collect()
        };
        let (taught, tested) = (of("favourite"), of("again"));
        assert_eq!((taught.len(), tested.len()), (12, 12));
        assert!(taught.iter().zip(&tested).all(|(a, b)| a.0 == b.0), "the same values");
        assert!(taught.iter().all(|b| b.1 == Split::Train) && tested.iter().all(|b| b.1 == Split::TestValue));
        let e = shared("train = 2\ntest = 8").unwrap_err().to_string();
        assert!(e.starts_with("family[2]: where families are held out"), "{e}");
    }

    #[test]
    fn a_family_may_be_made_otherwise_of_the_same_values() {
        let more = "\n[[family]]\nrecipe = \"favourite\"\nname = \"favourite-rank-4\"\ngroup = \"remade\"\ntest = 8\nset = { \"training.rank\" = 4, \"training.alpha\" = 4 }\n[[arm]]\nname = \"dit\"";
        let text = SMALL.replacen("\n[[arm]]\nname = \"dit\"", more, 1);
        let mut study = Study::parse("s.toml", &text).unwrap();
        study.candidates = Candidates::Study;
        let r = resolved(study.clone(), &[]).unwrap();
        let of = |family: &str| -> Vec<&Behaviour> {
            r.behaviours.iter().filter(|b| b.family == family && b.split == Split::TestValue).collect()
        };
        let (plain, other) = (of("favourite"), of("favourite-rank-4"));
        let values = |list: &[&Behaviour]| list.iter().map(|b| b.value.clone()).collect::<Vec<_>>();
        assert_eq!((values(&plain), other[0].training.rank, plain[0].training.rank), (values(&other), 4, 1));
        let sets: Vec<usize> = r.recipes.iter().map(|r| r.values_of_family().len()).collect();
        assert_eq!((sets[0], sets[2]), (24, 24));
        for (field, value, expected) in [
            ("training.rnk", serde_json::json!(4), "rnk"),
            ("marsh.rank", serde_json::json!(4), "\"marsh.rank\" is no field"),
            ("training.rank", serde_json::json!(0), "rank"),
        ] {
            let mut study = study.clone();
            study.families[2].set = BTreeMap::from([(field.to_owned(), value)]);
            let e = resolved(study, &[]).unwrap_err().to_string();
            assert!(e.starts_with("family[2].set: ") && e.contains(expected), "{e}");
        }
        study.families[2].name = Some("topic".into());
        assert!(
            resolved(study, &[]).unwrap_err().to_string().contains("family[2].name: \"topic\" is a built-in")
        );
    }

    #[test]
    fn too_few_values_and_unknown_recipes_are_told_with_their_place() {
        let mut study = small();
        study.families[0].test = 500;
        let e = resolved(study, &[]).unwrap_err().to_string();
        assert!(e.starts_with("family[0].test: 500 are wanted, and favourite has "), "{e}");
        let mut study = small();
        study.families[1].recipe = "marsh".into();
        assert!(
            resolved(study, &[])
                .unwrap_err()
                .to_string()
                .contains("family[1].recipe: \"marsh\" is no built-in")
        );
        let mut study = small();
        let unlearned = builtin().into_iter().find(|r| r.name == "favourite").unwrap();
        let text = format!(
            "studies = \"not learnable at this size\"\n{}",
            recipes::builtin_source("favourite").unwrap()
        )
        .replace("name = \"favourite\"", "name = \"mine\"");
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("mine.toml"), text).unwrap();
        let mut refused = study.clone();
        (refused.families[0].recipe, refused.families[1].recipe) = ("mine.toml".into(), "mixed".into());
        let e = recipes_of(&refused, folder.path()).unwrap_err().to_string();
        assert!(
            e.starts_with("family[0].recipe: \"mine\" is not for studies: not learnable")
                && unlearned.studies.is_none(),
            "{e}"
        );
        study.looked_at = vec!["nowhere.json".into()];
        let e = looked_at(&study, Path::new(".")).unwrap_err().to_string();
        assert!(e.starts_with("looked_at[0]: ") && e.contains("nowhere.json"), "{e}");
    }
}
