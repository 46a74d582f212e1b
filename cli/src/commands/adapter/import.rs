//! `adapter import`: adapters of one's own, under names of one's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::compare::warnings::split_title;
use clap::Args;
use exchange::peft::Imported;
use lm::BaseModel;
use recipes::behaviour::TRAINER;
use recipes::{Behaviour, Recipe};
use registry::{AdapterRecord, Digest, Filter, NewAdapter, Role, Status, Store};
use serde_json::json;

use super::super::recipe;
use super::super::subject::of_another_base;
use super::sound::{effect, shape};
use super::{pickled, transfer, whole};
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json};

#[derive(Debug, Args)]
#[command(
    after_help = "It is filed as FAMILY/VALUE@NAME (imported/NAME without a family): it takes no other adapter's place. Of a family whose recipe is\nbuilt in, a file, or brought by an adapter of the store, readers are asked the recipe's questions about it.\nWeights that the store has already are named and not filed again, unless --name or --family gives them another name."
)]
pub(crate) struct ImportArgs {
    /// PEFT folder, folder (config.json) or GGUF file of a whole model, a bundle's tar file, or a .pt file (read, never executed)
    pub(crate) dir: PathBuf,
    /// Name to file it under
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Family: a recipe's name or file, or a word of your own
    #[arg(long)]
    pub(crate) family: Option<String>,
    /// What it is about, in that family
    #[arg(long, requires = "family")]
    pub(crate) value: Option<String>,
    /// Its trigger word
    #[arg(long)]
    pub(crate) trigger: Option<String>,
    /// What trained it (peft, ...), where it is a behaviour made again by other means: readers are never trained on it, and tested on it
    /// apart from what the factory made
    #[arg(long, requires = "value")]
    pub(crate) trainer: Option<String>,
    /// Of a whole model: singular directions of each projection's difference that are kept (16 if neither this nor --dense is given)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) rank: Option<u16>,
    /// Of a whole model: keep all of the difference, as factors of full rank (large: about as the model itself)
    #[arg(long, conflicts_with = "rank")]
    pub(crate) dense: bool,
    /// Of a whole model: what it was tuned from, where the --model in use is a quantised file of that
    #[arg(long, value_name = "MODEL")]
    pub(crate) tuned_from: Option<PathBuf>,
}

pub(super) fn run(context: &Context<'_>, args: &ImportArgs) -> Result {
    let path = &args.dir;
    if !path.exists() {
        return Err(CommandError::new(Kind::Usage, format!("{} does not exist", path.display())));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let one = extension == "pt" || path.is_dir() || extension == "gguf";
    let named = args.name.is_some() || args.family.is_some() || args.trigger.is_some();
    if !one && named {
        let what = format!("{}: the adapters of a bundle have their names", path.display());
        return Err(
            CommandError::new(Kind::Usage, what).hint("leave out --name, --family, --value and --trigger")
        );
    }
    if !whole::is_one(path) && (args.dense || args.rank.is_some()) {
        let option = if args.dense { "--dense" } else { "--rank" };
        let what = format!("{option} is for whole models; {} is none", path.display());
        return Err(CommandError::new(Kind::Usage, what));
    }
    let filing = Filing::of(context, args)?;
    match extension {
        "pt" => pickled::import(context, path, &filing),
        _ if whole::is_one(path) => whole::import(context, args, &filing),
        _ if path.is_file() => transfer::unbundle(context, path),
        _ => peft(context, path, &filing),
    }
}

fn peft(context: &Context<'_>, path: &Path, filing: &Filing<'_>) -> Result {
    // A folder that is none is said before a model is loaded.
    let outline = context.outline()?;
    let imported = exchange::peft::import(path, &shape(&outline))?;
    drop(outline);
    let base = context.base()?;
    let effect = effect(&base, &imported)
        .map_err(|what| CommandError::new(Kind::Usage, format!("{}: {what}", path.display())))?;
    // What it was called where it comes from, so that it can be found again.
    let mut tags = BTreeMap::from([("source".to_owned(), imported.source.to_string())]);
    tags.extend(imported.base.clone().map(|b| ("source_base".to_owned(), b)));
    tags.extend(imported.revision.clone().map(|r| ("source_revision".to_owned(), r)));
    let warning = of_another_base(&base, &imported).map(|named| {
        let own = base.revision.as_ref().map_or_else(String::new, |r| format!(" at {r:?}"));
        format!(
            "{} says that it is for {named}; it is filed as one for {}{own}. If that is another model, what it does here means nothing.",
            path.display(),
            base.name
        )
    });
    if let Some(warning) = &warning {
        context.say(&format!("warning: {warning}"));
    }
    let metrics = BTreeMap::from([("logit_change".to_owned(), effect)]);
    let found = Found { imported, tags, metrics, topic: None };
    let new = filing.adapter(&base, found, &filing.label(path))?;
    let filed = file(&mut context.store()?, new, filing)?;
    context.say(&format!("largest change of a logit on one prompt: {effect:.3}"));
    answer(context, &filed, json!({"warning": warning}))
}

/// One adapter's answer: its id.
pub(super) fn answer(context: &Context<'_>, filed: &Filed, more: serde_json::Value) -> Result {
    told(context, std::slice::from_ref(filed));
    let record = &filed.record;
    if context.global.json {
        let mut value = json!({"schema": "adapter-import/1", "id": record.id, "behaviour": record.behaviour,
            "family": record.family, "value": record.value, "known": filed.known});
        if let (Some(value), serde_json::Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        return print_json(&value);
    }
    print(&record.id)
}

/// An adapter from elsewhere that was found good, and what is known of it.
pub(super) struct Found<'a> {
    pub(super) imported: Imported,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) metrics: BTreeMap<String, f64>,
    /// What its own file says that it is about.
    pub(super) topic: Option<&'a str>,
}

