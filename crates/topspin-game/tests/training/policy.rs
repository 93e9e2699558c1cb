//! The policy step held to autograd in float64: `scripts/oracle/policy_step.py`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use topspin_game::optimizer::{OptimizerSettings, Rule};
use topspin_game::policy::{Weighted, all_draws};
use topspin_game::schedule::{Schedule, Shape, Warmup};
use topspin_game::trainer::{TrainSettings, Trainer};

use crate::common::settings;
use crate::stored::{Stored, golden};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    beta: f64,
    prompts: Vec<Prompt>,
    adamw: AdamW,
    gradients: BTreeMap<String, [f64; 2]>,
}

#[derive(Deserialize)]
struct Prompt {
    prompt: Vec<u32>,
    samples: Vec<Vec<u32>>,
    scores: Vec<f64>,
}

#[derive(Deserialize)]
struct AdamW {
    lr: f64,
    betas: (f32, f32),
    eps: f32,
    weight_decay: f32,
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

#[test]
fn loss_gradient_and_steps() {
    let text = std::fs::read(golden("policy").join("expected.json")).unwrap();
    let Expected { beta, prompts, adamw, gradients } = serde_json::from_slice(&text).unwrap();
    let prompts: Vec<_> = prompts
        .into_iter()
        .map(|Prompt { prompt, samples, scores }| {
            Weighted::new("golden".into(), prompt, samples.into_iter().zip(scores).collect(), beta)
        })
        .collect();
    let draws = all_draws(&prompts);
    let model: Stored<IgnoredAny> = Stored::read(&golden("tiny-llama"));
    let rule = Rule::AdamW { beta1: adamw.betas.0, beta2: adamw.betas.1, eps: adamw.eps };
    let settings = TrainSettings {
        optimizer: OptimizerSettings { rule, weight_decay: adamw.weight_decay, decays: |_| true },
        schedule: Schedule::new(adamw.lr, Shape::Constant, Warmup::Steps(0), 1),
        max_grad_norm: None,
        // Not all samples in one batch, so that a prompt is split and gradients are accumulated.
        ..settings(rule, 12)
    };
    let mut trainer = Trainer::new(model.decoder(), settings);
    let close = |what: &str, found: f64, expected: f64, size: f64| {
        assert!((found - expected).abs() < TOLERANCE * size, "{what}: {found} {expected}");
    };
    let gradient = trainer.fit_gradient(&prompts, &draws).unwrap();
    close("loss", gradient.loss, adamw.loss[0], adamw.loss[0]);
    let layout = model.config.layout();
    assert_eq!(gradients.len(), layout.entries().len());
    for entry in layout.entries() {
        let found = &trainer.grads()[entry.range()];
        let norm = found.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let probe: f64 = found.iter().enumerate().map(|(at, &g)| f64::from(g) * (0.37 * at as f64).cos()).sum();
        let [expected_norm, expected_probe] = gradients[&entry.name];
        close(&entry.name, norm, expected_norm, expected_norm);
        close(&entry.name, probe, expected_probe, expected_norm);
    }
    for (loss, norm) in adamw.loss.iter().zip(&adamw.grad_norm) {
        let step = trainer.fit_step(&prompts, &draws).unwrap().metrics;
        close("loss of a step", step.loss, *loss, *loss);
        close("gradient norm of a step", step.grad_norm, *norm, *norm);
    }
}
