//! Small line charts, one for each arm, one line for each seed.

use std::fmt::Write;

use super::{Kind, axes_names, small};

/// Lines over a common x axis; y from 0 to `y_max`.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) kind: Kind,
    pub(crate) series: Vec<Vec<(f64, f64)>>,
    pub(crate) x_max: f64,
    pub(crate) y_max: f64,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
}

pub(crate) fn lines(chart: &Lines) -> String {
    let (left, top, width, height) = (44.0, 26.0, 194.0, 100.0);
    let x = |v: f64| left + (v / chart.x_max.max(1e-9)).clamp(0.0, 1.0) * width;
    let y = |v: f64| top + height - (v / chart.y_max.max(1e-9)).clamp(0.0, 1.0) * height;
    let class = chart.kind.class();
    let mut out = small(&chart.title, 170, left);
    for tick in 0..=2 {
        let share = f64::from(tick) / 2.0;
        let (v, u) = (chart.y_max * share, chart.x_max * share);
        let anchor = ["start", "middle", "end"][tick as usize];
        let _ = write!(
            out,
            "<line class=\"soft\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text class=\"soft\" x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{v:.1}</text><text class=\"soft\" x=\"{4:.1}\" y=\"{5:.1}\" text-anchor=\"{anchor}\">{u:.0}</text>",
            left + width,
            y(v),
            left - 6.0,
            y(v) + 4.0,
            x(u),
            top + height + 15.0
        );
    }
    let below = (left + width / 2.0, top + height + 33.0);
    out += &axes_names(below, &chart.x_label, top + height / 2.0, &chart.y_label);
    for series in &chart.series {
        let points: Vec<(f64, f64)> =
            series.iter().filter(|p| p.0.is_finite() && p.1.is_finite()).map(|p| (x(p.0), y(p.1))).collect();
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", p.0, p.1)).collect();
        let _ = write!(out, "<polyline class=\"{class} open\" points=\"{}\"/>", path.join(" "));
        for p in &points {
            let _ = write!(out, "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>", p.0, p.1);
        }
    }
    out + "</svg>"
}
