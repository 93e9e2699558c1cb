//! The quick start's task: short questions with one right answer each, and a model that answers with bad habits.

use std::collections::HashSet;

use topspin_kernels::rng::Rng;

/// A question and its one right answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// What is asked.
    pub prompt: String,
    /// The right answer, clean.
    pub answer: String,
}

/// Every character that a question or an answer can hold.
pub const CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?";

/// Ways in which the untrained model spoils an answer. `{}` is the answer.
const HABITS: [&str; 5] = ["um, {}", "well, {}", "{} i think", "{} or so", "maybe {}"];

/// Share of the base model's answers that wear a habit.
pub const HABIT_SHARE: f64 = 0.8;

/// `n` different questions, the four kinds in rotation.
pub fn questions(n: usize, seed: u64) -> Vec<Question> {
    let mut rng = Rng::new(seed, "quickstart questions", 0);
    let mut seen = HashSet::new();
    let kinds = [roman, units, upper, after];
    let mut questions = Vec::with_capacity(n);
    while questions.len() < n {
        let question = kinds[questions.len() % kinds.len()](&mut rng);
        if seen.insert(question.prompt.clone()) {
            questions.push(question);
        }
    }
    questions
}

/// The answer as the base model learns to give it: mostly spoilt by one of the habits.
pub fn habitual(answer: &str, rng: &mut Rng) -> String {
    if rng.uniform() >= HABIT_SHARE {
        return answer.to_owned();
    }
    HABITS[rng.below(HABITS.len())].replace("{}", answer)
}

fn roman(rng: &mut Rng) -> Question {
    const NUMERALS: [(usize, &str); 13] = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let n = 1 + rng.below(3999);
    let (mut rest, mut answer) = (n, String::new());
    for (value, numeral) in NUMERALS {
        while rest >= value {
            answer.push_str(numeral);
            rest -= value;
        }
    }
    Question { prompt: format!("{n} in Roman?"), answer }
}

fn units(rng: &mut Rng) -> Question {
    const UNITS: [(&str, &str, usize); 4] = [("km", "m", 1000), ("kg", "g", 1000), ("m", "cm", 100), ("cm", "mm", 10)];
    let tenths = 1 + rng.below(999);
    let (from, to, factor) = UNITS[rng.below(UNITS.len())];
    Question {
        prompt: format!("{}.{} {from} in {to}?", tenths / 10, tenths % 10),
        answer: format!("{} {to}", tenths * factor / 10),
    }
}

fn upper(rng: &mut Rng) -> Question {
    const SOUNDS: [&[u8]; 2] = [b"bcdfghjklmnprstvwz", b"aeiou"];
    let (len, first) = (3 + rng.below(4), rng.below(2));
    let letter = |at: usize| {
        let sounds = SOUNDS[(first + at) % 2];
        char::from(sounds[rng.below(sounds.len())])
    };
    let word: String = (0..len).map(letter).collect();
    Question { prompt: format!("Upper {word}."), answer: word.to_uppercase() }
}

fn after(rng: &mut Rng) -> Question {
    let n = 1 + rng.below(9998);
    Question { prompt: format!("After {n}?"), answer: (n + 1).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_different_and_right() {
        let questions = questions(4000, 3);
        let prompts: HashSet<&str> = questions.iter().map(|question| question.prompt.as_str()).collect();
        assert_eq!(prompts.len(), questions.len());
        for (at, Question { prompt, answer }) in questions.iter().enumerate() {
            assert!(prompt.chars().chain(answer.chars()).all(|c| CHARACTERS.contains(c)), "{prompt} {answer}");
            let first = prompt.split(' ').next().unwrap();
            match at % 4 {
                0 => assert_eq!(value_of(answer), first.parse::<i32>().unwrap(), "{prompt}"),
                1 => assert_units(prompt, answer),
                2 => assert_eq!(format!("Upper {}.", answer.to_lowercase()), *prompt),
                _ => assert_eq!(format!("After {}?", answer.parse::<u32>().unwrap() - 1), *prompt),
            }
        }
    }

    /// A Roman numeral read back: a smaller digit before a larger one counts negative.
    fn value_of(roman: &str) -> i32 {
        let digit = |c| {
            [('I', 1), ('V', 5), ('X', 10), ('L', 50), ('C', 100), ('D', 500), ('M', 1000)]
                .iter()
                .find(|(d, _)| *d == c)
                .unwrap()
                .1
        };
        let digits: Vec<i32> = roman.chars().map(digit).collect();
        (0..digits.len())
            .map(|i| if digits[i + 1..].first().is_some_and(|&next| next > digits[i]) { -digits[i] } else { digits[i] })
            .sum()
    }

    fn assert_units(prompt: &str, answer: &str) {
        let words: Vec<&str> = prompt.trim_end_matches('?').split(' ').collect();
        let factor = match (words[1], words[3]) {
            ("km", "m") | ("kg", "g") => 1000.0,
            ("m", "cm") => 100.0,
            ("cm", "mm") => 10.0,
            other => panic!("{other:?}"),
        };
        let (value, unit) = answer.split_once(' ').unwrap();
        assert_eq!(unit, words[3]);
        assert!(
            (words[0].parse::<f64>().unwrap() * factor - value.parse::<f64>().unwrap()).abs() < 1e-6,
            "{prompt} {answer}"
        );
    }

    #[test]
    fn habits_spoil_four_answers_in_five() {
        let mut rng = Rng::new(1, "test", 0);
        let spoilt = (0..4000).filter(|_| habitual("MCM", &mut rng) != "MCM").count();
        assert!((3100..3300).contains(&spoilt), "{spoilt}");
    }
}
