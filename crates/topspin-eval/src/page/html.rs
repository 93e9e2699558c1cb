//! The page itself: what was read goes into the template as data, and the script draws it.

use std::io::{self, BufWriter, IntoInnerError, Write};

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::RunPage;
use super::results::{Differences, Row};

const TEMPLATE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/page.css");
/// The parts of the script, in order: each uses those before it.
const SCRIPT: [&str; 9] = [
    include_str!("assets/dom.js"),
    include_str!("assets/chart.js"),
    include_str!("assets/results.js"),
    include_str!("assets/curves.js"),
    include_str!("assets/tokens.js"),
    include_str!("assets/tests.js"),
    include_str!("assets/training.js"),
    include_str!("assets/game.js"),
    include_str!("assets/main.js"),
];

/// What the script draws at once.
#[derive(Serialize)]
struct Runs<'a> {
    /// The version that writes the page.
    version: &'static str,
    pages: &'a [RunPage],
    /// How the stages of the second run differ from those of the same name in the first.
    between: Vec<Differences>,
}

/// Writes the page of one run, or of two over each other.
///
/// # Errors
/// Those of `out`.
pub fn html(runs: &[RunPage], out: &mut dyn Write) -> io::Result<()> {
    let script = SCRIPT.concat();
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let mut game = Vec::new();
    for run in runs {
        game.push(packed(&run.game)?);
    }
    let parts = [
        ("title", text(&names.join(" and "))),
        ("policy", format!("script-src {}; style-src {}", hash(&script), hash(STYLE))),
        ("style", STYLE.into()),
        ("runs", json(&Runs { version: env!("CARGO_PKG_VERSION"), pages: runs, between: between(runs) })?),
        ("game", game.join("\n")),
        ("script", script),
    ];
    // One pass over the template alone: what a run holds is never looked at for names of parts.
    let mut rest = TEMPLATE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("the template closes its parts");
        let (_, part) = parts.iter().find(|(part, _)| *part == name).expect("the template names parts that there are");
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

fn between(runs: &[RunPage]) -> Vec<Differences> {
    let [first, second] = runs else { return Vec::new() };
    let same = |(to, row): (usize, &Row)| Some((first.results.place(&row.folder)?, to));
    let places = second.results.rows.iter().enumerate().filter_map(same);
    places
        .map(|(from, to)| Differences::new((from, &first.results.rows[from]), (to, &second.results.rows[to])))
        .collect()
}

/// Text in HTML.
fn text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// JSON in a script element, which ends at the first `</script` and knows comments: without `<` there is neither.
fn json(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

/// A value as gzipped JSON in base 64, of whose letters none means anything to HTML.
fn packed(value: &impl Serialize) -> io::Result<String> {
    // Each write costs the encoder as much as one of some kilobytes, and serde's are of a few bytes.
    let mut gz = BufWriter::new(GzEncoder::new(Vec::new(), Compression::default()));
    serde_json::to_writer(&mut gz, value)?;
    let gz = gz.into_inner().map_err(IntoInnerError::into_error)?;
    Ok(BASE64_STANDARD.encode(gz.finish()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_run_is_never_markup() {
        assert_eq!(text("a</title><b \"&amp;"), "a&lt;/title&gt;&lt;b &quot;&amp;amp;");
        let nasty = "</script><script>alert(1)</script><!--";
        let written = json(&nasty).unwrap();
        assert!(!written.contains('<'));
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), nasty);
    }
}
