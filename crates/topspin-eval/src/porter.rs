//! The Porter stemmer (Porter, "An algorithm for suffix stripping", 1980), with the changes of Porter's own later version
//! and of NLTK (its default mode, `NLTK_EXTENSIONS`), which ROUGE is computed with. Other stemmers for English cut some words
//! elsewhere.

/// Words whose stem follows no rule.
const IRREGULAR: [(&str, &str); 13] = [
    ("skies", "sky"),
    ("sky", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
];

/// Verbs that keep their end.
const KEPT: [&str; 3] = ["proceed", "exceed", "succeed"];

/// Endings and what they become.
type Rules = &'static [(&'static str, &'static str)];

const STEP_1A: Rules = &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];

const STEP_2: Rules = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: Rules =
    &[("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

const STEP_4: Rules = &[
    ("al", ""),
    ("ance", ""),
    ("ence", ""),
    ("er", ""),
    ("ic", ""),
    ("able", ""),
    ("ible", ""),
    ("ant", ""),
    ("ement", ""),
    ("ment", ""),
    ("ent", ""),
    ("ion", ""),
    ("ou", ""),
    ("ism", ""),
    ("ate", ""),
    ("iti", ""),
    ("ous", ""),
    ("ive", ""),
    ("ize", ""),
];

/// The stem of a word of more than two of the letters a to z and digits.
pub(crate) fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).into();
    }
    if KEPT.contains(&word) {
        return word.into();
    }
    let word = step_1b(step_1a(word));
    let word = step_2(step_1c(word));
    let word = apply(STEP_3, &word, |stem, _| measure(stem) > 0);
    let word =
        apply(STEP_4, &word, |stem, ending| measure(stem) > 1 && (ending != "ion" || stem.ends_with(['s', 't'])));
    step_5(word)
}

/// Replaces the first ending that the word has, if what is before it meets the condition; no other ending is then tried.
fn apply(rules: Rules, word: &str, condition: impl Fn(&str, &str) -> bool) -> String {
    for (ending, becomes) in rules {
        if let Some(stem) = word.strip_suffix(ending) {
            return if condition(stem, ending) { format!("{stem}{becomes}") } else { word.into() };
        }
    }
    word.into()
}

/// Plurals.
fn step_1a(word: &str) -> String {
    match word.strip_suffix("ies") {
        Some(stem) if word.len() == 4 => format!("{stem}ie"),
        _ => apply(STEP_1A, word, |_, _| true),
    }
}

/// Past tenses and participles.
fn step_1b(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word };
    }
    let stems = ["ed", "ing"].into_iter().filter_map(|ending| word.strip_suffix(ending));
    let Some(stem) = stems.filter(|stem| has_vowel(stem)).map(str::to_owned).next() else { return word };
    if stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz") {
        format!("{stem}e")
    } else if ends_in_double_consonant(&stem) {
        if stem.ends_with(['l', 's', 'z']) { stem } else { stem[..stem.len() - 1].into() }
    } else if measure(&stem) == 1 && ends_short(&stem) {
        format!("{stem}e")
    } else {
        stem
    }
}

/// `y` behind a consonant that is not the first letter.
fn step_1c(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && consonants(stem).last() == Some(true) => format!("{stem}i"),
        _ => word,
    }
}

fn step_2(word: String) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return step_2(format!("{stem}al"));
    }
    match word.strip_suffix("logi") {
        // The l counts with what is before it, so that short words like `geology` are cut too.
        Some(stem) if measure(&format!("{stem}l")) > 0 => format!("{stem}log"),
        _ => apply(STEP_2, &word, |stem, _| measure(stem) > 0),
    }
}

/// A final e, and one of two final l.
fn step_5(word: String) -> String {
    let word = match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => stem.into(),
        _ => word,
    };
    match word.strip_suffix('l') {
        Some(stem) if stem.ends_with('l') && measure(stem) > 1 => stem.into(),
        _ => word,
    }
}

/// Whether each letter is a consonant: none of a, e, i, o, u, and y only where no consonant is before it.
fn consonants(word: &str) -> impl Iterator<Item = bool> {
    word.bytes().scan(false, |before, letter| {
        *before = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !*before,
            _ => true,
        };
        Some(*before)
    })
}

fn has_vowel(word: &str) -> bool {
    consonants(word).any(|consonant| !consonant)
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(word: &str) -> usize {
    consonants(word).zip(consonants(word).skip(1)).filter(|&pair| pair == (false, true)).count()
}

fn ends_in_double_consonant(word: &str) -> bool {
    let letters = word.as_bytes();
    letters.len() > 1
        && letters[letters.len() - 1] == letters[letters.len() - 2]
        && consonants(word).last() == Some(true)
}

/// Porter's *o: an end of consonant, vowel and a consonant other than w, x and y; NLTK adds words of a vowel and a
/// consonant.
fn ends_short(word: &str) -> bool {
    let letters: Vec<bool> = consonants(word).collect();
    letters == [false, true] || (letters.ends_with(&[true, false, true]) && !word.ends_with(['w', 'x', 'y']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_are_those_of_nltk() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/metrics/stems.json");
        let stems: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(stems.len() > 300);
        for (word, expected) in stems {
            assert_eq!(stem(&word), expected.as_str().unwrap(), "{word}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_word_has_a_stem(head in "[a-z0-9]{1,9}", ending in "(alli|logi|ing|eed|ies|ied|y|ll|ion|e)?") {
            let word = head + &ending;
            proptest::prop_assert!(word.len() < 3 || (1..=word.len() + 1).contains(&stem(&word).len()));
        }
    }
}
