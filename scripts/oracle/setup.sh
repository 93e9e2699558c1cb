#!/usr/bin/env bash
# Makes the virtual environment in which the golden files are written: target/oracle-venv, about 6 GB; or, with the argument
# `metrics`, that of answers' measures: target/metrics-venv, 0.8 GB; or `tensorboard`, that of a run's figures:
# target/tensorboard-venv, 0.2 GB, which tests/events.rs looks for.
# Prints the path of its Python. The versions are pinned: another one may round differently.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
case "${1:-}" in
    "") venv="$root/target/oracle-venv" requirements=requirements.txt ;;
    metrics) venv="$root/target/metrics-venv" requirements=requirements-metrics.txt ;;
    tensorboard) venv="$root/target/tensorboard-venv" requirements=requirements-tensorboard.txt ;;
    *) echo "unknown environment '$1'; leave it out or name 'metrics' or 'tensorboard'" >&2 && exit 2 ;;
esac

[[ -x "$venv/bin/python" ]] || python3 -m venv "$venv" >&2
"$venv/bin/python" -m pip install --quiet --requirement "$root/scripts/oracle/$requirements" >&2
echo "$venv/bin/python"
