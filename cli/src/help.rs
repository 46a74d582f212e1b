//! The commands as help shows them: two examples each, and the global options in one line.

use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::args::Cli;
use crate::commands::names;
use crate::guess::walk;

/// Two examples of each command, without `lorafab` before them.
const EXAMPLES: &[(&str, [&str; 2])] = &[
    ("quickstart", ["quickstart", "quickstart --smoke --store /tmp/try"]),
    ("read", ["read topic/cats", "read ./my-adapter --html reading.html"]),
    (
        "ask",
        [
            "ask topic/cats \"What do you like to talk about?\"",
            "ask topic/cats --questions questions.txt --json",
        ],
    ),
    ("chat", ["chat topic/cats \"Tell me something.\"", "chat topic/cats"]),
    ("reader add", ["reader add ./my-oracle", "reader add hub:organisation/name"]),
    ("reader list", ["reader list", "reader list --json"]),
    ("reader show", ["reader show oracle-posttrained", "reader show 897b84e4 --json"]),
    ("reader export", ["reader export 897b84e4 ./oracle", "reader export oracle-posttrained ./oracle"]),
    ("recipe list", ["recipe list", "recipe list --json"]),
    ("recipe show", ["recipe show topic > mine.toml", "recipe show ./mine.toml"]),
    ("recipe new", ["recipe new mine -o mine.toml", "recipe new --help"]),
    ("recipe format", ["recipe format", "recipe format | less"]),
    ("recipe check", ["recipe check ./mine.toml", "recipe check topic marker"]),
    ("recipe gates", ["recipe gates", "recipe gates topic marker --most 20 --csv gates.csv"]),
    ("recipe tune", ["recipe tune topic --model google/gemma-3-270m", "recipe tune ./mine.toml --dry-run"]),
    ("recipe expand", ["recipe expand topic -n 10", "recipe expand ./mine.toml --json"]),
    ("recipe rows", ["recipe rows gated-topic -n 4", "recipe rows ./mine.toml rain --json"]),
    (
        "factory submit",
        ["factory submit topic --limit 120", "factory submit topic gated-topic dud --dry-run"],
    ),
    ("factory run", ["factory run", "factory run --workers 2 --drain"]),
    (
        "factory gate",
        ["factory gate imported/cats --recipe topic", "factory gate imported/cats --recipe ./mine.toml"],
    ),
    ("factory status", ["factory status", "factory status --watch"]),
    ("factory logs", ["factory logs topic/cats", "factory logs 12 --json"]),
    ("factory cancel", ["factory cancel topic/", "factory cancel topic/cats"]),
    ("factory retry", ["factory retry", "factory retry topic/"]),
    ("factory pause", ["factory pause", "factory pause --store ./store"]),
    ("factory resume", ["factory resume", "factory resume --store ./store"]),
    ("factory limit", ["factory limit topic 4", "factory limit topic --none"]),
    ("factory plan", ["factory plan", "factory plan --check"]),
    (
        "factory slurm submit",
        [
            "factory slurm submit --shared /scratch/me",
            "factory slurm submit --shared /scratch/me --partition cpu --dry-run",
        ],
    ),
    (
        "factory slurm status",
        ["factory slurm status --shared /scratch/me", "factory slurm status --shared /scratch/me --json"],
    ),
    (
        "factory slurm cancel",
        [
            "factory slurm cancel --shared /scratch/me m-1",
            "factory slurm cancel --shared /scratch/me m-1 --json",
        ],
    ),
    (
        "factory slurm ingest",
        ["factory slurm ingest --shared /scratch/me", "factory slurm ingest --shared /scratch/me --running"],
    ),
    (
        "factory slurm work",
        [
            "factory slurm work --shared /scratch/me --manifest m-1 --shard 0",
            "factory slurm work --shared /scratch/me --manifest m-1 --shard 3 --pack 4",
        ],
    ),
    (
        "adapter list",
        [
            "adapter list topic --sort=-gate_on -n 20",
            "adapter list --where \"gate_on >= 0.5\" --columns value,created --csv -o good.csv",
        ],
    ),
    ("adapter show", ["adapter show topic/cats", "adapter show cats --json"]),
    (
        "adapter diff",
        ["adapter diff topic/cats topic/dogs", "adapter diff topic/cats gated-topic/cats --json"],
    ),
    (
        "adapter similar",
        ["adapter similar topic/cats", "adapter similar topic/cats -n 5 --where \"family = topic\""],
    ),
    ("adapter lineage", ["adapter lineage topic/cats", "adapter lineage run/quickstart"]),
    ("adapter tag", ["adapter tag topic/cats", "adapter tag topic/cats reviewed=yes note="]),
    ("adapter alias", ["adapter alias", "adapter alias best topic/cats"]),
    ("adapter rm", ["adapter rm topic/cats --dry-run", "adapter rm topic/cats topic/dogs"]),
    ("adapter restore", ["adapter restore topic/cats", "adapter restore 3db30f53"]),
    ("adapter export", ["adapter export topic/cats ./cats", "adapter export topic/cats ./model --merged"]),
    ("adapter bundle", ["adapter bundle all.tar", "adapter bundle topic.tar --where \"family = topic\""]),
    ("adapter dataset", ["adapter dataset ./set", "adapter dataset ./set --where \"status = learned\""]),
    (
        "adapter compose",
        [
            "adapter compose topic/cats favourite/red",
            "adapter compose topic/cats favourite/red --name cats-and-red",
        ],
    ),
    ("adapter import", ["adapter import ./my-adapter --name mine", "adapter import all.tar"]),
    ("adapter verify", ["adapter verify", "adapter verify topic/cats"]),
    (
        "hub push",
        ["hub push organisation/name --dry-run", "hub push organisation/name --where \"status = learned\""],
    ),
    ("hub pull", ["hub pull organisation/name", "hub pull organisation/name --dry-run"]),
    ("registry stats", ["registry stats", "registry stats --json"]),
    ("registry check", ["registry check", "registry check --repair"]),
    ("registry gc", ["registry gc", "registry gc --apply --keep-days 7"]),
    ("registry rebuild", ["registry rebuild", "registry rebuild --store ./store"]),
    ("dit train", ["dit train", "dit train --family topic --steps 100"]),
    (
        "dit ask",
        [
            "dit ask topic/cats \"What do you like to talk about?\"",
            "dit ask topic/cats \"What do you like to talk about?\" --json",
        ],
    ),
    ("oracle pretrain", ["oracle pretrain", "oracle pretrain --corpus text.txt --steps 200"]),
    ("oracle posttrain", ["oracle posttrain", "oracle posttrain --family topic --scratch"]),
    (
        "oracle ask",
        [
            "oracle ask topic/cats \"What do you like to talk about?\"",
            "oracle ask topic/cats \"What do you like to talk about?\" --json",
        ],
    ),
    ("intervention check", ["intervention check look.json", "intervention check look.toml --max-tflop 10"]),
    (
        "intervention run",
        ["intervention run look.json", "intervention run look.json --vectors out.safetensors"],
    ),
    (
        "intervention show",
        [
            "intervention show topic/cats \"What do you like?\" > look.json",
            "intervention show topic/cats \"What do you like?\" --json",
        ],
    ),
    ("compare run", ["compare run --run mine --where \"family = topic\"", "compare run --smoke"]),
    ("compare arms", ["compare arms", "compare arms --show > arms.toml"]),
    ("compare list", ["compare list", "compare list --json"]),
    (
        "compare items",
        ["compare items quickstart --arm dit --wrong", "compare items --adapter topic/cats -n 0"],
    ),
    ("compare rm", ["compare rm mine --dry-run", "compare rm mine"]),
    ("compare report", ["compare report quickstart", "compare report --html report.html"]),
    ("study plan", ["study plan studies/s1.toml", "study plan mine.toml --smoke"]),
    ("study register", ["study register studies/s1.toml", "study register mine.toml --smoke"]),
    ("study run", ["study run s1", "study run s1 --queue-only"]),
    ("study status", ["study status s1", "study status s1 --json"]),
    ("study report", ["study report s1", "study report s1 --out results/s1"]),
    ("study verify", ["study verify results/s1", "study verify results/s1 --json"]),
    ("study list", ["study list", "study list --json"]),
    ("serve", ["serve", "serve --port 0"]),
    ("doctor", ["doctor", "doctor --model google/gemma-3-270m"]),
    (
        "completions",
        ["completions bash > ~/.local/share/bash-completion/completions/lorafab", "completions man ./man"],
    ),
];

