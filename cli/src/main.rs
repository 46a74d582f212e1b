//! The `lorafab` binary: the only place that prints, reads the environment, or knows exit codes.

mod args;
mod commands;
mod context;
mod error;
mod guess;
mod help;
mod hint;
mod memory;
mod output;
mod places;
mod progress;
mod trial;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use guess::Guess;

fn parse(words: &[OsString]) -> Result<args::Cli, clap::Error> {
    args::Cli::from_arg_matches(&help::command().try_get_matches_from(words)?)
}

fn main() -> ExitCode {
    if let Some(code) = trial::child(std::env::args_os()) {
        return code;
    }
    // A shell that asks for completions is answered here, and nothing else happens.
    clap_complete::CompleteEnv::with_factory(help::completed).complete();
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let mut parsed = parse(&words);
    if matches!(&parsed, Err(e) if e.kind() == ErrorKind::InvalidSubcommand) {
        match guess::meant(&words) {
            Some(Guess::Command(meant)) => {
                words = meant;
                parsed = parse(&words);
            }
            Some(Guess::Pointer(error, options)) => {
                return error::report(&error, parse(&options).ok().as_ref().map(|cli| &cli.global));
            }
            None => {}
        }
    }
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() && words.iter().any(|a| a == "--json") => {
            let text = e.to_string();
            let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return error::report(&error::CommandError::new(error::Kind::Usage, message), None);
        }
        // What was typed is in it.
        Err(e) if e.use_stderr() => {
            output::tell(e.to_string().trim_end());
            return ExitCode::from(2);
        }
        Err(e) if e.kind() == ErrorKind::DisplayHelp && help::about_all(&words) => {
            help::with_global_options(&words).exit()
        }
        Err(e) => e.exit(),
    };
    match commands::dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error, Some(&cli.global)),
    }
}

#[cfg(test)]
mod schemas;
