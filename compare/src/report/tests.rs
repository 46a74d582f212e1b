use super::synthetic::{arm, synthetic};
use super::*;
use crate::assembly::assemble;
use crate::comparison::{Meta, Primary, read};
use crate::scores::Scores;

#[test]
fn a_whole_comparison_is_assembled_and_printed() {
    let c = synthetic();
    let json = serde_json::to_string(&c).unwrap();
    assert!(json.len() < 1_000_000, "{} bytes", json.len());
    assert_eq!(read(&json).unwrap(), c);
    assert_eq!(c.verdicts.len(), 4);
    assert_eq!((c.verdicts[0].family.as_str(), c.verdicts[0].split.as_str()), ("topic", "test_value"));
    let topic = &c.verdicts[0];
    assert_eq!(topic.best_untrained.as_ref().unwrap().arm, "logit-lens");
    assert!(topic.arms.iter().all(|a| a.arm != "dit-permuted"));
    // One primary row, first, without an adjusted p; the same contrast is nowhere else.
    assert!(c.paired[0].primary && c.paired[0].p_holm.is_none());
    assert!(c.paired[1..].iter().all(|r| !r.primary && r.p_holm.is_some()));
    let same = |r: &&crate::comparison::PairedRow| {
        r.arm.starts_with("oracle-posttrained") && r.minus == "dit" && r.family == "topic"
    };
    assert_eq!(
        c.paired
            .iter()
            .filter(same)
            .filter(|r| r.metric == "top1" && r.split == "test_value" && r.arm == "oracle-posttrained")
            .count(),
        1
    );
    assert!(c.results.iter().any(|r| r.metric == "top1_closed" && r.family == "gated-topic" && r.n < 24));
    assert!(
        c.auroc.iter().any(|r| r.arm == "norm only" && r.against == "all negatives" && r.negatives == 44)
    );
    let row = c.result("dit", "topic", "test_value", "neutral", "top1").unwrap();
    assert_eq!((row.n, row.seeds.as_slice(), row.by_seed.len()), (32, [1, 2, 3].as_slice(), 3));
    assert!((row.value - row.by_seed.iter().sum::<f64>() / 3.0).abs() < 1e-12);

    let text = to_terminal(&c);
    let places: Vec<usize> = [
        "What was asked",
        "WARNING",
        "Primary",
        "\ntopic, held-out values (n",
        "\nNegatives (",
        "Base activations",
        "\nGates (",
        "Budgets",
        "\nTraining (",
        "Exploratory contrasts",
        "\nNotes\n",
    ]
    .iter()
    .map(|s| text.find(s).unwrap_or_else(|| panic!("{s}")))
    .collect();
    assert!(places.is_sorted(), "{places:?}");
    for gone in ["swapped", "corrected_on_test", "disjoint"] {
        assert!(!text.contains(gone), "{gone}");
    }
    let html = to_html(&c);
    assert!(html.contains(&c.created_at) && html.contains("Primary, declared beforehand: "));
    let csv = to_csv(&c);
    let commas = |l: &str| l.matches(',').count();
    assert!(csv.lines().all(|l| l.contains('"') || commas(l) == commas(csv.lines().next().unwrap())));
    assert_eq!(to_json(&c)["schema"], "comparison/2");
}

/// The mean over adapters and seeds of a number of the rows of one section.
fn mean(rows: &[(usize, Vec<f64>)]) -> f64 {
    let by_adapter = rows.iter().map(|(_, row)| row.iter().sum::<f64>() / row.len() as f64);
    by_adapter.sum::<f64>() / rows.len() as f64
}

