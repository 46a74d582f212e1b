//! Names as people type and read them: the nearest one to what was typed, and the order in which 2 comes before 10.

use std::cmp::Ordering;

/// The names nearest to what was typed, nearest first, at most `most`: within a third of its length in edits, without regard to case.
/// Of `family/value`, names of the same family come first.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let wanted = typed.to_lowercase();
    let (family, value) = wanted.rsplit_once('/').map_or((None, wanted.as_str()), |(f, v)| (Some(f), v));
    let within = |text: &str| (text.chars().count() / 3).max(1);
    let mut found: Vec<(bool, usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let (its, part) = lower.rsplit_once('/').map_or((None, lower.as_str()), |(f, v)| (Some(f), v));
            let near = edits(value, part, within(value));
            let (other, distance) = match (family, its) {
                (Some(f), Some(g)) => match edits(f, g, within(f)) {
                    Some(d) => (false, near? + d),
                    None => (true, near?),
                },
                (None, _) => (false, near.or_else(|| edits(&wanted, &lower, within(&wanted)))?),
                (Some(_), None) => (true, edits(&wanted, &lower, within(value))?),
            };
            Some((other, distance, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(most).map(|(.., name)| name).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment) that turn one text into the other, if they are at
/// most `most`.
fn edits(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best =
                (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + usize::from(a[i - 1] != b[j - 1]));
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        if row.iter().min().is_some_and(|m| *m > most) {
            return None;
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|d| *d <= most)
}

/// Text in order, its runs of digits as numbers: `topic/2` before `topic/10`. Equal only if the texts are.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    while let (Some(p), Some(q)) = (x.chars().next(), y.chars().next()) {
        let order = if p.is_ascii_digit() && q.is_ascii_digit() {
            let (m, n) = (digits(&mut x), digits(&mut y));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            (x, y) = (&x[p.len_utf8()..], &y[q.len_utf8()..]);
            p.cmp(&q)
        };
        if order.is_ne() {
            return order;
        }
    }
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

/// Takes the digits off the beginning of a text, and gives them without leading zeros.
fn digits<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number.trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_of_the_same_family_where_one_was_typed() {
        let names = ["topic/cats", "gated-topic/cats", "topic/cars", "topic/bees", "marker/quartz"];
        assert_eq!(nearest("topic/cat", names, 5), ["topic/cats", "gated-topic/cats"]);
        assert_eq!(nearest("topic/casts", names, 5), ["topic/cats", "gated-topic/cats"]);
        assert_eq!(nearest("quarts", names, 5), ["marker/quartz"]);
        assert_eq!(nearest("Bese", names, 5), ["topic/bees"]);
        assert_eq!(nearest("gated-topic/cars", names, 1), ["gated-topic/cats"]);
        assert_eq!(nearest("topc/bees", names, 1), ["topic/bees"]);
        assert!(nearest("zebras", names, 5).is_empty() && nearest("", names, 5).is_empty());
    }

    #[test]
    fn numbers_within_text_are_put_in_order_as_numbers() {
        let mut names = ["t/10", "t/2", "t/02", "t/1a", "t", "t/1", "s/100"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["s/100", "t", "t/1", "t/1a", "t/02", "t/2", "t/10"]);
        assert_eq!(natural("a1b2", "a1b2"), Ordering::Equal);
    }
}
