//! The catalogue of adapters (SQLite) and their bytes (content-addressed files).
//!
//! This crate knows bytes, digests and the PEFT file format, never what a tensor means. Bytes are durable before the row
//! that names them exists; a receipt beside them lets the catalogue be rebuilt.
//!
//! A store folder holds `catalogue.sqlite`, `blobs/ab/<blake3>`, `done/<spec hash>.json` (receipts), `staging/` and
//! `runs/<id>/`.

#![warn(missing_docs)]

pub mod blobs;
pub mod canonical;
pub mod error;
pub mod filter;
pub mod peft;
pub mod record;
pub mod store;

pub use blobs::{Digest, write_atomic};
pub use canonical::{canonical_json, spec_hash};
pub use error::{Error, Result};
pub use filter::Filter;
pub use peft::{IfExists, ImportShape};
pub use record::{AdapterRecord, NewAdapter, PeftConfig, Role, Status};
pub use store::{Stats, Store, VerifyOutcome};