#[test]
fn the_rows_add_up_to_the_figures_of_the_tables() {
    let c = synthetic();
    let mut compared = 0;
    for s in &c.items {
        for a in &c.arms {
            let grids = [
                ("top1", s.grid(&a.arm, |a, i| a.all.hit(i))),
                ("top1_values", s.grid(&a.arm, |a, i| a.values.hit(i))),
                ("mrr", s.grid(&a.arm, |a, i| Some(1.0 / a.values.place[i]?))),
                ("exact_match", s.grid(&a.arm, |a, i| a.stated[i])),
            ];
            for (metric, rows) in grids {
                let r = c.result(&a.arm, &s.family, &s.split, &s.context, metric).unwrap();
                assert!((mean(&rows) - r.value).abs() < 1e-9 && rows.len() == r.n, "{metric} of {}", a.arm);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 4 * c.arms.len() * 4);
}

#[test]
fn adapters_are_there_with_leak_and_category_and_the_text_says_where_to_look() {
    let c = synthetic();
    assert_eq!(c.items.len(), c.verdicts.len());
    for s in &c.items {
        assert!(s.adapters.iter().all(|a| a.leak_nats.is_some() && a.category.is_some()), "{}", s.family);
        let others =
            s.answers.iter().flat_map(|a| a.all.instead.iter().flatten()).filter(|v| *v != "nothing");
        assert!(others.into_iter().all(|v| s.categories[v].starts_with("category ")));
    }
    assert!(to_terminal(&c).contains("lorafab compare items synthetic --wrong"));
    let page = to_html(&c);
    for part in ["Where answers go", "Adapter by adapter", "<b>Top-1 and leak: topic, held-out values</b>"] {
        assert!(page.contains(part), "{part}");
    }
    let bare = Comparison { items: vec![], ..c };
    assert!(!to_json(&bare).as_object().unwrap().contains_key("items"));
    let page = to_html(&bare);
    for part in ["Where answers go", "Adapter by adapter", "Top-1 and leak"] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(!to_terminal(&bare).contains("compare items"));
}

#[test]
fn a_primary_contrast_may_be_the_mean_over_families() {
    let scores = [arm("dit", "dit", true, 1, 0.9), arm("oracle", "oracle", true, 1, 0.3)];
    let contrast = |family: &str| {
        let meta = Meta {
            primary: Some(Primary {
                arm: "dit".into(),
                minus: "oracle".into(),
                family: family.into(),
                split: "test_value".into(),
                context: "neutral".into(),
                metric: "top1".into(),
            }),
            ..Meta::default()
        };
        assemble(meta, &scores, &[], vec![])
    };
    let c = contrast(crate::comparison::ALL_FAMILIES);
    let row = &c.paired[0];
    let one = |family: &str| contrast(family).paired[0].value;
    assert!(row.primary && row.n == 56);
    assert!((row.value - f64::midpoint(one("topic"), one("gated-topic"))).abs() < 1e-12);
    assert!(to_terminal(&c).contains("mean over families, held-out values"));
}

#[test]
fn what_is_missing_is_said() {
    let mut scores = vec![arm("dit", "dit", true, 1, 0.9)];
    scores[0].items.retain(|i| i.split != "validation" && i.family == "topic");
    let meta = Meta {
        primary: Some(Primary {
            arm: "dit".into(),
            minus: "oracle".into(),
            family: "topic".into(),
            split: "test_value".into(),
            context: "neutral".into(),
            metric: "top1".into(),
        }),
        ..Meta::default()
    };
    let c = assemble(meta, &scores, &[], vec![]);
    let all = c.warnings.join("\n");
    for expected in [
        "No arm without training",
        "One reader seed for dit",
        "permuted labels",
        "primary contrast",
        "Few adapters",
    ] {
        assert!(all.contains(expected), "{expected}: {all}");
    }
    assert!(c.paired.is_empty() && c.verdicts[0].arms.iter().all(|a| !a.reads));
    assert!(to_terminal(&c).contains("nothing shows what training adds") && to_html(&c).contains("</html>"));
}

#[test]
fn an_old_comparison_prints_with_its_warning_first() {
    let c = read(include_str!("../../tests/comparison_1.json")).unwrap();
    let text = to_terminal(&c);
    assert!(text.find("cannot fail").unwrap() < text.find("topic, held-out values").unwrap());
    assert!(text.contains("0.84") && !text.contains("log-softmaxed") && text.contains("zero (n = 32)"));
    assert!(
        to_html(&c).contains("No verdict: ")
            && to_html(&c).contains("comparison/1")
            && to_csv(&c).contains("top1_swapped")
    );
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let mut scores: Vec<Scores> = [1, 2]
        .iter()
        .flat_map(|s| [arm("dit", "dit", true, *s, 0.8), arm("direct", "direct", false, *s, 0.5)])
        .collect();
    let build = |scores: &[Scores]| assemble(Meta::default(), scores, &[], vec![]);
    let forward = build(&scores);
    scores.reverse();
    for s in &mut scores {
        s.items.reverse();
    }
    let mut backward = build(&scores);
    // Means may differ in the last bit by the order of sums.
    assert_eq!(forward.results.len(), backward.results.len());
    for (a, b) in forward.results.iter().zip(&mut backward.results) {
        assert!((a.value - b.value).abs() < 1e-9 && a.arm == b.arm && a.metric == b.metric, "{a:?} {b:?}");
    }
    assert_eq!(forward.arms, backward.arms);
    assert_eq!(forward.verdicts, backward.verdicts);
}
