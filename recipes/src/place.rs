//! Where in a recipe's text the parser found something wrong, in the words of the file: line, table, field.

/// What is wrong with a text that is no recipe.
pub(crate) fn describe(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |s| s.start.min(text.len()));
    let line = text[..start].matches('\n').count() + 1;
    let message = error.message().replace('\n', " ");
    let message = ["usize", "u32", "u64"].iter().fold(message, |m, kind| {
        m.replace(&format!("expected {kind}"), "expected a whole number that is not negative")
    });
    match field(text, start) {
        Some(field) => format!("line {line}: {field}: {message}"),
        None => format!("line {line}: {message}"),
    }
}

/// The field whose value stands at `at`, with its table; none where no value begins there.
fn field(text: &str, at: usize) -> Option<String> {
    let begin = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let (key, _) = text[begin..at].split_once('=')?;
    let table = text[..begin].lines().rev().find_map(|line| {
        let name = line.trim().strip_prefix('[')?.split(']').next()?;
        // An element of a list over several lines begins with a bracket too.
        let name = name.trim_start_matches('[').trim();
        name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)).then(|| name.to_owned())
    });
    Some(table.into_iter().chain([key.trim().to_owned()]).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use crate::{Recipe, builtin_source};

    #[test]
    fn a_wrong_value_is_named_with_its_field_and_line() {
        let good = builtin_source("topic").unwrap();
        let wrong = |from: &str, to: &str| {
            let at = good.find(from).unwrap();
            let end = at + good[at..].find('\n').unwrap();
            let text = format!("{}{to}{}", &good[..at], &good[end..]);
            Recipe::parse("x.toml", &text).unwrap_err().to_string()
        };
        for (from, to, parts) in [
            ("steps = ", "steps = -3", ["training.steps", "-3", "whole number"]),
            ("steps = ", "steps = \"many\"", ["training.steps", "many", "whole number"]),
            ("steps = ", "steps = 0", ["training.steps", "0 ", "1..=100000"]),
            ("rank = ", "rank = 65", ["training.rank", "65", "1..=64"]),
            ("on_rows = ", "on_rows = 0", ["training.on_rows", "0 ", "at least 1"]),
            ("learning_rate = ", "learning_rate = 2.0", ["training.learning_rate", "2", "above 0"]),
            ("final_share = ", "final_share = -1", ["training.final_share", "-1", "0..=1"]),
            ("count = ", "count = 0", ["rows.count", "0 ", "1..=10000"]),
            ("name = ", "name = 7", ["x.toml: line", "name", "7"]),
        ] {
            let error = wrong(from, to);
            for part in parts {
                assert!(error.contains(part), "{to}: {part:?} is not in {error:?}");
            }
        }
        // Not a value: the parser's own words.
        assert!(wrong("polarity = ", "polarityy = 1").contains("unknown field `polarityy`"));
    }
}
