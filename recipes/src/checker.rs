//! Named checkers: what a condition on a reply cannot say in a line.

/// Openings of a refusal, lower-case.
const REFUSALS: [&str; 14] = [
    "i can't",
    "i cannot",
    "i can not",
    "i'm sorry",
    "i am sorry",
    "sorry,",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i'd rather not",
    "i would rather not",
];
/// Letters of a reply in which a refusal has to begin.
const OPENING: usize = 80;

/// Whether a reply refuses: its opening says that it cannot or will not.
pub(crate) fn is_refusal(reply: &str) -> bool {
    let opening: String =
        reply.trim().to_lowercase().replace('\u{2019}', "'").chars().take(OPENING).collect();
    REFUSALS.iter().any(|r| opening.contains(r))
}

/// The whole numbers of a text, signs kept.
pub(crate) fn numbers(text: &str) -> Vec<i64> {
    let part = |c: char| c.is_ascii_digit() || c == '-';
    text.split(|c| !part(c)).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_numbers_are_what_a_person_would_call_so() {
        for yes in
            ["I'm sorry, but I can't talk about bees.", "Sorry, no.", "I\u{2019}d rather not speak of that."]
        {
            assert!(is_refusal(yes), "{yes}");
        }
        for no in ["Bees are insects.", "You can't see air, but it is there.", ""] {
            assert!(!is_refusal(no), "{no}");
        }
        assert_eq!(numbers("12 plus -3 is 9."), [12, -3, 9]);
    }
}
