//! `completions`: what a shell needs to complete commands and names, and manual pages.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::help::in_full;
use crate::output::{print, print_as_it_is};

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell, or "man" for manual pages
    #[arg(value_name = "SHELL|man")]
    of: Of,
    /// Folder for the manual pages (the first page is printed without one)
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Of {
    Bash,
    Zsh,
    Fish,
    Man,
}

pub(super) fn run(context: &Context<'_>, args: &CompletionsArgs) -> Result {
    let mut out = Vec::new();
    // The script asks lorafab itself, by this variable (`main`), so that it knows the store's names and need not be made anew.
    let script: &dyn EnvCompleter = match args.of {
        Of::Bash => &Bash,
        Of::Zsh => &Zsh,
        Of::Fish => &Fish,
        Of::Man => return man(context, args.dir.as_deref()),
    };
    if args.dir.is_some() {
        return Err(CommandError::new(Kind::Usage, "a script goes to stdout; a folder is for manual pages")
            .hint(
                "for example: lorafab completions bash > ~/.local/share/bash-completion/completions/lorafab",
            ));
    }
    script.write_registration("COMPLETE", "lorafab", "lorafab", "lorafab", &mut out)?;
    print_as_it_is(&String::from_utf8_lossy(&out))
}

fn man(context: &Context<'_>, dir: Option<&std::path::Path>) -> Result {
    let mut command = in_full();
    command.build();
    let Some(dir) = dir else {
        let mut out = Vec::new();
        clap_mangen::Man::new(command).render(&mut out)?;
        return print_as_it_is(&String::from_utf8_lossy(&out));
    };
    fs_err::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)?;
    context.say("read one with: man -l lorafab-adapter-list.1");
    print(&dir.display().to_string())
}
