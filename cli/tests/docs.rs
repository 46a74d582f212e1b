//! docs/src/reference/commands.md is what `lorafab help` says of every command.
//!
//!     LORAFAB_WRITE_DOCS=1 cargo test --release -p lorafab --test docs     # writes it anew
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

const BEFORE: &str = "# Commands

What `lorafab help` says of every command. A test compares this page with the binary;
`LORAFAB_WRITE_DOCS=1 cargo test --release -p lorafab --test docs` writes it anew. The same as manual pages: `lorafab completions man ./man`.
";

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference/commands.md")
}

/// What help says of a command, a hundred columns wide, whatever the environment says.
fn help(path: &[String]) -> String {
    let out = Command::cargo_bin("lorafab")
        .unwrap()
        .env_clear()
        .env("COLUMNS", "100")
        .arg("help")
        .args(path)
        .write_stdin("")
        .output()
        .unwrap();
    assert!(out.status.success(), "{path:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The commands that a help text lists.
fn listed(text: &str) -> Vec<String> {
    let Some((_, after)) = text.split_once("\nCommands:\n") else { return vec![] };
    let of = |line: &str| Some(line.strip_prefix("  ")?.split_whitespace().next()?.to_owned());
    let lines = after.lines().take_while(|l| !l.is_empty()).filter(|l| !l.starts_with("   "));
    lines.filter_map(of).filter(|name| name != "help").collect()
}

/// A command and all below it; says how many there are.
fn describe(path: &[String], out: &mut String) -> usize {
    let text = help(path);
    let lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
    let title: Vec<&str> = std::iter::once("lorafab").chain(path.iter().map(String::as_str)).collect();
    write!(out, "\n## {}\n\n```text\n{}\n```\n", title.join(" "), lines.join("\n")).unwrap();
    listed(&text).into_iter().fold(1, |n, name| n + describe(&[path, &[name]].concat(), out))
}

#[test]
fn the_page_of_commands_is_what_help_says() {
    let mut made = BEFORE.to_owned();
    let commands = describe(&[], &mut made);
    assert!(commands > 50, "{commands} commands");
    if std::env::var_os("LORAFAB_WRITE_DOCS").is_some_and(|v| !v.is_empty()) {
        std::fs::write(file(), &made).unwrap();
    }
    let written = std::fs::read_to_string(file()).unwrap_or_default();
    for (made, written) in made.lines().zip(written.lines()) {
        assert_eq!(made, written, "LORAFAB_WRITE_DOCS=1 writes docs/src/reference/commands.md anew");
    }
    assert!(made == written, "LORAFAB_WRITE_DOCS=1 writes docs/src/reference/commands.md anew");
}

#[test]
fn commands_are_found_in_a_help_text() {
    let text = "About\n\nUsage: x\n\nCommands:\n  list    List\n          more\n  show    Show\n  help    Help\n\nOptions:\n  -h\n";
    assert_eq!(listed(text), ["list", "show"]);
}
