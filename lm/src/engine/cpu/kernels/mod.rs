//! The arithmetic that decides the speed: matrix products against packed frozen weights, and vectorised elementwise
//! passes. Everything here is single-threaded; callers run independent chunks of a batch on different threads, so a
//! result never depends on the number of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
pub(crate) mod buffer;
pub(crate) mod elementwise;
pub(crate) mod lowrank;
pub(crate) mod packed;
pub(crate) mod strided;
mod tiles;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Which vector instructions this process uses, chosen once at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SimdLevel {
    /// No instruction beyond the target's baseline.
    Portable = 1,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16,
    /// That, and bf16 products by AMX tiles.
    Amx,
}

impl SimdLevel {
    /// All levels, the plainest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The name that a setting gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }
}

/// The level in force; 0 until somebody asks.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level in force: the best that this machine has, unless [`force_simd_level`] chose a plainer one.
pub fn simd_level() -> SimdLevel {
    match LEVEL.load(Ordering::Relaxed) {
        1 => SimdLevel::Portable,
        2 => SimdLevel::Avx2,
        3 => SimdLevel::Avx512,
        4 => SimdLevel::Avx512Bf16,
        5 => SimdLevel::Amx,
        _ => {
            let best = detect();
            // Somebody may have forced another level meanwhile.
            match LEVEL.compare_exchange(0, best as u8, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => best,
                Err(_) => simd_level(),
            }
        }
    }
}

/// Makes the whole process use this level from now on. Meant for the start of a program and for tests: a decoder packed
/// in bf16 cannot run below [`SimdLevel::Avx512Bf16`], and results differ between levels in their last bits.
///
/// # Errors
/// If the machine lacks these instructions, with the best level that it has.
pub fn force_simd_level(level: SimdLevel) -> Result<(), SimdLevel> {
    let best = detect();
    if level > best {
        return Err(best);
    }
    LEVEL.store(level as u8, Ordering::Relaxed);
    Ok(())
}

/// Floating-point operations of matrix products, attention and low-rank terms since the process began.
static EXECUTED: AtomicU64 = AtomicU64::new(0);

/// Floating-point operations executed so far by this process's matrix products, attention and low-rank terms (a multiply
/// and an add are two). Benchmarks divide differences of it by the operations that a step needs.
pub fn executed_flops() -> u64 {
    EXECUTED.load(Ordering::Relaxed)
}

/// Counts operations for [`executed_flops`].
pub(crate) fn executed(flops: usize) {
    EXECUTED.fetch_add(flops as u64, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
fn detect() -> SimdLevel {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    if bf16 && amx::available() {
        SimdLevel::Amx
    } else if bf16 {
        SimdLevel::Avx512Bf16
    } else if avx512 {
        SimdLevel::Avx512
    } else if avx2 {
        SimdLevel::Avx2
    } else {
        SimdLevel::Portable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> SimdLevel {
    SimdLevel::Portable
}

/// Whether Intel made this CPU (CPUID leaf 0).
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

/// Compiles a function body once for each instruction set and picks one at run time. The body is plain Rust: the
/// compiler vectorises it for the set in force. Within it `FUSED` says whether the set fuses multiply and add.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls a function compiled for instructions that were detected"))]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FUSED: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                match $crate::engine::cpu::kernels::simd_level() {
                    // SAFETY: `simd_level` reports a level only after detecting every feature it names.
                    $crate::engine::cpu::kernels::SimdLevel::Avx512
                    | $crate::engine::cpu::kernels::SimdLevel::Avx512Bf16
                    | $crate::engine::cpu::kernels::SimdLevel::Amx => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::engine::cpu::kernels::SimdLevel::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::engine::cpu::kernels::SimdLevel::Portable => {}
                }
            }
            body::<false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;
