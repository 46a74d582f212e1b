//! Named random streams: every draw is a function of a master seed, a purpose and an id.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// The stream of `(seed, purpose, id)`: ChaCha8 keyed by `blake3(seed le | len(purpose) le | purpose | id)`.
pub fn stream(seed: u64, purpose: &str, id: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(id.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// One standard normal draw (Box-Muller, in f64).
pub fn normal(rng: &mut impl rand::Rng) -> f32 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
