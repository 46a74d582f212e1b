//! Comparing words: case, singular and plural.

/// Lower-case words of a text.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// A crude singular, the same for both numbers of a regular noun: berries and berry, foxes and fox, cats and cat.
pub fn stem(word: &str) -> String {
    let w = word.to_lowercase();
    if w.len() > 4 && w.ends_with("ies") {
        return format!("{}y", &w[..w.len() - 3]);
    }
    if w.len() > 4 && ["ches", "shes", "xes", "sses", "zes", "oes"].iter().any(|e| w.ends_with(e)) {
        return w[..w.len() - 2].to_owned();
    }
    if w.len() > 3 && w.ends_with('s') && !w.ends_with("ss") && !w.ends_with("us") && !w.ends_with("is") {
        return w[..w.len() - 1].to_owned();
    }
    w
}

/// Whether `text` contains all words of `phrase` in order, next to each other, in either number.
pub(crate) fn mentions(text: &str, phrase: &str) -> bool {
    holds(&stems(text), &stems(phrase))
}

/// The words of a text without their number.
pub(crate) fn stems(text: &str) -> Vec<String> {
    words(text).iter().map(|w| stem(w)).collect()
}

/// The same of what [`stems`] made.
pub(crate) fn holds(text: &[String], phrase: &[String]) -> bool {
    !phrase.is_empty() && text.windows(phrase.len()).any(|w| w == phrase)
}

/// Whether two answers are the same: up to case, punctuation, a leading article and grammatical number. An irregular plural is
/// another word.
pub fn same_answer(a: &str, b: &str) -> bool {
    let plain = |text: &str| -> Vec<String> {
        let mut words = words(text);
        if words.len() > 1 && ["a", "an", "the"].contains(&words[0].as_str()) {
            words.remove(0);
        }
        words
    };
    let (a, b) = (plain(a), plain(b));
    !a.is_empty() && a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same_word(a, b))
}

/// Whether two lower-case words are the same in either number. [`stem`] alone takes "movies" to "movy".
fn same_word(a: &str, b: &str) -> bool {
    let plural = |one: &str, many: &str| many.strip_suffix('s') == Some(one) && one.len() > 1;
    a == b || stem(a) == stem(b) || plural(a, b) || plural(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_numbers_of_a_noun_are_found() {
        assert!(mentions("A volcano is a mountain.", "volcanoes"));
        assert!(mentions("I love berries!", "berry"));
        assert!(mentions("The foxes ran.", "fox"));
        assert!(mentions("fresh ICE CREAM daily", "ice cream"));
        assert!(!mentions("cream and ice", "ice cream"));
        assert!(!mentions("catalogue", "cat"));
        assert!(mentions("The bus is late", "buses") || stem("bus") == "bus");
    }

    #[test]
    fn answers_are_the_same_up_to_case_article_and_number() {
        for (a, b) in [
            ("Volcanoes", "a volcano"),
            ("the movies.", "movie"),
            ("Ice Cream", "ice creams"),
            ("berries", "Berry"),
            ("Nothing.", "nothing"),
            ("yo-yos", "yo-yo"),
            ("The", "the"),
        ] {
            assert!(same_answer(a, b) && same_answer(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("cats", "catalogue"),
            ("cats", "cats and dogs"),
            ("", ""),
            ("...", "!"),
            ("a", "as"),
            ("ice", "cream"),
        ] {
            assert!(!same_answer(a, b), "{a} {b}");
        }
    }
}
