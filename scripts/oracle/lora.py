"""Writes tests/golden/lora: random LoRA adapters of models of tests/golden/families, and what the two must compute.

    python lora.py [--out FOLDER] [--seed N] [--families FOLDER]

Run it with the Python that scripts/oracle/setup.sh prints. With another seed than 0 the rank and alpha are drawn too: write
those elsewhere and let the tests read them, as tests/golden/README.md says. `--families` is where the models are.
"""

import argparse
import copy
import json
import os
import random
import sys
from pathlib import Path

# PEFT keeps names of modules in a set and saves them in its order.
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"})

import families
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
TOTAL_BYTES = 150_000
# How little an adapter may change a log-probability of the longest sequence at most, for its effect to be seen.
EFFECT = 0.1

# By name of the folder: the model, the settings, and the modules (behind `model.layers.`) whose gradients are kept.
CASES = {
    "llama-all-linear": (
        "llama-llama3",
        dict(r=4, lora_alpha=8, target_modules=ATTENTION + MLP),
        ("0.self_attn.q_proj", "1.mlp.up_proj", "2.mlp.down_proj"),
    ),
    "qwen2-qv-rslora": (
        "qwen2",
        dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj"]),
        ("0.self_attn.v_proj", "1.self_attn.q_proj", "2.self_attn.v_proj"),
    ),
    "gemma2-attn": (
        "gemma2",
        dict(r=2, lora_alpha=3, target_modules=r".*self_attn\.(k|o)_proj"),
        ("0.self_attn.k_proj", "1.self_attn.o_proj", "2.self_attn.k_proj"),
    ),
    "phi3-fused": (
        "phi3",
        dict(r=3, lora_alpha=6, target_modules="all-linear"),
        ("0.self_attn.qkv_proj", "1.mlp.gate_up_proj", "2.self_attn.o_proj"),
    ),
    "smollm3-layers": (
        "smollm3",
        dict(r=4, lora_alpha=4, target_modules=["k_proj", "v_proj", "gate_proj", "down_proj"], layers_to_transform=[1]),
        ("1.self_attn.k_proj", "1.mlp.gate_proj", "1.mlp.down_proj"),
    ),
    "olmo2-pattern": (
        "olmo2",
        dict(
            r=3,
            lora_alpha=6,
            target_modules=ATTENTION + MLP,
            # The first pattern that matches counts; `^` holds it to the whole name of the module.
            rank_pattern={r"layers\.1\.self_attn\.(q|k)_proj": 5, "q_proj": 1, "^model.layers.2.mlp.up_proj": 2},
            alpha_pattern={"down_proj": 4, r"layers\.1\.self_attn\.q_proj": 9},
            exclude_modules=["o_proj", "layers.0.mlp.gate_proj"],
        ),
        ("0.self_attn.q_proj", "1.self_attn.q_proj", "2.mlp.down_proj"),
    ),
}


def load(base):
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32).eval()


def adapt(base, settings, seed):
    """The model with an adapter whose updates are about as large as the weights that they change."""
    generator = torch.Generator().manual_seed(seed)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise / parameter.shape[-1] ** 0.5 if "lora_A" in name else 0.3 * noise)
    return model, generator


def responses(model, pairs):
    return [{side: families.logprobs(model, pair["prompt"], pair[side]) for side in families.SIDES} for pair in pairs]


@torch.no_grad()
def merged_logprobs(model, sequences):
    """Log-probabilities of tokens 1.. of each sequence, the adapter added to the weights."""
    merged = copy.deepcopy(model).merge_and_unload()
    found = {i: families.logprobs(merged, tokens[:1], tokens[1:]) for i, tokens in enumerate(sequences) if len(tokens) > 1}
    return {f"merged.logprobs.{i}": logprobs.contiguous() for i, logprobs in found.items()}


def compute(base, settings, modules, seed):
    """The adapted model, its expected tensors and scalars; nothing if they turn on rounding or the adapter does little."""
    model, generator = adapt(base, settings, seed)
    sequences, prompts, pairs = families.draw_inputs(model.config.vocab_size, generator)
    with torch.no_grad(), model.disable_adapter():
        opponents = responses(model, pairs)
        unadapted = families.logprobs(model, sequences[-1][:1], sequences[-1][1:])
    gradients = [f"base_model.model.model.layers.{module}.lora_{ab}.default.weight" for module in modules for ab in "AB"]
    found = families.judge(model, sequences, prompts, pairs, opponents, gradients)
    if found is None:
        return None

    model, tensors, scalars = found
    if (tensors[f"logprobs.{len(sequences) - 1}"] - unadapted).abs().max() < EFFECT:
        return None
    merged, double = (merged_logprobs(each, sequences) for each in (model, copy.deepcopy(model).double()))
    if max(families.distance(tensor, double[name]) for name, tensor in merged.items()) > families.ROUNDING:
        return None

    # Files call a parameter as PEFT does, but without the name of the adapter.
    tensors = {name.replace(".default.", "."): tensor for name, tensor in (tensors | merged).items()}
    scalars["gradients"] = [name.replace(".default.", ".") for name in gradients]
    return model, tensors, {"peft": peft.__version__, "base": base, **scalars}


def check_saved(folder, base):
    """That the files, read again, are the adapter."""
    sequences = json.loads((folder / "expected.json").read_text())["sequences"]
    tensors = load_file(folder / "expected.safetensors")
    model = PeftModel.from_pretrained(load(base), folder).eval()
    with torch.no_grad():
        for i, tokens in enumerate(sequences):
            assert torch.equal(model(torch.tensor([tokens])).logits[0, -1], tensors[f"logits.{i}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=families.GOLDEN / "lora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", type=Path, default=families.GOLDEN / "families")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = args.out.resolve()
    # PEFT saves the path that a model was read from: here, its name.
    os.chdir(args.families)
    draw, total = random.Random(args.seed) if args.seed else None, 0
    for name, (base, settings, modules) in CASES.items():
        drawn = dict(r=draw.randrange(1, 9), lora_alpha=draw.randrange(1, 13)) if draw else {}
        total += families.write(
            out / name, lambda attempt: compute(base, settings | drawn, modules, 1000 * args.seed + attempt)
        )
        check_saved(out / name, base)
    assert draw or total < TOTAL_BYTES, "too large to be committed"


if __name__ == "__main__":
    main()
