//! Every arm in every section in one table: the page's shortest form.

use super::Part;
use super::pieces::table;
use crate::comparison::Comparison;
use crate::report::Table;
use crate::report::sections::ordered;
use crate::warnings::title;

pub(super) fn glance(c: &Comparison) -> Option<Part> {
    let at = |arm: &str, v: &crate::comparison::Verdict| {
        c.result(arm, &v.family, &v.split, &v.context, "top1").map(|r| r.value)
    };
    let rows: Vec<Vec<String>> = ordered(c)
        .into_iter()
        .filter(|a| c.verdicts.iter().any(|v| at(&a.arm, v).is_some()))
        .map(|a| {
            let cells = c.verdicts.iter().map(|v| {
                let Some(value) = at(&a.arm, v) else { return "–".to_owned() };
                let best = v.best_untrained.as_ref().is_some_and(|b| b.arm == a.arm);
                // Without anything to be held against there is no verdict to print.
                let said = v.arms.iter().find(|x| x.arm == a.arm && v.best_untrained.is_some());
                let said = if best { "*" } else { said.map_or("", |x| x.verdict.as_str()) };
                format!("{value:.2} {said}").trim_end().to_owned()
            });
            std::iter::once(a.arm.clone()).chain(cells).collect()
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut caption =
        "Top-1 of each arm in each section: the share of adapters whose own value ranks first, 0 to 1."
            .to_owned();
    if c.verdicts.iter().any(|v| v.best_untrained.is_some()) {
        caption += " * best without training (each section says how it was chosen); the word beside a trained reader is its verdict against that one.";
    }
    let header = std::iter::once("arm".to_owned())
        .chain(c.verdicts.iter().map(|v| title(&v.family, &v.split, &v.context)))
        .collect();
    let body = table(&Table { header, rows, caption, words: 1, ..Table::default() });
    Some(Part { title: "At a glance".into(), remark: String::new(), body })
}
