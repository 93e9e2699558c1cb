#!/usr/bin/env bash
# Plays `topspin quickstart`, looks on with `topspin watch` on a terminal of 80 columns and 24 lines (tmux), and writes what it showed
# into docs/watch.md, in the place of what stands there between the two marks.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
topspin="$root/target/release/topspin"
work="$(mktemp -d)"
socket="topspin-session-$$"
trap 'tmux -L "$socket" kill-server 2>/dev/null || true; kill "$run" 2>/dev/null || true; rm -rf "$work"' EXIT

cd "$work"
"$topspin" -q quickstart --output runs/quickstart >/dev/null &
run=$!
until [[ -e runs/quickstart/run/iter-2/metrics.partial.jsonl ]]; do sleep 0.1; done
tmux -L "$socket" -f /dev/null -u new-session -d -x 80 -y 24 "NO_COLOR=1 LC_ALL=C.UTF-8 '$topspin' watch runs/quickstart/run"

# Presses a key, waits for a text, and gives the screen.
show() {
    [[ -z "$1" ]] || tmux -L "$socket" send-keys "$1"
    until tmux -L "$socket" capture-pane -p | grep -q "$2"; do sleep 0.1; done
    sleep 1.2
    printf '```text\n'
    tmux -L "$socket" capture-pane -p | sed 's/ *$//'
    printf '```\n\n'
}

{
    printf 'A session beside `topspin quickstart`, written by `scripts/watch_session.sh`:\n\n'
    show '' '⠒ iter-'
    show 3 'generated'
    show 2 '★'
} >session

awk -v session="$work/session" '
    /^<!-- session -->$/ { print; print ""; while ((getline line < session) > 0) print line; inside = 1 }
    /^<!-- end of the session -->$/ { inside = 0 }
    !inside && !/^<!-- session -->$/
' "$root/docs/watch.md" >watch.md
cp watch.md "$root/docs/watch.md"
