//! The product of bf16 operands by AMX tiles: blocks of 32 rows by a panel, sixteen pairs of the depth at a time.
//!
//! The operands lie as the other bf16 tiles have them: a panel's rows of pairs are what `TDPBF16PS` takes as its right operand. An
//! element is one chain of sums over blocks of 32 consecutive `k`, whatever its row's neighbours are. Within a block the instruction
//! sums even and odd `k` apart (Intel SDM, TDPBF16PS), so last bits differ from those of AVX512-BF16.
#![expect(
    unsafe_code,
    reason = "tile instructions have no stable intrinsics; each function states what its caller must uphold"
)]

use std::arch::asm;

use super::tiles::PANEL;

/// Rows of a tile.
const ROWS: usize = 16;
/// Pairs of the depth in a tile.
pub(super) const PAIRS: usize = 16;
/// Depth of one pass over a panel, in pairs.
const DEPTH_BLOCK: usize = 2048;
/// Bytes of a panel's row of pairs.
const PANEL_BYTES: usize = PANEL * 4;

/// Whether this process may use the tiles: the CPU has them, and the kernel, asked once, lets it keep their 8 KiB of state.
pub(super) fn available() -> bool {
    use std::sync::OnceLock;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let (most, features) = (std::arch::x86_64::__cpuid(0).eax, std::arch::x86_64::__cpuid_count(7, 0));
        // CPUID leaf 7, EDX: bit 22 AMX-BF16, bit 24 AMX-TILE.
        most >= 7 && features.edx >> 22 & 1 == 1 && features.edx >> 24 & 1 == 1 && permitted()
    })
}

/// Asks for the tiles' state (Linux: Documentation/arch/x86/xstate.rst); threads that exist get it as well.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: a system call on two numbers; it fails where kernel or CPU know nothing of it.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Eight tiles of sixteen rows of 64 bytes (Intel SDM, LDTILECFG, palette 1).
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Rows that the left operand of `m` rows must have: whole tiles are read.
pub(super) fn padded(m: usize) -> usize {
    m.next_multiple_of(ROWS)
}

/// `out = x . W` or `out += x . W`: `x` is `[padded(m), depth]` pairs, `panels` are `n.div_ceil(32)` of `[depth][32]`, `out` is `[m, n]`.
///
/// # Panics
/// If the operands do not have these sizes, the depth is no multiple of [`PAIRS`], or the tiles are not [`available`].
pub(super) fn product(
    x: &[u32],
    m: usize,
    depth: usize,
    panels: &[u32],
    n: usize,
    out: &mut [f32],
    accumulate: bool,
) {
    assert!(available(), "no AMX");
    assert!(depth > 0 && depth.is_multiple_of(PAIRS), "a depth of {depth} pairs");
    assert_eq!(x.len(), padded(m) * depth, "left operand is not [{}, {depth}]", padded(m));
    assert_eq!(panels.len(), n.div_ceil(PANEL) * depth * PANEL, "panels of another matrix");
    assert_eq!(out.len(), m * n, "output is not [{m}, {n}]");
    // SAFETY: the tiles are available; the configuration is valid and nothing of a tile is in use on this thread.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly)) };
    for from in (0..depth).step_by(DEPTH_BLOCK) {
        let pairs = DEPTH_BLOCK.min(depth - from);
        for (p, panel) in panels.chunks_exact(depth * PANEL).enumerate() {
            let (at, columns) = (p * PANEL, PANEL.min(n - p * PANEL));
            for row in (0..m).step_by(2 * ROWS) {
                let rows = (2 * ROWS).min(m - row);
                let (a, b) = (x[row * depth + from..].as_ptr(), panel[from * PANEL..].as_ptr());
                let whole = rows == 2 * ROWS && columns == PANEL && !(accumulate || from > 0);
                if whole {
                    let c = out[row * n + at..].as_mut_ptr();
                    // SAFETY: the operands' sizes were asserted; 32 rows of 32 columns of the output exist.
                    unsafe { tall(a, b, pairs, depth, c, n) };
                    continue;
                }
                let mut block = [0f32; 2 * ROWS * PANEL];
                // SAFETY: as above; `padded` rows of the left operand exist, and the block has 32 rows of 32.
                unsafe {
                    if rows > ROWS {
                        tall(a, b, pairs, depth, block.as_mut_ptr(), PANEL);
                    } else {
                        low(a, b, pairs, depth, block.as_mut_ptr(), PANEL);
                    }
                }
                for (i, sums) in block.chunks_exact(PANEL).enumerate().take(rows) {
                    let out = &mut out[(row + i) * n + at..][..columns];
                    if accumulate || from > 0 {
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                    } else {
                        out.copy_from_slice(&sums[..columns]);
                    }
                }
            }
        }
    }
    // SAFETY: nothing of a tile is in use any more.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// 32 rows by 32 columns.
///
/// # Safety
/// `a` is readable for 32 rows of `pairs` (`lda` apart), `b` for `pairs` rows of 32, `c` writable for 32 rows of 32 (`ldc` apart); `pairs`
/// is a positive multiple of [`PAIRS`], and the tiles are configured as [`SHAPES`].
#[inline]
unsafe fn tall(a: *const u32, b: *const u32, pairs: usize, lda: usize, c: *mut f32, ldc: usize) {
    // SAFETY: the caller guarantees the extents.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{b} + {panel}*1]",
            "tileloadd tmm4, [{upper} + {lda}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {panel}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {lda}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {ldc}*1], tmm0",
            "tilestored [{c} + {ldc}*1 + 64], tmm1",
            "tilestored [{below} + {ldc}*1], tmm2",
            "tilestored [{below} + {ldc}*1 + 64], tmm3",
            upper = inout(reg) a => _,
            lower = inout(reg) a.wrapping_add(ROWS * lda) => _,
            b = inout(reg) b => _,
            steps = inout(reg) pairs / PAIRS => _,
            lda = in(reg) lda * 4,
            panel = in(reg) PANEL_BYTES,
            c = in(reg) c,
            below = in(reg) c.wrapping_add(ROWS * ldc),
            ldc = in(reg) ldc * 4,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// 16 rows by 32 columns.
///
/// # Safety
/// As [`tall`], with 16 rows.
#[inline]
unsafe fn low(a: *const u32, b: *const u32, pairs: usize, lda: usize, c: *mut f32, ldc: usize) {
    // SAFETY: the caller guarantees the extents.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {lda}*1]",
            "tileloadd tmm6, [{b} + {panel}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {panel}*1 + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 64",
            "add {b}, 2048",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {ldc}*1], tmm0",
            "tilestored [{c} + {ldc}*1 + 64], tmm1",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            steps = inout(reg) pairs / PAIRS => _,
            lda = in(reg) lda * 4,
            panel = in(reg) PANEL_BYTES,
            c = in(reg) c,
            ldc = in(reg) ldc * 4,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
