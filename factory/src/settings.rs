//! Which training settings a recipe gets on a base model: a file that somebody named, else one of the user's own in
//! `STORE/settings/`, else a built-in one, else the recipe's own. What is chosen is part of the jobs' specifications.

use std::path::{Path, PathBuf};

use lm::{Outline, Precision};
use recipes::settings::{LONGEST_NAME, OnModel};
use recipes::{Kind, Recipe, Settings, builtin_settings};
use serde::Serialize;

use crate::{Error, Result};

/// Most bytes of a settings file.
const MOST_BYTES: u64 = 1 << 20;
/// Most files of a store's folder.
const MOST_FILES: usize = 1000;

/// Folder of the user's own files within a store.
fn folder_of(root: &Path) -> PathBuf {
    root.join("settings")
}

/// Settings files, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Shelf {
    /// The file that somebody named.
    named: Option<Kept>,
    /// The user's own, by name.
    own: Vec<Kept>,
    /// Those that come with lorafab.
    builtin: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Its path, or what messages call it.
    place: String,
    settings: Settings,
}

/// Where a recipe's settings came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Used {
    /// The recipe.
    pub recipe: String,
    /// The model that they are for, as the file calls it.
    pub model: String,
    /// The file.
    pub from: String,
    /// The model is another one: only of a file that somebody named.
    pub other_model: bool,
    /// There are built-in settings for this model too.
    pub over_builtin: bool,
}

/// A recipe with the settings that it gets on a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The recipe, its training as it will be.
    pub recipe: Recipe,
    /// Where that came from; none if it is the recipe's own.
    pub used: Option<Used>,
}

impl Shelf {
    /// The user's own files of the store at `root`, and the built-in ones.
    ///
    /// # Errors
    /// If a file is no settings file: with its name, the field and the value.
    pub fn open(root: &Path) -> Result<Self> {
        let builtin = builtin_settings().into_iter().map(|(place, settings)| Kept { place, settings });
        let mut shelf = Self { builtin: builtin.collect(), ..Self::default() };
        let folder = folder_of(root);
        if !fence::folder(&folder).map_err(registry::Error::from)? {
            return Ok(shelf);
        }
        let mut files = Vec::new();
        for entry in fs_err::read_dir(&folder).map_err(registry::Error::from)? {
            let path = entry.map_err(registry::Error::from)?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                files.push(path);
            }
            if files.len() > MOST_FILES {
                let what = format!("holds more than {MOST_FILES} files");
                return Err(Error::Settings { place: folder.display().to_string(), what });
            }
        }
        files.sort();
        shelf.own = files.iter().map(|path| read(path)).collect::<Result<_>>()?;
        Ok(shelf)
    }

    /// The same with a file that goes before all others.
    ///
    /// # Errors
    /// As [`Shelf::open`].
    pub fn with(self, path: &Path) -> Result<Self> {
        Ok(Self { named: Some(read(path)?), ..self })
    }

    /// The recipe with its settings on this model.
    ///
    /// # Errors
    /// If two files of the user's own fit, or a number of the one that fits is out of its range.
    pub fn resolve(&self, outline: &Outline, recipe: &Recipe) -> Result<Resolved> {
        let speaks = |kept: &&Kept| kept.settings.about(recipe).is_some();
        let fits = |kept: &&Kept| speaks(kept) && is_for(&kept.settings.model, outline);
        let own: Vec<&Kept> = self.own.iter().filter(fits).collect();
        let builtin = self.builtin.iter().find(fits);
        let named = self.named.as_ref().filter(speaks);
        if let (None, [first, second, ..]) = (named, own.as_slice()) {
            return Err(Error::Settings {
                place: second.place.clone(),
                what: format!(
                    "recipe {:?} has settings for {} here and in {}",
                    recipe.name, second.settings.model.name, first.place
                ),
            });
        }
        let Some(kept) = named.or_else(|| own.first().copied()).or(builtin) else {
            return Ok(Resolved { recipe: recipe.clone(), used: None });
        };
        let model = &kept.settings.model;
        let used = Used {
            recipe: recipe.name.clone(),
            model: model.name.clone(),
            from: kept.place.clone(),
            other_model: !is_for(model, outline),
            over_builtin: builtin.is_some_and(|b| b.place != kept.place),
        };
        Ok(Resolved { recipe: kept.settings.put_into(&kept.place, recipe)?, used: Some(used) })
    }

    /// Refuses, before a search, what would be filed for these recipes (the first names the file `place`) and stand in the way: another file
    /// for one of them, or a recipe in the earlier file that would lose its settings.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn check_filing(&self, place: &Path, outline: &Outline, recipes: &[&Recipe]) -> Result<()> {
        let here = place.display().to_string();
        for kept in self.own.iter().filter(|kept| is_for(&kept.settings.model, outline)) {
            let refuse = |what: String| Err(Error::Settings { place: kept.place.clone(), what });
            if kept.place == here {
                let lost = kept.settings.recipes.iter().find(|r| !recipes.iter().any(|n| n.name == r.name));
                if let Some(lost) = lost {
                    return refuse(format!(
                        "has settings for recipe {:?} as well, which would be lost; give --also {}, or remove the file",
                        lost.name, lost.name
                    ));
                }
            } else if let Some(recipe) = recipes.iter().find(|r| kept.settings.about(r).is_some()) {
                return refuse(format!(
                    "has settings for recipe {:?} on this model already; remove it, or leave that recipe out",
                    recipe.name
                ));
            }
        }
        Ok(())
    }

    /// Refuses a file that somebody named and that speaks of none of these recipes.
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn hold_named_to(&self, recipes: &[Recipe]) -> Result<()> {
        let Some(named) = &self.named else { return Ok(()) };
        if recipes.iter().any(|r| named.settings.about(r).is_some()) {
            return Ok(());
        }
        let list = |names: Vec<String>| names.join(", ");
        Err(Error::Settings {
            place: named.place.clone(),
            what: format!(
                "speaks of {}, and what is submitted is {}",
                list(
                    named
                        .settings
                        .recipes
                        .iter()
                        .map(|r| format!("{} version {}", r.name, r.version))
                        .collect()
                ),
                list(recipes.iter().map(|r| format!("{} version {}", r.name, r.version)).collect())
            ),
        })
    }
}

