//! Bars of shares that add up to one, a row for each arm.

use std::fmt::Write;

use page::escape;

use super::{EDGE, LETTERS, WIDTH, cut};

/// A part of a bar.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Its class in the shared style.
    pub(crate) class: &'static str,
    /// 0 to 1.
    pub(crate) share: f64,
}

/// A bar, with its name and a number above it.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) text: String,
    pub(crate) parts: Vec<Part>,
}

/// Bars over one axis from 0 to 1.
#[derive(Debug, Clone)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What the axis shows, with its unit.
    pub(crate) axis: String,
    pub(crate) rows: Vec<Bar>,
}

const TOP: f64 = 4.0;
const STEP: f64 = 42.0;
const HEIGHT: f64 = 17.0;

/// A smaller share has no room for its number.
pub(crate) const ROOM: f64 = 0.1;

pub(crate) fn bars(chart: &Bars) -> String {
    let wide = WIDTH - 2.0 * EDGE;
    let bottom = TOP + chart.rows.len() as f64 * STEP;
    let mut out = super::rows(&chart.title, bottom);
    for tick in 0..=4 {
        let v = f64::from(tick) / 4.0;
        let anchor = ["start", "middle", "middle", "middle", "end"][tick as usize];
        let _ = write!(
            out,
            "<line class=\"soft\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/><text class=\"soft\" x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"{anchor}\">{v}</text>",
            EDGE + v * wide,
            bottom + 15.0,
        );
    }
    let _ = write!(
        out,
        "<text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        WIDTH / 2.0,
        bottom + 33.0,
        escape(&chart.axis)
    );
    for (i, row) in chart.rows.iter().enumerate() {
        draw(row, TOP + i as f64 * STEP, wide, &mut out);
    }
    out + "</svg>"
}

fn draw(row: &Bar, top: f64, wide: f64, out: &mut String) {
    let _ = write!(
        out,
        "<text x=\"{EDGE}\" y=\"{0:.1}\">{1}</text><text x=\"{2}\" y=\"{0:.1}\" text-anchor=\"end\">{3}</text>",
        top + 13.0,
        escape(&cut(&row.label, LETTERS.saturating_sub(row.text.chars().count()).max(8))),
        WIDTH - EDGE,
        escape(&row.text),
    );
    let mut at = EDGE;
    for part in row.parts.iter().filter(|p| p.share.is_finite() && p.share > 0.0) {
        let width = part.share.min(1.0) * wide;
        let _ = write!(
            out,
            "<rect class=\"{}\" x=\"{at:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>",
            part.class,
            top + 18.0,
        );
        if part.share >= ROOM {
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.2}</text>",
                at + width / 2.0,
                top + 31.0,
                part.share
            );
        }
        at += width;
    }
}
