//! What all our pages share: one style, light and dark, text made safe, tables and documents. No scripts, nothing from elsewhere.

#![warn(missing_docs)]

mod style;

use std::fmt::Write;

pub use style::STYLE;

/// Text made safe for HTML and SVG. What turns the direction of text around, and control characters, are shown as escapes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c if c.is_control() && c != '\n' => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// A table whose cells are HTML already, in a box that scrolls where it is wider than the page. Heads that begin with `#` are of columns of
/// numbers.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    let class = |h: &str| if h.starts_with('#') { "n" } else { "w" };
    for h in head {
        let _ = write!(out, "<th class=\"{}\">{}</th>", class(h), h.trim_start_matches('#'));
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (h, cell) in head.iter().zip(row) {
            let _ = write!(out, "<td class=\"{}\">{cell}</td>", class(h));
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

/// A whole document of one file. `body` is HTML already; a browser that reads it runs no script and fetches nothing.
pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(title)
    )
}

/// Values in order as a line on two axes that start at 0: what runs across, what goes up, with units.
pub fn curve(title: &str, values: &[f64], across: &str, up: &str) -> String {
    let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(i, v)| (i as f64, *v)).collect();
    curve_of(title, &points, across, up)
}

/// Points in the order of their first numbers as a line on two axes that start at 0.
pub fn curve_of(title: &str, points: &[(f64, f64)], across: &str, up: &str) -> String {
    let (w, h, left, bottom) = (560.0, 190.0, 56.0, 34.0);
    let finite = || points.iter().filter(|p| p.0.is_finite() && p.1.is_finite());
    let most = finite().map(|p| p.1).fold(1e-9, f64::max);
    let last = finite().map(|p| p.0).fold(1e-9, f64::max);
    let x = |v: f64| left + (w - left - 12.0) * v / last;
    let y = |v: f64| 14.0 + (h - 14.0 - bottom) * (1.0 - v.max(0.0) / most);
    let line: Vec<String> = finite().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
    format!(
        "<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{t}\"><title>{t}</title><line class=\"soft\" x1=\"{left}\" x2=\"{r}\" y1=\"{b}\" y2=\"{b}\"/>\
         <line class=\"soft\" x1=\"{left}\" x2=\"{left}\" y1=\"14\" y2=\"{b}\"/><polyline class=\"a\" points=\"{p}\"/>\
         <text x=\"{left}\" y=\"{n}\">0</text><text x=\"{r}\" y=\"{n}\" text-anchor=\"end\">{last:.0}</text><text x=\"{m}\" y=\"{n2}\" text-anchor=\"middle\">{across}</text>\
         <text x=\"{l}\" y=\"{b}\" text-anchor=\"end\">0</text><text x=\"{l}\" y=\"20\" text-anchor=\"end\">{most:.2}</text><text x=\"{left}\" y=\"10\">{up}</text></svg>",
        t = escape(title),
        across = escape(across),
        up = escape(up),
        r = w - 12.0,
        b = h - bottom,
        p = line.join(" "),
        n = h - bottom + 14.0,
        n2 = h - 4.0,
        m = left.midpoint(w),
        l = left - 6.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_text() {
        assert_eq!(
            escape("<b a=\"x\" b='y'>&\u{1b}[2J\u{202e}"),
            "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\\u{1b}[2J\\u{202e}"
        );
        let page = document("</title><script>", "");
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn curves_of_odd_numbers_are_pictures_all_the_same() {
        for values in [&[][..], &[f64::NAN], &[0.0], &[1.0, f64::INFINITY, 2.0]] {
            let svg = curve("t", values, "x", "y");
            assert!(svg.starts_with("<svg") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
