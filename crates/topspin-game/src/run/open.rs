//! Opening a run's folder: a new one, or one to go on with.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use topspin_data::Source;
use topspin_files::{Action, FileError};
use topspin_kernels::device::Device;
use topspin_kernels::gemm::Precision;
use topspin_model::adapter::Adapter;
use topspin_model::chat::ChatTemplate;
use topspin_model::source::{ModelFiles, ModelSource};

use super::items::{DataFiles, Items, by_reason};
use super::lines::write_lines;
use super::manifest::{Input, Inputs, Manifest, Records, sha256_of_file, sha256_of_text};
use super::plan::{Work, plan};
use super::rate::product_rate;
use super::{Observer, Run, RunError};
use crate::config::{Config, PrecisionChoice};

impl<'a, D: Device + Clone> Run<'a, D> {
    /// Opens the folder of the run that `config` describes, and everything that the run reads.
    pub(super) fn open(
        device: &'a D,
        precision: Precision,
        config: &Config,
        observer: &'a mut dyn Observer,
        stop: &'a AtomicBool,
    ) -> Result<Self, RunError> {
        config.check()?;
        let mut config = config.clone();
        config.output.precision = match precision {
            Precision::F32 => PrecisionChoice::F32,
            Precision::Bf16 => PrecisionChoice::Bf16,
        };
        let dir = PathBuf::from(&config.output.dir);
        topspin_files::create_dir_all(&dir)?;
        let lock = topspin_files::lock(&dir)?;
        let begun = dir.join("manifest.json").exists();
        if !begun && !is_free(&dir)? {
            return Err(RunError::NotARun { dir });
        }

        let mut base = ModelFiles::open(&ModelSource::resolve(&config.model.path)?)?;
        if let Some(adapter) = config.adapter.lora() {
            if base.adapter().is_some() {
                return Err(RunError::TwoAdapters { dir: base.source().path().into() });
            }
            // Now rather than when the first stage begins to train.
            Adapter::new(adapter, &base.config)?;
        }
        let files = DataFiles::find(&config)?;
        let inputs = inputs(&base, &files)?;
        let old = if begun { Some(Manifest::read(&dir)?) } else { None };
        let mut void = Vec::new();
        if let Some(old) = &old {
            old.check_same_inputs(&inputs, &dir)?;
            void = old.check_same_config(&config, &dir)?;
            old.check_artefacts(&dir)?;
        }
        let date = old.as_ref().map_or_else(|| base.dialect.template().and_then(ChatTemplate::date), |old| old.date);
        if let Some(date) = date {
            base.dialect = base.dialect.at(date);
        }
        let items = Items::load(&config, &files, &base.config, &base.dialect)?;
        let plan = plan(&config, &items);
        let stages: Vec<String> = plan.iter().map(Work::name).collect();
        let mut manifest = match old {
            Some(old) => {
                old.check_stages(&stages, &dir)?;
                old
            }
            None => Manifest::new(config.game.seed, inputs, date, stages),
        };
        // Before `config.toml` says otherwise: a stage must end as if it had begun with the settings that stand there.
        void.iter().filter(|state| state.exists()).try_for_each(|state| topspin_files::remove_file(state))?;
        // Settings that change no artefact may differ from call to call: the file tells the last one's.
        let (path, text) = (dir.join("config.toml"), config.to_toml());
        if !begun || topspin_files::read_to_string(&path)? != text {
            topspin_files::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        }
        if !begun {
            if items.skipped().next().is_some() {
                write_lines(&dir.join("skipped.jsonl"), items.skipped())?;
            }
            manifest.records = items.records.clone();
            // Last: with it the folder is a run's.
            manifest.write(&dir)?;
        }
        let rate = if manifest.is_finished() { 0.0 } else { product_rate(device, precision) };
        let run =
            Self { device, precision, config, dir, base, items, manifest, plan, rate, observer, stop, _lock: lock };
        run.introduce(begun)
    }

    /// Says what is about to be done with what.
    fn introduce(self, begun: bool) -> Result<Self, RunError> {
        let Self { items, precision, dir, .. } = &self;
        let precision = match precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        let (done, all) = (self.manifest.finished(), self.manifest.stages.len());
        let mut lines = vec![match begun {
            true => format!("going on in `{}`: {done} of {all} stages are done", dir.display()),
            false => format!("a new run in `{}`", dir.display()),
        }];
        lines.push(format!("{} records to train on, {} to evaluate on", items.train.len(), items.test.len()));
        lines.extend(tell_records(&items.records, &dir.join("skipped.jsonl")));
        if self.rate > 0.0 {
            lines.push(format!("products in {precision}, {:.1} GFLOP/s measured", self.rate / 1e9));
        }
        let tested = items.records.tested;
        lines.iter().for_each(|line| self.observer.say(line));
        if tested > 0 {
            self.observer.warn(&format!(
                "{tested} records to train on have prompts that are evaluated on as well: the figures may flatter; take them out of \
                 `data.train`, or leave `data.test` empty for a held-out share"
            ));
        }
        Ok(self)
    }
}

/// What is worth knowing of the records beside their number.
fn tell_records(records: &Records, skipped: &Path) -> Vec<String> {
    let Records { duplicates, cut, too_long, .. } = *records;
    let unusable: usize = records.unusable.values().sum();
    let mut lines = Vec::new();
    if duplicates > 0 {
        lines.push(format!(
            "{duplicates} records repeat another word for word, and are used as often as they are there"
        ));
    }
    if cut > 0 {
        lines.push(format!("{cut} real responses are cut at the limit of tokens"));
    }
    let mut left_out = Vec::new();
    if unusable > 0 {
        left_out.push(format!("{unusable} cannot be used ({})", by_reason(&records.unusable)));
    }
    if too_long > 0 {
        left_out.push(format!("{too_long} have prompts longer than `data.max_prompt_tokens`"));
    }
    if !left_out.is_empty() {
        let (all, why) = (unusable + too_long, left_out.join(", and "));
        lines.push(format!("{all} records are left out: {why}; `{}` names them", skipped.display()));
    }
    lines
}

/// Hashes of all that the run reads.
fn inputs(base: &ModelFiles, files: &DataFiles) -> Result<Inputs, RunError> {
    let path = base.source().path().to_path_buf();
    let template = base.dialect.template().map_or("", |template| template.source());
    let mut inputs = Inputs::from([
        ("model.path".into(), Input::new(path.clone(), base.fingerprint()?)),
        ("chat template".into(), Input::new(path, sha256_of_text(template))),
    ]);
    inputs.extend(data_inputs("data.train", &files.train)?);
    inputs.extend(data_inputs("data.test", &files.test)?);
    Ok(inputs)
}

/// The files that the setting `key` names: in this order, since numbers of records go by it.
fn data_inputs(key: &str, sources: &[Source]) -> Result<Inputs, RunError> {
    let mut files = Vec::new();
    for source in sources {
        for path in source.files()? {
            let sha256 = sha256_of_file(&path)?;
            files.push(Input { weight: source.weight, ..Input::new(path, sha256) });
        }
    }
    let number = |at: usize| if files.len() == 1 { key.into() } else { format!("{key}.{}", at + 1) };
    let keys: Vec<String> = (0..files.len()).map(number).collect();
    Ok(keys.into_iter().zip(files).collect())
}

/// Whether a folder holds nothing but what a run that died at its very beginning leaves.
fn is_free(dir: &Path) -> Result<bool, FileError> {
    let fail = |e| FileError::new(Action::Read, dir, e);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !["config.toml", "skipped.jsonl"].contains(&&*name) {
            return Ok(false);
        }
    }
    Ok(true)
}
