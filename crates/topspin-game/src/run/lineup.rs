//! The opponent of a round as models of the run.

use topspin_kernels::device::{Device, Use};
use topspin_kernels::memory::Memory;
use topspin_model::decoder::Decoder;

use super::{Round, Run, RunError};
use crate::opponent::{Lineup, Player};

/// The folder whose model the iterations start from: the base of the game.
const START: &str = "iter-0";

/// An opponent and the folders of the models that it is made of.
pub(super) struct Field {
    /// Who answers, and what the reference is.
    pub lineup: Lineup,
    /// The folders of the models, the base first.
    folders: Vec<String>,
}

/// Weights that answer or score.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answerer {
    /// The model of a stage folder.
    Folder(String),
    /// The average of such models' parameters, by weights that sum to 1.
    Average(Vec<(String, f64)>),
}

impl Field {
    /// The one who is at the place `player`.
    pub fn answerer(&self, player: Player) -> Answerer {
        match player {
            Player::Model(model) => Answerer::Folder(self.folders[model].clone()),
            Player::Average => {
                Answerer::Average(self.folders.iter().cloned().zip(self.lineup.average.iter().copied()).collect())
            }
        }
    }

    /// Its name in `rollouts.jsonl`.
    pub fn name(&self, player: Player) -> String {
        match player {
            Player::Model(model) => self.folders[model].clone(),
            Player::Average => "average".into(),
        }
    }

    /// The one of this name.
    pub fn named(&self, name: &str) -> Option<Player> {
        self.lineup.players.iter().map(|&(player, _)| player).find(|&player| self.name(player) == name)
    }
}

impl<D: Device + Clone> Run<'_, D> {
    /// The opponent of a round.
    pub(super) fn field(&self, round: &Round) -> Field {
        let mut folders: Vec<_> = (1..round.iteration).map(|k| format!("iter-{k}")).collect();
        folders.insert(0, START.into());
        if folders.last() != Some(&round.before) {
            folders.push(round.before.clone());
        }
        Field { lineup: self.config.game.lineup(round.iteration, folders.len()), folders }
    }

    /// The decoder of one who answers, to generate and score.
    pub(super) fn answering(&self, answerer: &Answerer) -> Result<Decoder<D>, RunError> {
        let for_use = self.config.model.weights.laid_out(Use::Forward);
        let models = match answerer {
            Answerer::Folder(folder) => {
                return Ok(self.ended_with(folder)?.frozen(self.device.clone(), self.precision, for_use)?);
            }
            Answerer::Average(models) => models,
        };
        let mut average: Option<Memory<f32>> = None;
        let mut add = |weight: f64, parameters: &[f32]| {
            let sum = average.get_or_insert_with(|| Memory::zeroed(parameters.len()));
            sum.iter_mut().zip(parameters).for_each(|(sum, &parameter)| *sum += weight as f32 * parameter);
        };
        let last = self.ended_with(&models[models.len() - 1].0)?;
        // Of adapters only what is trained is averaged: the model below is the same, and may be too large to decode.
        if let Some(files) = last.adapter() {
            for (folder, weight) in models {
                let files = self.ended_with(folder)?;
                let adapter = files.adapter().expect("one adapter goes through the whole run");
                add(*weight, &adapter.parameters()?);
            }
            let base = last.frozen(self.device.clone(), self.precision, for_use)?;
            return Ok(base.with_adapter(files.adapter().clone(), average.expect("an average has parts")));
        }
        let mut parameters = vec![0.0; last.config.layout().len()];
        for (folder, weight) in models {
            self.ended_with(folder)?.read_parameters(&mut parameters)?;
            add(*weight, &parameters);
        }
        let average = average.expect("an average has parts");
        Ok(Decoder::new(self.device.clone(), last.config.clone(), average.into(), self.precision, Use::Forward))
    }
}
