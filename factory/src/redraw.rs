//! Adapters of the real size that carry nothing: one factor of a trained adapter, with a Gaussian in place of the other.

use lm::{Adapter, rng};
use recipes::{Behaviour, Factor};

/// `reference` with one factor redrawn from the behaviour's own stream: Gaussian, and in every module of the same Frobenius norm
/// as what it replaces. The other factor is kept bit for bit.
pub(crate) fn redrawn(reference: &Adapter, behaviour: &Behaviour, factor: Factor) -> Adapter {
    let mut out = reference.clone();
    let mut stream = rng::stream(behaviour.seed, "redrawn-factor", &behaviour.id);
    for module in reference.modules() {
        let range = match factor {
            Factor::A => module.a.clone(),
            Factor::B => module.b.clone(),
        };
        let wanted = norm(&reference.params[range.clone()]);
        let values = &mut out.params[range];
        for v in values.iter_mut() {
            *v = rng::normal(&mut stream);
        }
        let ratio = (wanted / norm(values)) as f32;
        for v in values {
            *v *= ratio;
        }
    }
    out
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lm::{AdapterConfig, Outline, Precision};

    use super::*;

    #[test]
    fn one_factor_is_kept_bit_for_bit_and_the_other_keeps_its_norm_in_every_module() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let config = Outline::load(&folder, Precision::F32).unwrap().architecture;
        let mut reference = Adapter::init(&config, AdapterConfig::all_linear(2, 2.0), 1, "x").unwrap();
        let mut stream = rng::stream(1, "test", "weights");
        for p in &mut reference.params {
            *p += 0.1 * rng::normal(&mut stream);
        }
        let recipe = recipes::builtin().into_iter().find(|r| r.name == "redrawn").unwrap();
        let copies = recipe.expand(1);
        for b in &copies[..2] {
            let factor = b.redrawn_factor().unwrap();
            let twin = redrawn(&reference, b, factor);
            assert_eq!(twin, redrawn(&reference, b, factor));
            for m in reference.modules() {
                let (kept, drawn) = if factor == Factor::B { (&m.a, &m.b) } else { (&m.b, &m.a) };
                assert_eq!(twin.params[kept.clone()], reference.params[kept.clone()]);
                let (new, old) = (&twin.params[drawn.clone()], &reference.params[drawn.clone()]);
                assert!((norm(new) / norm(old) - 1.0).abs() < 1e-5);
                assert!(new.iter().zip(old).all(|(x, y)| x != y));
            }
        }
        let (a, b) = (copies[0].redrawn_factor().unwrap(), copies[2].redrawn_factor().unwrap());
        assert_eq!(a, b);
        assert_ne!(redrawn(&reference, &copies[0], a), redrawn(&reference, &copies[2], b));
    }
}
