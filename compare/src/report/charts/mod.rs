//! Pictures as plain SVG text: narrow enough for a phone, coloured by the classes of the shared style.

mod bars;
mod doses;
mod dots;
mod lines;

pub(crate) use bars::{Bar, Bars, Part, ROOM, bars};
pub(crate) use doses::{Bin, Doses, doses};
pub use dots::{Dot, Dots, dots};
pub(crate) use lines::{Lines, lines};

use std::fmt::Write;

use page::escape;

use crate::comparison::ArmRow;

/// Width of a picture of rows, and what is left free at either side.
const WIDTH: f64 = 400.0;
const EDGE: f64 = 12.0;
/// Letters of a name and its number that fit into a row.
const LETTERS: usize = 54;

/// What kind of arm a mark is of; each has a colour and a shape of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Needs no training.
    Untrained,
    /// A trained reader.
    Trained,
    /// Trained on permuted labels.
    Control,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Untrained, Self::Trained, Self::Control];

    pub(crate) fn of(arm: &ArmRow) -> Self {
        match (arm.trained, arm.permuted) {
            (true, true) => Self::Control,
            (true, false) => Self::Trained,
            (false, _) => Self::Untrained,
        }
    }

    /// Its class in the shared style.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Untrained => "untrained",
            Self::Trained => "trained",
            Self::Control => "control",
        }
    }

    /// What it means, in a word or two.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Untrained => "without training",
            Self::Trained => "trained reader",
            Self::Control => "control",
        }
    }

    /// Its mark: a square without training, a disc for a trained reader, a ring for the control.
    pub(crate) fn mark(self, x: f64, y: f64) -> String {
        let class = self.class();
        match self {
            Self::Untrained => format!(
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"8\" height=\"8\"/>",
                x - 4.0,
                y - 4.0
            ),
            Self::Trained => format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/>"),
            Self::Control => {
                format!("<circle class=\"{class} ring\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>")
            }
        }
    }
}

/// The beginning of a picture of rows, as wide as a phone; below `bottom` are its axis' numbers and name.
fn rows(title: &str, bottom: f64) -> String {
    let title = escape(title);
    format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>",
        bottom + 40.0
    )
}

/// The beginning of a small picture, with its title at the left edge of what it shows.
fn small(title: &str, height: usize, left: f64) -> String {
    let title = escape(title);
    format!(
        "<svg class=\"small\" viewBox=\"0 0 250 {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title><text x=\"{left}\" y=\"14\">{title}</text>"
    )
}

/// The names of a small picture's axes: the one across at a place, the other along the left edge, its middle at `middle`.
fn axes_names((x, y): (f64, f64), across: &str, middle: f64, up: &str) -> String {
    format!(
        "<text class=\"soft\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text><text class=\"soft\" x=\"12\" y=\"{middle:.1}\" transform=\"rotate(-90 12 {middle:.1})\" text-anchor=\"middle\">{}</text>",
        escape(across),
        escape(up)
    )
}

/// Marks and what they mean, in a row that ends at the place returned.
fn legend(kinds: impl Iterator<Item = Kind>, left: f64, y: f64, out: &mut String) -> f64 {
    let mut at = left;
    for kind in kinds {
        let _ = write!(
            out,
            "{}<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            kind.mark(at + 5.0, y - 4.0),
            at + 14.0,
            y,
            kind.meaning()
        );
        at += 24.0 + kind.meaning().len() as f64 * 6.6;
    }
    at
}

/// A name that is cut where it has no room; tables have it whole.
pub(crate) fn cut(name: &str, most: usize) -> String {
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most - 1).chain(['\u{2026}']).collect()
}
