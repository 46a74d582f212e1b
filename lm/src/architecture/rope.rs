//! Rotary embeddings: how fast each pair of a head's dimensions turns with the position.
//!
//! The scalings are transformers' (`modeling_rope_utils.py`); frequencies are kept as divisors of the position, in f64.

use std::f64::consts::PI;

use serde::Serialize;
use serde_json::{Value, json};

use super::facts::{Facts, brief};
use crate::Result;

/// A rotary embedding of heads of one width.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rope {
    /// Width of a head, of which pairs `(i, i + dim / 2)` are turned.
    pub dim: usize,
    /// Base of the wavelengths.
    pub base: f64,
    /// How the frequencies differ from the base's.
    pub scaling: Scaling,
}

/// What is done to frequencies for contexts longer than the model was first trained on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Nothing.
    None,
    /// All are divided (arXiv 2306.15595).
    Linear {
        /// By this.
        factor: f64,
    },
    /// Long wavelengths are divided, short ones not, with a ramp between (Llama 3.1).
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` are long.
        low: f64,
        /// Those below `original / high` are short.
        high: f64,
        /// Context of the first training.
        original: f64,
    },
    /// The same by dimensions, and scores are sharpened (arXiv 2309.00071).
    Yarn {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Turns within the original context above which nothing is divided.
        fast: f64,
        /// Turns below which all is.
        slow: f64,
        /// Context of the first training.
        original: f64,
        /// Factor of the turned queries and keys.
        attention: f64,
        /// Whether the ramp's ends are whole dimensions.
        truncate: bool,
    },
    /// A divisor for each pair, as GGUF files hold Llama 3's.
    Divisors(Vec<f64>),
}

impl Rope {
    /// Unscaled.
    pub fn plain(dim: usize, base: f64) -> Self {
        Self { dim, base, scaling: Scaling::None }
    }

    /// Another with a divisor for each pair of dimensions, as GGUF files hold Llama 3's. Where they are those of a published setting,
    /// that is what is kept.
    pub(crate) fn divided(self, by: Vec<f64>) -> Result<Self, String> {
        let plain = Self::plain(self.dim, self.base).divisors();
        let factor = by.iter().copied().fold(1.0, f64::max);
        let known = Scaling::Llama3 { factor: factor.round(), low: 1.0, high: 4.0, original: 8192.0 };
        let known = Self { scaling: known, ..self.clone() };
        let same = |(d, (p, by)): (f64, (&f64, &f64))| (d / (p * by) - 1.0).abs() < 1e-5;
        if known.divisors().into_iter().zip(plain.iter().zip(&by)).all(same) {
            return Ok(known);
        }
        let made = Self { scaling: Scaling::Divisors(by), ..self };
        made.check().map(|()| made)
    }

    /// The scaling in a `config.json`; none where there is none.
    pub(crate) fn as_json(&self) -> Result<Option<Value>, String> {
        Ok(match &self.scaling {
            Scaling::None => None,
            Scaling::Linear { factor } => Some(json!({"rope_type": "linear", "factor": factor})),
            Scaling::Llama3 { factor, low, high, original } => Some(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": *original as u64,
            })),
            Scaling::Yarn { factor, fast, slow, original, attention, truncate } => Some(json!({
                "rope_type": "yarn", "factor": factor, "beta_fast": fast, "beta_slow": slow,
                "original_max_position_embeddings": *original as u64, "attention_factor": attention, "truncate": truncate,
            })),
            Scaling::Divisors(_) => {
                return Err(
                    "has rotary frequencies that no config.json can say; use the model's Hugging Face folder"
                        .into(),
                );
            }
        })
    }

    pub(super) fn is_plain(&self) -> bool {
        self.scaling == Scaling::None
    }

    pub(super) fn check(&self) -> Result<(), String> {
        // Far beyond what any model has, and so that no angle or score leaves what f32 can hold.
        let sound = |x: f64| (1e-6..=1e12).contains(&x);
        if !(self.base >= 1.0 && self.base.is_finite()) {
            return Err(format!("rope_theta = {} makes no sense", self.base));
        }
        let fits = match &self.scaling {
            Scaling::None => true,
            Scaling::Linear { factor } => sound(*factor),
            Scaling::Llama3 { factor, low, high, original } => {
                [*factor, *low, *high, *original].into_iter().all(sound) && high > low
            }
            Scaling::Yarn { factor, fast, slow, original, attention, .. } => {
                [*factor, *fast, *slow, *original].into_iter().all(sound)
                    && (1e-6..=1e6).contains(attention)
                    && self.base > 1.0
            }
            Scaling::Divisors(of) => of.len() == self.dim / 2 && of.iter().copied().all(sound),
        };
        if fits { Ok(()) } else { Err(format!("rope scaling {:?} makes no sense", self.scaling)) }
    }

    /// Factor of the turned queries and keys.
    pub(crate) fn attention_factor(&self) -> f64 {
        if let Scaling::Yarn { attention, .. } = self.scaling { attention } else { 1.0 }
    }

    /// For each pair of dimensions, by what a position is divided to give its angle in radians: `dim / 2` values.
    pub(crate) fn divisors(&self) -> Vec<f64> {
        let half = self.dim / 2;
        let plain = (0..half).map(|i| self.base.powf(i as f64 / half as f64));
        match &self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|d| d * factor).collect(),
            Scaling::Divisors(of) => plain.zip(of).map(|(d, by)| d * by).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                let one = |d: f64| {
                    let wavelength = 2.0 * PI * d;
                    if wavelength < original / high {
                        return d;
                    }
                    if wavelength > original / low {
                        return d * factor;
                    }
                    let smooth = (original / wavelength - low) / (high - low);
                    1.0 / ((1.0 - smooth) / (d * factor) + smooth / d)
                };
                plain.map(one).collect()
            }
            Scaling::Yarn { factor, fast, slow, original, truncate, .. } => {
                let dim = self.dim as f64;
                let dimension =
                    |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.base.ln());
                let (mut first, mut last) = (dimension(*fast), dimension(*slow));
                if *truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, mut last) = (first.max(0.0), last.min(dim - 1.0));
                if first == last {
                    last += 0.001;
                }
                let one = |(i, d): (usize, f64)| {
                    let divided = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                    1.0 / (divided / (d * factor) + (1.0 - divided) / d)
                };
                plain.enumerate().map(one).collect()
            }
        }
    }
}

/// Where a configuration says something of rotary embeddings: the newer object or the older, whichever says anything first.
fn said<'a>(facts: &Facts<'a>) -> Result<&'a Value> {
    let both = ["rope_scaling", "rope_parameters"].map(|name| (name, facts.of(name)));
    for (name, rope) in both {
        if !(rope.is_null() || rope.is_object()) {
            return Err(facts.bad(format!("{name} = {} is neither an object nor null", brief(rope))));
        }
        scaling(facts, name, rope)?;
        // One for each kind of layer: only where a family has kinds.
        if let Some((kind, own)) = rope.as_object().into_iter().flatten().find(|(_, v)| v.is_object()) {
            return Err(
                facts.bad(format!("{name}: {kind} = {} is not implemented for this family", brief(own)))
            );
        }
    }
    let says = |v: &&Value| v.as_object().is_some_and(|o| !o.is_empty());
    Ok(both.iter().map(|(_, v)| *v).find(says).unwrap_or(&Value::Null))
}

/// The one rotary embedding of all layers, by transformers' rules (`convert_rope_params_to_dict`): a base within the object goes before
/// the one beside it.
pub(super) fn one(facts: &Facts<'_>, dim: usize, default: f64) -> Result<Rope> {
    partial(facts, "", facts.of("partial_rotary_factor"))?;
    let rope = said(facts)?;
    let own = [&rope["rope_theta"], facts.of("rope_theta")].into_iter().find(|v| !v.is_null());
    let base = match own {
        None => default,
        Some(value) => value
            .as_f64()
            .ok_or_else(|| facts.bad(format!("rope_theta = {} is not a number", brief(value))))?,
    };
    let name = if facts.of("rope_scaling").is_null() { "rope_parameters" } else { "rope_scaling" };
    Ok(Rope { dim, base, scaling: scaling(facts, name, rope)? })
}

pub(super) fn partial(facts: &Facts<'_>, place: &str, share: &Value) -> Result<()> {
    if share.is_null() || share.as_f64() == Some(1.0) {
        return Ok(());
    }
    Err(facts.bad(format!("{place}partial_rotary_factor = {} is not implemented; 1 is", brief(share))))
}

/// The scaling that an object named `name` asks for.
pub(super) fn scaling(facts: &Facts<'_>, name: &str, rope: &Value) -> Result<Scaling> {
    partial(facts, &format!("{name}: "), &rope["partial_rotary_factor"])?;
    let kind = [&rope["rope_type"], &rope["type"]].into_iter().find(|v| !v.is_null());
    let Some(kind) = kind else { return Ok(Scaling::None) };
    let number = |key: &str| match &rope[key] {
        Value::Null => Ok(None),
        value => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| facts.bad(format!("{name}: {key} = {} is not a number", brief(value)))),
    };
    let need = |key: &str| {
        number(key)?
            .ok_or_else(|| facts.bad(format!("{name}: rope type {kind} needs {key}, which is missing")))
    };
    // What was trained first is said beside it by some, and is the whole context where nobody says it.
    let original = || -> Result<f64> {
        let key = "original_max_position_embeddings";
        let beside = facts.of(key).as_f64();
        Ok(match beside.or(number(key)?) {
            Some(n) => n,
            None => facts.number("max_position_embeddings")? as f64,
        })
    };
    match kind.as_str() {
        Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: need("factor")? }),
        Some("llama3") => Ok(Scaling::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            original: original()?,
        }),
        Some("yarn") => {
            let original = original()?;
            let factor = match number("factor")? {
                Some(factor) => factor,
                None => facts.number("max_position_embeddings")? as f64 / original,
            };
            let sharpen = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
            let said = |v: Option<f64>| v.filter(|v| *v != 0.0);
            let attention = match (number("attention_factor")?, said(number("mscale")?), said(number("mscale_all_dim")?)) {
                (Some(stated), ..) => stated,
                (None, Some(own), Some(all)) => sharpen(own) / sharpen(all),
                _ => sharpen(1.0),
            };
            // Null counts as false in transformers, absence as true.
            let truncate = match rope.get("truncate") {
                None => true,
                Some(Value::Null) => false,
                Some(value) => value
                    .as_bool()
                    .ok_or_else(|| facts.bad(format!("{name}: truncate = {} is neither true nor false", brief(value))))?,
            };
            Ok(Scaling::Yarn {
                factor,
                fast: number("beta_fast")?.filter(|v| *v != 0.0).unwrap_or(32.0),
                slow: number("beta_slow")?.filter(|v| *v != 0.0).unwrap_or(1.0),
                original,
                attention,
                truncate,
            })
        }
        _ => Err(facts.bad(format!(
            "{name}: rope scaling {} is not implemented; \"default\", \"linear\", \"llama3\" and \"yarn\" are",
            brief(kind)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn scalings_meet_at_their_ends() {
        let rope = |scaling| Rope { dim: 64, base: 5e5, scaling };
        let plain = rope(Scaling::None).divisors();
        let llama = rope(Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 }).divisors();
        let yarn = rope(Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            original: 8192.0,
            attention: 1.1,
            truncate: true,
        })
        .divisors();
        assert_eq!((llama[0], yarn[0]), (plain[0], plain[0]));
        assert!((llama[31] / plain[31] - 8.0).abs() < 1e-9 && (yarn[31] / plain[31] - 4.0).abs() < 1e-9);
        assert!(llama.windows(2).all(|p| p[0] < p[1]) && yarn.windows(2).all(|p| p[0] < p[1]));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_its_name() {
        for (config, why) in [
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "dynamic"),
            (json!({"rope_scaling": {"rope_type": "longrope"}}), "longrope"),
            (json!({"rope_scaling": {"rope_type": "linear"}}), "needs factor"),
            (json!({"rope_parameters": 5}), "neither an object"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": "x"}}), "factor = \"x\""),
        ] {
            let said = one(&Facts::new(Path::new("config.json"), &config), 8, 1e4).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        let config =
            json!({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}});
        assert_eq!(one(&Facts::new(Path::new("c"), &config), 8, 1e4).unwrap(), Rope::plain(8, 7.0));
    }
}
