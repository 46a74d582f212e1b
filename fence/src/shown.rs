//! Text from elsewhere, fit for a terminal.

use std::borrow::Cow;

/// Whether a character does something else on a terminal than stand there: C0 and C1 controls, DEL, and what changes the direction
/// of text or has no width (Unicode, "Bidirectional Algorithm" and "Default Ignorable").
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| acts(c) && !keep(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) && !keep(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.into()
}

/// One line: a cell of a table, a name in a sentence. What acts on a terminal, line breaks and tabs too, is shown as an escape.
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Several lines: line breaks and tabs stay.
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || c == '\t')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_as_an_escape_and_the_rest_is_as_it_was() {
        assert_eq!(shown("topic/bees é 漢 🐝"), "topic/bees é 漢 🐝");
        assert_eq!(shown("a\u{1b}[2Jb\nc\td"), "a\\u{1b}[2Jb\\nc\\td");
        assert_eq!(shown("\u{9b}2J \u{7f} \u{202e}x\u{200b}"), "\\u{9b}2J \\u{7f} \\u{202e}x\\u{200b}");
        assert_eq!(shown_lines("a\nb\r"), "a\nb\\r");
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in any::<String>()) {
            prop_assert!(!shown(&text).chars().any(acts));
            prop_assert!(!shown_lines(&text).chars().any(|c| acts(c) && c != '\n' && c != '\t'));
        }
    }
}