/// Whether a recipe has settings that another model may want otherwise, and that can be looked for.
pub fn is_tunable(recipe: &Recipe) -> bool {
    recipe.kind == Kind::Trained && recipe.polarity == recipes::Polarity::Positive
}

/// Files settings among the user's own, in place of earlier ones for the same recipe and model; returns the file.
///
/// # Errors
/// If it cannot be written.
pub fn file(root: &Path, outline: &Outline, settings: &Settings) -> Result<PathBuf> {
    let folder = folder_of(root);
    fence::place::make_folder(&folder).map_err(registry::Error::from)?;
    let path = place_of(root, outline, settings.recipes.first().map_or("", |r| &r.name));
    registry::write_atomic(&path, settings.to_toml().as_bytes())?;
    Ok(path)
}

/// Where [`file`] puts a recipe's settings for a model. The model's name, which came from elsewhere, is no part of it.
pub fn place_of(root: &Path, outline: &Outline, recipe: &str) -> PathBuf {
    folder_of(root).join(format!("{recipe}-{}.toml", &identity(outline)[..12]))
}

/// How settings name a model.
pub fn on_model(outline: &Outline) -> OnModel {
    // A model's own files may call it anything.
    let name: String =
        outline.placeless_name().chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let name = if name.is_empty() { "a model without a name".into() } else { name };
    OnModel { name, digest: Some(identity(outline)) }
}

/// A model's digest, whatever it is computed at: settings found at one precision serve at the others.
fn identity(outline: &Outline) -> String {
    outline.digest_at(Precision::F32)
}

fn is_for(model: &OnModel, outline: &Outline) -> bool {
    match &model.digest {
        Some(digest) => *digest == identity(outline),
        None => outline.is_called(&model.name),
    }
}