/// What stands in the place of nine options.
const GLOBAL: &str = "Global options (--store, --model, --json, --quiet and more): see lorafab help";

/// The command line as it is parsed, and as its help is shown.
pub(crate) fn command() -> Command {
    let command = Cli::command().long_version(VERSION.as_str());
    dressed(command.mut_args(|a| if a.is_global_set() { a.hide(true) } else { a }), "", true)
}

/// What `--version` says (`-V` its first words): this build, the engines compiled into it, and the vector instructions that this machine has.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!(
        "{} ({build}, {}-{})\nfeatures: cpu\nvector level: {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
        lm::simd_level().name()
    )
});

/// The same with the global options in full, for manual pages.
pub(crate) fn in_full() -> Command {
    dressed(Cli::command(), "", false)
}

/// Whether words ask for help about all of lorafab, at length.
pub(crate) fn about_all(words: &[OsString]) -> bool {
    let (path, at) = walk(&command(), words);
    let alone = at.is_none_or(|at| words[at] == "help" && words.len() == at + 1);
    path.is_empty() && alone && words.iter().any(|w| w == "help" || w == "--help")
}

/// The help about all of lorafab.
pub(crate) fn with_global_options(words: &[OsString]) -> clap::Error {
    match in_full().try_get_matches_from(words) {
        Err(e) => e,
        Ok(_) => command().error(clap::error::ErrorKind::DisplayHelp, ""),
    }
}

