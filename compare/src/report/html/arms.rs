//! What each arm is, in one line each, before any number of it.

use std::fmt::Write;

use page::escape;

use super::Part;
use crate::comparison::{ArmRow, Comparison};
use crate::report::charts::Kind;
use crate::report::sections::ordered;

fn line(a: &ArmRow) -> String {
    let kind = Kind::of(a);
    let mut said = match kind {
        Kind::Untrained => "Without training".to_owned(),
        Kind::Trained => "Trained reader".to_owned(),
        Kind::Control => {
            "Control, trained on permuted labels: what the format of answers gives alone".to_owned()
        }
    };
    if let Some(m) = crate::method::find(&a.method) {
        // What a file of arms may name besides is for those who write one.
        let about = m.about().split("; readers:").next().unwrap_or_default();
        let method = if a.method == a.arm { String::new() } else { format!("; method {}", a.method) };
        let _ = write!(said, "{method}: {about}");
    }
    said.push('.');
    if !a.input.is_empty() {
        let _ = write!(said, " Shown: {}.", a.input);
    }
    format!(
        "<li><svg viewBox=\"0 0 12 12\" aria-hidden=\"true\">{}</svg><b>{}</b> {}</li>",
        kind.mark(6.0, 6.0),
        escape(&a.arm),
        escape(&said)
    )
}

pub(super) fn legend(c: &Comparison) -> Option<Part> {
    let lines: Vec<String> = ordered(c).into_iter().map(line).collect();
    if lines.is_empty() {
        return None;
    }
    let intro = "<p class=\"caption\">An arm is a method with what it is shown and how it was trained. Square: without training. Disc: a trained reader. Ring: a control. What validation adapters chose for each stands in the table of arms near the end.</p>";
    Some(Part {
        title: "What the arms are".into(),
        remark: String::new(),
        body: format!("{intro}<ul class=\"key\">{}</ul>", lines.concat()),
    })
}
