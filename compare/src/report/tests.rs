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
