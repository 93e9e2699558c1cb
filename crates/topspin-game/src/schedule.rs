//! Learning rates over the steps of a stage, and settings that may vary by iteration.

use std::f64::consts::PI;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Stays.
    Constant,
    /// Falls on a straight line to 0.
    Linear,
    /// Falls on half a wave to 0.
    Cosine,
}

/// Length of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// A share of all steps, 0 to 1; rounded up to whole steps, as transformers does.
    Share(f64),
    /// A number of steps.
    Steps(u32),
}

impl Warmup {
    /// The warm-up's steps out of `total`.
    pub fn steps(self, total: u32) -> u32 {
        match self {
            // `as` saturates: a share outside 0..=1 still gives a number of steps.
            Self::Share(share) => (share * f64::from(total)).ceil() as u32,
            Self::Steps(steps) => steps,
        }
    }
}

/// The learning rate of each step, as transformers' `get_*_schedule_with_warmup` define it.
///
/// With `s` the step from 0, `W` the warm-up's steps and `T` all steps, the factor on [`Schedule::lr`] is
/// - during the warm-up, `s < W`: `s / W` (so a warm-up's first step has learning rate 0),
/// - constant: `1`,
/// - linear: `max(0, (T - s) / max(1, T - W))`,
/// - cosine: `max(0, (1 + cos(pi * (s - W) / max(1, T - W))) / 2)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub lr: f64,
    /// How it goes on after the warm-up.
    pub shape: Shape,
    /// Steps of the warm-up, `W`.
    pub warmup_steps: u32,
    /// Steps of the stage, `T`.
    pub total_steps: u32,
    /// The place of a step less the steps taken before it. 0, but in a [`part`](Self::part).
    ahead: i64,
}

impl Schedule {
    /// The learning rate of a stage of `total_steps`.
    pub fn new(lr: f64, shape: Shape, warmup: Warmup, total_steps: u32) -> Self {
        Self { lr, shape, warmup_steps: warmup.steps(total_steps), total_steps, ahead: 0 }
    }

    /// The learning rate of part `number`, from 0, of a stage in `parts`, which has `steps` after `taken` steps of the parts
    /// before it. Each part takes its share of the course, however many steps it has.
    pub fn part(lr: f64, shape: Shape, warmup: Warmup, steps: u32, number: u32, parts: u32, taken: u32) -> Self {
        let ahead = i64::from(number) * i64::from(steps) - i64::from(taken);
        Self { ahead, ..Self::new(lr, shape, warmup, steps.saturating_mul(parts)) }
    }

    /// The learning rate of the step that follows `done` steps.
    pub fn at(&self, done: u32) -> f64 {
        let s = (i64::from(done) + self.ahead) as f64;
        let [warmup, total] = [self.warmup_steps, self.total_steps].map(f64::from);
        if s < warmup {
            return self.lr * (s / warmup);
        }
        let rest = (total - warmup).max(1.0);
        let factor = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => (total - s) / rest,
            Shape::Cosine => 0.5 * (1.0 + (PI * (s - warmup) / rest).cos()),
        };
        self.lr * factor.max(0.0)
    }
}

/// A setting that is one value for all iterations or a list with one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PerIteration<T> {
    /// The same for all.
    One(T),
    /// One for each.
    Each(Vec<T>),
}

impl<T> PerIteration<T> {
    /// The value of an iteration, counted from 1.
    ///
    /// # Panics
    /// If a list is shorter. Those of a configuration have a value for each iteration: reading it checks that.
    pub fn of(&self, iteration: usize) -> &T {
        match self {
            Self::One(value) => value,
            Self::Each(values) => &values[iteration - 1],
        }
    }

    /// All values that stand here.
    pub fn values(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }
}

// By hand, so that what is wrong with a value is said of the value.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerIteration<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrEach(PhantomData))
    }
}

struct OneOrEach<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrEach<T> {
    type Value = PerIteration<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("one value, or a list with a value for each iteration")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(PerIteration::One)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(PerIteration::One)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(PerIteration::One)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        T::deserialize(value.into_deserializer()).map(PerIteration::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(values)).map(PerIteration::Each)
    }
}

