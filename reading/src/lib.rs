//! A reading: what one adapter does, in one pass, and how sure that is.
//!
//! Its behaviour beside the base model's, its mark on the residual stream, its weights, what trained readers answer, and a verdict
//! that is held against twins: adapters of the same shape and size that carry nothing.

#![warn(missing_docs)]

pub mod ask;
pub mod evidence;
pub mod html;
pub mod lexicon;
pub mod many;
pub mod neighbours;
pub mod null;
pub mod outside;
pub mod panel;
pub mod reading;
pub mod replies;
pub mod residual;
pub mod text;
pub mod twins;
pub mod verdict;
pub mod weights;

pub use ask::{Asked, OfReader};
pub use evidence::{Bench, Method, nulls, scores};
pub use lexicon::Lexicon;
pub use many::Many;
pub use neighbours::fingerprint;
pub use null::{Against, Null};
pub use panel::{Panelist, Question};
pub use reading::{Reading, Room, Subject, keep, kept, readings_of};
pub use text::to_terminal;
pub use twins::{Shape, Twin};
pub use verdict::Verdict;
