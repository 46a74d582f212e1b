//! What commands share: the store, the base model, the clock, signals.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fence::open::SMALL;
use lm::source::{Name, Secret, SourceOptions, locate};
use lm::web::{Certificates, NAMED};
use lm::{BaseModel, BuiltIn, Origin, Outline, Precision, SimdLevel, force_simd_level};
use registry::Store;

use crate::args::Global;
use crate::error::{CommandError, Kind, Result};
use crate::hint::spelled;
use crate::memory::{self, Available};
use crate::output::tell;
use crate::places::{self, HubPlaces, truth, variable};
use crate::trial::{What, tried};

/// Set by the first Ctrl-C or SIGTERM.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

pub(crate) struct Context<'a> {
    pub(crate) global: &'a Global,
}

/// Where the Hub is, and who we are there.
pub(crate) struct Hub {
    /// Where its own tools keep what they fetched.
    pub(crate) cache: PathBuf,
    pub(crate) endpoint: Option<String>,
    pub(crate) token: Option<Secret>,
}

impl Context<'_> {
    /// `--store`, else `$LORAFAB_STORE` (by clap), else the XDG data folder.
    pub(crate) fn store_path(&self) -> PathBuf {
        self.global.store.clone().unwrap_or_else(|| places::own_store(&variable))
    }

    pub(crate) fn store(&self) -> Result<Store> {
        let store = Store::open(&self.store_path())?;
        if store.may_be_old() {
            self.say(&format!(
                "warning: {} may not be written here, nor the log of its latest changes be read: this may be an old view of it",
                store.root().display()
            ));
        }
        Ok(store)
    }

    /// The store, for a look that changes nothing in it.
    pub(crate) fn store_to_look(&self) -> Result<Store> {
        Ok(Store::open_to_look(&self.store_path())?)
    }

    /// Whether there is a store with a catalogue.
    pub(crate) fn has_catalogue(&self) -> bool {
        self.store_path().join("catalogue.sqlite").exists()
    }

    /// The store, for commands that have nothing to do where there is none.
    pub(crate) fn existing_store(&self) -> Result<Store> {
        self.existing_root()?;
        self.store()
    }

    /// The folder of a store that is there.
    pub(crate) fn existing_root(&self) -> Result<PathBuf> {
        let path = self.store_path();
        // A store whose catalogue is lost still has its receipts.
        if !path.join("catalogue.sqlite").exists() && !path.join("done").exists() {
            return Err(CommandError::new(
                Kind::NotFound,
                format!("there is no store at {}", path.display()),
            )
            .hint("name another with --store DIR, or make one with: lorafab factory submit topic"));
        }
        Ok(path)
    }

    pub(crate) fn cache_path() -> PathBuf {
        places::own_cache(&variable)
    }

    /// The Hub, as the variables of its own tools name it.
    pub(crate) fn hub() -> Hub {
        let HubPlaces { cache, token_file } = HubPlaces::of(&variable);
        let token = variable("HF_TOKEN")
            .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| fence::read_text(&token_file, 1 << 16).ok())
            .map(|t| t.trim().to_owned())
            .filter(|t| !t.is_empty());
        Hub { cache, endpoint: variable("HF_ENDPOINT"), token: token.map(Secret) }
    }

    /// Whom connections are to trust, as the environment says.
    pub(crate) fn certificates() -> Certificates {
        NAMED.into_iter().filter_map(|name| Some((name, variable(name)?))).collect()
    }

    /// Whether the network is not to be touched.
    pub(crate) fn offline(&self) -> bool {
        self.global.offline || truth("TRANSFORMERS_OFFLINE")
    }

    pub(crate) fn model_path(&self) -> Result<PathBuf> {
        self.model_path_with(self.offline())
    }

    /// The outline of a model that is here already; nothing is fetched.
    pub(crate) fn outline_at_hand(&self) -> Option<Outline> {
        let path = self.model_path_with(true).ok()?;
        let template = self.template().ok()?;
        let outline = Outline::load_with(&path, self.precision().ok()?, template.as_deref()).ok()?;
        Some(outline.named(self.model_name(&path)))
    }

    pub(crate) fn model_path_with(&self, offline: bool) -> Result<PathBuf> {
        let path = locate(&self.source(offline), &mut |what| self.say(what))?;
        let template = self.global.chat_template.as_deref();
        // A built-in model's bytes are known by their digest.
        if BuiltIn::find(&self.global.model).is_none() || template.is_some() {
            tried(What::Model, &path, template)?;
        }
        Ok(path)
    }

    /// The chat template that was given.
    pub(crate) fn template(&self) -> Result<Option<String>> {
        let read = |path: &PathBuf| fence::read_text(path, SMALL);
        Ok(self.global.chat_template.as_ref().map(read).transpose().map_err(lm::Error::from)?)
    }

    /// Says once where prompts are not in a chat template of the model's own.
    fn say_form(&self, outline: &Outline) {
        static SAID: AtomicBool = AtomicBool::new(false);
        if outline.chat.origin() == Origin::Plain && !SAID.swap(true, Ordering::Relaxed) {
            self.say(
                "the model has no chat template; prompts are put as \"User: ...\" and \"Assistant:\", each on a line, and a reply ends where \
                 the model writes \"User:\"; give another form with --chat-template FILE",
            );
        }
    }

    /// What others find the model by.
    pub(crate) fn model_name(&self, path: &Path) -> Name {
        lm::source::name(&self.source(true), path)
    }

    pub(crate) fn source(&self, offline: bool) -> SourceOptions {
        let hub = Self::hub();
        SourceOptions {
            model: self.global.model.clone(),
            cache_dir: Self::cache_path(),
            hub_cache: hub.cache,
            hub_endpoint: hub.endpoint,
            certificates: Self::certificates(),
            // As `huggingface_hub` has it: a token that nobody gave for this is not told.
            hub_token: hub.token.filter(|_| !truth("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            offline,
            python: variable("LORAFAB_PYTHON").unwrap_or_else(|| "python3".into()),
        }
    }

    /// Puts `--simd` into force; nothing may have been computed before.
    pub(crate) fn choose_simd(&self) -> Result<()> {
        let wanted = self.global.simd.as_str();
        if wanted == "best" {
            return Ok(());
        }
        let Some(level) = SimdLevel::ALL.into_iter().find(|l| l.name() == wanted) else {
            let names = SimdLevel::ALL.map(SimdLevel::name).join(", ");
            return Err(CommandError::new(
                Kind::Usage,
                format!("--simd {wanted:?} is none of best, {names}"),
            ));
        };
        force_simd_level(level).map_err(|best| {
            CommandError::new(Kind::Usage, format!("--simd {wanted} is more than this CPU has"))
                .hint(format!("the best here is {}", best.name()))
        })
    }

    pub(crate) fn precision(&self) -> Result<Precision> {
        match self.global.precision.as_str() {
            "fastest" => Ok(Precision::fastest()),
            "f32" => Ok(Precision::F32),
            "bf16" if Precision::Bf16.runs_here() => Ok(Precision::Bf16),
            "bf16" => Err(CommandError::new(
                Kind::Usage,
                "--precision bf16 needs AVX512-BF16, which this CPU lacks or --simd forbids",
            )
            .hint("use --precision f32")),
            other => Err(CommandError::new(
                Kind::Usage,
                format!("--precision {other:?} is none of fastest, f32, bf16"),
            )),
        }
    }

    pub(crate) fn base(&self) -> Result<BaseModel> {
        let precision = self.precision()?;
        let path = self.model_path()?;
        self.check_memory(&path, Outline::loading_bytes)?;
        self.say(&format!("loading {}", path.display()));
        let template = self.template()?;
        let base = BaseModel::load_with(&path, precision, template.as_deref())?;
        self.say_form(&base);
        Ok(base.named(self.model_name(&path)))
    }

    /// Memory that may be taken; none if nobody says.
    pub(crate) fn available_memory(&self) -> Option<Available> {
        memory::available(self.global.memory.as_ref())
    }

    /// Refuses a model that cannot fit, before any of its weights is read; `need` is what will be taken at once.
    pub(crate) fn check_memory(&self, path: &Path, need: fn(&Outline) -> f64) -> Result {
        let Some(available) = self.available_memory() else { return Ok(()) };
        if memory::weights_bytes(path).saturating_mul(memory::MOST_TIMES) <= available.bytes {
            return Ok(());
        }
        let template = self.template()?;
        let outline = Outline::load_with(path, self.precision()?, template.as_deref())?;
        memory::check(&outline, need, Some(&available))
    }

    /// What is known of the base model without loading its weights.
    pub(crate) fn outline(&self) -> Result<Outline> {
        let precision = self.precision()?;
        let path = self.model_path()?;
        let template = self.template()?;
        let outline = Outline::load_with(&path, precision, template.as_deref())?;
        self.say_form(&outline);
        Ok(outline.named(self.model_name(&path)))
    }

    /// Progress, status and hints, on stderr.
    pub(crate) fn say(&self, what: &str) {
        if !self.global.quiet {
            tell(&self.spelled(what));
        }
    }

    /// A text whose commands carry the options that were given.
    pub(crate) fn spelled(&self, what: &str) -> String {
        spelled(self.global, what)
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Name of a worker of this process in leases: host, process id, the process's start so that a reused id is not taken for it,
/// and which worker.
pub(crate) fn owner(worker: usize) -> String {
    let pid = std::process::id();
    format!("{}/{pid}/{}/{worker}", hostname(), start_of(pid).unwrap_or_default())
}

fn hostname() -> String {
    fs_err::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |s| s.trim().to_owned())
}

/// The kernel's start time of a process, if it lives.
fn start_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned)
}

/// Whether a lease's owner was a process of this host that no longer lives.
pub(crate) fn gone(owner: &str) -> bool {
    let parts: Vec<&str> = owner.split('/').collect();
    let [host, pid, start, _] = parts[..] else { return false };
    host == hostname() && pid.parse().ok().and_then(start_of).is_none_or(|s| s != start)
}

/// Whether a signal came.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// First signal: stop after the current step. Second: at once (everything finished is safe).
pub(crate) fn watch_signals() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut term) = signal(SignalKind::terminate()) else { return };
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = term.recv() => {}
                }
                if STOP.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                tell("stopping as soon as it can; once more to stop at once");
            }
        });
    });
}