/// When, within an iteration, the opponent becomes the model as it stands then: by name, or as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "expected \"never\", \"epoch\", or a number of steps")]
pub enum Refresh {
    /// Only when the next iteration begins.
    Never,
    /// Before each pass over the prompts.
    Epoch,
    /// After so many optimizer steps.
    #[serde(untagged)]
    Steps(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Factors printed by transformers 5.23.0 for 3 warm-up steps out of 10, steps 0 to 11.
    #[test]
    fn factors_are_those_of_transformers() {
        let third = 1.0 / 3.0;
        let linear = [0.0, third, 2.0 * third, 1.0, 6. / 7., 5. / 7., 4. / 7., 3. / 7., 2. / 7., 1. / 7., 0.0, 0.0];
        let cosine = [
            0.0,
            third,
            2.0 * third,
            1.0,
            0.9504844339512095,
            0.8117449009293668,
            0.6112604669781572,
            0.38873953302184283,
            0.1882550990706332,
            0.04951556604879043,
            0.0,
            0.04951556604879037,
        ];
        let constant = [0.0, third, 2.0 * third, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        for (shape, factors) in [(Shape::Linear, linear), (Shape::Cosine, cosine), (Shape::Constant, constant)] {
            let schedule = Schedule::new(2e-5, shape, Warmup::Steps(3), 10);
            for (step, factor) in factors.into_iter().enumerate() {
                let lr = schedule.at(step as u32);
                assert!((lr - 2e-5 * factor).abs() < 1e-18, "{shape:?}, step {step}: {lr}");
            }
        }
    }

    #[test]
    fn a_share_is_rounded_up_and_no_warm_up_starts_at_the_top() {
        assert_eq!(Warmup::Share(0.1).steps(51), 6);
        assert_eq!(Warmup::Share(0.0).steps(51), 0);
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine] {
            assert_eq!(Schedule::new(3e-4, shape, Warmup::Share(0.0), 7).at(0), 3e-4);
        }
    }

    #[test]
    fn parts_follow_the_course_of_the_whole() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine] {
            let whole = Schedule::new(1e-3, shape, Warmup::Share(0.25), 12);
            let part = |number| Schedule::part(1e-3, shape, Warmup::Share(0.25), 4, number, 3, 4 * number);
            for step in 0..12 {
                assert_eq!(part(step / 4).at(step), whole.at(step), "{shape:?}, step {step}");
            }
            // The first part had a single step, the last one has two: they are its share all the same.
            let short = Schedule::part(1e-3, shape, Warmup::Share(0.25), 2, 2, 3, 1 + 4);
            assert_eq!(
                [5, 6].map(|step| short.at(step)),
                [4, 5].map(|s| Schedule::new(1e-3, shape, Warmup::Share(0.25), 6).at(s))
            );
        }
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Settings {
        beta: PerIteration<f64>,
        warmup: Warmup,
    }

    #[test]
    fn settings_are_a_value_or_a_list() {
        let read = |text: &str| toml::from_str::<Settings>(text).unwrap();
        let one = read("beta = 1\nwarmup.share = 0.1");
        assert_eq!(one, Settings { beta: PerIteration::One(1.0), warmup: Warmup::Share(0.1) });
        assert_eq!(*one.beta.of(7), 1.0);
        let list = read("beta = [0.1, 5]\nwarmup.steps = 4");
        assert_eq!(list.beta.values(), [0.1, 5.0]);
        assert_eq!([1, 2].map(|iteration| *list.beta.of(iteration)), [0.1, 5.0]);
        assert_eq!(read(&toml::to_string(&list).unwrap()), list);
        for (beta, problem) in [
            ("\"x\"", "invalid type: string \"x\", expected f64"),
            ("[1, \"x\"]", "invalid type: string \"x\", expected f64"),
            ("{ x = 1 }", "invalid type: map, expected one value, or a list with a value for each iteration"),
        ] {
            let error = toml::from_str::<Settings>(&format!("beta = {beta}\nwarmup.steps = 4")).unwrap_err();
            assert_eq!(error.message(), problem);
        }
    }

    #[test]
    fn a_refresh_is_a_name_or_a_number_of_steps() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Settings {
            refresh: PerIteration<Refresh>,
        }
        for (text, refresh) in [
            ("refresh = \"never\"\n", PerIteration::One(Refresh::Never)),
            ("refresh = 8\n", PerIteration::One(Refresh::Steps(8))),
            ("refresh = [\"epoch\", 2]\n", PerIteration::Each(vec![Refresh::Epoch, Refresh::Steps(2)])),
        ] {
            let settings: Settings = toml::from_str(text).unwrap();
            assert_eq!(settings.refresh, refresh);
            assert_eq!(toml::to_string(&settings).unwrap(), text);
        }
        let error = toml::from_str::<Settings>("refresh = \"often\"").unwrap_err();
        assert_eq!(error.message(), "expected \"never\", \"epoch\", or a number of steps");
    }
}
