//! The keys of the configuration, out of the source file that defines them: there each stands with its meaning and the
//! reason of its default, and nowhere else.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use topspin_game::config::Config;
use topspin_game::objective::Objective;

/// The definition of the tables.
const SOURCE: &str = include_str!("../../../../topspin-game/src/config/mod.rs");
/// The definition of `[game]`.
const GAME: &str = include_str!("../../../../topspin-game/src/config/game.rs");
/// The definition of `[guard]`.
const GUARD: &str = include_str!("../../../../topspin-game/src/config/guard.rs");
/// The definition of [`topspin_game::config::Score`].
const SCORE: &str = include_str!("../../../../topspin-game/src/config/score.rs");
/// The definition of [`topspin_data::RecordShape`].
const DATA: &str = include_str!("../../../../topspin-data/src/shape.rs");
/// The definition of [`topspin_game::schedule::Shape`].
const SCHEDULE: &str = include_str!("../../../../topspin-game/src/schedule.rs");
/// The definition of [`topspin_game::opponent::Opponent`].
const OPPONENT: &str = include_str!("../../../../topspin-game/src/opponent.rs");

/// The definition of a task of an evaluation.
const TASK: &str = include_str!("../../../../topspin-eval/src/task/settings.rs");

/// A struct or an enum of the source: its comment, and its fields or variants.
#[derive(Default)]
struct Item {
    comment: String,
    /// Name, type (empty for a variant), comment.
    members: Vec<(String, String, String)>,
    /// Whether its variants are spelt with underscores; else they are spelt in small letters alone.
    in_snake_case: bool,
}

/// The tables of the configuration as a chapter of the reference.
pub fn chapter() -> String {
    let mut items = items(SOURCE);
    items.extend(self::items(GAME));
    items.extend(self::items(GUARD));
    items.extend(self::items(SCORE));
    items.extend(self::items(SCHEDULE).remove_entry("Shape"));
    items.extend(self::items(DATA).remove_entry("RecordShape"));
    items.extend(self::items(OPPONENT).remove_entry("Opponent"));
    items.insert("Objective".into(), objectives());
    let defaults: BTreeMap<_, _> = Config::default().entries().into_iter().collect();
    let mut page = String::new();
    for (table, kind, _) in &items["Config"].members {
        write_heading(&mut page, &items[kind].comment);
        for (key, kind, comment) in &items[kind].members {
            let default = &defaults[&format!("{table}.{key}")];
            let varying = kind.strip_prefix("PerIteration<").and_then(|kind| kind.strip_suffix('>'));
            let by_iteration = if varying.is_some() { ", or a list by iteration" } else { "" };
            let choices = items.get(varying.unwrap_or(kind)).map(choices).unwrap_or_default();
            let _ = writeln!(page, "- `{key} = {default}`{by_iteration}: {comment}{choices}");
        }
        // Lists of tables, which have no defaults of their own.
        let lists = items[kind].members.iter().filter_map(|(_, kind, _)| kind.strip_prefix("Vec<")?.strip_suffix('>'));
        for item in lists.filter_map(|kind| items.get(kind)) {
            write_heading(&mut page, &item.comment);
            for (key, _, comment) in &item.members {
                let _ = writeln!(page, "- `{key}`: {comment}");
            }
        }
    }
    page
}

/// The keys of a task of an evaluation.
pub fn tasks() -> String {
    let items = items(TASK);
    let mut page = String::new();
    write_heading(&mut page, &items["TaskSettings"].comment);
    for (key, _, comment) in &items["TaskSettings"].members {
        let _ = writeln!(page, "- `{key}`: {comment}");
    }
    page
}

/// A table's heading: its name, and what it is about below.
fn write_heading(page: &mut String, comment: &str) {
    let (name, about) = comment.split_once(": ").unwrap_or((comment, ""));
    let mut first = about.chars();
    let about = first.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default() + first.as_str();
    let _ = writeln!(page, "\n### {name}\n\n{about}\n");
}

/// What the value of a key may be, where that is a name.
fn choices(item: &Item) -> String {
    if item.members.len() < 2 {
        return String::new();
    }
    let said = item.members.iter().map(|(name, _, comment)| {
        let meaning = if comment.is_empty() { String::new() } else { format!(" ({})", comment.trim_end_matches('.')) };
        let name = if item.in_snake_case { in_snake_case(name) } else { name.to_lowercase() };
        format!("`\"{name}\"`{meaning}")
    });
    format!(" One of {}.", said.collect::<Vec<_>>().join(", "))
}

/// A variant's name with underscores.
fn in_snake_case(name: &str) -> String {
    let mut spelt = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            spelt.push('_');
        }
        spelt.extend(letter.to_lowercase());
    }
    spelt
}

/// The objectives, which a macro defines.
fn objectives() -> Item {
    let member = |&objective: &Objective| (name(objective), String::new(), objective.about().into());
    Item { members: Objective::ALL.iter().map(member).collect(), ..Item::default() }
}

/// What a value is called in a configuration.
fn name(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).expect("it is a name");
    value.as_str().expect("it is a name").to_owned()
}

/// The public structs and enums of a Rust source that is formatted by rustfmt.
fn items(source: &str) -> BTreeMap<String, Item> {
    let mut items = BTreeMap::new();
    let mut comment = String::new();
    let mut in_snake_case = false;
    let mut open: Option<(String, Item)> = None;
    for line in source.lines() {
        let text = line.trim();
        if let Some(words) = text.strip_prefix("///") {
            comment.push_str(if comment.is_empty() { words.trim() } else { words });
        } else if text.starts_with("#[") {
            // Attributes stand between a comment and what it is about.
            in_snake_case |= text == "#[serde(rename_all = \"snake_case\")]";
        } else if let Some((_, item)) = &mut open {
            if line == "}" {
                items.extend(open.take());
            } else if let Some((name, kind)) =
                text.trim_start_matches("pub ").trim_start_matches("r#").trim_end_matches(',').split_once(": ")
            {
                item.members.push((name.into(), kind.into(), std::mem::take(&mut comment)));
            } else if text.ends_with(',') {
                item.members.push((text.trim_end_matches(',').into(), String::new(), std::mem::take(&mut comment)));
            }
        } else {
            let rest = text.strip_prefix("pub struct ").or_else(|| text.strip_prefix("pub enum "));
            let comment = std::mem::take(&mut comment);
            let in_snake_case = std::mem::take(&mut in_snake_case);
            open = rest
                .and_then(|rest| rest.strip_suffix(" {"))
                .map(|name| (name.into(), Item { comment, in_snake_case, ..Item::default() }));
        }
    }
    items
}