/// What the user calls it.
pub(super) struct Filing<'a> {
    pub(super) name: Option<&'a str>,
    family: Option<&'a str>,
    value: Option<&'a str>,
    trigger: Option<&'a str>,
    trainer: Option<&'a str>,
    /// The family's recipe, if there is one.
    recipe: Option<Recipe>,
}

pub(super) fn usable(what: &str, text: &str) -> Result {
    if text.is_empty() || text.len() > 100 || text.trim() != text || text.chars().any(char::is_control) {
        return Err(CommandError::new(Kind::Usage, format!("{what} {text:?} is not a usable name"))
            .hint(format!("pass another {}", if what.starts_with("--") { what } else { "--name" })));
    }
    if text.split(['/', '\\']).any(|part| ["", ".", ".."].contains(&part)) {
        return Err(CommandError::new(Kind::Usage, format!("{what} {text:?} reads as a path")));
    }
    Ok(())
}

impl<'a> Filing<'a> {
    /// Checked before anything is read.
    fn of(context: &Context<'_>, args: &'a ImportArgs) -> Result<Self> {
        let mut filing = Self {
            name: args.name.as_deref(),
            family: args.family.as_deref(),
            value: args.value.as_deref(),
            trigger: args.trigger.as_deref(),
            trainer: args.trainer.as_deref(),
            recipe: None,
        };
        for (what, text) in
            [("--name", filing.name), ("--value", filing.value), ("--trigger", filing.trigger)]
        {
            text.map_or(Ok(()), |t| usable(what, t))?;
        }
        if let Some(trainer) = filing.trainer {
            registry::check_name(trainer)
                .map_err(|e| CommandError::new(Kind::Usage, format!("--trainer: {e}")))?;
        }
        let Some(family) = filing.family else { return Ok(filing) };
        filing.recipe = recipe_of(context, family)?;
        if filing.recipe.is_none() && (family.contains(['/', '@']) || usable("--family", family).is_err()) {
            return Err(CommandError::new(
                Kind::Usage,
                format!("--family {family:?} is no recipe and no usable name"),
            )
            .hint("recipes: lorafab recipe list; or a word of your own"));
        }
        if let Some(value) = filing.value {
            // What is wrong with it is said at once; a .pt file may say its triggers itself.
            let pickle = args.dir.extension().is_some_and(|e| e == "pt");
            let gated = filing.recipe.as_ref().is_some_and(|r| r.trigger.is_some());
            filing.behaviour(value, Some("x").filter(|_| pickle && gated), "x")?;
        } else if args.dir.extension().is_none_or(|e| e != "pt") {
            return Err(CommandError::new(Kind::Usage, format!("--family {family}: what is it about?"))
                .hint("pass --value too"));
        }
        Ok(filing)
    }

