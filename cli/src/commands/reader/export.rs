//! `reader export`.

use std::collections::BTreeMap;
use std::path::Path;

use exchange::IfExists;
use registry::Role;
use serde_json::json;

use super::find;
use super::published::DIT_CONFIG;
use crate::context::Context;
use crate::error::Result;
use crate::output::print_result;

pub(super) fn run(context: &Context<'_>, name: &str, dir: &Path, force: bool) -> Result {
    let store = context.existing_store()?;
    let record = find(&store, name)?;
    let mut further = BTreeMap::new();
    if record.role == Role::DitAdapter {
        // One from elsewhere does not say on which factor of the differences it was trained.
        let scale = &record.spec["diff_scale"];
        let config = json!({"schema": "dit_config/1", "base_model": record.peft.base_model, "diff_scale": scale,
            "about": "Stack it on the fine-tuned model (its difference times diff_scale, if that is given) and ask in the chat template, with an empty system message."});
        further.insert(DIT_CONFIG, format!("{config:#}\n").into_bytes());
    }
    let if_exists = if force { IfExists::Replace } else { IfExists::Fail };
    exchange::peft::export_with(&store, &record, dir, if_exists, &further)?;
    context.say(&format!("another store takes it in with its `reader add {}`", dir.display()));
    print_result(context.global.json, "reader-export/1", "folder", &dir.display().to_string())
}
