//! Register tiles: `MR x 32` blocks of an output, accumulated over the whole depth in registers.
//!
//! Every output element of a tile is one chain of multiply-adds (fused where the CPU fuses them) over `k` in ascending order, whatever `MR` is, so a row's
//! result does not depend on how many other rows are in the batch.
#![expect(
    unsafe_code,
    reason = "vector intrinsics on raw pointers; each function states what its caller must uphold"
)]

use super::simd_level;

/// Columns of one packed panel.
pub(super) const PANEL: usize = 32;

/// A block of one output panel: where to read, where to write.
pub(super) struct Tile<A, B> {
    /// First element of the left operand's first row.
    pub(super) a: *const A,
    /// Elements between its rows.
    pub(super) lda: usize,
    /// Elements between steps of the depth in one of its rows (bf16 tiles take 1 for granted).
    pub(super) a_step: usize,
    /// First element of the panel (for this block of the depth).
    pub(super) b: *const B,
    /// Elements between its rows (bf16 tiles take [`PANEL`] for granted).
    pub(super) ldb: usize,
    /// Depth of this block.
    pub(super) k: usize,
    /// First element of the output block.
    pub(super) c: *mut f32,
    /// Elements between output rows.
    pub(super) ldc: usize,
    /// Output columns that exist (1..=32; `dots` does not look).
    pub(super) columns: usize,
    /// Add to the output instead of overwriting it.
    pub(super) accumulate: bool,
    /// What the next panel's tiles will read: fetched meanwhile, a cache line every four steps of the depth. Never
    /// dereferenced.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 tiles fetch"))]
    pub(super) ahead: *const B,
}

/// The tiles of these heights.
macro_rules! heights {
    ($tile:ident $($height:literal)*) => { [$($tile::<$height>),*] };
}

/// A register tile of a fixed height.
pub(super) type Run<A, B> = unsafe fn(&Tile<A, B>);

/// The f32 tiles of this machine, the one of `h` rows at `h - 1`.
pub(super) fn f32_tiles() -> &'static [Run<f32, f32>] {
    match simd_level() {
        #[cfg(target_arch = "x86_64")]
        super::SimdLevel::Avx512 | super::SimdLevel::Avx512Bf16 | super::SimdLevel::Amx => {
            &heights!(avx512 1 2 3 4 5 6 7 8 9 10 11 12)
        }
        #[cfg(target_arch = "x86_64")]
        super::SimdLevel::Avx2 => &heights!(avx2 1 2 3 4 5 6),
        _ => &heights!(portable 1 2 3),
    }
}

/// The bf16 tiles, the one of `h` rows at `h - 1`.
#[cfg(target_arch = "x86_64")]
pub(super) fn bf16_tiles() -> &'static [Run<u32, u32>] {
    &heights!(avx512_bf16 1 2 3 4 5 6 7 8 9 10 11 12)
}

/// Plain Rust tile; the compiler vectorises it for the instructions in force.
///
/// # Safety
/// `a` is readable for `MR` rows of `k`, `b` for `k` rows of 32, `c` writable for `MR` rows of `columns`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
unsafe fn portable_body<const MR: usize>(t: &Tile<f32, f32>) {
    let mut acc = [[0f32; PANEL]; MR];
    for k in 0..t.k {
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller guarantees the extents.
            let (x, b) = unsafe { (*t.a.add(row * t.lda + k * t.a_step), t.b.add(k * t.ldb)) };
            for (column, acc) in acc.iter_mut().enumerate() {
                // SAFETY: as above.
                *acc += x * unsafe { *b.add(column) };
            }
        }
    }
    for (row, acc) in acc.iter().enumerate() {
        for (column, value) in acc.iter().enumerate().take(t.columns) {
            // SAFETY: as above.
            unsafe {
                let c = t.c.add(row * t.ldc + column);
                *c = if t.accumulate { *c + value } else { *value };
            }
        }
    }
}

/// # Safety
/// As [`portable_body`].
pub(super) unsafe fn portable<const MR: usize>(t: &Tile<f32, f32>) {
    // SAFETY: forwarded.
    unsafe { portable_body::<MR>(t) }
}

