//! What a user can name where a command takes an adapter: one of the store, a PEFT folder, a `.pt` file of Diff Interpretation
//! Tuning, a repository on the Hub. Names are looked up before a model is loaded; what is not of the store is checked as an import
//! is, and not filed.

use std::path::{Path, PathBuf};

use exchange::peft::Imported;
use lm::{Adapter, BaseModel, Outline, Precision};
use registry::AdapterRecord;

use super::adapter::{as_peft, effect, shape};
use super::readers::made_at_precision;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::trial::{What, tried};

/// What a repository on the Hub begins with.
const HUB: &str = "hub:";

/// What each of them is, for hints.
pub(crate) const FORMS: &str = "name an adapter of the store (lorafab adapter list), a PEFT folder, a .pt file of Diff Interpretation Tuning, or hub:organisation/name";

/// An adapter that somebody named, found and not yet loaded.
#[derive(Debug)]
pub(crate) struct Subject {
    /// As it was named; of the store, its behaviour.
    pub(crate) name: String,
    pub(crate) place: Place,
}

/// Where it is.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the store.
    Store(Box<AdapterRecord>),
    /// A PEFT folder, or one fetched from the Hub.
    Folder(PathBuf),
    /// An element of a `.pt` file, by its number.
    Pickled(PathBuf, usize),
}

/// An adapter in memory, checked against the base model.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) adapter: Adapter,
    /// What a file from elsewhere held, in the shape that a store keeps; none of one of the store.
    pub(crate) imported: Option<Imported>,
    /// Largest change of a logit on one prompt; measured for what is not of the store.
    pub(crate) effect: Option<f64>,
    /// The precision that one of the store was made at.
    pub(crate) made_at: Option<Precision>,
    /// Another base that its configuration names.
    pub(crate) warning: Option<String>,
}

impl Subject {
    /// What `text` names. A name of the store goes before a file of the same spelling; `./` before it means the file.
    ///
    /// # Errors
    /// With what it could have been, before any model is loaded.
    pub(crate) fn find(context: &Context<'_>, text: &str) -> Result<Self> {
        if text.starts_with(HUB) {
            return Self::elsewhere(context, text);
        }
        let (path, element) = element_of(text);
        let here = path.exists();
        // What only a file can be called is not looked for in the store.
        let is_path = text.starts_with(['.', '/', '~']) || element.is_some() || is_pickled(&path);
        if !is_path {
            match context.existing_store() {
                Ok(store) => match store.adapter(text) {
                    Ok(record) => {
                        let name = record.behaviour.clone();
                        return Ok(Self { name, place: Place::Store(Box::new(record)) });
                    }
                    Err(registry::Error::NotFound { .. }) if here => {}
                    Err(e @ registry::Error::NotFound { .. }) => {
                        return Err(CommandError::from(e).hint(FORMS));
                    }
                    Err(e) => return Err(e.into()),
                },
                Err(e) if !here => return Err(e),
                Err(_) => {}
            }
        }
        Self::elsewhere(context, text)
    }

    /// The same, where nothing of the store is meant.
    ///
    /// # Errors
    /// As [`Subject::find`].
    pub(crate) fn elsewhere(context: &Context<'_>, text: &str) -> Result<Self> {
        let named = |place| Ok(Self { name: text.to_owned(), place });
        if let Some(repository) = text.strip_prefix(HUB) {
            return named(fetched(context, repository)?);
        }
        let (path, element) = element_of(text);
        if !path.exists() {
            let what = format!("{} does not exist", path.display());
            return Err(CommandError::new(Kind::NotFound, what).hint(FORMS));
        }
        if is_pickled(&path) {
            return named(Place::Pickled(path, element.unwrap_or(0)))
                .and_then(|s| s.pickled_checked(element));
        }
        if !path.is_dir() {
            let what = format!("{} is neither a folder nor a .pt file", path.display());
            return Err(CommandError::new(Kind::Usage, what).hint(FORMS));
        }
        if path.join("config.json").exists() && !path.join("adapter_config.json").exists() {
            let what = format!("{} is a whole model, not an adapter", path.display());
            return Err(CommandError::new(Kind::Usage, what).hint(format!(
                "take its difference to the base model in with: lorafab adapter import {}",
                path.display()
            )));
        }
        let found = path.join("adapter_config.json").try_exists();
        if !found.map_err(|e| {
            CommandError::new(Kind::Environment, format!("{} cannot be looked into: {e}", path.display()))
        })? {
            let what = format!("{} holds no adapter_config.json, so it is no adapter", path.display());
            return Err(CommandError::new(Kind::Usage, what).hint(FORMS));
        }
        named(Place::Folder(path))
    }

    /// What the catalogue knows of it.
    pub(crate) fn record(&self) -> Option<&AdapterRecord> {
        if let Place::Store(record) = &self.place { Some(record) } else { None }
    }

