//! A cluster without a server: an immutable manifest, workers that touch only a shared folder, and one ingester that owns the
//! catalogue. Whoever starts the workers (Slurm arrays, a shell loop) only has to give each one a shard's number.
//!
//! A shared folder holds
//!
//! ```text
//! manifests/<id>/manifest.json   what is to be made, by shard; never changed
//! manifests/<id>/arrays.json     what was submitted for it
//! inputs/<blake3>                weights that jobs need
//! staging/                       checkpoints, and adapters being written
//! done/ab/<spec hash>/           finished adapters, each complete when its folder appears
//! failed/<spec hash>.json        why a job cannot be done
//! beats/<id>/<shard>             touched by the shard's worker while it lives
//! ```

mod ingest;
mod manifest;
mod parcel;
mod work;

pub use ingest::{Ingested, ingest};
pub use manifest::{Manifest, PlanOptions, Task, plan, release};
pub use parcel::{Found, look};
pub use work::{WorkOptions, WorkSummary, work};
