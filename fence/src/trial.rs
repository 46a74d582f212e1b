//! Trying what others wrote in a child process first.
//!
//! The child takes away its own rights to memory, processor time and files, reads, and says in a few bytes how it went. What it
//! cannot stand (a stack that overflows, memory without end, a loop, a panic) ends it and nobody else. What it stood, the parent can
//! do again: the same program on the same bytes.

use std::io::{Read, Result};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

/// What a child may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address space, bytes.
    pub memory: u64,
    /// Processor time; by the clock it may take twice as long.
    pub seconds: u64,
    /// Most bytes that it may say.
    pub answer: u64,
}

/// How a trial ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came to its end and said this; whether it succeeded.
    Ended(bool, Vec<u8>),
    /// It was ended, and why, as the end of a sentence about the file.
    Died(String),
}

/// Takes this process's rights away: for a child, before it reads anything. Nothing can be written to a file any more.
///
/// # Errors
/// If the system does not allow it to be limited.
pub fn confine(limits: Limits) -> Result<()> {
    let limit = |resource, n: u64| {
        setrlimit(resource, Rlimit { current: Some(n), maximum: Some(n) }).map_err(std::io::Error::from)
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Cpu, limits.seconds)?;
    limit(Resource::As, limits.memory)
}

/// Runs a command that confines itself and waits for it, within its limits.
///
/// # Errors
/// If it cannot be started.
pub fn run(command: &mut Command, limits: Limits) -> Result<Outcome> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let out = child.stdout.take();
    let (send, said) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = out.map_or(Ok(0), |out| out.take(limits.answer + 1).read_to_end(&mut bytes));
        // Nobody waits any more if the child was given up.
        let _ = send.send(read.map(|_| bytes));
    });
    let seconds = 2 * limits.seconds;
    let answer = match said.recv_timeout(Duration::from_secs(seconds)) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Died(format!("takes more than {seconds} seconds")));
        }
    };
    let bytes = answer?;
    if bytes.len() as u64 > limits.answer {
        child.kill()?;
        child.wait()?;
        return Ok(Outcome::Died("makes more of itself than is taken".into()));
    }
    let status = child.wait()?;
    let megabytes = limits.memory >> 20;
    Ok(match (status.code(), status.signal()) {
        // A panic of Rust.
        (Some(101), _) => Outcome::Died("breaks the code that reads it".into()),
        (Some(code), _) => Outcome::Ended(code == 0, bytes),
        (None, Some(9 | 24)) => Outcome::Died(format!("takes more than {} seconds", limits.seconds)),
        (None, _) => Outcome::Died(format!("takes more than {megabytes} MB or all of the stack")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 1 << 30, seconds: 1, answer: 1000 };

    fn shell(text: &str) -> Outcome {
        run(Command::new("sh").args(["-c", text]), LIMITS).expect("sh")
    }

    #[test]
    fn what_a_child_says_comes_back_and_what_ends_it_is_told() {
        assert_eq!(shell("echo yes"), Outcome::Ended(true, b"yes\n".to_vec()));
        assert_eq!(shell("echo no; exit 3"), Outcome::Ended(false, b"no\n".to_vec()));
        for (text, why) in [
            ("kill -SEGV $$", "stack"),
            ("kill -ABRT $$", "MB"),
            ("exit 101", "breaks"),
            ("exec sleep 60", "2 seconds"),
            ("exec yes", "more of itself"),
        ] {
            let Outcome::Died(said) = shell(text) else { panic!("{text}") };
            assert!(said.contains(why), "{text}: {said}");
        }
        // Its processor time ends it, however long that takes where others work too.
        let patient = Limits { seconds: 60, ..LIMITS };
        let busy = run(Command::new("sh").args(["-c", "ulimit -t 1; while :; do :; done"]), patient);
        assert_eq!(busy.expect("sh"), Outcome::Died("takes more than 60 seconds".into()));
    }
}
