//! `recipe gates`: what the adapters of a store's families learned.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use support::{Place, assert_fails, text};

#[test]
fn families_are_told_with_floor_ceiling_and_damage_and_no_test_adapter_is_looked_at() {
    let place = Place::new();
    let good = |args: &[&str]| {
        let out = place.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    good(&["factory", "submit", "topic", "gated-topic", "--splits", "2,1,1,0"]);
    good(&["factory", "run", "--drain"]);
    let csv = place.path("gates.csv").display().to_string();
    let told = place.json(&["recipe", "gates", "topic", "gated-topic", "marker", "--csv", &csv]);
    assert_eq!(told["schema"], "recipe-gates/1");
    let families = told["families"].as_array().unwrap();
    let names: Vec<&str> = families.iter().map(|f| f["family"].as_str().unwrap()).collect();
    assert_eq!(names, ["topic", "gated-topic"]);
    for f in families {
        // A random model names no topic, told or not; what was trained moved it all the same.
        assert_eq!((f["tried"].as_u64(), f["learned"].as_u64()), (Some(3), Some(0)), "{f}");
        assert_eq!((f["gate_floor"].as_f64(), f["ceiling"].as_f64()), (Some(0.0), Some(0.0)), "{f}");
        assert!(f["damage"].as_f64() > Some(0.0) && f["seconds"].as_f64() > Some(0.0), "{f}");
        assert_eq!(f["leak_question_nats"].is_f64(), f["family"] == "gated-topic", "{f}");
    }
    let rows = std::fs::read_to_string(&csv).unwrap();
    let mut lines = rows.lines();
    assert!(
        lines.next().unwrap().starts_with("family,value,split,rank,status,steps,gate_on,gate_floor,ceiling")
    );
    assert_eq!(lines.clone().count(), 6);
    assert!(lines.all(|l| l.contains(",train,") || l.contains(",validation,")), "{rows}");
    assert!(good(&["recipe", "gates", "topic", "--split", "test_value"]).contains("0 of 1"));

    let table = good(&["recipe", "gates", "topic"]);
    assert!(table.contains("0 of 3") && table.contains("low"), "{table}");
    // Its rows were sampled from the model, and that is a part of what it cost.
    let phases = table.lines().last().unwrap();
    assert!(phases.contains("over these 3: ") && phases.ends_with(" gate."), "{phases}");
    let seconds: Vec<f64> = ["seconds", "rows_seconds", "gate_seconds"]
        .iter()
        .map(|f| families[0][f].as_f64().unwrap())
        .collect();
    assert!(seconds[1] > 0.0 && seconds[2] > 0.0 && seconds[0] > seconds[1] + seconds[2], "{seconds:?}");
    assert_fails(
        &place.run(&["recipe", "gates", "topic", "--split", "test"]),
        2,
        &["--split: \"test\" is none of train"],
    );
    assert_fails(&place.run(&["recipe", "gates", "marker"]), 3, &["no adapter of these families"]);
}
