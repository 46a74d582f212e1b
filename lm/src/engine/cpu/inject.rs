//! Injections: what they do to the residual stream, and to the gradient on its way back.

use super::kernels::elementwise::dot;
use crate::batch::{Injection, InjectionMode};

/// Changes `h: [hidden_size]`, the residual stream at an injection's place.
pub(crate) fn inject(injection: &Injection, h: &mut [f32]) {
    let v = &injection.vector;
    let squares = dot(v, v);
    match injection.mode {
        InjectionMode::AddNormMatched => {
            let norm = squares.sqrt();
            if norm > 0.0 {
                let c = injection.coefficient * dot(h, h).sqrt() / norm;
                h.iter_mut().zip(v).for_each(|(h, v)| *h += c * v);
            }
        }
        InjectionMode::AddRelative => {
            let c = injection.coefficient * dot(h, h).sqrt();
            h.iter_mut().zip(v).for_each(|(h, v)| *h += c * v);
        }
        InjectionMode::Add => h.iter_mut().zip(v).for_each(|(h, v)| *h += injection.coefficient * v),
        InjectionMode::Replace => h.copy_from_slice(v),
        InjectionMode::ProjectOut => project_out(v, squares, h),
    }
}

/// The gradient at the place before the injection, from the gradient after it, in place.
pub(crate) fn inject_backward(injection: &Injection, d_h: &mut [f32]) {
    let v = &injection.vector;
    match injection.mode {
        // What is added is taken for a constant.
        InjectionMode::AddNormMatched | InjectionMode::AddRelative | InjectionMode::Add => {}
        InjectionMode::Replace => d_h.fill(0.0),
        InjectionMode::ProjectOut => project_out(v, dot(v, v), d_h),
    }
}

/// `x - v (v.x) / (v.v)`: a projection, and so its own transpose.
fn project_out(v: &[f32], squares: f32, x: &mut [f32]) {
    if squares > 0.0 {
        let c = dot(x, v) / squares;
        x.iter_mut().zip(v).for_each(|(x, v)| *x -= c * v);
    }
}
