//! Names of what is there, for shells that complete them. Nobody is told why there are none.

use registry::{Filter, Listing, Store};

use crate::places::{own_store, variable};

/// Names that a shell is given at most.
const MOST: usize = 200;

fn store() -> Option<Store> {
    let path = variable("LORAFAB_STORE").map_or_else(|| own_store(&variable), Into::into);
    path.join("catalogue.sqlite").exists().then(|| Store::open(&path).ok())?
}

fn begin(mut names: Vec<String>, typed: &str) -> Vec<String> {
    names.retain(|n| n.starts_with(typed));
    names.sort();
    names.dedup();
    names.truncate(MOST);
    names
}

/// Behaviours and aliases; values alone where no behaviour begins so.
pub(crate) fn adapters(typed: &str) -> Vec<String> {
    let Some(store) = store() else { return Vec::new() };
    let listing = Listing { limit: Some(MOST), ..Listing::default() };
    let all = |filter: Filter, key: &str| -> Vec<String> {
        let rows = store.page(&filter, &listing, &[key]).map(|p| p.rows).unwrap_or_default();
        rows.into_iter().filter_map(|mut r| r.remove(key)).collect()
    };
    let mut names = all(Filter::all().begins("behaviour", typed), "behaviour");
    names.extend(store.aliases().unwrap_or_default().into_iter().map(|a| a.name));
    let names = begin(names, typed);
    if names.is_empty() { begin(all(Filter::all().begins("value", typed), "value"), typed) } else { names }
}

/// Families of the store.
pub(crate) fn families(typed: &str) -> Vec<String> {
    begin(store().and_then(|s| s.field_values("family", MOST).ok()).unwrap_or_default(), typed)
}

/// Runs of the store.
pub(crate) fn runs(typed: &str) -> Vec<String> {
    begin(store().and_then(|s| super::runs::names(&s).ok()).unwrap_or_default(), typed)
}

/// Registered studies.
pub(crate) fn studies(typed: &str) -> Vec<String> {
    begin(store().and_then(|s| study::registration::names(&s).ok()).unwrap_or_default(), typed)
}

/// Built-in recipes.
pub(crate) fn recipes(typed: &str) -> Vec<String> {
    begin(recipes::builtin().into_iter().map(|r| r.name).collect(), typed)
}