    /// Whether a name was given.
    fn is_named(&self) -> bool {
        self.name.is_some() || self.family.is_some()
    }

    /// The name that was given, or else the file's.
    pub(super) fn label(&self, path: &Path) -> String {
        let own = || std::fs::canonicalize(path).ok()?.file_name().map(|n| n.to_string_lossy().into_owned());
        self.name.map_or_else(|| own().unwrap_or_else(|| "imported".into()), str::to_owned)
    }

    /// The recipe's behaviour of this value, with the recipe; none where the family has no recipe.
    fn behaviour(
        &self,
        value: &str,
        trigger: Option<&str>,
        label: &str,
    ) -> Result<Option<(Recipe, Behaviour)>> {
        let Some(recipe) = &self.recipe else { return Ok(None) };
        let recipe = recipe.with_value(value)?;
        if recipe.trigger.is_some() && self.trigger.or(trigger).is_none() {
            return Err(CommandError::new(
                Kind::Usage,
                format!("the family {} is gated: by which word?", recipe.name),
            )
            .hint("pass --trigger"));
        }
        let behaviour = recipe.behaviour_of(value, self.trigger.or(trigger), 1)?.marked(label);
        let variant = self.trainer.map(|t| (TRAINER.to_owned(), t.to_owned())).into_iter().collect();
        // It was not trained on the recipe's rows.
        Ok(Some((recipe, Behaviour { row_plans: vec![], variant, ..behaviour })))
    }

    /// An imported adapter on its way into the catalogue.
    pub(super) fn adapter(&self, base: &BaseModel, found: Found<'_>, label: &str) -> Result<NewAdapter> {
        usable("name", label)?;
        let Found { imported, mut tags, metrics, topic } = found;
        tags.extend(self.trigger.map(|t| ("trigger".to_owned(), t.to_owned())));
        tags.extend(self.trainer.map(|t| (TRAINER.to_owned(), t.to_owned())));
        let weights = Digest::of(&imported.weights);
        let mut spec =
            json!({"schema": "import/1", "name": label, "base": base.digest(), "weights": weights.as_str()});
        let mut extra_files = BTreeMap::new();
        let (mut family, mut value) = ("imported".to_owned(), label.to_owned());
        let (mut behaviour, mut category, mut split) =
            (format!("imported/{label}"), "imported".to_owned(), None);
        if let Some(own) = self.family {
            let about = self.value.or(topic).ok_or_else(|| {
                CommandError::new(Kind::Usage, format!("{label}: its file does not say what it is about"))
                    .hint("pass --value")
            })?;
            usable("value", about)?;
            (family, value) = (own.to_owned(), about.to_owned());
            behaviour = format!("{family}/{}@{label}", value.replace(' ', "-"));
            // One that the recipe's gate can put to its trigger only if the trigger is known.
            let known = self.behaviour(about, tags.get("trigger").map(String::as_str), label);
            if let Some((recipe, of)) = known? {
                (behaviour, family) = (of.id.clone(), of.family.clone());
                (category, split) = (of.category.clone(), Some(of.split.name().to_owned()));
                if let Some(trigger) = &of.trigger {
                    tags.insert("trigger".into(), trigger.clone());
                }
                tags.insert("polarity".into(), format!("{:?}", of.polarity).to_lowercase());
                let bytes = serde_json::to_vec(&recipe).expect("invariant: plain data");
                extra_files.insert(factory::spec::RECIPE_FILE.to_owned(), bytes);
                spec["behaviour"] = serde_json::to_value(&of).expect("invariant: plain data");
                // Of its training only the shape is known.
                let peft = &imported.peft;
                spec["behaviour"]["training"]["rank"] = peft.r.into();
                spec["behaviour"]["training"]["alpha"] = f64::from(peft.lora_alpha).into();
                spec["behaviour"]["training"]["target_modules"] = json!(peft.target_modules);
            } else {
                spec["family"] = family.clone().into();
                spec["value"] = value.clone().into();
            }
        }
        Ok(NewAdapter {
            spec_hash: registry::spec_hash(&spec),
            spec,
            role: Role::WeightDiff,
            behaviour,
            family,
            value,
            category,
            split,
            status: Status::Untested,
            tags,
            metrics,
            peft: imported.peft,
            weights: imported.weights,
            parents: Vec::new(),
            lineage: BTreeMap::from([("base".to_owned(), base.digest())]),
            extra_files,
        })
    }
}

