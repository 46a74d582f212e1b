//! What all readers share, trained and training-free alike: arms as data, the supervision they are trained on, the cases
//! they are asked, the trait [`Method`] that each way of reading implements, and how a trained reader is found, made and
//! filed.

#![warn(missing_docs)]

pub mod answers;
pub mod arm;
pub mod case;
pub mod error;
pub mod made;
pub mod method;
pub mod reader;
pub mod supervision;
pub mod train;
#[cfg(test)]
mod world;

pub use answers::{Answer, Asked, ClosedSet, answer, closed_scores};
pub use arm::{Arm, Input, InputKind, Labels, Positions, Pretrain, Scaling, Train, Which};
pub use case::{Case, Subject, cases};
pub use error::{Error, Result, Wrong};
pub use made::{ALSO, newest_of_each, newest_with_remade, remade, sound};
pub use method::{Lab, Making, Method, Scored, Stage, pick};
pub use reader::{Budget, Label, Made, Reader, Session, file, find, from_record};
pub use supervision::{Supervision, episode_options, tested};
pub use train::{Lesson, Pupil, flops_a_step, train};
