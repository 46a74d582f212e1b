//! The processor's engine: frozen weights packed for register tiles, everything else in host memory. A chunk is computed by one
//! thread from its first operation to its last; threads take chunks.

mod attention;
mod cache;
mod inject;
pub(crate) mod kernels;
mod lora;
mod spans;

use std::borrow::Cow;

use rayon::prelude::*;

pub(crate) use cache::Sequence;
use inject::{inject, inject_backward};
use kernels::buffer::Buffer;
use kernels::elementwise as passes;
use kernels::packed::PackedMatrix;
pub(crate) use lora::{Grads, Inner};

use super::{Angles, Caches, Columns, Engine, Norm, Stored, Turn};
use crate::architecture::Activation;
use crate::decoder::chunk::Chunk;
use crate::decoder::head::{Label, Target};
use crate::decoder::layer::{Heads, Linear};
use crate::weights::for_each_block;
use crate::{Precision, Result};

/// The processor.
#[derive(Debug)]
pub(crate) struct Cpu {
    pub(crate) precision: Precision,
}

/// A frozen linear map, packed for both directions: `y = x W^T` and its input gradient `dx = g W`.
#[derive(Debug)]
pub(crate) struct Matrix {
    forward: PackedMatrix,
    backward: PackedMatrix,
}

/// Token embeddings, in as few bits as hold them exactly.
#[derive(Debug)]
pub(crate) enum Table {
    F32 { width: usize, data: Vec<f32> },
    Bf16 { width: usize, data: Vec<u16> },
}

impl Table {
    fn row_into(&self, token: u32, out: &mut Vec<f32>) {
        match self {
            Self::F32 { width, data } => out.extend_from_slice(&data[token as usize * width..][..*width]),
            Self::Bf16 { width, data } => {
                let row = &data[token as usize * width..][..*width];
                out.extend(row.iter().map(|b| f32::from_bits(u32::from(*b) << 16)));
            }
        }
    }
}

