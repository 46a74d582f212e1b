//! Pictures as plain SVG text, with axis titles and legends.

use std::fmt::Write;

/// Text made safe for SVG and HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A row of a dot-and-interval chart.
#[derive(Debug, Clone)]
pub(crate) struct Dot {
    pub(crate) label: String,
    /// Class decides the colour: `untrained`, `trained`, `control`.
    pub(crate) class: &'static str,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) text: String,
}

/// Dots with intervals on an axis from 0 to 1.
#[derive(Debug, Clone)]
pub(crate) struct Dots {
    pub(crate) rows: Vec<Dot>,
    pub(crate) chance: Option<f64>,
    pub(crate) axis: String,
    pub(crate) title: String,
}

/// Classes and what they mean.
const LEGEND: [(&str, &str); 3] = [
    ("untrained", "without training"),
    ("trained", "trained reader"),
    ("control", "trained on permuted labels"),
];

pub(crate) fn dots(chart: &Dots) -> String {
    let (left, width, right, step, top) = (215.0, 380.0, 150.0, 22.0, 30.0);
    let bottom = top + chart.rows.len() as f64 * step;
    let x = |v: f64| left + v.clamp(0.0, 1.0) * width;
    let mut out = format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" class=\"chart\" aria-label=\"{}\">",
        left + width + right,
        bottom + 44.0,
        escape(&chart.title)
    );
    let mut at = left;
    for (class, meaning) in LEGEND.iter().filter(|(class, _)| chart.rows.iter().any(|r| r.class == *class)) {
        let _ = write!(
            out,
            "<circle class=\"dot {class}\" cx=\"{at:.1}\" cy=\"12\" r=\"4.5\"/><text class=\"axis\" x=\"{:.1}\" y=\"16\">{meaning}</text>",
            at + 9.0
        );
        at += 24.0 + meaning.len() as f64 * 6.3;
    }
    if let Some(chance) = chart.chance {
        let _ = write!(
            out,
            "<line class=\"chance\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"5\" y2=\"19\"/><text class=\"axis\" x=\"{1:.1}\" y=\"16\">chance</text><line class=\"chance\" x1=\"{2:.1}\" x2=\"{2:.1}\" y1=\"{3:.1}\" y2=\"{bottom:.1}\"/>",
            at,
            at + 8.0,
            x(chance),
            top - 4.0
        );
    }
    for tick in 0..=5 {
        let v = f64::from(tick) / 5.0;
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{bottom:.1}\"/><text class=\"axis\" x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{v:.1}</text>",
            x(v),
            top - 4.0,
            bottom + 16.0
        );
    }
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        left + width / 2.0,
        bottom + 35.0,
        escape(&chart.axis)
    );
    for (i, row) in chart.rows.iter().enumerate() {
        let y = top + 9.0 + i as f64 * step;
        let _ = write!(
            out,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><line class=\"bar {}\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4.5\"/><text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left - 12.0,
            y + 4.0,
            escape(&row.label),
            row.class,
            x(row.low),
            x(row.high),
            row.class,
            x(row.value),
            left + width + 14.0,
            y + 4.0,
            escape(&row.text)
        );
    }
    out.push_str("</svg>");
    out
}

/// Lines over a common x axis; y from 0 to `y_max`.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) series: Vec<Vec<(f64, f64)>>,
    pub(crate) x_max: f64,
    pub(crate) y_max: f64,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
}

/// A small chart, one line for each seed.
pub(crate) fn lines(chart: &Lines) -> String {
    let (left, top, width, height) = (46.0, 26.0, 190.0, 100.0);
    let x = |v: f64| left + v / chart.x_max.max(1e-9) * width;
    let y = |v: f64| top + height - (v / chart.y_max.max(1e-9)).clamp(0.0, 1.0) * height;
    let mut out = format!(
        "<svg viewBox=\"0 0 250 172\" role=\"img\" class=\"small\" aria-label=\"{0}\"><text class=\"label\" x=\"{left}\" y=\"14\">{0}</text>",
        escape(&chart.title)
    );
    for tick in 0..=2 {
        let share = f64::from(tick) / 2.0;
        let (v, u) = (chart.y_max * share, chart.x_max * share);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text class=\"axis\" x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{v:.1}</text><text class=\"axis\" x=\"{4:.1}\" y=\"{5:.1}\" text-anchor=\"middle\">{u:.0}</text>",
            left + width,
            y(v),
            left - 6.0,
            y(v) + 4.0,
            x(u),
            top + height + 15.0
        );
    }
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text class=\"axis\" x=\"12\" y=\"{3:.1}\" transform=\"rotate(-90 12 {3:.1})\" text-anchor=\"middle\">{4}</text>",
        left + width / 2.0,
        top + height + 33.0,
        escape(&chart.x_label),
        top + height / 2.0,
        escape(&chart.y_label)
    );
    for points in &chart.series {
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(out, "<polyline class=\"line\" points=\"{}\"/>", path.join(" "));
        for p in points {
            let _ = write!(
                out,
                "<circle class=\"dot trained\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>",
                x(p.0),
                y(p.1)
            );
        }
    }
    out.push_str("</svg>");
    out
}
