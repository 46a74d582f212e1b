//! Marks with intervals on one axis: levels, differences, correlations.

use std::fmt::Write;

use page::escape;

use super::{EDGE, Kind, LETTERS, WIDTH, cut, legend};

/// A row: an arm's number.
#[derive(Debug, Clone)]
pub struct Dot {
    /// Its name.
    pub label: String,
    /// Its colour and mark.
    pub kind: Kind,
    /// Where it stands.
    pub value: f64,
    /// 95% interval, lower end.
    pub low: f64,
    /// 95% interval, upper end.
    pub high: f64,
    /// The same of each reader seed, where there are more than one.
    pub seeds: Vec<f64>,
    /// The number in words, beside it.
    pub text: String,
}

/// Rows over one axis, each with its name and number above its line.
#[derive(Debug, Clone)]
pub struct Dots {
    /// What it is of.
    pub title: String,
    /// What the axis shows, with its unit.
    pub axis: String,
    /// The axis' ends.
    pub ends: (f64, f64),
    /// A place to compare with, and its name in the legend.
    pub beside: Option<(f64, &'static str)>,
    /// Half the width of a band around 0 that counts as no difference.
    pub band: Option<f64>,
    /// From top to bottom.
    pub rows: Vec<Dot>,
}

const TOP: f64 = 30.0;
const STEP: f64 = 34.0;

/// The picture, as SVG.
pub fn dots(chart: &Dots) -> String {
    let (low, high) = chart.ends;
    let x = |v: f64| EDGE + (v.clamp(low, high) - low) / (high - low).max(1e-9) * (WIDTH - 2.0 * EDGE);
    let rows: Vec<&Dot> = chart
        .rows
        .iter()
        .filter(|r| r.value.is_finite() && r.low.is_finite() && r.high.is_finite())
        .collect();
    let bottom = TOP + rows.len() as f64 * STEP;
    let mut out = super::rows(&chart.title, bottom);
    let shown = Kind::ALL.into_iter().filter(|k| rows.iter().any(|r| r.kind == *k));
    let at = legend(shown, EDGE - 5.0, 16.0, &mut out);
    if let Some((_, name)) = chart.beside {
        let _ = write!(
            out,
            "<line class=\"beside\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"4\" y2=\"20\"/><text class=\"soft\" x=\"{1:.1}\" y=\"16\">{name}</text>",
            at + 4.0,
            at + 12.0
        );
    }
    if let Some(half) = chart.band {
        let _ = write!(
            out,
            "<rect class=\"band\" x=\"{:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            x(-half),
            x(half) - x(-half),
            bottom - TOP
        );
    }
    axis(chart, bottom, &x, &mut out);
    for (i, row) in rows.iter().enumerate() {
        draw(row, TOP + i as f64 * STEP, &x, &mut out);
    }
    out + "</svg>"
}

/// Five ticks with their numbers, the axis' name and the place to compare with.
fn axis(chart: &Dots, bottom: f64, x: &dyn Fn(f64) -> f64, out: &mut String) {
    let (low, high) = chart.ends;
    for tick in 0..=4 {
        let v = low + (high - low) * f64::from(tick) / 4.0;
        let anchor = ["start", "middle", "middle", "middle", "end"][tick as usize];
        let number = if low < 0.0 && v != 0.0 { format!("{v:+}") } else { format!("{v}") };
        let _ = write!(
            out,
            "<line class=\"soft\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/><text class=\"soft\" x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"{anchor}\">{number}</text>",
            x(v),
            bottom + 15.0,
        );
    }
    if let Some((v, _)) = chart.beside {
        let _ = write!(
            out,
            "<line class=\"beside\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\"/>",
            x(v)
        );
    }
    let _ = write!(
        out,
        "<text class=\"soft\" x=\"{}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        WIDTH / 2.0,
        bottom + 33.0,
        escape(&chart.axis)
    );
}

fn draw(row: &Dot, top: f64, x: &dyn Fn(f64) -> f64, out: &mut String) {
    let y = top + 23.0;
    let _ = write!(
        out,
        "<text x=\"{EDGE}\" y=\"{0:.1}\">{1}</text><text x=\"{2}\" y=\"{0:.1}\" text-anchor=\"end\">{3}</text><line class=\"{4}\" x1=\"{5:.1}\" x2=\"{6:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
        top + 13.0,
        escape(&cut(&row.label, LETTERS.saturating_sub(row.text.chars().count()).max(8))),
        WIDTH - EDGE,
        escape(&row.text),
        row.kind.class(),
        x(row.low),
        x(row.high),
    );
    for seed in row.seeds.iter().filter(|v| v.is_finite()) {
        let _ = write!(
            out,
            "<line class=\"{}\" x1=\"{1:.1}\" x2=\"{1:.1}\" y1=\"{2:.1}\" y2=\"{3:.1}\"/>",
            row.kind.class(),
            x(*seed),
            y - 6.0,
            y + 6.0
        );
    }
    out.push_str(&row.kind.mark(x(row.value), y));
}
