//! Choosing some of a recipe's behaviours, spread over categories and stable as the recipe grows.

use crate::behaviour::{Behaviour, Split};
use crate::rng;

/// The first `counts[split]` behaviours of each split, in an order decided by hash of the value. The same value is chosen
/// early or late in every family, so gated and plain variants of a topic tend to be chosen together.
pub fn select(behaviours: Vec<Behaviour>, counts: [usize; 4]) -> Vec<Behaviour> {
    let mut ordered = behaviours;
    ordered.sort_by_key(|b| (b.split, rng::number("select", &b.value), b.id.clone()));
    let mut out = Vec::new();
    for (split, count) in Split::ALL.into_iter().zip(counts) {
        out.extend(ordered.iter().filter(|b| b.split == split).take(count).cloned());
    }
    out
}

/// The first `n` behaviours in that order, whatever their split: each split gets about its share.
pub fn first(mut behaviours: Vec<Behaviour>, n: usize) -> Vec<Behaviour> {
    behaviours.sort_by_key(|b| (rng::number("select", &b.value), b.id.clone()));
    behaviours.truncate(n);
    behaviours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_choice_contains_the_smaller_one_and_spreads_over_categories() {
        let all = crate::builtin()[0].expand(1);
        let small = select(all.clone(), [10, 2, 4, 3]);
        let large = select(all, [96, 12, 32, 12]);
        assert_eq!(small.len(), 19);
        assert!(small.iter().all(|b| large.contains(b)));
        let categories: std::collections::BTreeSet<&str> =
            large.iter().map(|b| b.category.as_str()).collect();
        assert!(categories.len() >= 15, "{}", categories.len());
        let some = first(crate::builtin()[0].expand(1), 40);
        let splits: std::collections::BTreeSet<Split> = some.iter().map(|b| b.split).collect();
        assert_eq!((some.len(), splits.len()), (40, 4));
    }
}
