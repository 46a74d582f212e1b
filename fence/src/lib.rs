//! What others wrote stays in its place and within a bound.
//!
//! Adapters, bundles, stores, models and repositories come from strangers. Four rules, each with one home:
//!
//! - [`open`]: a file is opened if it is a plain one, of a size within the cap of its kind; nothing waits for a pipe or reads a device;
//!   [`within`] a folder that somebody named, links are followed as far as a Hugging Face cache has them;
//! - [`place`]: a name that came from a file, a header or a record is one plain component of a path, or refused; folders of a store
//!   are folders, not links to other places;
//! - [`trial`]: what parses or runs others' input is tried first in a child process with limits on memory and time;
//! - [`shown`]: nothing of theirs reaches a terminal raw.
//!
//! [`turns`] is the one form in which a conversation is a text, for whoever writes prompts and whoever puts them through a template.

#![warn(missing_docs)]

pub mod open;
pub mod place;
pub mod shown;
pub mod trial;
pub mod turns;
pub mod within;

pub use open::{read, read_text};
pub use place::{Plain, folder};
pub use shown::{shown, shown_lines};
