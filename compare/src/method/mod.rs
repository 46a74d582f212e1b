//! The methods: one file each, and one line each in the list.

mod blackbox;
mod direct;
mod logit_lens;
mod mean_diff;
mod nearest;
mod nothing;
mod patchscope;
#[cfg(test)]
pub(crate) mod planted;
#[cfg(test)]
mod planted_tests;
mod prior;
mod ridge;
mod values;
mod weight_lens;
mod weight_spectra;

use readers::Method;

/// All methods, in the order in which they are listed for people.
pub const METHODS: &[&dyn Method] = &[
    &prior::Prior,
    &direct::Direct,
    &logit_lens::LogitLens,
    &blackbox::Blackbox,
    &weight_lens::WeightLens,
    &weight_spectra::WeightSpectra,
    &nearest::Nearest,
    &ridge::Ridge,
    &patchscope::Patchscope,
    &dit::DitMethod,
    &oracle_posttrain::OracleMethod,
    &oracle_posttrain::TextMethod { lens: false },
    &oracle_posttrain::TextMethod { lens: true },
];

/// The method of a name.
pub fn find(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|m| m.name() == name)
}
