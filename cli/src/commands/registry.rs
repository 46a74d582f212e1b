//! `registry stats|rebuild`.

use serde_json::json;

use crate::args::RegistryCommand;
use crate::context::Context;
use crate::error::Result;
use crate::output::{print, print_json, table};

pub(crate) fn run(context: &Context<'_>, command: &RegistryCommand) -> Result {
    let mut store = context.store()?;
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
                    ]
                })
                .collect();
            print(&table(&["family", ">adapters", ">learned", ">weak", ">failed"], &rows))?;
            print(&format!(
                "{} adapters, {:.1} MB of weights, {} blobs of {:.1} MB",
                stats.adapters,
                stats.weights_bytes as f64 / 1e6,
                stats.blobs,
                stats.blob_bytes as f64 / 1e6
            ))
        }
        RegistryCommand::Rebuild => {
            print(&format!("{} adapters added from receipts", store.rebuild_from_receipts()?))
        }
    }
}
