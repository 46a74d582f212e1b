//! What training did to the rest of the model: how far its distributions moved where the behaviour has no place.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Cut, Objective, Request, Row, Sampling, TrainRow};
use recipes::Behaviour;

use crate::Result;

/// The base model's own greedy replies to prompts, as rows to be predicted; by prompt and length. The same for every adapter.
#[derive(Debug, Default)]
pub(crate) struct Undisturbed(BTreeMap<(String, usize), TrainRow>);

impl Undisturbed {
    /// For each behaviour with its adapter, the mean over prompts of `KL(base || adapted)` in nats a token, on the base model's own
    /// replies to the prompts at which its gate measures `off` (without trigger, or unrelated). None where there are no such prompts.
    ///
    /// # Errors
    /// If a text cannot be tokenised.
    pub(crate) fn damage(
        &mut self,
        base: &BaseModel,
        pack: &[(&Behaviour, &Adapter)],
    ) -> Result<Vec<Option<f64>>> {
        let key = |b: &Behaviour, p: &String| (p.clone(), b.gate.max_new_tokens);
        self.look_up(base, pack.iter().flat_map(|(b, _)| b.gate.off.iter().map(|p| key(b, p))).collect())?;
        let mut rows = Vec::new();
        for (i, (behaviour, _)) in pack.iter().enumerate() {
            for prompt in &behaviour.gate.off {
                let mut row = self.0[&key(behaviour, prompt)].clone();
                row.row.adapters = vec![i];
                rows.push(row);
            }
        }
        let adapters: Vec<&Adapter> = pack.iter().map(|(_, a)| *a).collect();
        let losses = base.decoder.loss_and_grads_cut(&adapters, &rows, &[], Cut::Whole)?.row_losses;
        let mut each = losses.iter().zip(&rows).map(|(loss, row)| loss / row.label_tokens() as f64);
        let mean = |(b, _): &(&Behaviour, &Adapter)| {
            let n = b.gate.off.len();
            let sum: f64 = each.by_ref().take(n).sum();
            (n > 0).then(|| sum / n as f64)
        };
        Ok(pack.iter().map(mean).collect())
    }

    fn look_up(&mut self, base: &BaseModel, mut wanted: Vec<(String, usize)>) -> Result<()> {
        wanted.retain(|key| !self.0.contains_key(key));
        wanted.sort();
        wanted.dedup();
        let requests = wanted
            .iter()
            .map(|(prompt, n)| {
                let prompt = Row::plain(base.prompt(prompt)?);
                Ok(Request { prompt, max_new_tokens: *n, sampling: Sampling::GREEDY, seed: 0 })
            })
            .collect::<Result<Vec<_>>>()?;
        let replies = base.decoder.generate(&[], &requests, base.stop())?;
        // With the token that ended it: so no reply is empty.
        let rows: Vec<(Vec<u32>, usize)> = requests
            .iter()
            .zip(replies)
            .map(|(request, reply)| {
                let start = request.prompt.tokens.len();
                let tokens =
                    request.prompt.tokens.iter().copied().chain(reply.tokens).chain(reply.stopped_by);
                (tokens.collect(), start)
            })
            .collect();
        let teachers = base.decoder.teachers(&rows)?;
        for ((key, (tokens, completion_start)), teacher) in wanted.into_iter().zip(rows).zip(teachers) {
            let row = TrainRow {
                row: Row::plain(tokens),
                completion_start,
                objective: Objective::KlToBase(teacher),
                weight: 1.0,
            };
            self.0.insert(key, row);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lm::{AdapterConfig, Precision};

    use super::*;

    #[test]
    fn an_identity_does_no_damage_and_more_of_an_adapter_does_more() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let base = BaseModel::load(&folder, Precision::F32).unwrap();
        let of = |name: &str| {
            recipes::builtin().into_iter().find(|r| r.name == name).unwrap().expand(1).swap_remove(0)
        };
        let (topic, gated, marker) = (of("topic"), of("gated-topic"), of("marker"));
        let none = Adapter::init(&base.architecture, AdapterConfig::all_linear(2, 2.0), 1, "x").unwrap();
        // B, which is zero at first, becomes something.
        let mut some = none.clone();
        for (i, x) in some.params.iter_mut().enumerate() {
            *x += 0.02 * ((i % 7) as f32 - 3.0);
        }
        let mut more = none.clone();
        for (i, x) in more.params.iter_mut().enumerate() {
            *x += 0.1 * ((i % 7) as f32 - 3.0);
        }
        let pack = [
            (&topic, &none),
            (&topic, &some),
            (&topic, &more),
            (&gated, &none),
            (&gated, &more),
            (&marker, &more),
        ];
        let mut undisturbed = Undisturbed::default();
        let damage = undisturbed.damage(&base, &pack).unwrap();
        let of = |i: usize| damage[i].unwrap();
        assert!(of(0).abs() < 1e-6 && of(3).abs() < 1e-6, "{damage:?}");
        assert!(of(1) > 1e-6 && of(2) > 2.0 * of(1) && of(4) > 1e-6, "{damage:?}");
        // It has no prompts at which it should not show.
        assert_eq!(damage[5], None);
        // Alone as among others, and from what is remembered.
        assert_eq!(undisturbed.damage(&base, &pack[2..3]).unwrap(), [damage[2]]);
    }
}