fn read(path: &Path) -> Result<Kept> {
    let place = path.display().to_string();
    let text = fence::read_text(path, MOST_BYTES).map_err(registry::Error::from)?;
    Ok(Kept { settings: Settings::parse(&place, &text)?, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline() -> Outline {
        at(Precision::F32)
    }

    fn at(precision: Precision) -> Outline {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        Outline::load(&folder, precision).unwrap()
    }

    fn topic() -> Recipe {
        recipes::builtin().into_iter().find(|r| r.name == "topic").unwrap()
    }

    fn settings(model: OnModel, steps: usize) -> Settings {
        let (name, version) = (topic().name, topic().version);
        let name = format!("{name:?}");
        let text = format!(
            "schema = \"settings/1\"\nmodel = {{ name = \"x\" }}\n[[recipe]]\nname = {name}\nversion = {version}\ntraining = {{ steps = {steps} }}\n"
        );
        Settings { model, ..Settings::parse("s.toml", &text).unwrap() }
    }

    fn steps(resolved: &Resolved) -> usize {
        resolved.recipe.training.as_ref().unwrap().steps
    }

    #[test]
    fn the_named_file_goes_before_the_users_own_and_that_before_the_built_in_one() {
        let (outline, folder) = (outline(), tempfile::tempdir().unwrap());
        let root = folder.path();
        let shelf = Shelf::open(root).unwrap();
        assert_eq!(shelf.resolve(&outline, &topic()).unwrap(), Resolved { recipe: topic(), used: None });
        // Built in, by the model's name alone.
        let mut default = at(Precision::F32);
        default.name = "HuggingFaceTB/SmolLM2-135M-Instruct".into();
        let builtin = shelf.resolve(&default, &topic()).unwrap();
        assert_eq!(builtin.recipe, topic());
        assert!(builtin.used.unwrap().from.starts_with("built-in"));
        // The user's own, by its digest, at whatever precision and under whatever name.
        let path = file(root, &default, &settings(on_model(&default), 70)).unwrap();
        assert_eq!(path.parent(), Some(root.join("settings").as_path()));
        let shelf = Shelf::open(root).unwrap();
        for outline in [&default, &outline, &at(Precision::Bf16)] {
            let own = shelf.resolve(outline, &topic()).unwrap();
            let used = own.used.as_ref().unwrap();
            assert_eq!((steps(&own), used.from.as_str()), (70, path.display().to_string().as_str()));
            assert!(!used.other_model);
            assert_eq!(used.over_builtin, outline.name == default.name);
        }
        // A named one, even for another model.
        let other = root.join("other.toml");
        let model = OnModel { name: "else/where".into(), digest: None };
        fs_err::write(&other, settings(model, 80).to_toml()).unwrap();
        let shelf = shelf.with(&other).unwrap();
        let named = shelf.resolve(&outline, &topic()).unwrap();
        assert_eq!(steps(&named), 80);
        assert!(named.used.unwrap().other_model);
        shelf.hold_named_to(&[topic()]).unwrap();
        let marker = recipes::builtin().into_iter().find(|r| r.name == "marker").unwrap();
        let error = shelf.hold_named_to(&[marker]).unwrap_err().to_string();
        assert!(
            error.contains("other.toml") && error.contains("topic") && error.contains("marker"),
            "{error}"
        );
    }

    #[test]
    fn two_files_that_fit_and_a_file_that_cannot_be_read_are_refused_by_name() {
        let (outline, folder) = (outline(), tempfile::tempdir().unwrap());
        let root = folder.path();
        let path = file(root, &outline, &settings(on_model(&outline), 70)).unwrap();
        let second = path.with_file_name("z.toml");
        fs_err::copy(&path, &second).unwrap();
        let error = Shelf::open(root).unwrap().resolve(&outline, &topic()).unwrap_err().to_string();
        for name in [&path, &second] {
            assert!(error.contains(&name.display().to_string()), "{error}");
        }
        fs_err::write(&second, "schema = \"settings/1\"\nmodel = 3\n").unwrap();
        let error = Shelf::open(root).unwrap_err().to_string();
        assert!(error.contains("z.toml: line 2: model") && error.contains('3'), "{error}");
        fs_err::remove_file(&second).unwrap();
        // What is no TOML file is none of ours.
        fs_err::write(path.with_file_name("notes.txt"), "hello").unwrap();
        Shelf::open(root).unwrap();
    }

    #[test]
    fn whatever_a_model_calls_itself_its_settings_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        for name in [String::new(), "a\u{1b}[2J\nb\"]".into(), "x".repeat(5000)] {
            let mut outline = outline();
            outline.name = name;
            file(folder.path(), &outline, &settings(on_model(&outline), 70)).unwrap();
            let resolved = Shelf::open(folder.path()).unwrap().resolve(&outline, &topic()).unwrap();
            assert_eq!(steps(&resolved), 70);
        }
    }

    #[test]
    fn a_digest_that_is_another_models_does_not_fit_whatever_its_name() {
        let (outline, folder) = (outline(), tempfile::tempdir().unwrap());
        let model = OnModel { digest: Some("0".repeat(64)), ..on_model(&outline) };
        file(folder.path(), &outline, &settings(model, 70)).unwrap();
        let resolved = Shelf::open(folder.path()).unwrap().resolve(&outline, &topic()).unwrap();
        assert_eq!(resolved.used, None);
    }
}
