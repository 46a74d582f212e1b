//! `doctor`: what this machine and this store offer, and what the model in use is and needs. Nothing is fetched, and no weights are
//! loaded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lm::{
    BUILT_IN, BuiltIn, Message, Origin, Outline, Precision, Role, SYSTEM_PROMPT, product_rate, simd_level,
};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{CommandError, Result};
use crate::memory::{Available, check, gb, weights_bytes};
use crate::output::{print, print_json};

pub(crate) fn run(context: &Context<'_>) -> Result {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // A look makes no store.
    let adapters = if context.has_catalogue() { context.store_to_look()?.stats()?.adapters } else { 0 };
    let cache = Context::cache_path();
    let models: Vec<(&BuiltIn, bool)> = BUILT_IN.iter().map(|b| (b, b.cached(&cache).is_some())).collect();
    let rates: BTreeMap<String, f64> = Precision::ALL
        .into_iter()
        .filter(|p| p.runs_here())
        .map(|p| (p.name().to_owned(), product_rate(p) / 1e9))
        .collect();
    let available = context.available_memory();
    let model = Model::find(context, available.as_ref())?;
    if context.global.json {
        let built_in: Vec<Value> = models
            .iter()
            .map(|(b, cached)| json!({"names": b.names, "hub": b.hub, "bytes": b.weights.bytes, "cached": cached}))
            .collect();
        print_json(
            &json!({"schema": "doctor/2", "threads": threads, "simd": simd_level().name(), "product_gflops": rates, "precision": Precision::fastest(),
            "available_memory_bytes": available.as_ref().map(|a| a.bytes), "available_memory_by": available.as_ref().map(|a| a.by.text()),
            "store": context.store_path(), "adapters": adapters, "built_in_models": built_in,
            "model": model.json(available.as_ref(), &rates)}),
        )?;
        return model.verdict();
    }
    let built_in: Vec<String> = models
        .iter()
        .map(|(b, cached)| {
            let (names, hub) = (b.names.join(" or "), b.hub);
            format!("{names} ({hub}): {}", if *cached { "in the cache" } else { "not fetched yet" })
        })
        .collect();
    let free = available.as_ref();
    let mut lines = vec![
        ("threads", threads.to_string()),
        ("vector level", simd_level().name().to_owned()),
        ("default precision", format!("{:?}", Precision::fastest())),
        (
            "matrix products",
            rates.iter().map(|(p, r)| format!("{r:.0} GFLOP/s in {p}")).collect::<Vec<_>>().join(", "),
        ),
        (
            "memory",
            free.map_or("unknown".into(), |a| format!("{} free ({})", gb(a.bytes as f64), a.by.text())),
        ),
        ("store", format!("{} ({} adapters)", context.store_path().display(), adapters)),
        ("built-in models", built_in.join("\n")),
    ];
    lines.extend(model.lines(free, &rates));
    print(&lines.iter().map(|(name, text)| entry(name, text)).collect::<Vec<_>>().join("\n"))?;
    model.verdict()
}

/// A name and what is said of it, further lines below the first.
fn entry(name: &str, text: &str) -> String {
    format!("{name:<19}{}", text.replace('\n', &format!("\n{:19}", "")))
}

/// The model in use, as far as it is at hand.
struct Model {
    /// What was asked for.
    asked: String,
    built_in: Option<&'static BuiltIn>,
    path: Option<PathBuf>,
    outline: Option<Outline>,
    /// What would not work, and why.
    problems: Vec<CommandError>,
}

impl Model {
    fn find(context: &Context<'_>, available: Option<&Available>) -> Result<Self> {
        let precision = context.precision()?;
        let asked = context.global.model.clone();
        let built_in = BuiltIn::find(&asked);
        let mut found = Self { asked, built_in, path: None, outline: None, problems: Vec::new() };
        if built_in.is_some_and(|b| b.cached(&Context::cache_path()).is_none()) {
            return Ok(found);
        }
        let read = || -> Result<(PathBuf, Option<Outline>, Option<CommandError>)> {
            let path = context.model_path_with(true)?;
            let template = context.template()?;
            Ok(match Outline::load_with(&path, precision, template.as_deref()) {
                Ok(outline) => {
                    let name = context.model_name(&path);
                    (path, Some(outline.named(name)), None)
                }
                Err(e) => (path, None, Some(e.into())),
            })
        };
        match read() {
            Ok((path, outline, problem)) => {
                found.path = Some(path);
                found.outline = outline;
                found.problems.extend(problem);
            }
            Err(e) => found.problems.push(e),
        }
        if let Some(outline) = &found.outline {
            found.problems.extend(check(outline, Outline::loading_bytes, available).err());
        }
        Ok(found)
    }

    /// Fails as the first command that uses the model would.
    fn verdict(self) -> Result {
        self.problems.into_iter().next().map_or(Ok(()), Err)
    }

    /// Where it lies, or what is to be had.
    fn place(&self) -> String {
        match (&self.path, self.built_in) {
            (Some(path), built_in) => {
                let kind = if path.is_dir() { "a Hugging Face folder" } else { "a GGUF file" };
                let built_in = if built_in.is_some() { ", built in" } else { "" };
                format!(
                    "{} ({kind}{built_in}, {} of weights)",
                    path.display(),
                    gb(weights_bytes(path) as f64)
                )
            }
            (None, Some(b)) => format!(
                "not fetched yet: the first command that needs it fetches {}",
                gb(b.weights.bytes as f64)
            ),
            (None, None) => "not here, or not to be read".into(),
        }
    }

