//! `reader add`.

use clap::Args;
use registry::{NewAdapter, Store};
use serde_json::json;

use super::published::{Published, ReaderKind, Ways, label_of};
use crate::commands::adapter::effect;
use crate::commands::subject::{Place, Subject};
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

#[derive(Debug, Args)]
#[command(
    after_help = "An oracle reads the combination of layers nearest to the middle of the model, as published ones are evaluated; its other layers are read with --layers."
)]
pub(crate) struct AddArgs {
    /// PEFT folder, .pt file of Diff Interpretation Tuning, or hub:organisation/name
    #[arg(value_name = "FOLDER|FILE|HUB")]
    source: String,
    /// Name to find it by (the folder's if none is given)
    #[arg(long)]
    name: Option<String>,
    /// What kind of reader it is; an oracle is known by its ao_config.json, a .pt file is a DIT adapter
    #[arg(long, value_enum)]
    method: Option<ReaderKind>,
    /// Layers that an oracle is to read: one combination of its ao_config.json
    #[arg(long, value_delimiter = ',', value_name = "LAYER,...")]
    layers: Vec<usize>,
}

pub(super) fn run(context: &Context<'_>, args: &AddArgs) -> Result {
    let subject = Subject::elsewhere(context, &args.source)?;
    if let Some(name) = &args.name {
        free(context, name)?;
    }
    // Everything that needs no weights of the base model is looked at before they are loaded.
    let outline = context.outline()?;
    let (found, label) = match &subject.place {
        Place::Folder(folder) => {
            let layers = (!args.layers.is_empty()).then_some(args.layers.as_slice());
            let ways = Ways { method: args.method, layers, bare: false };
            // A snapshot's folder is called by its commit.
            let label = match subject.name.strip_prefix("hub:") {
                Some(repository) => repository.rsplit('/').next().unwrap_or_default().to_owned(),
                None => label_of(&std::path::absolute(folder)?),
            };
            (Published::of_folder(&outline, folder, ways)?, label)
        }
        Place::Pickled(path, element) => {
            if args.method == Some(ReaderKind::Oracle) {
                let what = format!("{}: a .pt file holds a DIT adapter, and no oracle", path.display());
                return Err(CommandError::new(Kind::Usage, what));
            }
            (Published::of_pickled(&outline, path, *element)?, label_of(path))
        }
        Place::Store(_) => return Err(CommandError::new(Kind::Usage, "it is in the store already")),
    };
    let (method, reads) = (found.method, found.collector.clone());
    let base = context.base()?;
    let wrong = |what: &str| CommandError::new(Kind::Usage, format!("{}: {what}", args.source));
    let change = effect(&base, &found.imported).map_err(|what| wrong(&what))?;
    if change == 0.0 {
        return Err(wrong("it changes no logit, so it cannot read anything"));
    }
    let mut new = found.into_new(&outline, args.name.as_deref().unwrap_or(&label))?;
    new.metrics.insert("logit_change".to_owned(), change);
    let mut store = context.store()?;
    let known = store.adapter_by_spec(&new.spec_hash)?.is_some();
    if !known {
        unlike_others(&store, &new)?;
    }
    let record = store.commit_adapter(new)?;
    if let Some(name) = &args.name {
        store.set_alias(name, &record.id)?;
    }
    let call = args.name.as_deref().unwrap_or(&record.behaviour);
    if known {
        context.say(&format!("the same reader is there already: {}", fence::shown(&record.behaviour)));
    }
    context.say(&format!(
        "largest change of a logit on one prompt: {change:.3}; ask it with: lorafab {} ask ADAPTER \"What is it about?\" --reader {}",
        method.name(),
        fence::shown(call)
    ));
    if context.global.json {
        let reads = reads.map(|c| {
            json!({"layers": c.layers, "positions": c.last, "kind": c.kind, "coefficient": c.coefficient, "prompt": c.form})
        });
        return print_json(
            &json!({"schema": "reader-add/1", "id": record.id, "name": record.behaviour, "method": method.name(),
            "known": known, "logit_change": change, "reads": reads}),
        );
    }
    print(&record.id)
}

/// Refuses a name that stands for something else, before a model is loaded.
fn free(context: &Context<'_>, name: &str) -> Result {
    registry::check_name(name)?;
    if !context.has_catalogue() {
        return Ok(());
    }
    let store = context.store()?;
    if let Some(alias) = store.aliases()?.iter().find(|a| a.name == name) {
        let stands = store.adapter(&alias.adapter)?;
        if !stands.family.ends_with("-imported") {
            let what = format!("--name {name}: that name stands for {}", stands.behaviour);
            return Err(CommandError::new(Kind::Usage, what).hint("choose another --name"));
        }
    }
    Ok(())
}

/// Two readers of one name could not be told apart.
fn unlike_others(store: &Store, new: &NewAdapter) -> Result {
    match store.adapter(&new.behaviour) {
        Err(registry::Error::NotFound { .. }) => Ok(()),
        _ => Err(CommandError::new(Kind::Usage, format!("there is another reader called {}", new.behaviour))
            .hint("choose another --name, or remove that one with: lorafab adapter rm")),
    }
}
