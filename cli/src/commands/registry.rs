//! `registry stats|rebuild`.

use serde_json::json;

use crate::args::RegistryCommand;
use crate::context::Context;
use crate::error::Result;
use crate::output::{count, print, print_json, table};

pub(crate) fn run(context: &Context<'_>, command: &RegistryCommand) -> Result {
    let mut store = context.existing_store()?;
    match command {
        RegistryCommand::Stats => {
            let stats = store.stats()?;
            if context.global.json {
                return print_json(&json!({"schema": "registry-stats/1", "stats": stats}));
            }
            let rows: Vec<Vec<String>> = stats
                .by_family
                .iter()
                .map(|(family, counts)| {
                    let n = |s: &str| counts.get(s).map_or("–".into(), ToString::to_string);
                    vec![
                        family.clone(),
                        counts.values().sum::<usize>().to_string(),
                        n("learned"),
                        n("weak"),
                        n("failed"),
                        n("not_applicable"),
                        n("untested"),
                    ]
                })
                .collect();
            print(&table(
                &["family", ">adapters", ">learned", ">weak", ">failed", ">no gate", ">untested"],
                &rows,
            ))?;
            print(&format!(
                "{} adapters, {:.1} MB of weights, {} blobs of {:.1} MB",
                stats.adapters,
                stats.weights_bytes as f64 / 1e6,
                stats.blobs,
                stats.blob_bytes as f64 / 1e6
            ))
        }
        RegistryCommand::Rebuild => {
            let added = store.rebuild_from_receipts()?;
            if context.global.json {
                return print_json(&json!({"schema": "registry-rebuild/1", "added": added}));
            }
            print(&format!("{} added from receipts", count(added, "adapter")))
        }
    }
}
