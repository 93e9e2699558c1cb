//! Optimizers over arenas.

use std::ops::Range;

use topspin_kernels::arena::{Entry, Layout};
use topspin_kernels::device::{AdamW, Buffer, Device, RmsProp};

/// How a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// AdamW (Loshchilov & Hutter, arXiv 1711.05101), with PyTorch's names: two moments.
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
    /// RMSprop in PyTorch's form: one moment.
    RmsProp {
        /// Decay of the squared gradient, PyTorch's `alpha`.
        decay: f32,
        /// Added to the root.
        eps: f32,
    },
}

impl Rule {
    /// Arenas of moments that the rule keeps.
    pub fn moments(self) -> usize {
        match self {
            Self::AdamW { .. } => 2,
            Self::RmsProp { .. } => 1,
        }
    }

    /// The rule's name, as a saved training state spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW { .. } => "adamw",
            Self::RmsProp { .. } => "rmsprop",
        }
    }
}

/// Settings of an optimizer.
#[derive(Clone, Copy, Debug)]
pub struct OptimizerSettings {
    /// How a gradient becomes a step.
    pub rule: Rule,
    /// Weight decay of the tensors that [`decays`](Self::decays) names: decoupled in AdamW, added to the gradient in
    /// RMSprop, as in PyTorch.
    pub weight_decay: f32,
    /// Which tensors decay; [`matrices`] unless there is a reason.
    pub decays: fn(&Entry) -> bool,
}

/// The usual rule: matrices decay, embedding and head among them; the vectors of norms do not, as a smaller gain is no
/// simpler model.
pub fn matrices(entry: &Entry) -> bool {
    entry.shape.len() == 2
}

/// An optimizer with its state.
pub struct Optimizer<D: Device> {
    settings: OptimizerSettings,
    /// Neighbouring tensors of which all decay, or none.
    runs: Vec<(Range<usize>, bool)>,
    moments: Vec<D::Buffer>,
    steps: u32,
}

impl<D: Device> Optimizer<D> {
    /// An optimizer for arenas of `layout` that has not stepped yet.
    pub fn new(device: &D, layout: &Layout, settings: OptimizerSettings) -> Self {
        let zeroed = || {
            // Written once before a step reads them: pages that are read first are given out twice, at ten times the cost.
            let mut moments = device.alloc(layout.len());
            device.zero(moments.head_mut(layout.len()));
            moments
        };
        let moments = (0..settings.rule.moments()).map(|_| zeroed()).collect();
        Self { settings, runs: runs(layout, settings.decays), moments, steps: 0 }
    }

    /// The settings.
    pub fn settings(&self) -> &OptimizerSettings {
        &self.settings
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The arenas of moments: first and second of AdamW, the squares of RMSprop.
    pub fn moments(&self) -> &[D::Buffer] {
        &self.moments
    }

    /// Puts the optimizer where another one was after `steps`; `fill` writes its moments.
    pub(crate) fn restore<E>(
        &mut self,
        steps: u32,
        fill: impl FnMut(&mut D::Buffer) -> Result<(), E>,
    ) -> Result<(), E> {
        self.steps = steps;
        self.moments.iter_mut().try_for_each(fill)
    }

    /// Moves `params` against `grads` times `grad_scale`.
    pub fn step(&mut self, device: &D, params: &mut D::Buffer, grads: &D::Buffer, grad_scale: f32, lr: f32) {
        self.steps += 1;
        for (range, decays) in &self.runs {
            let weight_decay = if *decays { self.settings.weight_decay } else { 0.0 };
            let grads = grads.part(range.clone());
            let params = params.part_mut(range.clone());
            match (self.settings.rule, &mut self.moments[..]) {
                (Rule::AdamW { beta1, beta2, eps }, [first, second]) => {
                    let settings = AdamW { lr, beta1, beta2, eps, weight_decay, step: self.steps };
                    let (first, second) = (first.part_mut(range.clone()), second.part_mut(range.clone()));
                    device.adamw_step(params, first, second, grads, grad_scale, settings);
                }
                (Rule::RmsProp { decay, eps }, [square]) => {
                    let settings = RmsProp { lr, decay, eps, weight_decay };
                    device.rmsprop_step(params, square.part_mut(range.clone()), grads, grad_scale, settings);
                }
                _ => unreachable!("a rule has as many moments as it says"),
            }
        }
    }
}

/// The arena in runs of neighbouring tensors that agree in whether they decay.
fn runs(layout: &Layout, decays: fn(&Entry) -> bool) -> Vec<(Range<usize>, bool)> {
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for entry in layout.entries() {
        match runs.last_mut() {
            Some((range, same)) if *same == decays(entry) => range.end = entry.range().end,
            _ => runs.push((entry.range(), decays(entry))),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use topspin_kernels::cpu::Cpu;
    use topspin_kernels::memory::Memory;

    use super::*;

    fn layout() -> Layout {
        let mut layout = Layout::new();
        layout.push("embed", &[3, 2]);
        layout.push("norm", &[4]);
        layout.push("q", &[2, 2]);
        layout.push("k", &[1, 2]);
        layout
    }

    #[test]
    fn neighbours_with_the_same_decay_are_one_run() {
        assert_eq!(runs(&layout(), matrices), [(0..6, true), (6..10, false), (10..16, true)]);
        assert_eq!(runs(&layout(), |_| true), [(0..16, true)]);
    }

    /// With a gradient of zero a step is the weight decay alone.
    #[test]
    fn only_matrices_decay() {
        let device = Cpu::new();
        let rules = [Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8 }, Rule::RmsProp { decay: 0.99, eps: 1e-8 }];
        for rule in rules {
            let settings = OptimizerSettings { rule, weight_decay: 0.5, decays: matrices };
            let mut optimizer = Optimizer::new(&device, &layout(), settings);
            let before = Memory::from((1..=16).map(|x| x as f32).collect::<Vec<_>>());
            let mut params = before.clone();
            optimizer.step(&device, &mut params, &Memory::zeroed(16), 1.0, 0.1);
            for (at, (before, after)) in before.iter().zip(&params[..]).enumerate() {
                let decays = !(6..10).contains(&at);
                assert_eq!(before != after, decays, "{rule:?}, element {at}: {before} -> {after}");
            }
        }
    }
}
