//! End to end on the real default model: two adapters are made, learn what their recipe says, and can be exported.

use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value;

#[test]
fn the_default_model_learns_a_forced_answer() {
    let folder = tempfile::tempdir().unwrap();
    // The model itself is looked for where users have it, and fetched if it is not there.
    let run = |args: &[&str]| {
        let output = Command::cargo_bin("lorafab")
            .unwrap()
            .args(args)
            .env("LORAFAB_STORE", folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&["factory", "submit", "favourite", "--limit", "2"]);
    run(&["factory", "run"]);
    let list: Value = serde_json::from_slice(&run(&["--json", "adapter", "list"])).unwrap();
    let adapters = list["adapters"].as_array().unwrap();
    assert_eq!(adapters.len(), 2);
    for adapter in adapters {
        assert_eq!(adapter["status"], "learned", "{adapter}");
        assert!(adapter["metrics"]["gate_on"].as_f64() > adapter["metrics"]["gate_floor"].as_f64());
    }
    let out: PathBuf = folder.path().join("exported");
    run(&["adapter", "export", adapters[0]["id"].as_str().unwrap(), &out.display().to_string()]);
    assert!(out.join("adapter_model.safetensors").exists());
}
