//! Questions with choices, as data sets write them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::ChoiceError;

/// Fields that may hold the choices where `columns` names none.
pub const CHOICES: [&str; 2] = ["choices", "endings"];
/// Fields that may hold the answer where `columns` names none.
pub const ANSWERS: [&str; 3] = ["answer", "answerKey", "label"];

/// The texts that may answer a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The choices, one at least; none is empty.
    pub choices: Vec<String>,
    /// The places of the right ones, counted from 0: several where texts are equal.
    pub right: Vec<usize>,
}

impl Question {
    /// Reads the choices and the answer of a record. Choices are a list of texts, or an object of the lists `text` and `label`.
    /// The answer is a place, counted from 0, as a number; or a text: the label of a choice, its text, its letter (`A` is the first
    /// one) or its place, whichever of these it can be first. `columns` may name the two fields.
    ///
    /// # Errors
    /// Fields are missing, or are something else.
    pub fn new(fields: &Map<String, Value>, columns: &BTreeMap<String, String>) -> Result<Self, ChoiceError> {
        let (field, value) = find(fields, columns, "choices", &CHOICES).ok_or(ChoiceError::NoChoices)?;
        let not_texts = || ChoiceError::NotTexts { field: field.into() };
        let (choices, labels) = texts(value).ok_or_else(not_texts)?;
        if choices.is_empty() {
            return Err(ChoiceError::NoChoices);
        }
        if let Some(place) = choices.iter().position(String::is_empty) {
            return Err(ChoiceError::Empty { field: field.into(), place });
        }
        let (field, answer) = find(fields, columns, "answer", &ANSWERS).ok_or(ChoiceError::NoAnswer)?;
        let right = right(answer, &choices, &labels);
        if right.is_empty() {
            let (field, answer) = (field.into(), answer.to_string());
            return Err(ChoiceError::NotAChoice { field, answer, choices: choices.len() });
        }
        Ok(Self { choices, right })
    }
}

/// The field of that part, and what it holds.
fn find<'a>(
    fields: &'a Map<String, Value>,
    columns: &'a BTreeMap<String, String>,
    part: &str,
    usual: &'a [&'a str],
) -> Option<(&'a str, &'a Value)> {
    let there = |name: &'a str| fields.get(name).filter(|value| !value.is_null()).map(|value| (name, value));
    match columns.get(part) {
        Some(name) => there(name),
        None => usual.iter().find_map(|name| there(name)),
    }
}

/// Texts, and their labels where they have some. A cell of a table has them as JSON.
fn texts(value: &Value) -> Option<(Vec<String>, Vec<String>)> {
    let list = |value: &Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
    };
    match value {
        Value::Array(_) => Some((list(value)?, Vec::new())),
        Value::Object(parts) => {
            let (texts, labels) = (list(parts.get("text")?)?, list(parts.get("label")?)?);
            (texts.len() == labels.len()).then_some((texts, labels))
        }
        Value::String(cell) => {
            serde_json::from_str(cell).ok().filter(|value: &Value| !value.is_string()).and_then(|value| texts(&value))
        }
        _ => None,
    }
}

/// The places of the right choices; none where the answer is none of them.
fn right(answer: &Value, choices: &[String], labels: &[String]) -> Vec<usize> {
    let inside = |place: usize| if place < choices.len() { vec![place] } else { Vec::new() };
    let Value::String(answer) = answer else {
        return answer.as_u64().map_or(Vec::new(), |place| inside(place as usize));
    };
    let same = |texts: &[String]| -> Vec<usize> {
        texts.iter().enumerate().filter(|(_, text)| *text == answer).map(|(place, _)| place).collect()
    };
    let by_text = [labels, choices].map(same).into_iter().find(|places| !places.is_empty());
    by_text.unwrap_or_else(|| match answer.as_bytes() {
        [letter @ b'A'..=b'Z'] => inside(usize::from(letter - b'A')),
        _ => answer.parse().map_or(Vec::new(), inside),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(fields: Value, columns: &[(&str, &str)]) -> Result<Question, ChoiceError> {
        let columns = columns.iter().map(|(part, name)| ((*part).into(), (*name).into())).collect();
        Question::new(fields.as_object().unwrap(), &columns)
    }

    #[test]
    fn answers_are_places_labels_texts_or_letters() {
        let right = |fields: Value| question(fields, &[]).unwrap().right;
        assert_eq!(right(json!({"choices": ["x", "y"], "answer": 1})), [1]);
        assert_eq!(right(json!({"choices": ["x", "y"], "answer": "B"})), [1]);
        assert_eq!(right(json!({"choices": ["x", "y"], "label": "0"})), [0]);
        assert_eq!(right(json!({"choices": ["x", "y", "x"], "answer": "x"})), [0, 2]);
        // A text comes before a place, and a label before both.
        assert_eq!(right(json!({"choices": ["1", "0"], "answer": "0"})), [1]);
        assert_eq!(right(json!({"choices": {"text": ["2", "1"], "label": ["1", "2"]}, "answerKey": "2"})), [1]);
        assert_eq!(right(json!({"choices": r#"["x", "y"]"#, "answer": "y"})), [1]);
        let named = question(json!({"a": ["x", "y"], "b": 1, "choices": 7}), &[("choices", "a"), ("answer", "b")]);
        assert_eq!(named.unwrap().right, [1]);
    }

    #[test]
    fn what_is_no_question_is_told() {
        let error = |fields: Value| question(fields, &[]).unwrap_err();
        assert_eq!(error(json!({"answer": 0})), ChoiceError::NoChoices);
        assert_eq!(error(json!({"choices": [], "answer": 0})), ChoiceError::NoChoices);
        for odd in
            [json!("x"), json!(r#""x""#), json!([1]), json!({"text": ["x"]}), json!({"text": ["x"], "label": []})]
        {
            assert_eq!(error(json!({"choices": odd})), ChoiceError::NotTexts { field: "choices".into() });
        }
        assert_eq!(error(json!({"endings": ["a", ""]})), ChoiceError::Empty { field: "endings".into(), place: 1 });
        assert_eq!(error(json!({"choices": ["a"]})), ChoiceError::NoAnswer);
        for odd in [json!(1), json!("C"), json!("b"), json!(-1), json!([0])] {
            let said = error(json!({"choices": ["a"], "answer": odd}));
            assert_eq!(said, ChoiceError::NotAChoice { field: "answer".into(), answer: odd.to_string(), choices: 1 });
        }
    }
}
