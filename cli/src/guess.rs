//! First guesses at commands: a word that is none either stands for one, or the error names the right one.

use std::ffi::OsString;

use clap::{Command, CommandFactory};
use registry::names::nearest;

use crate::args::Cli;
use crate::error::{CommandError, Kind};

/// What a guess comes to.
pub(crate) enum Guess {
    /// The words that were meant; the command runs.
    Command(Vec<OsString>),
    /// What to type instead, and words of a command with the options that were given.
    Pointer(CommandError, Vec<OsString>),
}

/// What a table's line says.
#[derive(Clone, Copy)]
enum Means {
    /// These words in place of the guess: what only shows something runs at once.
    Runs(&'static [&'static str]),
    /// A sentence with the right command.
    Is(&'static str),
}

use Means::{Is, Runs};

/// Where a guess was made (the commands before it), the words that are guessed there, and what they mean. Words that are commands
/// elsewhere need no line.
const GUESSES: &[(&str, &[&str], Means)] = &[
    ("", &["list", "ls", "adapters", "loras"], Runs(&["adapter", "list"])),
    ("", &["show", "info", "describe", "inspect"], Runs(&["adapter", "show"])),
    ("", &["status", "jobs", "queue"], Runs(&["factory", "status"])),
    ("", &["logs", "log"], Runs(&["factory", "logs"])),
    ("", &["recipes"], Runs(&["recipe", "list"])),
    ("", &["runs", "comparisons"], Runs(&["compare", "list"])),
    ("", &["studies"], Runs(&["study", "list"])),
    ("", &["report", "results"], Runs(&["compare", "report"])),
    ("", &["readers"], Runs(&["reader", "list"])),
    (
        "",
        &["web", "ui", "dashboard", "server", "browse", "view"],
        Is("the store is shown in a browser with: lorafab serve"),
    ),
    ("", &["stats"], Runs(&["registry", "stats"])),
    ("", &["models", "model", "env", "check", "system"], Runs(&["doctor"])),
    (
        "",
        &["similar", "diff", "lineage"],
        Is(
            "adapters are compared with: lorafab adapter similar A, lorafab adapter diff A B, lorafab adapter lineage A",
        ),
    ),
    (
        "",
        &["search", "find", "grep"],
        Is(
            "find adapters by a condition: lorafab adapter list --where \"value like '*cat*'\"; those alike by their weights: lorafab adapter similar ADAPTER",
        ),
    ),
    (
        "",
        &["train", "fit", "make", "create", "new", "finetune", "fine-tune"],
        Is(
            "adapters are trained from recipes: lorafab factory submit RECIPE, then lorafab factory run; readers with lorafab dit train and lorafab oracle posttrain",
        ),
    ),
    ("", &["init", "start", "demo", "tutorial"], Is("see the whole once: lorafab quickstart --smoke")),
    (
        "",
        &["talk", "generate", "prompt"],
        Is("talk to a model with an adapter with: lorafab chat ADAPTER, once or in a session"),
    ),
    (
        "",
        &["query", "question", "interpret", "explain", "reading"],
        Is(
            "an adapter is read with: lorafab read ADAPTER; its readers are asked with: lorafab ask ADAPTER QUESTION",
        ),
    ),
    (
        "",
        &["eval", "evaluate", "score", "benchmark", "test"],
        Is("readers are scored against each other with: lorafab compare run"),
    ),
    (
        "",
        &["remove", "delete", "del"],
        Is("an adapter is removed with: lorafab adapter rm ADAPTER; a run with: lorafab compare rm RUN"),
    ),
    ("", &["upload", "publish"], Is("adapters are sent with: lorafab hub push ORGANISATION/NAME")),
    ("", &["download", "fetch", "get"], Is("adapters are fetched with: lorafab hub pull ORGANISATION/NAME")),
    (
        "",
        &["config", "settings", "options"],
        Is("what is set is shown by: lorafab doctor; all options by: lorafab help"),
    ),
    (
        "",
        &["run", "work"],
        Is(
            "the queue is worked on with: lorafab factory run; methods are compared with: lorafab compare run",
        ),
    ),
    ("", &["version"], Runs(&["--version"])),
    ("dit", &["list", "ls", "show"], Runs(&["adapter", "list", "--role", "dit_adapter"])),
    ("oracle", &["list", "ls", "show"], Runs(&["adapter", "list", "--role", "oracle"])),
    (
        "oracle",
        &["train"],
        Is("an oracle is trained with: lorafab oracle pretrain, then lorafab oracle posttrain"),
    ),
    ("adapter", &["info", "get", "describe", "inspect"], Runs(&["adapter", "show"])),
    ("adapter", &["neighbours", "neighbors", "nearest", "near", "like"], Runs(&["adapter", "similar"])),
    ("", &["neighbours", "neighbors", "nearest"], Runs(&["adapter", "similar"])),
    (
        "",
        &["sweep", "grid"],
        Is("a sweep is submitted with: lorafab factory submit RECIPE --set training.rank=1,2 --set seed=1,2"),
    ),
    (
        "factory",
        &["sweep", "grid"],
        Is("a sweep is submitted with: lorafab factory submit RECIPE --set training.rank=1,2 --set seed=1,2"),
    ),
    (
        "recipe",
        &["add", "import", "create", "init"],
        Is("a recipe is a file: lorafab recipe new NAME -o NAME.toml, then lorafab factory submit NAME.toml"),
    ),
    (
        "reader",
        &["import", "install", "get", "new"],
        Is("a reader is taken in with: lorafab reader add FOLDER"),
    ),
    (
        "registry",
        &["export"],
        Is(
            "adapters are written out with: lorafab adapter list --csv -o FILE, lorafab adapter bundle FILE, lorafab adapter dataset DIR",
        ),
    ),
    ("adapter", &["tags"], Runs(&["adapter", "tag"])),
    ("adapter", &["aliases"], Runs(&["adapter", "alias"])),
    (
        "adapter",
        &["search", "find", "grep"],
        Is(
            "find adapters by a condition: lorafab adapter list --where \"value like '*cat*'\"; those alike by their weights: lorafab adapter similar ADAPTER",
        ),
    ),
    ("adapter", &["remove", "delete", "del"], Is("an adapter is removed with: lorafab adapter rm ADAPTER")),
    (
        "adapter",
        &["merge"],
        Is("a merged model is written with: lorafab adapter export ADAPTER DIR --merged"),
    ),
    (
        "adapter",
        &["train", "new", "create", "make", "add"],
        Is(
            "adapters are trained with: lorafab factory submit RECIPE, then lorafab factory run; one that is there is taken in with: lorafab adapter import DIR",
        ),
    ),
    (
        "adapter",
        &["compare"],
        Is("two adapters are compared with: lorafab adapter diff A B; readers with: lorafab compare run"),
    ),
    ("factory", &["list", "ls", "jobs", "queue", "show"], Runs(&["factory", "status"])),
    ("factory", &["log", "history"], Runs(&["factory", "logs"])),
    ("factory", &["start", "work", "train"], Is("the queue is worked on with: lorafab factory run")),
    (
        "factory",
        &["stop", "kill"],
        Is(
            "jobs are cancelled with: lorafab factory cancel PREFIX; nothing new begins after: lorafab factory pause",
        ),
    ),
    ("recipe", &["info", "get", "cat"], Runs(&["recipe", "show"])),
    ("recipe", &["validate", "lint"], Runs(&["recipe", "check"])),
    ("registry", &["list", "ls"], Runs(&["adapter", "list"])),
    ("registry", &["status", "info"], Runs(&["registry", "stats"])),
    (
        "registry",
        &["verify", "fsck", "repair"],
        Is(
            "the store is checked with: lorafab registry check, and mended with: lorafab registry check --repair",
        ),
    ),
    ("registry", &["clean", "prune"], Is("what nothing names is removed with: lorafab registry gc --apply")),
    ("compare", &["runs"], Runs(&["compare", "list"])),
    ("compare", &["answers"], Runs(&["compare", "items"])),
    ("compare", &["remove", "delete", "del"], Is("a run is removed with: lorafab compare rm RUN")),
    (
        "compare",
        &["export", "csv"],
        Is("a report is written with: lorafab compare report RUN --csv, --json or --html FILE"),
    ),
    ("hub", &["upload", "publish", "send"], Is("adapters are sent with: lorafab hub push ORGANISATION/NAME")),
    (
        "hub",
        &["download", "fetch", "get", "list", "ls"],
        Is("adapters are fetched with: lorafab hub pull ORGANISATION/NAME (what would come: --dry-run)"),
    ),
];

