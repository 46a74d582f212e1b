//! A study's file with its recipes: which adapters are made and what each is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use compare::Comparison;
use fence::open::{SMALL, TABLE};
use recipes::{Behaviour, Polarity, Recipe, Split, builtin, select};

use crate::file::{Candidates, Family, Study};
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
        let at = format!("family[{i}].recipe");
        if !f.recipe.ends_with(".toml") {
            let known = own.iter().find(|r| r.name == f.recipe).cloned();
            return known.ok_or_else(|| {
                let names: Vec<&str> = own.iter().map(|r| r.name.as_str()).collect();
                Error::at(
                    at,
                    format!(
                        "{:?} is no built-in recipe ({}); give a file that ends in .toml",
                        f.recipe,
                        names.join(", ")
                    ),
                )
            });
        }
        let path = beside.join(&f.recipe);
        let text = fence::read_text(&path, SMALL).map_err(|e| Error::at(&at, e.to_string()))?;
        let recipe =
            Recipe::parse(&path.display().to_string(), &text).map_err(|e| Error::at(&at, e.to_string()))?;
        if recipe.name != f.name() {
            return Err(Error::at(
                at,
                format!(
                    "{} holds the recipe {:?}; name the file {:?}",
                    path.display(),
                    recipe.name,
                    format!("{}.toml", recipe.name)
                ),
            ));
        }
        if own.iter().any(|r| r.name == recipe.name && *r != recipe) {
            return Err(Error::at(
                at,
                format!(
                    "{} is called as a built-in recipe, and is another: give it a name of its own",
                    path.display()
                ),
            ));
        }
        Ok(recipe)
    };
    study.families.iter().enumerate().map(find).collect()
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
    for (i, (family, mut recipe)) in out.study.families.iter().zip(recipes).enumerate() {
        recipe.splits.salt.clone_from(&out.study.salt);
        recipe.splits.validation = out.study.splits.validation;
        recipe.splits.test = out.study.splits.test;
        recipe.splits.test_categories = 0;
        // One list for all, so that a value has the same split in every family.
        recipe.splits.tuning = tuning.iter().cloned().collect();
        let wanted = [family.train, family.validation, family.test, 0];
        let chosen = select(recipe.expand(out.study.seed), wanted);
        for (field, split, n) in [
            ("train", Split::Train, family.train),
            ("validation", Split::Validation, family.validation),
            ("test", Split::TestValue, family.test),
        ] {
            let has = chosen.iter().filter(|b| b.split == split).count();
            if has < n {
                let what = format!(
                    "{n} are wanted, and {} has {has} such values under the salt {:?}",
                    recipe.name, out.study.salt
                );
                return Err(Error::at(format!("family[{i}].{field}"), what));
            }
        }
        let chosen = match out.study.candidates {
            Candidates::Study if recipe.polarity == Polarity::Positive => {
                recipe = only(recipe, &chosen)
                    .map_err(|e| Error::at(format!("family[{i}].recipe"), e.to_string()))?;
                let mut by_value: BTreeMap<String, Behaviour> =
                    recipe.expand(out.study.seed).into_iter().map(|b| (b.value.clone(), b)).collect();
                chosen.iter().filter_map(|b| by_value.remove(&b.value)).collect()
            }
            _ => chosen,
        };
        out.behaviours.extend(chosen);
        out.recipes.push(recipe);
    }
    out.check_overlap()?;
    Ok(out)
}

/// The recipe with no other values than the chosen ones.
fn only(mut recipe: Recipe, chosen: &[Behaviour]) -> recipes::Result<Recipe> {
    let kept: BTreeSet<&str> = chosen.iter().map(|b| b.value.as_str()).collect();
    for of in &mut recipe.vocabulary {
        of.values.retain(|v| kept.contains(v.as_str()));
        of.entries.retain(|e| e.get("value").is_some_and(|v| kept.contains(v.as_str())));
    }
    recipe.vocabulary.retain(|of| !(of.values.is_empty() && of.entries.is_empty()));
    let said = &mut recipe.splits.values;
    for values in [&mut said.train, &mut said.validation, &mut said.test] {
        values.retain(|v| kept.contains(v.as_str()));
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
        let second = resolved(small(), &seen).unwrap();
        assert!(tested(&second).iter().all(|v| !seen.contains(v)) && tested(&second).len() == 8);
        let mut other = small();
        other.salt = "another".into();
        assert_ne!(tested(&resolved(other, &[]).unwrap()), seen);
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
        study.looked_at = vec!["nowhere.json".into()];
        let e = looked_at(&study, Path::new(".")).unwrap_err().to_string();
        assert!(e.starts_with("looked_at[0]: ") && e.contains("nowhere.json"), "{e}");
    }
}
