//! Which training settings the recipes of a submission get on the base model, and what is said about it.

use std::path::Path;

use factory::settings::{Shelf, Used, is_tunable};
use lm::Outline;
use recipes::Recipe;

use crate::context::Context;
use crate::error::{CommandError, Result};

/// Settings of a submission, as its recipes are looked up.
#[derive(Default)]
pub(crate) struct Settling {
    /// None: every recipe keeps its own.
    shelf: Option<Shelf>,
    used: Vec<Used>,
    /// Recipes whose settings could be looked for on this model, and were not.
    untuned: Vec<String>,
}

impl Settling {
    /// `choice` is a file, or `none` for the recipes' own settings; without it the user's files and the built-in ones are asked.
    pub(crate) fn new(context: &Context<'_>, choice: Option<&str>) -> Result<Self> {
        if choice == Some("none") {
            return Ok(Self::default());
        }
        let shelf = Shelf::open(&context.store_path()).map_err(refused)?;
        let shelf = match choice {
            Some(path) => shelf.with(Path::new(path)).map_err(refused)?,
            None => shelf,
        };
        Ok(Self { shelf: Some(shelf), ..Self::default() })
    }

    /// The recipes with their settings on this model.
    pub(crate) fn resolve(&mut self, outline: &Outline, recipes: Vec<Recipe>) -> Result<Vec<Recipe>> {
        let Some(shelf) = &self.shelf else { return Ok(recipes) };
        let mut out = Vec::new();
        for recipe in recipes {
            let resolved = shelf.resolve(outline, &recipe).map_err(refused)?;
            match resolved.used {
                Some(used) if !self.used.contains(&used) => self.used.push(used),
                None if is_tunable(&recipe) && !self.untuned.contains(&recipe.name) => {
                    self.untuned.push(recipe.name.clone());
                }
                _ => {}
            }
            out.push(resolved.recipe);
        }
        Ok(out)
    }

    /// Refuses a file that was named and speaks of none of the recipes.
    pub(crate) fn hold_named_to(&self, recipes: &[Recipe]) -> Result {
        self.shelf.as_ref().map_or(Ok(()), |s| s.hold_named_to(recipes)).map_err(refused)
    }

    /// What was taken from where.
    pub(crate) fn used(&self) -> &[Used] {
        &self.used
    }

    /// Says which settings are used, a line for each file, and which recipes have none for this model.
    pub(crate) fn say(&self, context: &Context<'_>, outline: &Outline) {
        for (i, used) in self.used.iter().enumerate() {
            if self.used[..i].iter().any(|u| u.from == used.from) {
                continue;
            }
            let of: Vec<&Used> = self.used.iter().filter(|u| u.from == used.from).collect();
            let names = of.iter().map(|u| u.recipe.as_str()).collect::<Vec<_>>().join(", ");
            let over = if of.iter().any(|u| u.over_builtin) { ", in place of the built-in ones" } else { "" };
            context
                .say(&format!("{names}: using settings tuned for {} from {}{over}", used.model, used.from));
            if used.other_model {
                context.say(&format!("warning: the model here is {}", outline.placeless_name()));
            }
        }
        if let Some(first) = self.untuned.first() {
            let first = if recipes::builtin_source(first).is_some() { first } else { "FILE" };
            context.say(&format!(
                "{}: no settings are tuned for {}, the recipe's own are used; find some with: lorafab recipe tune {first}",
                self.untuned.join(", "),
                outline.placeless_name()
            ));
        }
    }
}

/// The hint belongs to settings, whatever was wrong with them.
fn refused(e: factory::Error) -> CommandError {
    CommandError::from(e).hint(
        "mend or remove it (recipes/README.md has the format), or keep to the recipe's own: lorafab factory submit --settings none",
    )
}
