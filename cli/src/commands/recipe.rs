//! `recipe list|show|new|format|check|expand`; `tune`, `gates` and `rows` have files of their own.

use std::path::{Path, PathBuf};

use clap::Args;
use recipes::{Recipe, Split, builtin, builtin_source};
use serde_json::json;

use crate::args::RecipeCommand;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, print_result, table, write_out};

#[derive(Debug, Args)]
pub(crate) struct NewRecipe {
    /// Name of the family: lower-case letters, digits, -
    pub(crate) name: String,
    /// File to write; without it, it is printed
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// A built-in recipe by name, or a file.
pub(crate) fn load(name: &str) -> Result<Recipe> {
    if let Some(text) = builtin_source(name) {
        return Ok(Recipe::parse(name, text)?);
    }
    if Path::new(name).exists() {
        let recipe = Recipe::parse(name, &fence::read_text(Path::new(name), fence::open::SMALL)?)?;
        // An untouched copy is the built-in one; another recipe of its name would be taken for it everywhere.
        let own = builtin_source(&recipe.name).map(|text| Recipe::parse(&recipe.name, text)).transpose()?;
        if own.is_some_and(|own| own != recipe) {
            return Err(taken(&format!("{name}: name"), &recipe.name));
        }
        return Ok(recipe);
    }
    let names: Vec<String> = builtin().into_iter().map(|r| r.name).collect();
    Err(CommandError::new(Kind::NotFound, format!("no recipe {name:?}: neither built in nor a file"))
        .hint(format!("built in are {}", names.join(", "))))
}

fn taken(field: &str, name: &str) -> CommandError {
    CommandError::new(Kind::Usage, format!("{field}: {name:?} is the name of a built-in recipe"))
        .hint(format!("call the family something else, e.g. \"my-{name}\""))
}

fn new(context: &Context<'_>, args: &NewRecipe) -> Result {
    if builtin_source(&args.name).is_some() {
        return Err(taken("name", &args.name));
    }
    let text = recipes::template(&args.name)?;
    let Some(file) = &args.output else { return print(&text) };
    if file.exists() {
        return Err(CommandError::new(Kind::Usage, format!("{} already exists", file.display()))
            .hint("name another file with -o"));
    }
    write_out(file, text.as_bytes())?;
    let place = file.display().to_string();
    context.say(&format!("edit it, then: lorafab recipe check {place}, lorafab factory submit {place}"));
    print_result(context.global.json, "recipe-new/1", "file", &place)
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
        RecipeCommand::New(args) => new(context, args),
        RecipeCommand::Format => {
            print_result(context.global.json, "recipe-format/1", "text", recipes::FORMAT)
        }
        RecipeCommand::Check { recipes } => {
            let recipes = recipes.iter().map(|r| load(r)).collect::<Result<Vec<_>>>()?;
            list(context, &recipes, "recipe-check/1")?;
            for recipe in &recipes {
                let [_, validation, value, category] = counts(recipe);
                if validation == 0 || value + category == 0 {
                    context.say(&format!("warning: {} has no validation or no test values; readers cannot be stopped or judged on it. Of a small family, say them by value: [splits.values] in lorafab recipe format", recipe.name));
                }
            }
            Ok(())
        }
        RecipeCommand::Tune(args) => super::tune::run(context, args),
        RecipeCommand::Gates(args) => super::gates::run(context, args),
        RecipeCommand::Rows(args) => super::rows::run(context, args),
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