/// # Safety
/// As [`portable_body`]; the CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2<const MR: usize>(t: &Tile<f32, f32>) {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    // Two halves of 16 columns keep MR x 2 accumulators within the 16 registers.
    for half in 0..2 {
        let mut acc = [[_mm256_setzero_ps(); 2]; MR];
        // SAFETY: the caller guarantees the extents.
        unsafe {
            for k in 0..t.k {
                let b = t.b.add(k * t.ldb + half * 16);
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*t.a.add(row * t.lda + k * t.a_step));
                    acc[0] = _mm256_fmadd_ps(x, b0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, b1, acc[1]);
                }
            }
            for (row, acc) in acc.iter().enumerate() {
                let mut values = [0f32; 16];
                _mm256_storeu_ps(values.as_mut_ptr(), acc[0]);
                _mm256_storeu_ps(values.as_mut_ptr().add(8), acc[1]);
                for (column, value) in values.iter().enumerate() {
                    let column = half * 16 + column;
                    if column < t.columns {
                        let c = t.c.add(row * t.ldc + column);
                        *c = if t.accumulate { *c + value } else { *value };
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_cvtne2ps_pbh,
        _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_reduce_add_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_si512,
    };

    use super::{PANEL, Tile};

    /// # Safety
    /// `c` is writable for `MR` rows of `columns`; the CPU has AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store<A, B, const MR: usize>(t: &Tile<A, B>, acc: [[__m512; 2]; MR]) {
        let low = if t.columns >= 16 { 0xffff } else { (1u16 << t.columns) - 1 };
        let high = match t.columns {
            0..=16 => 0,
            32 => 0xffff,
            n => (1u16 << (n - 16)) - 1,
        };
        for (row, acc) in acc.into_iter().enumerate() {
            // SAFETY: masked lanes are not touched, the others exist.
            unsafe {
                let c = t.c.add(row * t.ldc);
                let (mut first, mut second) = (acc[0], acc[1]);
                if t.accumulate {
                    first = _mm512_add_ps(_mm512_maskz_loadu_ps(low, c), first);
                    second = _mm512_add_ps(_mm512_maskz_loadu_ps(high, c.wrapping_add(16)), second);
                }
                _mm512_mask_storeu_ps(c, low, first);
                _mm512_mask_storeu_ps(c.wrapping_add(16), high, second);
            }
        }
    }

    /// # Safety
    /// As [`super::portable`]; the CPU has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(in crate::engine::cpu::kernels) unsafe fn avx512<const MR: usize>(t: &Tile<f32, f32>) {
        let mut acc = [[_mm512_setzero_ps(); 2]; MR];
        // SAFETY: the caller guarantees the extents; fetching ahead touches nothing.
        unsafe {
            for k in 0..t.k {
                if k % 4 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(t.ahead.wrapping_add(4 * k).cast());
                }
                let b = t.b.add(k * t.ldb);
                let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*t.a.add(row * t.lda + k * t.a_step));
                    acc[0] = _mm512_fmadd_ps(x, b0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(x, b1, acc[1]);
                }
            }
            store(t, acc);
        }
    }

    /// Dot products of `T` rows with `R` rows: `c[t, r] = a[t, ..k] . b[r, ..k]`. Every one is summed in sixteen lanes in
    /// ascending order, whatever `T` and `R` are.
    ///
    /// # Safety
    /// `a` is readable for `T` rows of `k` (`lda` apart), `b` for `R` rows (`ldb` apart), `c` writable for `T` rows of `R`
    /// (`ldc` apart); the CPU has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(in crate::engine::cpu::kernels) unsafe fn dots<const T: usize, const R: usize>(t: &Tile<f32, f32>) {
        let mut acc = [[_mm512_setzero_ps(); R]; T];
        // SAFETY: the caller guarantees the extents; masked lanes are not read.
        unsafe {
            for k in (0..t.k).step_by(16) {
                let mask = if t.k - k >= 16 { 0xffff } else { (1u16 << (t.k - k)) - 1 };
                let mut b = [_mm512_setzero_ps(); R];
                for (r, b) in b.iter_mut().enumerate() {
                    *b = _mm512_maskz_loadu_ps(mask, t.b.add(r * t.ldb + k));
                }
                for (row, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_maskz_loadu_ps(mask, t.a.add(row * t.lda + k));
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc = _mm512_fmadd_ps(a, b, *acc);
                    }
                }
            }
            for (row, acc) in acc.into_iter().enumerate() {
                for (r, acc) in acc.into_iter().enumerate() {
                    *t.c.add(row * t.ldc + r) = _mm512_reduce_add_ps(acc);
                }
            }
        }
    }

    /// Rounds to bf16, two consecutive values a word (denormals become zero, as in the products).
    ///
    /// # Safety
    /// `x` holds twice as many values as `out`, a multiple of 32; the CPU has AVX-512F and AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in crate::engine::cpu::kernels) unsafe fn to_bf16(x: &[f32], out: &mut [u32]) {
        for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: 32 values are read and 16 words written; __m512bh and __m512i are the same 64 bytes.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
                let words = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
            }
        }
    }

    /// bf16 operands in pairs of consecutive `k`: `a` holds one `u32` a pair, `b` 32 of them a panel row.
    ///
    /// # Safety
    /// As [`super::portable`] with `k` counting pairs; the CPU has AVX-512F and AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in crate::engine::cpu::kernels) unsafe fn avx512_bf16<const MR: usize>(t: &Tile<u32, u32>) {
        let mut acc = [[_mm512_setzero_ps(); 2]; MR];
        // SAFETY: the caller guarantees the extents; fetching ahead touches nothing; __m512, __m512i and __m512bh are the
        // same 64 bytes.
        unsafe {
            for k in 0..t.k {
                if k % 4 == 0 {
                    _mm_prefetch::<_MM_HINT_T1>(t.ahead.wrapping_add(4 * k).cast());
                }
                let b = t.b.add(k * PANEL).cast::<f32>();
                let b0 = std::mem::transmute::<__m512, __m512bh>(_mm512_loadu_ps(b));
                let b1 = std::mem::transmute::<__m512, __m512bh>(_mm512_loadu_ps(b.add(16)));
                for (row, acc) in acc.iter_mut().enumerate() {
                    let pair = _mm512_set1_epi32((*t.a.add(row * t.lda + k)).cast_signed());
                    let x = std::mem::transmute::<__m512i, __m512bh>(pair);
                    acc[0] = _mm512_dpbf16_ps(acc[0], b0, x);
                    acc[1] = _mm512_dpbf16_ps(acc[1], b1, x);
                }
            }
            store(t, acc);
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub(super) use wide::{avx512, avx512_bf16, dots, to_bf16};
