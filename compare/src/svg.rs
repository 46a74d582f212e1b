//! Pictures for the report, as plain SVG text.

use std::fmt::Write;

/// Text made safe for SVG and HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A row of a dot-and-interval chart.
pub(crate) struct Dot {
    pub(crate) label: String,
    /// Class decides the colour: `own`, `swapped`, `random`, `none`.
    pub(crate) class: &'static str,
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) text: String,
}

/// Dots with intervals on an axis from 0 to 1, with a dashed line at `chance`.
pub(crate) fn intervals(rows: &[Dot], chance: Option<f64>) -> String {
    let (left, width, right, step) = (210.0, 380.0, 150.0, 22.0);
    let height = rows.len() as f64 * step + 34.0;
    let x = |v: f64| left + v.clamp(0.0, 1.0) * width;
    let mut out =
        format!("<svg viewBox=\"0 0 {} {height}\" role=\"img\" class=\"chart\">", left + width + right);
    for tick in 0..=5 {
        let v = f64::from(tick) / 5.0;
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"6\" y2=\"{1:.1}\"/><text class=\"axis\" x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{v:.1}</text>",
            x(v),
            height - 26.0,
            height - 10.0
        );
    }
    if let Some(chance) = chance {
        let _ = write!(
            out,
            "<line class=\"chance\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"6\" y2=\"{1:.1}\"/>",
            x(chance),
            height - 26.0
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let y = 18.0 + i as f64 * step;
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
            left + width + 12.0,
            y + 4.0,
            escape(&row.text)
        );
    }
    out.push_str("</svg>");
    out
}

/// A named series of (x, y).
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over a common x axis, y from 0; names stand at the right end, moved apart where they would overlap.
pub(crate) fn lines(series: &[Line], x_label: &str, y_label: &str) -> String {
    let (left, top, width, height) = (52.0, 14.0, 460.0, 200.0);
    let all = || series.iter().flat_map(|s| &s.points);
    let x_max = all().map(|p| p.0).fold(1.0, f64::max);
    let y_max = all().map(|p| p.1).fold(0.0, f64::max).max(1e-9) * 1.05;
    let x = |v: f64| left + v / x_max * width;
    let y = |v: f64| top + height - v / y_max * height;
    let mut out = format!("<svg viewBox=\"0 0 720 {}\" role=\"img\" class=\"chart\">", height + 54.0);
    for tick in 0..=4 {
        let v = y_max * f64::from(tick) / 4.0;
        let u = x_max * f64::from(tick) / 4.0;
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text class=\"axis\" x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{v:.1}</text><text class=\"axis\" x=\"{4:.1}\" y=\"{5:.1}\" text-anchor=\"middle\">{u:.0}</text>",
            left + width,
            y(v),
            left - 6.0,
            y(v) + 4.0,
            x(u),
            top + height + 16.0
        );
    }
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        left + width / 2.0,
        top + height + 34.0,
        escape(x_label)
    );
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"12\" y=\"{:.1}\" transform=\"rotate(-90 12 {0:.1})\" text-anchor=\"middle\">{1}</text>",
        top + height / 2.0,
        escape(y_label)
    );
    let mut ends: Vec<(f64, usize)> =
        series.iter().enumerate().filter_map(|(i, s)| s.points.last().map(|p| (y(p.1), i))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..ends.len() {
        ends[i].0 = ends[i].0.max(ends[i - 1].0 + 15.0);
    }
    for (i, s) in series.iter().enumerate() {
        let path: Vec<String> = s.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(out, "<polyline class=\"line s{i}\" points=\"{}\"/>", path.join(" "));
        for p in &s.points {
            let _ = write!(
                out,
                "<circle class=\"point s{i}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                x(p.0),
                y(p.1)
            );
        }
    }
    for (at, i) in ends {
        let _ = write!(
            out,
            "<text class=\"name s{i}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left + width + 10.0,
            at + 4.0,
            escape(&series[i].name)
        );
    }
    out.push_str("</svg>");
    out
}
