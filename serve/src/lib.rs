//! `lorafab serve`: a store as pages in a browser, on this machine alone and for reading alone.
//!
//! Pages are made here, whole, on every request; kept are only open stores and the answers of the run that was looked at last. No scripts
//! or fonts come from elsewhere. The one script is ours (`live.js`): it keeps the queue's numbers up to date. Stores are opened for reading;
//! nothing waits for a writer.

#![warn(missing_docs)]

mod adapter;
mod adapters;
pub mod facts;
mod frame;
mod guard;
mod items;
mod lineage;
mod queue;
mod runs;
mod site;
mod stores;

pub use site::{Error, Site};