/// The commands that were named in order, and where the first word that is none stands.
pub(crate) fn walk(root: &Command, words: &[OsString]) -> (Vec<String>, Option<usize>) {
    let (mut path, mut command, mut i) = (Vec::new(), root, 1);
    while let Some(word) = words.get(i).and_then(|w| w.to_str()) {
        if let Some(option) = word.strip_prefix('-') {
            // An option takes the next word where it has a value that is not written to it.
            let name = option.trim_start_matches('-');
            let own = |a: &&clap::Arg| {
                a.get_long() == Some(name)
                    || (name.chars().count() == 1 && a.get_short() == name.chars().next())
            };
            let found = command.get_arguments().find(own).or_else(|| root.get_arguments().find(own));
            let takes = found.is_some_and(|a| a.get_action().takes_values());
            i += if takes { 2 } else { 1 };
            continue;
        }
        match command.find_subcommand(word) {
            Some(next) => {
                path.push(next.get_name().to_owned());
                command = next;
            }
            None => return (path, Some(i)),
        }
        i += 1;
    }
    (path, None)
}

/// What was meant by words of which one is no command.
pub(crate) fn meant(words: &[OsString]) -> Option<Guess> {
    let root = Cli::command();
    let (path, at) = walk(&root, words);
    let at = at?;
    let word = words[at].to_str()?;
    // Everything before it but the commands that it was typed after: the options.
    let mut before: Vec<OsString> = words[..at].to_vec();
    for name in &path {
        let i = before.iter().skip(1).position(|w| root_word(&root, &path, w, name))?;
        before.remove(i + 1);
    }
    let pointer = |place: &str, word: &str, sentence: &str| {
        let command =
            ["lorafab", place, word].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ");
        let error = CommandError::new(Kind::Usage, format!("there is no command {command:?}"))
            .hint(sentence.to_owned());
        Guess::Pointer(error, before.iter().cloned().chain(["doctor".into()]).collect())
    };
    let place = path.join(" ");
    let line = GUESSES.iter().find(|(of, guessed, _)| *of == place && guessed.contains(&word));
    match line {
        Some((.., Runs(meant))) => {
            let meant = meant.iter().map(|w| OsString::from(*w));
            return Some(Guess::Command(
                before.into_iter().chain(meant).chain(words[at + 1..].iter().cloned()).collect(),
            ));
        }
        Some((.., Is(sentence))) => return Some(pointer(&place, word, sentence)),
        None => {}
    }
    // A command of the same name elsewhere, then one with a near name here.
    let mut same = Vec::new();
    collect(&root, "", word, &mut same);
    if !same.is_empty() {
        return Some(pointer(&place, word, &format!("there is: {}", same.join(", "))));
    }
    let mut command = &root;
    for name in &path {
        command = command.find_subcommand(name)?;
    }
    let names: Vec<&str> = command
        .get_subcommands()
        .flat_map(|c| std::iter::once(c.get_name()).chain(c.get_visible_aliases()))
        .collect();
    if std::path::Path::new(word).exists() {
        let what = format!("{word} is a file or folder; take it in with: lorafab adapter import {word}");
        return Some(pointer(&place, word, &what));
    }
    let full = |name: &str| format!("lorafab {}", [path.join(" ").as_str(), name].join(" ").trim());
    let near = nearest(word, names.iter().copied(), 2);
    let sentence = if near.is_empty() {
        format!("see: lorafab help{}{}", if path.is_empty() { "" } else { " " }, path.join(" "))
    } else {
        format!("did you mean: {}", near.into_iter().map(full).collect::<Vec<_>>().join(" or "))
    };
    Some(pointer(&place, word, &sentence))
}

