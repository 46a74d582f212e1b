//! Small charts of a share against a dose, one for each arm: a dot for each adapter, and means of neighbours.

use std::fmt::Write;

use super::{Kind, axes_names, small};

/// Neighbours in dose, summed up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bin {
    /// Mean dose.
    pub(crate) x: f64,
    /// Mean share.
    pub(crate) value: f64,
    /// 95% interval, lower end.
    pub(crate) low: f64,
    /// 95% interval, upper end.
    pub(crate) high: f64,
    /// The mean of a second share, for comparison.
    pub(crate) second: Option<f64>,
}

/// Shares, 0 to 1, over a dose.
#[derive(Debug, Clone)]
pub(crate) struct Doses {
    pub(crate) title: String,
    pub(crate) kind: Kind,
    /// One for each adapter.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) bins: Vec<Bin>,
    /// The axis' ends.
    pub(crate) ends: (f64, f64),
    /// A dose that is marked.
    pub(crate) beside: Option<f64>,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
}

const LEFT: f64 = 44.0;
const TOP: f64 = 30.0;
const WIDTH: f64 = 194.0;
const HEIGHT: f64 = 100.0;

pub(crate) fn doses(chart: &Doses) -> String {
    let (low, high) = chart.ends;
    let x = |v: f64| LEFT + ((v - low) / (high - low).max(1e-9)).clamp(0.0, 1.0) * WIDTH;
    let y = |v: f64| TOP + (1.0 - v.clamp(0.0, 1.0)) * HEIGHT;
    let class = chart.kind.class();
    let mut out = small(&chart.title, 176, LEFT);
    axes(chart, &x, &y, &mut out);
    // One path for all: a dot is a line of no length with round ends. Neighbours are shifted so that none hides another.
    let dots: Vec<String> = chart
        .points
        .iter()
        .enumerate()
        .map(|(i, p)| format!("M{:.1} {:.1}h0", x(p.0), y(p.1) + 3.5 * (i % 3) as f64 - 3.5))
        .collect();
    let _ = write!(out, "<path class=\"{class} dots\" d=\"{}\"/>", dots.concat());
    let line = |of: &dyn Fn(&Bin) -> Option<f64>| -> String {
        let points = chart.bins.iter().filter_map(|b| Some(format!("{:.1},{:.1}", x(b.x), y(of(b)?))));
        points.collect::<Vec<_>>().join(" ")
    };
    let second = line(&|b| b.second);
    if !second.is_empty() {
        let _ = write!(out, "<polyline class=\"{class} open second\" points=\"{second}\"/>");
    }
    let _ = write!(out, "<polyline class=\"{class} open\" points=\"{}\"/>", line(&|b| Some(b.value)));
    for b in &chart.bins {
        let _ = write!(
            out,
            "<line class=\"{class}\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>{3}",
            x(b.x),
            y(b.low),
            y(b.high),
            chart.kind.mark(x(b.x), y(b.value))
        );
    }
    out + "</svg>"
}

/// The least of 1, 2, 5, 10, ... that leaves no more than five steps.
fn step(range: f64) -> f64 {
    let mut steps = (0..9).flat_map(|power| [1.0, 2.0, 5.0].map(|s| s * 10f64.powi(power)));
    steps.find(|s| range / s <= 5.0).unwrap_or(1e9)
}

fn axes(chart: &Doses, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64, out: &mut String) {
    let (low, high) = chart.ends;
    for tick in 0..=2 {
        let share = f64::from(tick) / 2.0;
        let _ = write!(
            out,
            "<line class=\"soft\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text class=\"soft\" x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{share:.1}</text>",
            LEFT + WIDTH,
            y(share),
            LEFT - 6.0,
            y(share) + 4.0,
        );
    }
    let step = step(high - low);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    for dose in (first..=last).map(|i| i as f64 * step) {
        let _ = write!(
            out,
            "<text class=\"soft\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{dose}</text>",
            x(dose),
            TOP + HEIGHT + 18.0
        );
    }
    if let Some(dose) = chart.beside.filter(|d| (low..=high).contains(d)) {
        let _ = write!(
            out,
            "<line class=\"beside\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\"/>",
            x(dose),
            TOP - 6.0,
            TOP + HEIGHT
        );
    }
    let below = (LEFT + WIDTH / 2.0, TOP + HEIGHT + 36.0);
    *out += &axes_names(below, &chart.x_label, TOP + HEIGHT / 2.0, &chart.y_label);
}
