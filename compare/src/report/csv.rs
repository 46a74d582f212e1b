//! The numbers as CSV, one line for each.

use std::fmt::Write;

use crate::comparison::Comparison;

fn quote(s: &str) -> String {
    if s.contains([',', '"', '\n', '\r']) { format!("\"{}\"", s.replace('"', "\"\"")) } else { s.to_owned() }
}

/// A name as text: what begins as a formula is none to a spreadsheet.
fn text(s: &str) -> String {
    if s.starts_with(['=', '+', '-', '@', '\t', '\r']) { quote(&format!("'{s}")) } else { quote(s) }
}

/// One line for each number: `kind` is result, negative, paired, auroc, permutation or correlation; `against` is the arm
/// subtracted, what the negatives carry, or the covariate; `by_seed` is separated by blanks.
pub fn to_csv(c: &Comparison) -> String {
    let mut out = String::from(
        "kind,arm,against,family,split,context,metric,value,ci_low,ci_high,n,p,p_holm,verdict,by_seed\r\n",
    );
    let some = |p: Option<f64>| p.map_or(String::new(), |p| p.to_string());
    let mut line = |words: [&str; 7], numbers: [f64; 3], n: usize, rest: [String; 4]| {
        let words: Vec<String> = words.iter().map(|w| text(w)).collect();
        let [value, low, high] = numbers.map(|v| if v.is_finite() { v.to_string() } else { String::new() });
        let _ = write!(
            out,
            "{},{value},{low},{high},{n},{}\r\n",
            words.join(","),
            rest.map(|r| quote(&r)).join(",")
        );
    };
    let seeds = |v: &[f64]| v.iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
    let none = String::new;
    for r in &c.results {
        line(
            ["result", &r.arm, "", &r.family, &r.split, &r.context, &r.metric],
            [r.value, r.ci_low, r.ci_high],
            r.n,
            [none(), none(), none(), seeds(&r.by_seed)],
        );
    }
    for r in &c.negatives {
        line(
            ["negative", &r.arm, &r.carries, &r.asked, "test", &r.context, &r.metric],
            [r.value, r.ci_low, r.ci_high],
            r.n,
            [none(), none(), none(), seeds(&r.by_seed)],
        );
    }
    for r in &c.paired {
        line(
            ["paired", &r.arm, &r.minus, &r.family, &r.split, &r.context, &r.metric],
            [r.value, r.ci_low, r.ci_high],
            r.n,
            [
                some(r.p),
                some(r.p_holm),
                format!("{}{}", r.verdict, if r.primary { " (primary)" } else { "" }),
                none(),
            ],
        );
    }
    for r in &c.auroc {
        line(
            ["auroc", &r.arm, &r.against, &r.family, &r.split, &r.context, "auroc"],
            [r.value, r.ci_low, r.ci_high],
            r.positives + r.negatives,
            [none(), none(), none(), none()],
        );
    }
    for r in &c.permutations {
        line(
            ["permutation", &r.arm, "", &r.family, &r.split, &r.context, "bits"],
            [r.bits, f64::NAN, f64::NAN],
            r.n,
            [r.p.to_string(), none(), none(), none()],
        );
    }
    for r in &c.correlations {
        line(
            ["correlation", &r.arm, &r.covariate, &r.family, &r.split, &r.context, "spearman"],
            [r.rho, r.ci_low, r.ci_high],
            r.n,
            [none(), none(), none(), none()],
        );
    }
    out
}