/// Whether a word is the command of that name, or an alias of it.
fn root_word(root: &Command, path: &[String], word: &OsString, name: &str) -> bool {
    let mut command = root;
    for step in path {
        let Some(next) = command.find_subcommand(step) else { return false };
        if step == name {
            return word
                .to_str()
                .is_some_and(|w| next.get_name() == w || next.get_all_aliases().any(|a| a == w));
        }
        command = next;
    }
    false
}

/// Commands whose last word is that, in full.
fn collect(command: &Command, path: &str, word: &str, out: &mut Vec<String>) {
    for next in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let full = format!("{path} {}", next.get_name());
        if next.get_name() == word || next.get_visible_aliases().any(|a| a == word) {
            out.push(format!("lorafab{full}"));
        }
        collect(next, &full, word, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    fn said(line: &str) -> String {
        match meant(&words(line)) {
            Some(Guess::Command(words)) => {
                words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
            }
            Some(Guess::Pointer(e, _)) => format!("{}; {}", e.message, e.hint.unwrap_or_default()),
            None => "nothing".into(),
        }
    }

    #[test]
    fn a_guess_runs_what_it_means_with_its_options_or_names_it() {
        assert_eq!(said("lorafab --store s list topic -n 3"), "lorafab --store s adapter list topic -n 3");
        assert_eq!(said("lorafab -q oracle --json ls"), "lorafab -q --json adapter list --role oracle");
        assert!(
            said("lorafab posttrain").ends_with("there is: lorafab oracle posttrain"),
            "{}",
            said("lorafab posttrain")
        );
        assert!(said("lorafab adaptr list").contains("did you mean: lorafab adapter"));
        assert!(said("lorafab factory sumbit topic").contains("did you mean: lorafab factory submit"));
        assert!(said("lorafab xyzzy").contains("lorafab help"));
        assert!(said("lorafab factory xyzzy").contains("lorafab help factory"));
    }

    #[test]
    fn no_line_of_the_table_is_shadowed_and_what_runs_is_a_command() {
        let root = Cli::command();
        for (i, (place, guessed, means)) in GUESSES.iter().enumerate() {
            for word in *guessed {
                let first = GUESSES.iter().position(|(p, g, _)| p == place && g.contains(word));
                assert_eq!(first, Some(i), "{place} {word} is there twice");
            }
            if let Runs(meant) = means
                && meant[0] != "--version"
            {
                let words = std::iter::once("lorafab")
                    .chain(meant.iter().copied())
                    .map(OsString::from)
                    .collect::<Vec<_>>();
                assert!(!walk(&root, &words).0.is_empty(), "{meant:?}");
            }
        }
    }
}
