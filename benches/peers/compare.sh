#!/usr/bin/env bash
# Builds Topspin and times it in turn with PyTorch, on the same cores, model and token ids.
#   benches/peers/compare.sh generate|train [--dtype f32|bf16] [--size N] [--rounds N] [--cores 0,1]
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="$root/target/oracle-venv/bin/python"
[[ -x "$python" ]] || "$root/scripts/oracle/setup.sh" >&2
[[ -d "$root/target/models/smollm2-hf" ]] || "$python" "$root/scripts/oracle/smollm2.py" >&2
(cd "$root" && cargo build --release --quiet -p topspin)
exec "$python" "$root/benches/peers/compare.py" "$@"
