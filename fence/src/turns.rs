//! Conversations as one text: a prompt of several turns is its turns with [`NEXT`] between them, the user's first and last. A text
//! without it is one turn, as nearly every prompt is.

/// What stands between two turns: the record separator, which no one types.
pub const NEXT: char = '\u{1e}';

/// The text of a conversation.
pub fn join<T: AsRef<str>>(turns: &[T]) -> String {
    let turns: Vec<&str> = turns.iter().map(AsRef::as_ref).collect();
    turns.join(NEXT.encode_utf8(&mut [0; 4]))
}

/// The turns of a text: the user's, a reply, the user's, and so on.
pub fn split(text: &str) -> Vec<&str> {
    text.split(NEXT).collect()
}

/// The turns in one line, for people: a stroke between two.
pub fn in_line(text: &str) -> String {
    split(text).join(" / ").replace('\n', " ")
}

/// A text as part of one turn: what a model said may hold anything, and makes no turn of its own.
pub fn one(text: &str) -> String {
    text.replace(NEXT, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_apart_as_they_were_put_together() {
        let turns = ["Hello.", "Good morning!", "Tell me about bees."];
        assert_eq!(split(&join(&turns)), turns);
        assert_eq!(split("one turn"), ["one turn"]);
        assert_eq!(join(&["one turn"]), "one turn");
        assert_eq!(in_line(&join(&turns)), "Hello. / Good morning! / Tell me about bees.");
        assert_eq!(split(&one("what\u{1e}a model said")), ["what a model said"]);
    }
}
