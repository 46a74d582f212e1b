//! The web page of each committed comparison: in which order it says things, that it leaves nothing out, and that it is one
//! file which runs nothing.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use compare::{Comparison, to_html};

const RUNS: [&str; 3] = ["quickstart", "budgets", "gates"];

fn committed(run: &str) -> Comparison {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../results/{run}/comparison.json"));
    compare::read(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn place(page: &str, what: &str) -> usize {
    page.find(what).unwrap_or_else(|| panic!("not on the page: {what}"))
}

#[test]
fn the_question_the_answer_and_its_limits_stand_before_the_first_picture() {
    for run in RUNS {
        let page = to_html(&committed(run));
        let places = [
            "<h1>Which reader reads what?</h1>",
            "reader seeds 1, 2, 3",
            "What was asked",
            "<div class=\"verdict\"><p>No trained reader is better",
            "Primary, declared beforehand: ",
            "What limits these numbers",
            "At a glance",
            "What the arms are",
            "<section id=\"part3\">",
            "<svg class=\"chart\"",
        ];
        // The list of parts names them all before they come.
        let body = page.split("</nav>").last().unwrap();
        let at: Vec<usize> = places[..6].iter().map(|w| place(&page, w)).collect();
        assert!(at.is_sorted(), "{run}: {at:?}");
        let at: Vec<usize> = places[6..].iter().map(|w| place(body, w)).collect();
        assert!(at.is_sorted(), "{run}: {at:?}");
    }
}

#[test]
fn every_arm_is_explained_and_every_difference_that_a_verdict_rests_on_is_shown() {
    for run in RUNS {
        let c = committed(run);
        let page = to_html(&c);
        for a in &c.arms {
            place(&page, &format!("</svg><b>{}</b> ", a.arm));
        }
        let difference = |value: f64, low: f64, high: f64| {
            format!(
                "<span class=\"est\">{value:+.2} <small class=\"ci\">[{low:+.2}, {high:+.2}]</small></span>"
            )
        };
        let rests = c.paired.iter().filter(|r| r.minus_best && r.metric == "top1");
        for r in rests {
            place(&page, &difference(r.value, r.ci_low, r.ci_high));
        }
        for w in &c.warnings {
            place(&page, &page::escape(w));
        }
        for v in &c.verdicts {
            place(&page, &page::escape(&v.sentence));
        }
    }
}

#[test]
fn the_page_is_one_file_without_scripts_whose_tables_scroll_and_whose_pictures_have_titles() {
    for run in RUNS {
        let c = committed(run);
        let page = to_html(&c);
        assert_eq!(page, to_html(&c), "{run}");
        for gone in ["<script", "http:", "https:", "src=", "@import", "url(", "NaN", "inf\""] {
            assert!(!page.contains(gone), "{run}: {gone}");
        }
        let count = |what: &str| page.matches(what).count();
        assert_eq!(count("<div class=\"scroll\"><table>"), count("<table>"), "{run}");
        assert_eq!(count("<svg class=\"chart\""), count("role=\"img\"") - count("<svg class=\"small\""));
        assert_eq!(count("role=\"img\""), count("</title>") - 1, "{run}");
        assert!(count("<figcaption><b>") > c.verdicts.len(), "{run}");
        for tag in ["section", "figure", "details", "table", "div", "ul", "svg", "p", "b", "span"] {
            let open = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
            assert_eq!(open, count(&format!("</{tag}>")), "{run}: {tag}");
        }
    }
}

/// Runs that hold what was answered about each adapter.
const WITH_ITEMS: [&str; 2] = ["quickstart", "budgets"];

#[test]
fn rows_of_adapters_add_up_to_the_figures_of_the_committed_tables() {
    for run in WITH_ITEMS {
        let c = committed(run);
        let mut compared = 0;
        for r in c.results.iter().filter(|r| r.metric == "top1" || r.metric == "top1_values") {
            let s = c
                .items
                .iter()
                .find(|s| (&s.family, &s.split, &s.context) == (&r.family, &r.split, &r.context));
            let rows = s.unwrap().grid(&r.arm, |a, i| match r.metric.as_str() {
                "top1" => a.all.hit(i),
                _ => a.values.hit(i),
            });
            let shares = rows.iter().map(|(_, row)| row.iter().sum::<f64>() / row.len() as f64);
            let value = shares.sum::<f64>() / rows.len() as f64;
            assert!((value - r.value).abs() < 1e-9, "{run}: {} of {} in {}", r.metric, r.arm, r.family);
            assert_eq!((rows.len(), rows[0].1.len()), (r.n, r.seeds.len()), "{run}: {}", r.arm);
            compared += 1;
        }
        assert!(compared > 50, "{run}: {compared}");
    }
}

#[test]
fn every_adapter_has_a_row_and_every_part_of_a_bar_its_meaning() {
    for run in RUNS {
        let c = committed(run);
        let page = to_html(&c);
        assert!(page.len() < 600_000, "{run}: {} bytes", page.len());
        let rows = page.matches("<tr><td class=\"w\">").count();
        let cells = page.matches("<td class=\"i ").count();
        if !WITH_ITEMS.contains(&run) {
            assert!(!page.contains("Adapter by adapter") && !page.contains("Where answers go") && cells == 0);
            continue;
        }
        assert!(rows >= c.items.iter().map(|s| s.adapters.len()).sum::<usize>(), "{run}");
        let arms =
            |s: &compare::items::SectionItems| c.arms.iter().filter(|a| !s.of_arm(&a.arm).is_empty()).count();
        assert_eq!(cells, c.items.iter().map(|s| s.adapters.len() * arms(s)).sum::<usize>(), "{run}");
        let body = page.split("</nav>").last().unwrap();
        for name in
            ["Where answers go", "Adapter by adapter", "<b>Top-1 and leak: gated-topic, held-out values</b>"]
        {
            place(body, name);
        }
        for s in &c.items {
            for a in &s.adapters {
                place(
                    body,
                    &format!(
                        "<td class=\"w\">{} <small>{}</small></td>",
                        a.label,
                        a.category.as_ref().unwrap()
                    ),
                );
            }
        }
    }
}

#[test]
fn committed_numbers_are_as_they_are_written() {
    for run in RUNS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../results/{run}/comparison.json"));
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(compare::to_json(&committed(run)).to_string(), text, "{run}");
    }
}

#[test]
fn numbers_of_a_file_may_be_any() {
    let mut c = committed("quickstart");
    for (i, s) in c.items.iter_mut().enumerate() {
        for a in &mut s.adapters {
            (a.leak_nats, a.on_nats) = (Some(f64::MAX), Some(f64::MIN));
        }
        for a in &mut s.answers {
            a.all.place.truncate(i);
            a.values.instead.clear();
            a.all.place.iter_mut().for_each(|p| *p = Some(-1e300));
        }
    }
    c.items[0].adapters.clear();
    let page = to_html(&c);
    assert!(page.ends_with("</html>\n") && !page.contains("NaN"));
}

#[test]
fn names_from_elsewhere_are_text() {
    let mut c = committed("quickstart");
    let hostile = "<img src=x onerror=1>";
    c.run = hostile.into();
    c.model = hostile.into();
    c.warnings.push(hostile.into());
    c.verdicts[0].family = hostile.into();
    for a in &mut c.arms {
        a.input = hostile.into();
    }
    for r in c.results.iter_mut().filter(|r| r.family == "topic") {
        r.family = hostile.into();
    }
    for r in &mut c.base {
        r.says = hostile.into();
    }
    for r in &mut c.negatives {
        r.carries = hostile.into();
    }
    for s in &mut c.items {
        s.adapters.iter_mut().for_each(|a| (a.label, a.category) = (hostile.into(), Some(hostile.into())));
        let instead =
            s.answers.iter_mut().flat_map(|a| a.all.instead.iter_mut().chain(&mut a.values.instead));
        instead.flatten().for_each(|v| *v = "\"><img src=x>".into());
    }
    assert!(!to_html(&c).contains("<img"));
}