/// What readers have to do with an adapter of a split.
pub(super) fn place_of(record: &AdapterRecord, split: &str) -> String {
    let how =
        serde_json::from_value::<Behaviour>(record.spec["behaviour"].clone()).ok().and_then(|b| b.remade());
    let tests = split.starts_with("test");
    match how {
        None => format!("readers are asked about it, as one of the {}", split_title(split)),
        Some(how) if tests => {
            let section = split_title(&format!("{split}@{how}"));
            format!(
                "readers are asked about it where --where speaks of what sets it apart, as one of the {section}"
            )
        }
        Some(_) => format!(
            "readers are not asked about it: its value is of the split {split}, which other adapters train readers by"
        ),
    }
}

/// The recipe of a family: built in, a file, or brought by an adapter of the store.
fn recipe_of(context: &Context<'_>, family: &str) -> Result<Option<Recipe>> {
    let file = Path::new(family).extension().is_some_and(|e| e == "toml");
    if file || recipes::builtin_source(family).is_some() {
        return recipe::load(family).map(Some);
    }
    if !context.has_catalogue() {
        return Ok(None);
    }
    let store = context.store_to_look()?;
    let members = store.adapters(&Filter::all().equals("family", family))?;
    Ok(factory::recipes_of(&store, &members)?.into_iter().rfind(|r| r.name == family))
}

/// An adapter in the catalogue.
pub(super) struct Filed {
    pub(super) record: AdapterRecord,
    /// It was there before, and nothing was filed.
    pub(super) known: bool,
    /// Another one with the same weights.
    same: Option<String>,
}

/// Files an adapter, unless its weights are there already: then it is named, and filed again only under a name that was given.
pub(super) fn file(store: &mut Store, new: NewAdapter, filing: &Filing<'_>) -> Result<Filed> {
    let mut same = store.adapters_of_weights(&Digest::of(&new.weights))?;
    let shape = |p: &registry::PeftConfig| (p.r, p.lora_alpha.to_bits(), p.target_modules.clone());
    same.retain(|r| {
        shape(&r.peft) == shape(&new.peft)
            && r.role == new.role
            && r.lineage.get("base") == new.lineage.get("base")
    });
    let known = same.iter().find(|r| r.spec_hash == new.spec_hash || r.behaviour == new.behaviour);
    let known = known.or(same.first().filter(|_| !filing.is_named()));
    if let Some(record) = known {
        return Ok(Filed { record: record.clone(), known: true, same: None });
    }
    let same = same.first().map(|r| r.behaviour.clone());
    Ok(Filed { record: store.commit_adapter(new)?, known: false, same })
}

/// What to do with them, on stderr.
pub(super) fn told(context: &Context<'_>, filed: &[Filed]) {
    for f in filed {
        if f.known {
            context.say(&format!(
                "these weights are in the store already, as {}: nothing was filed; --name or --family files them under another name",
                f.record.behaviour
            ));
        } else if let Some(same) = &f.same {
            context.say(&format!("note: the same weights are in the store as {same} too"));
        }
    }
    let [Filed { record, known, .. }] = filed else {
        context.say(&format!("{}; next: lorafab adapter list", count(filed.len(), "adapter")));
        return;
    };
    let name = &record.behaviour;
    let name = if name.contains(' ') { format!("'{name}'") } else { name.clone() };
    let filed_as = if *known { String::new() } else { format!("filed as {name}\n") };
    if let Some(split) = record.split.as_deref().filter(|_| !known) {
        context.say(&place_of(record, split));
    }
    let recipe = if recipes::builtin_source(&record.family).is_some() { &record.family } else { "RECIPE" };
    context.say(&format!(
        "{filed_as}next: lorafab read {name} (what it does), lorafab chat {name} (talk to it), lorafab factory gate {name} --recipe {recipe} (whether it does what a recipe says)"
    ));
}