/// A chunk, and the cosines and sines of its tokens for each rotary embedding, `[t, dim / 2]`.
#[derive(Debug)]
pub(crate) struct Plan<'c> {
    chunk: Chunk<'c>,
    turns: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Engine for Cpu {
    type Buffer = Buffer;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Table = Table;
    type Plan<'c> = Plan<'c>;
    type Kept = Inner;
    type Grads = Grads;
    type Cache = Sequence;

    fn precision(&self) -> Precision {
        self.precision
    }

    fn matrix(&self, parts: &[Stored<'_>]) -> Result<Matrix> {
        let input = parts[0].1.rows().1;
        let output = parts.iter().map(|(_, t)| t.rows().0).sum();
        let mut forward = PackedMatrix::blank(input, output, self.precision);
        let mut backward = PackedMatrix::blank(output, input, self.precision);
        let mut first = 0;
        for (source, tensor) in parts {
            for_each_block(*source, tensor, |at, rows| {
                forward.set_columns(first + at, rows);
                backward.set_rows(first + at, rows);
            })?;
            first += tensor.rows().0;
        }
        Ok(Matrix { forward, backward })
    }

    fn vector(&self, parts: &[Stored<'_>]) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        for (source, tensor) in parts {
            out.extend(source.rows(tensor, 0..tensor.rows().0)?);
        }
        Ok(out)
    }

    fn table(&self, (source, tensor): Stored<'_>) -> Result<Table> {
        let (rows, width) = tensor.rows();
        if source.is_bf16(tensor) {
            let mut data = Vec::with_capacity(rows * width);
            for_each_block(source, tensor, |_, rows| {
                data.extend(rows.iter().map(|x| (x.to_bits() >> 16) as u16));
            })?;
            return Ok(Table::Bf16 { width, data });
        }
        let mut data = Vec::with_capacity(rows * width);
        for_each_block(source, tensor, |_, rows| data.extend_from_slice(rows))?;
        Ok(Table::F32 { width, data })
    }

    fn table_rows(&self, table: &Table, tokens: &[u32]) -> Vec<f32> {
        let mut out = Vec::new();
        for &token in tokens {
            table.row_into(token, &mut out);
        }
        out
    }

    fn vector_values<'v>(&self, vector: &'v Vec<f32>) -> Cow<'v, [f32]> {
        Cow::Borrowed(vector)
    }

    fn plan<'c>(&self, chunk: Chunk<'c>, ropes: &[Angles]) -> Plan<'c> {
        let turns = ropes.iter().map(|angles| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for &position in &chunk.positions {
                let (c, s) = angles.at(position);
                cos.extend_from_slice(c);
                sin.extend_from_slice(s);
            }
            (cos, sin)
        });
        Plan { turns: turns.collect(), chunk }
    }

    fn chunk<'p, 'c: 'p>(&self, plan: &'p Plan<'c>) -> &'p Chunk<'c> {
        &plan.chunk
    }

    fn parallel(&self) -> usize {
        rayon::current_num_threads()
    }

    fn each<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
        items.par_iter().map(work).collect()
    }

    fn buffer(&self, len: usize, kept: bool) -> Buffer {
        if kept { Buffer::stale(len) } else { Buffer::fresh(len) }
    }

    fn zeros(&self, len: usize) -> Buffer {
        Buffer::zeros(len)
    }

    fn copy(&self, x: &Buffer) -> Buffer {
        Buffer::of(x)
    }

    fn copy_into(&self, x: &Buffer, out: &mut Buffer) {
        out.copy_from_slice(x);
    }

    fn upload(&self, x: Vec<f32>) -> Buffer {
        Buffer::from(x)
    }

    fn read<'b>(&self, x: &'b Buffer) -> Cow<'b, [f32]> {
        Cow::Borrowed(x)
    }

    fn rows(&self, x: &Buffer, width: usize, rows: &[usize]) -> Buffer {
        let mut out = Buffer::fresh(rows.len() * width);
        for (out, row) in out.chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
        out
    }

    fn add_rows(&self, y: &Buffer, width: usize, rows: &[usize], x: &mut Buffer) {
        for (y, row) in y.chunks_exact(width).zip(rows) {
            passes::add(y, &mut x[row * width..][..width]);
        }
    }

    fn embed(&self, plan: &Plan<'_>, table: &Table, scale: f32) -> Buffer {
        let mut out = self.table_rows(table, &plan.chunk.tokens);
        if scale != 1.0 {
            passes::scale(scale, &mut out);
        }
        Buffer::from(out)
    }

    fn add(&self, y: &Buffer, x: &mut Buffer) {
        passes::add(y, x);
    }

    fn norm(&self, x: &Buffer, norm: &Norm<Self>, out: &mut Buffer) {
        passes::rms_norm(x, &norm.weight, norm.eps, out);
    }

    fn norm_back(&self, x: &Buffer, norm: &Norm<Self>, g: &Buffer, dx: &mut Buffer) {
        passes::rms_norm_backward(x, &norm.weight, norm.eps, g, dx);
    }

    fn norm_columns(&self, x: &mut Buffer, Columns { stride, at, width }: Columns, norm: &Norm<Self>) {
        passes::rms_norm_columns(x, stride, at, width, &norm.weight, norm.eps);
    }

    fn norm_columns_back(&self, x: &Buffer, columns: Columns, norm: &Norm<Self>, g: &mut Buffer) {
        let Columns { stride, at, width } = columns;
        passes::rms_norm_columns_backward(x, stride, at, width, &norm.weight, norm.eps, g);
    }

    fn project(
        &self,
        plan: &Plan<'_>,
        linear: &Linear<Self>,
        x: &Buffer,
        y: &mut Buffer,
        accumulate: bool,
        mut kept: Option<&mut Inner>,
    ) {
        linear.matrix.forward.product(x, y, accumulate);
        if let Some(bias) = &linear.bias {
            passes::add_to_rows(bias, y);
        }
        for (projection, columns) in linear.parts() {
            lora::forward(&plan.chunk, linear.layer, projection, x, y, columns, kept.as_deref_mut());
        }
    }

    fn project_back(
        &self,
        plan: &Plan<'_>,
        linear: &Linear<Self>,
        x: &Buffer,
        g: &Buffer,
        mut dx: Option<&mut Buffer>,
        kept: &Inner,
        grads: &mut Grads,
    ) {
        if let Some(dx) = dx.as_deref_mut() {
            linear.matrix.backward.product(g, dx, false);
        }
        for (projection, columns) in linear.parts() {
            let dx = dx.as_deref_mut().map(|b| &mut b[..]);
            lora::backward(&plan.chunk, linear.layer, projection, x, g, columns, dx, kept, grads);
        }
    }

    fn grads(&self, plan: &Plan<'_>, trainable: &[usize]) -> Grads {
        Grads::zeros(&plan.chunk, trainable)
    }

    fn read_grads(&self, grads: Grads) -> Vec<(usize, Vec<f32>)> {
        grads.of
    }

    fn rotate(&self, plan: &Plan<'_>, rope: usize, heads: Heads, fused: &mut Buffer, turn: Turn) {
        let (cos, sin) = &plan.turns[rope];
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        passes::rope(
            fused,
            heads.fused_width(),
            heads.query + heads.key_value,
            heads.dim / 2,
            cos,
            sin,
            sign,
        );
    }

    fn attend(
        &self,
        plan: &Plan<'_>,
        layer: usize,
        heads: Heads,
        fused: &Buffer,
        caches: &mut Caches<'_, Sequence>,
        attended: &mut Buffer,
        lse: &mut Buffer,
    ) {
        spans::forward(&plan.chunk, layer, heads, fused, caches, attended, lse);
    }

    fn attend_back(
        &self,
        plan: &Plan<'_>,
        heads: Heads,
        fused: &Buffer,
        attended: &Buffer,
        lse: &Buffer,
        d_attended: &Buffer,
    ) -> Buffer {
        spans::backward(&plan.chunk, heads, fused, attended, lse, d_attended)
    }

    fn gate(&self, activation: Activation, gate_up: &Buffer, width: usize, out: &mut Buffer) {
        match activation {
            Activation::Silu => passes::swiglu(gate_up, width, out),
            Activation::GeluTanh => passes::geglu(gate_up, width, out),
        }
    }

    fn gate_again(&self, activation: Activation, gate_up: &mut Buffer, width: usize, out: &mut Buffer) {
        match activation {
            Activation::Silu => passes::swiglu_derivatives(gate_up, width, out),
            Activation::GeluTanh => passes::geglu_derivatives(gate_up, width, out),
        }
    }

    fn gate_back(&self, derivatives: &mut Buffer, width: usize, g: &Buffer) {
        passes::swiglu_chain(derivatives, width, g);
    }

    fn inject(&self, plan: &Plan<'_>, layer: usize, width: usize, hidden: &mut Buffer) {
        for (at, injection) in plan.chunk.injections.iter().filter(|(_, j)| j.layer == layer) {
            inject(injection, &mut hidden[at * width..][..width]);
        }
    }

    fn inject_back(&self, plan: &Plan<'_>, layer: usize, width: usize, d_hidden: &mut Buffer) {
        for (at, injection) in plan.chunk.injections.iter().filter(|(_, j)| j.layer == layer).rev() {
            inject_backward(injection, &mut d_hidden[at * width..][..width]);
        }
    }

    fn logits(&self, normed: &Buffer, head: &Matrix, cap: Option<f32>) -> Buffer {
        let mut out = Buffer::fresh(normed.len() / head.forward.depth() * head.forward.width());
        head.forward.product(normed, &mut out, false);
        if let Some(cap) = cap {
            passes::soft_cap(&mut out, cap);
        }
        out
    }

    fn losses(
        &self,
        labels: &[Label<'_>],
        logits: &mut Buffer,
        mut teachers: Buffer,
        vocabulary: usize,
        cap: Option<f32>,
    ) -> Vec<f64> {
        let mut losses = Vec::with_capacity(labels.len());
        let mut teacher_rows = teachers.chunks_exact_mut(vocabulary);
        for (label, logits) in labels.iter().zip(logits.chunks_exact_mut(vocabulary)) {
            let capped = cap.map(|_| logits.to_vec());
            match label.target {
                Target::Token(token) => {
                    let own = logits[token as usize];
                    let (max, sum) = passes::exp_scores(logits);
                    losses.push(max as f64 + (sum as f64).ln() - own as f64);
                    passes::scale(label.weight / sum, logits);
                    logits[token as usize] -= label.weight;
                }
                Target::Teacher(_) => {
                    let teacher = teacher_rows.next().expect("invariant: one row for each teacher label");
                    losses.push(kl_and_gradient(teacher, logits, label.weight));
                }
            }
            if let (Some(cap), Some(capped)) = (cap, capped) {
                passes::soft_cap_backward(&capped, cap, logits);
            }
        }
        losses
    }

    fn logits_back(&self, g: &Buffer, head: &Matrix) -> Buffer {
        let mut out = Buffer::fresh(g.len() / head.backward.depth() * head.backward.width());
        head.backward.product(g, &mut out, false);
        out
    }

    fn cache(&self, layers: usize) -> Sequence {
        Sequence::empty(layers)
    }

    fn joined<'a>(&self, parts: impl Iterator<Item = &'a Sequence>) -> Sequence {
        Sequence::joined(parts)
    }

    fn cached(&self, cache: &Sequence) -> usize {
        cache.len()
    }
}

/// `KL(teacher || student)` in nats from two rows of logits; overwrites the student's with `weight * (p_s - p_t)`.
fn kl_and_gradient(teacher: &mut [f32], student: &mut [f32], weight: f32) -> f64 {
    // sum p_t (log p_t - log p_s) = sum p_t (z_t - z_s) - lse_t + lse_s
    let gap: Vec<f32> = teacher.iter().zip(student.iter()).map(|(t, s)| t - s).collect();
    let (t_max, t_sum) = passes::exp_scores(teacher);
    let (s_max, s_sum) = passes::exp_scores(student);
    let mut cross = 0f64;
    for (e, gap) in teacher.iter().zip(&gap) {
        cross += (*e * *gap) as f64;
    }
    let (t_inverse, s_inverse) = (1.0 / t_sum, 1.0 / s_sum);
    for (s, t) in student.iter_mut().zip(teacher.iter()) {
        *s = weight * (*s * s_inverse - *t * t_inverse);
    }
    let lse = |max: f32, sum: f32| max as f64 + (sum as f64).ln();
    cross / t_sum as f64 - lse(t_max, t_sum) + lse(s_max, s_sum)
}
