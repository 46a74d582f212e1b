//! Which of a store's adapters readers are trained on and asked about, and which cannot be or may not.

use std::collections::{BTreeMap, BTreeSet};

use lm::Outline;
use recipes::{Behaviour, Polarity, Recipe};
use registry::{AdapterRecord, Filter, Store};

use crate::Result;
use crate::supervision::tested;

/// Field of an adapter's specification: behaviours beyond its own that it carries too, under its name (`[Behaviour]`).
pub const ALSO: &str = "also";

/// The behaviours that an adapter carries: one, or those of all parts of a sum.
pub(crate) fn carried(record: &AdapterRecord) -> Vec<Behaviour> {
    let also = record.spec[ALSO].as_array().into_iter().flatten();
    let all = std::iter::once(&record.spec["behaviour"]).chain(also);
    all.filter_map(|b| serde_json::from_value(b.clone()).ok()).collect()
}

/// Those that readers are trained on or asked about, and others with the reason. Of behaviours made again by other means, those of the
/// test splits that carry something: what is trained on is what the factory makes as a recipe says. None of them counts whose value
/// readers are trained on or stopped by: they would be asked for what they were told.
pub(crate) fn taking_part(
    all: Vec<Behaviour>,
    known: &BTreeSet<&String>,
) -> (Vec<Behaviour>, Vec<(String, String)>) {
    let plain = |b: &Behaviour| b.remade().is_none();
    let told: BTreeSet<String> =
        all.iter().filter(|b| plain(b) && !tested(b.split)).map(|b| b.value.clone()).collect();
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for b in all {
        if plain(&b) {
            kept.push(b);
        } else if b.polarity == Polarity::Positive && tested(b.split) {
            let why = if told.contains(&b.value) {
                format!("readers are trained on its value {:?} or stopped by it", b.value)
            } else if !known.contains(&b.family) {
                format!("no adapter here brings the recipe of {:?}", b.family)
            } else {
                kept.push(b);
                continue;
            };
            left_out.push((b.id, why));
        }
    }
    (kept, left_out)
}

/// Whether an adapter is a behaviour made again by other means: a member of a sweep, trained elsewhere, or a sum.
pub fn remade(record: &AdapterRecord) -> bool {
    record.tags.contains_key(factory::pack::SWEEP)
        || record.spec["behaviour"]["variant"].as_object().is_some_and(|v| !v.is_empty())
}

/// The store's adapters of this base model; of several for one behaviour, the newest. Those made again by other means are left out: they
/// are the same values over again.
///
/// # Errors
/// If the store refuses.
pub fn newest_of_each(store: &Store, base: &str) -> Result<Vec<AdapterRecord>> {
    let mut all = newest_with_remade(store, base)?;
    all.retain(|r| !remade(r));
    Ok(all)
}

/// The same with those made again, each of which has a name of its own.
///
/// # Errors
/// If the store refuses.
pub fn newest_with_remade(store: &Store, base: &str) -> Result<Vec<AdapterRecord>> {
    let mut all = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    all.retain(|r| r.lineage.get("base").is_some_and(|b| *b == base));
    all.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    let mut seen = BTreeSet::new();
    all.retain(|r| seen.insert(r.behaviour.clone()));
    all.sort_by(|a, b| a.behaviour.cmp(&b.behaviour));
    Ok(all)
}

/// Most tokens of a question or of a prompt that an adapter is asked with.
const LONGEST: usize = 2048;

