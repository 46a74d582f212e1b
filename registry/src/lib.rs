//! The catalogue of adapters (SQLite) and their bytes (content-addressed files).
//!
//! This crate knows bytes and digests, never what a tensor means. Bytes are durable before the row
//! that names them exists; a receipt beside them lets the catalogue be rebuilt.
//!
//! A store folder holds `catalogue.sqlite`, `blobs/ab/<blake3>`, `done/<digest of a spec hash>.json` (receipts),
//! `aliases.json`, `trash/`, `staging/`, `settings/` (training settings by base model, which the factory reads) and `runs/<id>/`
//! (`config.json` says which adapters a run asked).

#![warn(missing_docs)]

pub mod aliases;
pub mod blobs;
pub mod canonical;
pub mod check;
pub mod commit;
pub mod error;
pub mod filter;
pub mod gc;
mod index;
pub mod names;
pub mod query;
pub mod record;
pub mod row;
pub mod runs;
mod schema;
pub mod store;
pub mod upkeep;
mod window;

pub use aliases::Alias;
pub use blobs::{Digest, write_atomic};
pub use canonical::{canonical_json, file_name, spec_hash};
pub use check::{CheckReport, Problem, Repair, VerifyOutcome};
pub use error::{Error, Result};
pub use filter::Filter;
pub use gc::GcPlan;
pub use query::{Edge, Listing, Page, Stats};
pub use record::{AdapterRecord, NewAdapter, PeftConfig, Role, Status};
pub use schema::NEEDS_LEFT;
pub use store::{Store, check_name};
pub use upkeep::{Change, Evaluation};
