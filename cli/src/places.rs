//! Where things are kept, as environment variables name it: ours, and the Hugging Face Hub's by the rules of its own library
//! (`huggingface_hub/constants.py`).

use std::path::PathBuf;

/// Reads one environment variable.
type Read<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The Hub's folders and files on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HubPlaces {
    /// The folder that holds `models--org--name`.
    pub(crate) cache: PathBuf,
    /// The file with the token.
    pub(crate) token_file: PathBuf,
}

/// An environment variable that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Whether a variable is set to what `huggingface_hub` takes for yes.
pub(crate) fn truth(name: &str) -> bool {
    variable(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()))
}

/// A place as a variable gives it, which no shell has seen: `~`, `$NAME` and `${NAME}` are put in; an unknown name stays.
fn expanded(text: &str, read: Read<'_>) -> PathBuf {
    shellexpand::full_with_context_no_errors(text, || read("HOME"), |name| read(name)).into_owned().into()
}

impl HubPlaces {
    pub(crate) fn of(read: Read<'_>) -> Self {
        let at = |name: &str| read(name).map(|text| expanded(&text, read));
        let home = at("HF_HOME").unwrap_or_else(|| cache_home(read).join("huggingface"));
        Self {
            // The second name is the first one's older form.
            cache: at("HF_HUB_CACHE")
                .or_else(|| at("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| home.join("hub")),
            token_file: at("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")),
        }
    }
}

/// `$XDG_CACHE_HOME`.
fn cache_home(read: Read<'_>) -> PathBuf {
    expanded(&read("XDG_CACHE_HOME").unwrap_or_else(|| "~/.cache".into()), read)
}

/// Where built-in models are kept.
pub(crate) fn own_cache(read: Read<'_>) -> PathBuf {
    read("LORAFAB_CACHE").map_or_else(|| cache_home(read).join("lorafab"), |text| expanded(&text, read))
}

/// The store where none is named.
pub(crate) fn own_store(read: Read<'_>) -> PathBuf {
    expanded(&read("XDG_DATA_HOME").unwrap_or_else(|| "~/.local/share".into()), read).join("lorafab")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Values of `huggingface_hub` itself, by the script `tests/golden/hub_places.py`.
    #[test]
    fn the_hubs_places_are_those_of_its_own_library() {
        #[derive(serde::Deserialize)]
        struct Case {
            variables: BTreeMap<String, String>,
            hub_cache: PathBuf,
            token_file: PathBuf,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../tests/golden/hub_places.json")).expect("golden file");
        assert!(cases.len() > 10);
        for case in cases {
            let found = HubPlaces::of(&|name| case.variables.get(name).cloned());
            let right = HubPlaces { cache: case.hub_cache, token_file: case.token_file };
            assert_eq!(found, right, "{:?}", case.variables);
        }
    }

    #[test]
    fn our_own_places_follow_the_same_rules() {
        let of = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        };
        let home = of(&[("HOME", "/home/u"), ("LORAFAB_CACHE", "~/models")]);
        assert_eq!(own_cache(&home), PathBuf::from("/home/u/models"));
        assert_eq!(own_store(&home), PathBuf::from("/home/u/.local/share/lorafab"));
        let xdg = of(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/c"), ("XDG_DATA_HOME", "/d")]);
        assert_eq!((own_cache(&xdg), own_store(&xdg)), ("/c/lorafab".into(), "/d/lorafab".into()));
    }
}
