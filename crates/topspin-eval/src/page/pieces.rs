//! Texts of tokens, each kept once.

use std::collections::HashMap;

use serde::Serialize;

/// The text of a token where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its part of the text; empty for the first tokens of a character that takes several.
    pub text: String,
    /// Whether it is a token that no ordinary text turns into, such as the end of a turn.
    pub special: bool,
}

/// Spells token ids out, one piece for each.
pub type Spell<'a> = dyn Fn(&[u32]) -> Vec<Piece> + 'a;

/// A table of texts; tokens are places in it.
#[derive(Debug, Default, Serialize)]
pub struct Pieces {
    texts: Vec<String>,
    /// Places of the special ones.
    special: Vec<u32>,
    #[serde(skip)]
    places: HashMap<(String, bool), u32>,
}

impl Pieces {
    /// The place of a text.
    pub fn intern(&mut self, text: &str, special: bool) -> u32 {
        let Self { texts, special: specials, places } = self;
        *places.entry((text.to_owned(), special)).or_insert_with(|| {
            let place = texts.len() as u32;
            texts.push(text.to_owned());
            if special {
                specials.push(place);
            }
            place
        })
    }

    /// The places of several.
    pub fn intern_all(&mut self, pieces: Vec<Piece>) -> Vec<u32> {
        pieces.iter().map(|piece| self.intern(&piece.text, piece.special)).collect()
    }

    /// Token ids as they are, where nothing is known of their text.
    pub fn numbers(ids: &[u32]) -> Vec<Piece> {
        ids.iter().map(|id| Piece { text: format!("[{id}]"), special: false }).collect()
    }
}
