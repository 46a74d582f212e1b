//! Named random streams and hash-decided choices.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

fn key(seed: u64, purpose: &str, id: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(id.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The stream of `(seed, purpose, id)`.
pub(crate) fn stream(seed: u64, purpose: &str, id: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, purpose, id))
}

/// A number in `[0, 1)` decided by the strings alone, so that adding values never moves old ones.
pub(crate) fn share(purpose: &str, id: &str) -> f64 {
    (number(purpose, id) >> 11) as f64 / (1u64 << 53) as f64
}

/// A 64-bit number decided by the strings alone.
pub(crate) fn number(purpose: &str, id: &str) -> u64 {
    u64::from_le_bytes(key(0, purpose, id)[..8].try_into().expect("invariant: 32 bytes"))
}