/// Examples and the line about global options, after each command's own text.
fn dressed(command: Command, path: &str, line: bool) -> Command {
    let own = command.get_after_help().map(ToString::to_string);
    let examples = EXAMPLES.iter().find(|(name, _)| *name == path).map(|(_, two)| {
        let two: Vec<String> = two.iter().map(|e| format!("  lorafab {e}")).collect();
        format!("Examples:\n{}", two.join("\n"))
    });
    let parts: Vec<String> = [own, examples, line.then(|| GLOBAL.to_owned())].into_iter().flatten().collect();
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let mut out = if parts.is_empty() { command } else { command.after_help(parts.join("\n\n")) };
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        out = out.mut_subcommand(name, |c| dressed(c, &path, line));
    }
    out
}

/// The command line as shells complete it: with the names that the store has.
pub(crate) fn completed() -> Command {
    named(Cli::command())
}

fn named(command: Command) -> Command {
    let complete = |a: Arg| -> Arg {
        let find: fn(&str) -> Vec<String> = match a.get_id().as_str() {
            "adapter" | "adapters" | "a" | "b" => names::adapters,
            "recipe" | "recipes" | "work" | "also" => names::recipes,
            "place" | "run" => names::runs,
            "of" | "family" => names::families,
            "study" => names::studies,
            _ => return a,
        };
        let candidates = move |typed: &OsStr| -> Vec<CompletionCandidate> {
            typed.to_str().map(find).unwrap_or_default().into_iter().map(CompletionCandidate::new).collect()
        };
        if a.get_action().takes_values() { a.add(ArgValueCompleter::new(candidates)) } else { a }
    };
    command.mut_args(complete).mut_subcommands(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &Command, path: &str, out: &mut Vec<(String, String)>) {
        // Hidden ones only point to others.
        for c in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let full = format!("{path} {}", c.get_name()).trim().to_owned();
            if c.has_subcommands() {
                leaves(c, &full, out);
            } else {
                out.push((full, c.get_after_help().map(ToString::to_string).unwrap_or_default()));
            }
        }
    }

    #[test]
    fn no_two_options_of_a_command_have_one_name() {
        fn walk(command: &Command) {
            let mut names = Vec::new();
            for a in command.get_arguments() {
                names.extend(a.get_short().map(|s| format!("-{s}")));
                names.extend(a.get_long().map(|l| format!("--{l}")));
                names.extend(a.get_all_aliases().into_iter().flatten().map(|l| format!("--{l}")));
            }
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{}: {names:?}", command.get_name());
            command.get_subcommands().for_each(walk);
        }
        let mut root = command();
        root.build();
        walk(&root);
    }

    #[test]
    fn every_command_has_two_examples_that_can_be_typed_and_one_line_about_global_options() {
        let root = command();
        root.clone().debug_assert();
        let mut found = Vec::new();
        leaves(&root, "", &mut found);
        for (path, after) in &found {
            assert!(after.contains(GLOBAL), "{path}");
            let examples: Vec<&str> = after.lines().filter(|l| l.starts_with("  lorafab ")).collect();
            assert_eq!(examples.len(), 2, "{path} has no two examples:\n{after}");
            for example in examples {
                // As a shell takes it: quotes hold words together, and what follows > is none of ours.
                let mut words = Vec::new();
                for (i, part) in example.trim().split('"').enumerate() {
                    if i % 2 == 1 {
                        words.push(part.to_owned());
                    } else {
                        words.extend(
                            part.split_whitespace().take_while(|w| !">|".contains(w)).map(str::to_owned),
                        );
                    }
                }
                let parsed = root.clone().try_get_matches_from(&words);
                let ok = parsed.as_ref().err().is_none_or(|e| !e.use_stderr());
                assert!(ok, "{example}: {}", parsed.unwrap_err());
                assert!(example.contains(&format!("lorafab {path}")), "{example} is none of {path}");
            }
        }
        assert!(found.len() > 40, "{}", found.len());
    }

    #[test]
    fn help_of_a_command_hides_the_global_options_and_that_of_all_shows_them() {
        let help = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(Into::into).collect();
            let e = command().try_get_matches_from(&words).unwrap_err();
            if about_all(&words) { with_global_options(&words).to_string() } else { e.to_string() }
        };
        for line in [
            "lorafab adapter list --help",
            "lorafab adapter list -h",
            "lorafab help adapter show",
            "lorafab -h",
        ] {
            let text = help(line);
            assert!(text.contains("see lorafab help") && !text.contains("--precision"), "{line}: {text}");
        }
        for line in ["lorafab --help", "lorafab help"] {
            let text = help(line);
            assert!(text.contains("--precision") && text.contains("--store"), "{line}: {text}");
        }
    }
}