    fn lines(&self, free: Option<&Available>, rates: &BTreeMap<String, f64>) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        let Some(outline) = &self.outline else {
            lines.push(("model", self.asked.clone()));
            lines.push(("  lies at", self.place()));
            lines.extend(self.problem_lines());
            return lines;
        };
        let a = &outline.architecture;
        let heads = &a.layers[0].attention;
        lines.push(("model", format!("{} (family: {})", outline.name, a.class)));
        lines.push(("  lies at", self.place()));
        if let Some(path) = &self.path {
            lines.push(("  read there", read_from(path, outline.chat.origin())));
        }
        lines.push((
            "  size",
            format!(
                "{:.0} million parameters: {} layers of width {}, {} query and {} key/value heads of {}, vocabulary {}, context {}",
                a.parameters() as f64 / 1e6,
                a.layers.len(),
                a.hidden_size,
                heads.heads,
                heads.kv_heads,
                heads.head_dim,
                a.vocab_size,
                a.context
            ),
        ));
        let more = a.beyond_llama();
        if !more.is_empty() {
            lines.push(("  it has", more.join("; ")));
        }
        let shown = match example(outline) {
            Ok(text) => {
                let whose = match outline.chat.origin() {
                    Origin::Model => "the model's own",
                    Origin::Given => "given",
                    Origin::Plain => "none; the plain form for base models",
                };
                format!("{whose} ({}); a question comes out as {text:?}", &outline.chat.digest()[..12])
            }
            Err(e) => format!("it cannot be run: {}", e.message),
        };
        lines.push(("  chat template", shown));
        let (loading, after) = (outline.loading_bytes(), outline.base_bytes());
        let verdict =
            free.map_or("", |f| if loading <= f.bytes as f64 { ": it fits" } else { ": it does NOT fit" });
        lines.push((
            "  memory",
            format!("about {} while it loads, {} after{verdict}", gb(loading), gb(after)),
        ));
        if let Some((read, train)) = speed(outline, rates) {
            lines.push((
                "  speed",
                format!(
                    "at most about {read:.0} tokens a second read, {train:.0} trained on (products with the weights alone, at the rate above)"
                ),
            ));
        }
        lines.extend(self.problem_lines());
        lines
    }

    fn problem_lines(&self) -> Vec<(&'static str, String)> {
        let all: Vec<String> = self
            .problems
            .iter()
            .map(|p| {
                let hint = p.hint.as_ref().map_or_else(String::new, |h| format!("\nhint: {h}"));
                format!("{}{hint}", said(p))
            })
            .collect();
        if all.is_empty() { vec![] } else { vec![("  would not work", all.join("\n"))] }
    }

    fn json(&self, available: Option<&Available>, rates: &BTreeMap<String, f64>) -> Value {
        let problems: Vec<Value> =
            self.problems.iter().map(|p| json!({"message": said(p), "hint": p.hint})).collect();
        let known = self.outline.as_ref().map(|outline| {
            let a = &outline.architecture;
            let (loading, after) = (outline.loading_bytes(), outline.base_bytes());
            json!({"name": outline.name, "revision": outline.revision, "family": a.class, "precision": outline.precision,
                "parameters": a.parameters(), "num_hidden_layers": a.layers.len(), "hidden_size": a.hidden_size,
                "vocab_size": a.vocab_size, "max_position_embeddings": a.context, "beyond_llama": a.beyond_llama(),
                "chat_template_digest": outline.chat.digest(), "chat_template_example": example(outline).ok(),
                "loading_bytes": loading, "base_bytes": after, "fits": available.map(|free| loading <= free.bytes as f64),
                "most_tokens_per_second": speed(outline, rates).map(|(read, train)| json!({"read": read, "train": train}))})
        });
        json!({"asked": self.asked, "built_in": self.built_in.is_some(), "path": self.path,
            "weights_bytes": self.path.as_deref().map(weights_bytes), "outline": known, "problems": problems})
    }
}

fn said(problem: &CommandError) -> String {
    std::iter::once(&problem.message).chain(&problem.causes).cloned().collect::<Vec<_>>().join(": ")
}

/// Which files said what.
fn read_from(path: &Path, origin: Origin) -> String {
    let folder = path.is_dir();
    let template = match origin {
        Origin::Model if !folder => ", chat template",
        Origin::Model if path.join("chat_template.jinja").exists() => {
            ", chat template from chat_template.jinja"
        }
        Origin::Model => ", chat template from tokenizer_config.json",
        Origin::Given | Origin::Plain => "",
    };
    if folder {
        format!(
            "configuration from config.json, tokenizer from tokenizer.json{template}; of the weights only the digest"
        )
    } else {
        format!("configuration, tokenizer{template} from the file's header; of the weights only the digest")
    }
}

/// What a question to the model comes out as.
fn example(outline: &Outline) -> Result<String> {
    let messages = [Message::new(Role::System, SYSTEM_PROMPT), Message::new(Role::User, "How are you?")];
    Ok(outline.chat.render(&messages, true)?)
}

/// Tokens a second that can be read and trained on, at most: reading takes one product with every weight, training two (its gradient
/// goes to the input alone).
fn speed(outline: &Outline, rates: &BTreeMap<String, f64>) -> Option<(f64, f64)> {
    let flops = rates.get(outline.precision.name())? * 1e9;
    let a = &outline.architecture;
    let read = flops / a.layer_flops(a.layers.len());
    Some((read, read / 2.0))
}
