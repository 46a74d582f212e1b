//! "Nothing" for methods that score values only: a threshold, chosen on validation subjects.

use std::collections::BTreeMap;

use readers::{Case, ClosedSet};

/// Appends the score of "nothing", the same for every case of a family: the threshold under which most validation cases are
/// answered right (of equals the lowest). `scores[case]` has one for each value of the family's closed set; where it is empty
/// it stays empty.
pub(super) fn with_nothing(
    cases: &[Case],
    sets: &BTreeMap<String, ClosedSet>,
    mut scores: Vec<Vec<f32>>,
) -> Vec<Vec<f32>> {
    let mut thresholds: BTreeMap<&str, f32> = BTreeMap::new();
    for family in sets.keys() {
        // (highest score, whether the highest is the label, whether the label is "nothing")
        let seen: Vec<(f32, bool, bool)> = cases
            .iter()
            .zip(&scores)
            .filter(|(c, s)| c.chooses() && c.family == *family && !s.is_empty())
            .map(|(c, s)| {
                let best = s.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
                (s[best], sets[family].names[best] == c.label, c.negative())
            })
            .collect();
        let lowest = seen.iter().map(|s| s.0).fold(f32::INFINITY, f32::min);
        let mut tried: Vec<f32> = seen.iter().map(|s| next_up(s.0)).collect();
        tried.push(if lowest.is_finite() { lowest - 1.0 } else { f32::MIN });
        tried.sort_unstable_by(f32::total_cmp);
        // Cases that carry something weigh as much as those that carry nothing.
        let none = seen.iter().filter(|s| s.2).count().max(1) as f64;
        let some = seen.iter().filter(|s| !s.2).count().max(1) as f64;
        let right = |t: f32| -> f64 {
            let hits = seen.iter().filter(|(s, hit, _)| *s > t && *hit).count() as f64;
            let kept = seen.iter().filter(|(s, _, nothing)| *s <= t && *nothing).count() as f64;
            hits / some + kept / none
        };
        let best = tried.iter().map(|&t| right(t)).fold(f64::NEG_INFINITY, f64::max);
        let threshold = tried.into_iter().find(|&t| right(t) >= best).unwrap_or(f32::MIN);
        thresholds.insert(family, threshold);
    }
    for (case, scores) in cases.iter().zip(&mut scores) {
        if !scores.is_empty() {
            scores.push(thresholds.get(case.family.as_str()).copied().unwrap_or(f32::MIN));
        }
    }
    scores
}

/// A little above.
fn next_up(x: f32) -> f32 {
    x + x.abs().max(1e-3) * 1e-4
}

#[cfg(test)]
mod tests {
    use recipes::{Context, NOTHING, Split};

    use super::*;

    pub(crate) fn case(label: &str, split: Split) -> Case {
        Case {
            subject: Some(format!("topic/{label}")),
            carries: "topic".into(),
            context: Context::Neutral,
            split,
            family: "topic".into(),
            question: "What?".into(),
            question_id: 0,
            held_out_question: false,
            label: label.into(),
        }
    }

    #[test]
    fn the_threshold_parts_validation_cases_and_looks_at_no_test_case() {
        let base = lm::BaseModel::load(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny"),
            lm::Precision::F32,
        )
        .expect("fixture");
        let names = ["cats", "dogs", NOTHING].map(str::to_owned).to_vec();
        let sets = BTreeMap::from([("topic".to_owned(), ClosedSet::new(&base, names).expect("words"))]);
        let of = |test: f32| {
            let cases = vec![
                case("cats", Split::Validation),
                case("dogs", Split::Validation),
                case(NOTHING, Split::Validation),
                case("cats", Split::TestValue),
            ];
            with_nothing(&cases, &sets, vec![vec![5.0, 1.0], vec![0.0, 4.0], vec![2.0, 1.0], vec![test, 0.0]])
        };
        let scores = of(100.0);
        let t = scores[0][2];
        assert!(t > 2.0 && t < 4.0, "{t}");
        assert!(scores.iter().all(|s| s[2] == t));
        assert_eq!(of(-100.0)[0][2], t);
    }
}
