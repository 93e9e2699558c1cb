#!/usr/bin/env bash
# Plays `topspin quickstart` and its game once more with stages that last longer, looks on with `topspin watch` on a terminal of 80
# columns and 24 lines, and then of 120 and 36 (tmux), and writes what it showed into docs/watch.md, in the place of what stands there
# between the two marks.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
topspin="$root/target/release/topspin"
work="$(mktemp -d)"
socket="topspin-session-$$"
trap 'tmux -L "$socket" kill-server 2>/dev/null || true; kill "$run" 2>/dev/null && wait "$run" || true; rm -rf "$work"' EXIT

cd "$work"
"$topspin" -q quickstart --output runs/quickstart >/dev/null
"$topspin" -q run runs/quickstart/run/config.toml --set output.dir=runs/longer --set game.samples=2048 >/dev/null &
run=$!
until [[ -e runs/longer/iter-1/rollouts.partial.jsonl ]]; do sleep 0.05; done
tmux -L "$socket" -f /dev/null -u new-session -d -x 80 -y 24 "NO_COLOR=1 LC_ALL=C.UTF-8 '$topspin' watch runs/longer"

# Presses a key, waits for a screen with these texts, and gives it.
show() {
    local key="$1" screen wanted
    shift
    [[ -z "$key" ]] || tmux -L "$socket" send-keys "$key"
    while true; do
        screen="$(tmux -L "$socket" capture-pane -p | sed 's/ *$//')"
        for wanted in "$@"; do
            grep -q "$wanted" <<<"$screen" || { sleep 0.05; continue 2; }
        done
        printf '```text\n%s\n```\n\n' "$screen"
        return
    done
}

{
    printf 'A session beside the game of `topspin quickstart`, on 80 columns and 24 lines and at last on 120 and 36, written by\n`scripts/watch_session.sh`:\n\n'
    show 3 '3 Samples ━ iter-1' 'generated' ' left$'
    show 1 '⠒ iter-1' 'iter-1/train' ' left$'
    show 2 '★  iter-' 'iter-2 '
    tmux -L "$socket" resize-window -x 120 -y 36
    show '' '┌ 1 Curves' '┏ 2 Results' '┌ 3 Samples' '┌ 4 Guards'
} >session

awk -v session="$work/session" '
    /^<!-- session -->$/ { print; print ""; while ((getline line < session) > 0) print line; inside = 1 }
    /^<!-- end of the session -->$/ { inside = 0 }
    !inside && !/^<!-- session -->$/
' "$root/docs/watch.md" >watch.md
cp watch.md "$root/docs/watch.md"