/// Those of some adapters that readers can be trained and asked on, and the others with what is wrong with them: a recipe that is none
/// or is not theirs, questions that nobody could be asked.
pub fn sound(
    store: &Store,
    base: &Outline,
    made: Vec<AdapterRecord>,
) -> (Vec<AdapterRecord>, Vec<(String, String)>) {
    let mut known: BTreeMap<registry::Digest, std::result::Result<String, String>> = BTreeMap::new();
    let mut look = |record: &AdapterRecord| -> std::result::Result<(), String> {
        for (i, behaviour) in carried(record).into_iter().enumerate() {
            let own = [&record.behaviour, &record.family, &record.value];
            let named = [&behaviour.id, &behaviour.family, &behaviour.value];
            if own[..1] != named[..1] || (i == 0 && own != named) {
                return Err(
                    "it is filed under another name than that of the behaviour that it was made for".into()
                );
            }
            behaviour.check()?;
            base.tokenizer.encode(&behaviour.value).map_err(|e| e.to_string())?;
        }
        let Some(digest) = record.extra_files.get(factory::spec::RECIPE_FILE) else { return Ok(()) };
        let read = || -> std::result::Result<String, String> {
            let bytes = store.get_blob(digest).map_err(|e| e.to_string())?;
            let recipe =
                Recipe::from_canonical(factory::spec::RECIPE_FILE, &bytes).map_err(|e| e.to_string())?;
            for question in recipe.all_asked() {
                let n = base.tokenizer.encode(&question).map_err(|e| e.to_string())?.len();
                if n > LONGEST {
                    return Err(format!("{}: a question has {n} tokens", factory::spec::RECIPE_FILE));
                }
            }
            Ok(recipe.name)
        };
        let name = known.entry(digest.clone()).or_insert_with(read).clone()?;
        if name == record.family {
            Ok(())
        } else {
            Err(format!("its recipe is that of {name:?}, not of its family {:?}", record.family))
        }
    };
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for record in made {
        match look(&record) {
            Ok(()) => good.push(record),
            Err(what) => bad.push((record.behaviour, what)),
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use recipes::{EpisodeOptions, Split};

    use super::*;
    use crate::Supervision;
    use crate::world::world;

    /// The same behaviours made by other means.
    fn again(of: &[Behaviour], how: &str, key: &str, value: &str) -> Vec<Behaviour> {
        let variant = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        of.iter().map(|b| Behaviour { variant: variant.clone(), ..b.clone().marked(how) }).collect()
    }

    /// Sums of two behaviours of families one after the other: both parts under one name.
    fn sums(of: &[Vec<Behaviour>]) -> Vec<Behaviour> {
        let mut out = Vec::new();
        for (family, next) in of.iter().zip(of.iter().cycle().skip(1)) {
            for (a, b) in family.iter().zip(next.iter().cycle()) {
                let parts = [a.clone(), Behaviour { id: a.id.clone(), ..b.clone() }];
                out.extend(again(
                    &parts,
                    &format!("+{}", b.family),
                    "composition",
                    &format!("{}+{}", a.id, b.id),
                ));
            }
        }
        out
    }

    #[test]
    fn nothing_that_trains_or_stops_a_reader_is_a_label_of_any_section_of_the_test() {
        let recipes: Vec<Recipe> =
            recipes::builtin().into_iter().filter(|r| r.polarity == Polarity::Positive).collect();
        let plain: Vec<Vec<Behaviour>> = recipes
            .iter()
            .map(|r| r.expand(1).into_iter().map(|b| Behaviour { row_plans: vec![], ..b }).collect())
            .collect();
        let some: Vec<Vec<Behaviour>> =
            plain.iter().map(|of| recipes::select(of.clone(), [8, 4, 8, 4])).collect();
        let again = [
            again(&some.concat(), "rank=4", "training.rank", "4"),
            again(&some.concat(), "mine", "trainer", "peft"),
            sums(&some),
        ]
        .concat();
        let names: BTreeSet<&String> = recipes.iter().map(|r| &r.name).collect();
        let (kept, left_out) = taking_part([plain.concat(), again.clone()].concat(), &names);
        assert_eq!(left_out, []);
        let s = Supervision {
            episodes: recipes::episodes(&recipes, &kept, 1, EpisodeOptions::default()).unwrap(),
            behaviours: kept.iter().map(|b| (b.id.clone(), b.clone())).collect(),
            recipes: recipes.iter().map(|r| (r.name.clone(), r.clone())).collect(),
            ..world(1)
        };
        assert!(s.supervising().all(|e| s.behaviours[&e.behaviour].remade().is_none()));
        let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
        for out in std::iter::once(None).chain(recipes.iter().map(|r| Some(&r.name))) {
            let without = s.without(&out.cloned().into_iter().collect());
            let told = without.labels();
            assert!(told.len() > 100);
            for e in without.test().into_iter().filter(|e| !e.negative) {
                let section = without.section(&e.behaviour, e.split.name());
                assert!(!told.contains(&e.answer), "{}: {section} of {} without {out:?}", e.answer, e.family);
                seen.insert((e.family.clone(), section));
            }
        }
        for recipe in &recipes {
            for section in
                ["test_value", "test_value@rank=4", "test_value@trainer=peft", "test_value@composed"]
            {
                assert!(
                    seen.contains(&(recipe.name.clone(), section.to_owned())),
                    "{} {section}",
                    recipe.name
                );
            }
        }
        assert!(seen.iter().any(|(_, section)| section == "test_category@rank=4"));
        // One whose value is trained on elsewhere is left out, and it is said.
        let mut told = again.into_iter().find(|b| !tested(b.split)).unwrap();
        told.split = Split::TestValue;
        let (_, left_out) = taking_part([plain.concat(), vec![told.clone()]].concat(), &names);
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].0 == told.id && left_out[0].1.contains(&told.value), "{left_out:?}");
    }
}
