#!/usr/bin/env bash
# Makes the virtual environment in which the golden files are written: target/oracle-venv, about 6 GB.
# Prints the path of its Python. The versions are pinned: another one may round differently.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
venv="$root/target/oracle-venv"

[[ -x "$venv/bin/python" ]] || python3 -m venv "$venv" >&2
"$venv/bin/python" -m pip install --quiet --requirement "$root/scripts/oracle/requirements.txt" >&2
echo "$venv/bin/python"
