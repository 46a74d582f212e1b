//! The sampler `gumbel-ctr-v1`: a token is a pure function of logits, seed, position and token id.
//!
//! Each draw stands alone (no stream), so a run restarted in the middle, or in another batch, picks the same tokens.
//! `H = first 8 bytes LE of SHA-256("gumbel-ctr-v1\0" | seed u64le | position u32le | token u32le)`,
//! `u = ((H >> 12) + 0.5) / 2^52`, `G = -ln(-ln u)`, and the pick is `argmax(logit + T * G)` over the filtered ids.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How a token is picked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy: the highest logit, ties to the lower id, no filter.
    pub temperature: f64,
    /// Keep this many highest logits; 0 keeps all.
    pub top_k: u32,
    /// Keep ids while the probability mass before them is below this.
    pub top_p: f64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0 };
}

/// The Gumbel noise of one (seed, position, token).
pub fn gumbel(seed: u64, position: u32, token: u32) -> f64 {
    let mut hasher = Sha256::new();
    hasher.update(b"gumbel-ctr-v1\0");
    hasher.update(seed.to_le_bytes());
    hasher.update(position.to_le_bytes());
    hasher.update(token.to_le_bytes());
    let hash = hasher.finalize();
    let h = u64::from_le_bytes(hash[..8].try_into().expect("invariant: SHA-256 has 32 bytes"));
    let u = ((h >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
    -(-u.ln()).ln()
}

/// Picks the next token. `position` is its index in the unpadded sequence of prompt and output.
pub fn pick(logits: &[f32], sampling: &Sampling, seed: u64, position: u32) -> u32 {
    if sampling.temperature == 0.0 {
        let best = logits
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (i, &l)| if l > best.1 { (i, l) } else { best });
        return best.0 as u32;
    }
    let t = sampling.temperature;
    let score = |i: usize| logits[i] as f64 + t * gumbel(seed, position, i as u32);
    kept(logits, sampling)
        .into_iter()
        .map(|i| (score(i), i))
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
        .map_or(0, |(_, i)| i as u32)
}

/// Ids that survive top-k and then top-p, most likely first.
fn kept(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
    let by_logit = |a: &usize, b: &usize| -> Ordering { logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)) };
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    let k = sampling.top_k as usize;
    if k > 0 && k < ids.len() {
        ids.select_nth_unstable_by(k - 1, by_logit);
        ids.truncate(k);
    }
    ids.sort_unstable_by(by_logit);
    if sampling.top_p >= 1.0 {
        return ids;
    }
    let x = |i: usize| logits[i] as f64 / sampling.temperature;
    let max = x(ids[0]);
    let total: f64 = ids.iter().map(|&i| (x(i) - max).exp()).sum();
    let mut mass = 0.0;
    let mut keep = 0;
    for &i in &ids {
        if mass >= sampling.top_p {
            break;
        }
        mass += (x(i) - max).exp() / total;
        keep += 1;
    }
    ids.truncate(keep.max(1));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0xedce_f7ac_e5bb_8c62;

    #[test]
    fn noise_matches_the_golden_vectors() {
        for (position, token, expected) in [
            (0, 0, 1.851_156_925_687),
            (0, 1, 0.824_938_673_829),
            (0, 49_151, -0.977_735_386_932),
            (1, 0, 0.820_589_464_520),
            (31, 338, -0.874_552_227_255),
        ] {
            assert!((gumbel(SEED, position, token) - expected).abs() < 1e-11);
        }
        let all: Vec<f64> = (0..49_152).map(|t| gumbel(SEED, 0, t)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((mean - 0.57715).abs() < 1e-5);
        assert_eq!((0..49_152).max_by(|&a, &b| all[a].total_cmp(&all[b])), Some(32_123));
    }

    #[test]
    fn picks_match_the_golden_vectors() {
        let mut logits = vec![f32::NEG_INFINITY; 20];
        for (id, logit) in [(11, 2.0), (12, 1.5), (13, 1.0), (14, 0.0)] {
            logits[id] = logit;
        }
        let plain = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        let picks: Vec<u32> = (0..6).map(|p| pick(&logits, &plain, SEED, p)).collect();
        assert_eq!(picks, [12, 12, 13, 12, 12, 11]);
        assert_eq!(pick(&logits, &Sampling::GREEDY, SEED, 0), 11);
        assert_eq!(pick(&logits, &Sampling { top_k: 1, ..plain }, SEED, 0), 11);
        assert_eq!(pick(&logits, &Sampling { top_p: 0.1, ..plain }, SEED, 0), 11);
        assert_eq!(kept(&logits, &Sampling { top_p: 0.8, ..plain }).len(), 3);
    }
}
