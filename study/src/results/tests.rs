use super::*;
use crate::file::tests::SMALL;
use crate::items::tests::items;

fn study(change: impl Fn(&mut Study)) -> Study {
    let mut s = Study::parse("s.toml", SMALL).unwrap();
    s.families[1].recipe = "topic".into();
    s.families[1].group = "emitted everywhere".into();
    change(&mut s);
    s
}

fn hits(n: usize, of: usize) -> Vec<f64> {
    (0..of).map(|i| f64::from(u8::from(i < n))).collect()
}

/// dit right of n and the lens of m among 40 of each family; on validation the lens is right of 9 in 10 topics, of 1 in 10 favourites.
fn some(n: usize, m: usize) -> Items {
    let (dit, lens) = (hits(n, 40), hits(m, 40));
    let (high, low) = (hits(9, 10), hits(1, 10));
    let mut all: Vec<(&str, u64, &str, &str, &[f64])> = Vec::new();
    for family in ["favourite", "topic"] {
        for seed in [1, 2, 3] {
            all.push(("dit", seed, family, "test_value", &dit));
        }
        all.push(("lens", 0, family, "test_value", &lens));
        all.push(("lens", 0, family, "validation", if family == "topic" { &high } else { &low }));
    }
    items(&all)
}

fn decided(s: &Study, items: &Items) -> Found {
    results(s, "r", items, &["lens".to_owned()]).primaries.remove(0)
}

#[test]
fn what_is_saturated_on_validation_is_left_out_and_said() {
    let s = study(|_| {});
    let p = decided(&s, &some(30, 10));
    assert_eq!(
        (p.families.clone(), p.saturated.clone(), p.n),
        (vec!["favourite".into()], vec!["topic".into()], 40)
    );
    assert_eq!((p.value, p.verdict.as_str(), p.says.as_str()), (Some(0.5), "better", "DIT is better."));
    let both = decided(&study(|s| s.primaries[0].leave_out_saturated = false), &some(30, 10));
    assert_eq!((both.families.len(), both.n, both.value), (2, 80, Some(0.5)));
    let r = results(&s, "r", &some(30, 10), &["lens".to_owned()]);
    assert_eq!(
        r.lens.iter().map(|l| (l.family.as_str(), l.saturated)).collect::<Vec<_>>(),
        [("favourite", false), ("topic", true)]
    );
    assert_eq!(r.test_adapters, 80);
    let level =
        r.groups.iter().find(|l| l.of == "all" && l.arm == "dit" && l.metric == "top1_values").unwrap();
    assert_eq!((level.value, level.n), (0.75, 80));
    // All right in both families of 40: as sure as 80 of 80, and no surer.
    let r = results(&s, "r", &some(40, 10), &["lens".to_owned()]);
    let level =
        r.groups.iter().find(|l| l.of == "all" && l.arm == "dit" && l.metric == "top1_values").unwrap();
    assert_eq!((level.value, level.high), (1.0, 1.0));
    assert!((level.low - compare::bootstrap::wilson(80.0, 80.0).0).abs() < 1e-6, "{level:?}");
}

#[test]
fn where_families_are_held_out_a_group_is_one_row() {
    let s = study(|s| {
        s.held_out = HeldOut::Families;
        let group = s.families[1].group.clone();
        s.families[0].group = group;
    });
    let grid = |values: Vec<Vec<f64>>| Grid { seeds: vec![1, 2], adapters: vec![], values };
    let of = |name: &str, values| (name.to_owned(), grid(values));
    let rows = vec![of("favourite", vec![vec![1.0, 0.0], vec![0.0, 0.0]]), of("topic", vec![vec![1.0, 1.0]])];
    let mean = |hits: f64| hits / 3.0;
    assert_eq!(of_groups(&s, &rows), [[mean(2.0), mean(1.0)]]);
    // Two groups are two rows, however many adapters: what decides is as unsure as two.
    let apart = study(|s| {
        s.held_out = HeldOut::Families;
        s.primaries[0].leave_out_saturated = false;
    });
    let (few, many) = (
        decided(&apart, &some(30, 10)),
        decided(&study(|s| s.primaries[0].leave_out_saturated = false), &some(30, 10)),
    );
    assert_eq!((few.n, few.value), (80, many.value));
    assert!(few.low < many.low && few.high >= many.high, "{few:?} {many:?}");
}

