//! Progress bars on stderr. Where stderr is no terminal there are none, and the log lines say what was done.

use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bars on display: one object, so that log lines can be printed above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Shows bars from here on, or not.
pub fn allow_bars(allowed: bool) {
    BARS.set_draw_target(if allowed { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
}

/// A bar of `len` steps, gone when it is finished. `what` names the steps, in the plural.
pub fn bar(what: &'static str, len: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {prefix}{msg} {eta:>4}")
        .expect("the template is a literal")
        .progress_chars("━━─");
    let bar = ProgressBar::new(len as u64).with_style(style).with_prefix(what);
    BARS.add(bar)
}

/// Shows a bar that was hidden so far.
pub fn show(bar: &ProgressBar) {
    BARS.add(bar.clone());
}

/// Does something to stderr while the bars are cleared away.
pub fn above_bars<R>(write: impl FnOnce() -> R) -> R {
    BARS.suspend(write)
}
