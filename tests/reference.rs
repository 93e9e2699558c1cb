//! docs/reference.md is what the program writes.

use crate::harness::{Sandbox, root};

#[test]
fn the_reference_is_current() {
    let written = Sandbox::new().topspin(&["reference"]).output().unwrap();
    assert!(written.status.success());
    let page = std::fs::read_to_string(root().join("docs/reference.md")).unwrap_or_default();
    assert!(
        String::from_utf8(written.stdout).unwrap() == page,
        "docs/reference.md is not current; write it with `cargo run --release -- reference > docs/reference.md`"
    );
}