    /// Which of a file's diffs is meant is known before a model is loaded.
    fn pickled_checked(self, element: Option<usize>) -> Result<Self> {
        let Place::Pickled(path, at) = &self.place else { return Ok(self) };
        tried(What::Pickle, path, None)?;
        let held = lm::pickled::read(path)?.len();
        if (element.is_none() && held > 1) || *at >= held {
            let what = match element {
                Some(at) => format!("{} has no element {at}; it holds {held}", path.display()),
                None => format!("{} holds {held} diffs", path.display()),
            };
            return Err(CommandError::new(Kind::NotFound, what).hint(format!(
                "name one: {}#0 to {0}#{}",
                path.display(),
                held.saturating_sub(1)
            )));
        }
        Ok(self)
    }

    /// Refuses what was made for another base model, as far as it is known without weights.
    pub(crate) fn fits(&self, base: &Outline) -> Result {
        self.record().map_or(Ok(()), |record| made_at_precision(base, record).map(drop))
    }

    /// Loads it on its base model: from elsewhere, with all the checks of an import.
    ///
    /// # Errors
    /// One sentence if it is not a working adapter of this model.
    pub(crate) fn load(&self, context: &Context<'_>, base: &BaseModel) -> Result<Held> {
        let (path, imported) = match &self.place {
            Place::Store(record) => {
                let made_at = Some(made_at_precision(base, record)?);
                let adapter = ::factory::load_adapter(&context.existing_store()?, base, record)?;
                return Ok(Held { adapter, imported: None, effect: None, made_at, warning: None });
            }
            Place::Folder(path) => (path, exchange::peft::import(path, &shape(base))?),
            Place::Pickled(path, at) => (path, from_pickled(base, path, *at)?),
        };
        let wrong = |what: String| CommandError::new(Kind::Usage, format!("{}: {what}", path.display()));
        let effect = effect(base, &imported).map_err(wrong)?;
        let config = ::factory::load::adapter_config(&imported.peft)?;
        let adapter = Adapter::from_safetensors(&base.architecture, config, &imported.weights)?;
        let warning = of_another_base(base, &imported).map(|base_named| {
            format!("{} says that it is for {base_named}; here it is used with {}", self.name, base.name)
        });
        Ok(Held { adapter, imported: Some(imported), effect: Some(effect), made_at: None, warning })
    }
}

/// The base model that an adapter's configuration names, if it is another.
pub(crate) fn of_another_base(base: &Outline, imported: &Imported) -> Option<String> {
    let name = imported.base.as_deref().filter(|b| !base.is_called(b));
    let revision = imported.revision.as_deref().filter(|r| !base.is_at(r));
    (name.is_some() || revision.is_some()).then(|| {
        let at = imported.revision.as_ref().map_or_else(String::new, |r| format!(" at {r:?}"));
        format!("{:?}{at}", imported.base.as_deref().unwrap_or("a model"))
    })
}

/// An element of a `.pt` file in the shape that a store keeps.
pub(in crate::commands) fn from_pickled(base: &Outline, path: &Path, at: usize) -> Result<Imported> {
    let diffs = lm::pickled::read(path)?;
    let shape = shape(base);
    let wrong = |what: String| CommandError::new(Kind::Usage, format!("{}: {what}", path.display()));
    let diff = diffs.get(at).ok_or_else(|| wrong(format!("has no element {at}")))?;
    let (config, weights) = as_peft(diff, &shape).map_err(wrong)?;
    Ok(exchange::peft::read(path, config.to_string().as_bytes(), path, &weights, &shape)?)
}

fn is_pickled(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "pt")
}

/// `FILE.pt#3` is the fourth element of a file.
fn element_of(text: &str) -> (PathBuf, Option<usize>) {
    let split = text.rsplit_once('#').filter(|(file, _)| is_pickled(Path::new(file)));
    match split.and_then(|(file, n)| Some((file, n.parse().ok()?))) {
        Some((file, n)) => (file.into(), Some(n)),
        None => (text.into(), None),
    }
}

/// `organisation/name` on the Hub, or a folder or `.pt` file in it, in the Hugging Face cache.
fn fetched(context: &Context<'_>, text: &str) -> Result<Place> {
    let (repository, inside) = match text.match_indices('/').nth(1) {
        Some((at, _)) => (&text[..at], text[at + 1..].trim_end_matches('/')),
        None => (text, ""),
    };
    let (inside_file, element) = element_of(inside);
    let inside_file = inside_file.display().to_string();
    let mut source = context.source(context.offline());
    repository.clone_into(&mut source.model);
    let mut progress = |what: &str| context.say(what);
    if is_pickled(Path::new(&inside_file)) {
        let folder = lm::source::files(&source, &[&inside_file], &[], &mut progress)?;
        let place = Place::Pickled(folder.join(&inside_file), element.unwrap_or(0));
        return Ok(Subject { name: text.to_owned(), place }.pickled_checked(element)?.place);
    }
    let file = |name: &str| if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
    let [config, weights, oracle] =
        ["adapter_config.json", "adapter_model.safetensors", "ao_config.json"].map(file);
    let folder = lm::source::files(&source, &[&config, &weights], &[&oracle], &mut progress)?;
    Ok(Place::Folder(folder.join(inside)))
}