#[test]
fn the_rule_decides_in_every_direction() {
    let s = study(|s| s.primaries[0].leave_out_saturated = false);
    for (dit, lens, verdict, says) in [
        (30, 10, "better", "DIT is better."),
        (10, 30, "worse", "The lens is better."),
        (40, 40, "equal", "They are equal."),
        (22, 20, "no verdict", "No verdict."),
    ] {
        let p = decided(&s, &some(dit, lens));
        // Equal needs more than 80 pairs unless nothing differs at all.
        let wanted = if verdict == "equal" && p.verdict == "no verdict" { "no verdict" } else { verdict };
        assert_eq!(p.verdict, wanted, "{p:?}");
        assert!(p.verdict == "no verdict" || p.says == says);
        assert!(p.p.is_some() && p.p_holm.unwrap() >= p.p.unwrap());
    }
    let s = study(|s| {
        s.primaries[0].leave_out_saturated = false;
        s.primaries[0].not_inferior_by = Some(0.1);
    });
    assert_eq!(decided(&s, &some(30, 28)).verdict, "not inferior");
    assert_eq!(decided(&s, &some(10, 30)).verdict, "worse");
    // Without a single pair nothing is decided.
    let none = decided(&study(|s| s.primaries[0].split = "test_category".into()), &some(30, 10));
    assert_eq!((none.n, none.value, none.verdict.as_str()), (0, None, "no verdict"));
}

#[test]
fn terms_weigh_sections_and_pair_values_across_families() {
    // dit's drop from one family to the other, on the same values: +1 on the first ten, 0 elsewhere.
    let s = study(|s| {
        let term = |weight: f64, family: &str| Term {
            weight,
            arm: "dit".into(),
            family: Some(family.into()),
            split: None,
            context: None,
            metric: None,
        };
        s.primaries[0].arm = None;
        s.primaries[0].minus = None;
        s.primaries[0].terms = vec![term(1.0, "topic"), term(-1.0, "favourite")];
    });
    let (many, few) = (hits(30, 40), hits(20, 40));
    let all: Vec<(&str, u64, &str, &str, &[f64])> = [1, 2, 3]
        .into_iter()
        .flat_map(|seed| {
            [
                ("dit", seed, "topic", "test_value", &many[..]),
                ("dit", seed, "favourite", "test_value", &few[..]),
            ]
        })
        .collect();
    let p = decided(&s, &items(&all));
    assert_eq!((p.value, p.n, p.contrast.as_str()), (Some(0.25), 40, "dit (topic) - dit (favourite)"));
    assert_eq!(p.families, ["topic and favourite"]);
    // The same, family by family: what is made otherwise stands beside what it is made otherwise of.
    let s = study(|s| {
        let term = |weight: f64, family: Option<&str>| Term {
            weight,
            arm: "dit".into(),
            family: family.map(str::to_owned),
            split: None,
            context: None,
            metric: None,
        };
        s.families[1].recipe = "favourite".into();
        s.families[1].name = Some("favourite-rank-4".into());
        s.primaries[0].arm = None;
        s.primaries[0].minus = None;
        s.primaries[0].over = vec!["favourite".into()];
        s.primaries[0].terms = vec![term(1.0, Some("*-rank-4")), term(-1.0, None)];
    });
    let remade = items(&[
        ("dit", 1, "favourite", "test_value", &many),
        ("dit", 1, "favourite-rank-4", "test_value", &few),
    ]);
    let p = decided(&s, &remade);
    assert_eq!((p.value, p.n, p.contrast.as_str()), (Some(-0.25), 40, "dit (*-rank-4) - dit"));
    // Weights that are no plain difference, and an arm that is another one for each family.
    let s = study(|s| {
        let term = |weight: f64| Term {
            weight,
            arm: "d*".into(),
            family: None,
            split: None,
            context: None,
            metric: None,
        };
        s.primaries[0].arm = None;
        s.primaries[0].minus = None;
        s.primaries[0].terms = vec![term(0.5)];
    });
    let (a, b) = (hits(40, 40), hits(20, 40));
    let folds = items(&[("d1", 1, "topic", "test_value", &a), ("d2", 1, "favourite", "test_value", &b)]);
    let p = decided(&s, &folds);
    assert_eq!((p.value, p.n, p.contrast.as_str()), (Some(0.375), 80, "0.5 d*"));
}

#[test]
fn a_share_is_held_against_a_number_and_a_term_may_measure_something_else() {
    let s = study(|s| {
        let p = &mut s.primaries[0];
        (p.arm, p.minus, p.leave_out_saturated, p.than) = (None, None, false, Some(0.5));
        let (weight, arm) = (1.0, "dit".to_owned());
        p.terms = vec![Term { weight, arm, family: None, split: None, context: None, metric: None }];
    });
    let p = decided(&s, &some(30, 10));
    assert_eq!((p.value, p.verdict.as_str(), p.contrast.as_str()), (Some(0.25), "better", "dit - 0.5"));
    // What these items do not hold decides nothing.
    let mut other = s.clone();
    other.primaries[0].terms[0].metric = Some("sticks".into());
    let p = decided(&other, &some(30, 10));
    assert_eq!((p.value, p.n, p.verdict.as_str()), (None, 0, "no verdict"));
    assert!(s.metrics().len() == 3 && other.metrics().contains(&"first_without"));
}
