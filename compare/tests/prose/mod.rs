//! Numbers in what people read, for tests that hold pages against committed results; study/tests/pages.rs reads this file too.

/// Decimal numbers of a text, with a zero before the point.
pub(crate) fn decimals(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let digit = |j: usize| chars.get(j).is_some_and(char::is_ascii_digit);
        if chars[i] == '.' && digit(i + 1) {
            let begin = (0..i).rev().take_while(|&j| digit(j)).last().unwrap_or(i);
            let end = (i + 1..chars.len()).take_while(|&j| digit(j)).last().unwrap();
            // A version or a paper's number has a letter, a point or a digit's point around it.
            let alone = begin == 0 || !(chars[begin - 1].is_alphanumeric() || chars[begin - 1] == '.');
            if alone && (chars.get(end + 1) != Some(&'.') || !digit(end + 2)) {
                let text: String = chars[begin..=end].iter().collect();
                out.push(if text.starts_with('.') { format!("0{text}") } else { text });
            }
            i = end;
        }
        i += 1;
    }
    out
}

#[test]
fn decimals_are_found_with_and_without_a_zero_and_versions_are_not_numbers() {
    assert_eq!(
        decimals("top-1 .84 [.68, 0.97], +.28; arXiv 2510.05092"),
        ["0.84", "0.68", "0.97", "0.28", "2510.05092"]
    );
    assert_eq!(decimals("v1.2.3 and x.5"), Vec::<String>::new());
}
