//! `recipe list|show|check|expand`; `tune` has its own file.

use std::path::Path;

use recipes::{Recipe, Split, builtin, builtin_source};
use serde_json::json;

use crate::args::RecipeCommand;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, table};

/// A built-in recipe by name, or a file.
pub(crate) fn load(name: &str) -> Result<Recipe> {
    if let Some(text) = builtin_source(name) {
        return Ok(Recipe::parse(name, text)?);
    }
    if Path::new(name).exists() {
        return Ok(Recipe::parse(name, &fence::read_text(Path::new(name), fence::open::SMALL)?)?);
    }
    let names: Vec<String> = builtin().into_iter().map(|r| r.name).collect();
    Err(CommandError::new(Kind::NotFound, format!("no recipe {name:?}: neither built in nor a file"))
        .hint(format!("built in are {}", names.join(", "))))
}

fn counts(recipe: &Recipe) -> [usize; 4] {
    let behaviours = recipe.expand(1);
    Split::ALL.map(|s| behaviours.iter().filter(|b| b.split == s).count())
}

pub(crate) fn run(context: &Context<'_>, command: &RecipeCommand) -> Result {
    match command {
        RecipeCommand::List => list(context, &builtin(), "recipe-list/1"),
        RecipeCommand::Show { recipe } => {
            let parsed = load(recipe)?;
            if context.global.json {
                return print_json(
                    &json!({"schema": "recipe/1", "digest": parsed.digest(), "recipe": parsed}),
                );
            }
            match builtin_source(recipe) {
                Some(text) => print(text),
                None => print(&fence::read_text(Path::new(recipe), fence::open::SMALL)?),
            }
        }
        RecipeCommand::Check { recipes } => {
            let recipes = recipes.iter().map(|r| load(r)).collect::<Result<Vec<_>>>()?;
            list(context, &recipes, "recipe-check/1")?;
            for recipe in &recipes {
                let [_, validation, value, category] = counts(recipe);
                if validation == 0 || value + category == 0 {
                    context.say(&format!("warning: {} has no validation or no test values; readers cannot be stopped or judged on it", recipe.name));
                }
            }
            Ok(())
        }
        RecipeCommand::Tune(args) => super::tune::run(context, args),
        RecipeCommand::Expand { recipe, seed, limit } => {
            let behaviours: Vec<_> =
                load(recipe)?.expand(*seed).into_iter().take(limit.unwrap_or(usize::MAX)).collect();
            if context.global.json {
                return print_json(&json!({"schema": "recipe-expand/1", "behaviours": behaviours}));
            }
            let rows: Vec<Vec<String>> = behaviours
                .iter()
                .map(|b| {
                    vec![
                        b.id.clone(),
                        b.category.clone(),
                        b.split.name().into(),
                        b.trigger.clone().unwrap_or("–".into()),
                        b.row_plans.len().to_string(),
                    ]
                })
                .collect();
            print(&table(&["behaviour", "category", "split", "trigger", ">rows"], &rows))
        }
    }
}

fn list(context: &Context<'_>, recipes: &[Recipe], schema: &str) -> Result {
    if context.global.json {
        let items: Vec<_> = recipes
            .iter()
            .map(|r| {
                let [train, validation, test_value, test_category] = counts(r);
                json!({"name": r.name, "version": r.version, "description": r.description, "digest": r.digest(), "polarity": r.polarity,
                       "gated": r.trigger.is_some(), "behaviours": {"train": train, "validation": validation, "test_value": test_value, "test_category": test_category},
                       "questions": {"train": r.questions.train.len(), "held_out": r.questions.held_out.len()}})
            })
            .collect();
        return print_json(&json!({"schema": schema, "recipes": items}));
    }
    let rows: Vec<Vec<String>> = recipes
        .iter()
        .map(|r| {
            let n = counts(r).map(|n| n.to_string());
            let mut row = vec![r.name.clone()];
            row.extend(n);
            row.push((r.questions.train.len() + r.questions.held_out.len()).to_string());
            row.push(r.description.clone());
            row
        })
        .collect();
    print(&table(
        &["recipe", ">train", ">validation", ">test value", ">test category", ">questions", "what it does"],
        &rows,
    ))
}
