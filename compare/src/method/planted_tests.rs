//! What the methods that ask a model or look through the unembedding say in the planted world.

use readers::{Arm, InputKind};

use super::direct::Direct;
use super::logit_lens::LogitLens;
use super::planted::{Labels, Planted, Write};
use super::prior::Prior;

const BOTH: [Labels; 2] = [Labels::Seen, Labels::Unseen];

#[test]
fn the_logit_lens_and_the_subject_itself_find_what_is_planted() {
    let world = Planted::new(Write::Label);
    let lens = world.score(&LogitLens, &Arm::of("logit-lens"));
    let direct = world.score(&Direct, &Arm::of("direct"));
    for labels in BOTH {
        world.reads(&lens, labels);
        world.reads(&direct, labels);
    }
}

#[test]
fn they_find_nothing_in_noise() {
    let world = Planted::new(Write::Noise);
    let lens = world.score(&LogitLens, &Arm::of("logit-lens"));
    let direct = world.score(&Direct, &Arm::of("direct"));
    for labels in BOTH {
        world.finds_nothing(&lens, labels);
        world.finds_nothing(&direct, labels);
    }
}

#[test]
fn without_the_subject_there_is_nothing_to_find() {
    let world = Planted::new(Write::Label);
    let mut blind = Arm::of("logit-lens");
    blind.input.kind = InputKind::Base;
    let prior = world.score(&Prior, &Arm::of("prior"));
    let lens = world.score(&LogitLens, &blind);
    for labels in BOTH {
        world.finds_nothing(&prior, labels);
        world.finds_nothing(&lens, labels);
    }
    // The base model's answer depends on nothing but the question.
    let asked: Vec<_> = world.cases.iter().zip(&prior.answers).filter(|(c, _)| c.subject.is_some()).collect();
    assert!(asked.iter().all(|(_, a)| a.scores == asked[0].1.scores));
}
