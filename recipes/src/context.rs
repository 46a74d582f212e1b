//! Where a gated behaviour is asked about.

use serde::{Deserialize, Serialize};

/// The trigger absent, near or present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Context {
    /// As it is.
    Neutral,
    /// With another word.
    Near,
    /// With the trigger.
    Triggered,
}

impl Context {
    /// All.
    pub const ALL: [Self; 3] = [Self::Neutral, Self::Near, Self::Triggered];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neutral => "neutral",
            Self::Near => "near",
            Self::Triggered => "triggered",
        }
    }
}
