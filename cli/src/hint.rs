//! Commands in hints, as this user has to type them.

use clap::CommandFactory;

use crate::args::Global;
use crate::places::variable;

/// A hint whose commands carry the `--store`, `--model`, `--chat-template` and `--precision` that were given: without them they would speak of another
/// store or model. What comes from the environment is there for the next command too.
pub(crate) fn spelled(global: &Global, hint: &str) -> String {
    let given = |value: &str, name: &str, otherwise: &str| {
        value != otherwise && variable(name).as_deref() != Some(value)
    };
    let store = global.store.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let template = global.chat_template.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
    let flags: Vec<String> = [
        ("--store", store.as_str(), "LORAFAB_STORE", ""),
        ("--model", &global.model, "LORAFAB_MODEL", lm::source::DEFAULT_MODEL),
        ("--chat-template", &template, "LORAFAB_CHAT_TEMPLATE", ""),
        ("--precision", &global.precision, "LORAFAB_PRECISION", "fastest"),
        ("--memory", global.memory.as_ref().map_or("", |m| &m.text), "LORAFAB_MEMORY", ""),
    ]
    .into_iter()
    .filter(|(_, value, name, otherwise)| given(value, name, otherwise))
    .map(|(flag, value, ..)| format!("{flag} {} ", quoted(value)))
    .collect();
    let command = crate::args::Cli::command();
    let mut parts = hint.split("lorafab ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let word: &str = part.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        out.push_str("lorafab ");
        if command.find_subcommand(word).is_some() {
            out.push_str(&flags.concat());
        }
        out.push_str(part);
    }
    out
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+=:@%,~".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(store: Option<&str>, model: &str, precision: &str) -> Global {
        Global {
            store: store.map(Into::into),
            model: model.into(),
            chat_template: None,
            precision: precision.into(),
            simd: "best".into(),
            memory: None,
            json: false,
            offline: false,
            quiet: false,
        }
    }

    #[test]
    fn commands_carry_what_was_given_and_prose_does_not() {
        let hint = "use the lorafab that made it; see lorafab factory status, or: lorafab doctor";
        assert_eq!(spelled(&global(None, "default", "fastest"), hint), hint);
        assert_eq!(
            spelled(&global(Some("/my store"), "default", "fastest"), hint),
            "use the lorafab that made it; see lorafab --store '/my store' factory status, or: lorafab --store '/my store' doctor"
        );
        assert_eq!(
            spelled(&global(Some("s"), "m.gguf", "f32"), "next: lorafab factory run"),
            "next: lorafab --store s --model m.gguf --precision f32 factory run"
        );
    }
}
