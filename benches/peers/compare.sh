#!/usr/bin/env bash
# Builds Topspin and times it in turn with TRL, transformers and vLLM, on the same cores, model and token ids; writes RESULTS.md.
#   benches/peers/compare.sh --data FILE [--only WORK,...] [--rounds N] [--cores 0,1]
# FILE: JSON lines with `prompt` and `response`, 512 distinct prompts at least, for the whole iteration.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
"$root/benches/peers/setup.sh" >&2
python="$root/target/oracle-venv/bin/python"
model="$root/target/models/smollm2-hf"
tokens=(--out "$root/target/peers" --model "$model")
if [[ "${1:-}" == --data ]]; then
    tokens+=(--data "$2")
    shift 2
fi
"$python" "$root/benches/peers/make_tokens.py" "${tokens[@]}"
(cd "$root" && cargo build --release --locked --quiet -p topspin)
exec "$python" "$root/benches/peers/compare.py" "$@"
