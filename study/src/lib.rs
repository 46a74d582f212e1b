//! Studies: a question, the adapters and arms that are to answer it, and the rule of the decision, written down and filed before any
//! adapter that decides is made; then run, reported, and verified from its items alone.

#![warn(missing_docs)]

pub mod adapters;
pub mod cost;
pub mod error;
pub mod file;
pub mod folder;
pub mod items;
pub mod power;
pub mod registration;
pub mod report;
pub mod resolve;
pub mod results;

pub use error::{Error, Result};
pub use file::{Family, Primary, Rule, Says, Study, Term};
pub use folder::{Folder, recompute, verify};
pub use items::Items;
pub use registration::Registration;
pub use resolve::{Resolved, resolve};
pub use results::{Results, results};
