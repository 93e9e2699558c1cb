//! White space as Python knows it: the tools whose figures these agree with part words by it.

/// Whether Python's `str.split` parts words at a character: at those of Unicode's White_Space, and at four separators of
/// ASCII that Unicode leaves out.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The words between white space.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}
