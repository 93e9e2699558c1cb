"""Writes tests/golden/policy/expected.json: the weighted fit of a policy step on tests/golden/tiny-llama, in float64 by
reference.py and autograd.

The loss is formed from its definition, prompt by prompt and row by row: sum over samples of softmax(f / beta) times minus
the log-probability. Run it with the Python that scripts/oracle/setup.sh prints.
"""

import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

import reference

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
BETA = 0.7
SAMPLES = 4
STEPS = 4
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)


def make_prompts(vocabulary):
    rng = random.Random(17)
    tokens = lambda most: [rng.randrange(vocabulary) for _ in range(rng.randint(1, most))]  # noqa: E731
    prompts = [
        {"prompt": tokens(6), "samples": [tokens(7) for _ in range(SAMPLES)], "scores": [rng.uniform(-2, 2) for _ in range(SAMPLES)]}
        for _ in range(3)
    ]  # fmt: skip
    # Two draws of the same response, and two that begin alike.
    prompts[0]["samples"][2], prompts[0]["scores"][2] = prompts[0]["samples"][1], prompts[0]["scores"][1]
    prompts[1]["samples"][3] = prompts[1]["samples"][0] + tokens(3)
    return prompts


def loss_of(parameters, config, prompts):
    per_prompt = []
    for entry in prompts:
        weights = torch.softmax(torch.tensor(entry["scores"], dtype=torch.float64) / BETA, 0)
        logps = []
        for sample in entry["samples"]:
            rows = reference.logits(parameters, config, entry["prompt"] + sample)[len(entry["prompt"]) - 1 : -1]
            logps.append(rows.log_softmax(-1).gather(1, torch.tensor(sample)[:, None]).sum())
        per_prompt.append(-(weights * torch.stack(logps)).sum())
    return torch.stack(per_prompt).mean()


def probe(gradient):
    """The gradient of a tensor in two numbers: its norm, and its product with a vector that treats no element alike."""
    flat = gradient.flatten()
    return [flat.norm().item(), (flat * torch.cos(0.37 * torch.arange(len(flat), dtype=torch.float64))).sum().item()]


def main():
    config = LlamaConfig.from_pretrained(GOLDEN / "tiny-llama")
    weights = load_file(GOLDEN / "tiny-llama" / "model.safetensors")
    parameters = {name: tensor.double().requires_grad_() for name, tensor in weights.items()}
    prompts = make_prompts(config.vocab_size)
    optimizer = torch.optim.AdamW(parameters.values(), foreach=False, **ADAMW)
    losses, norms, probes = [], [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(parameters, config, prompts)
        loss.backward()
        if step == 0:
            probes = {name: probe(parameter.grad) for name, parameter in parameters.items()}
        losses.append(loss.item())
        norms.append(torch.sqrt(sum((parameter.grad**2).sum() for parameter in parameters.values())).item())
        optimizer.step()
    expected = {
        "beta": BETA, "prompts": prompts, "adamw": {**ADAMW, "loss": losses, "grad_norm": norms}, "gradients": probes,
    }  # fmt: skip
    folder = GOLDEN / "policy"
    folder.mkdir(exist_ok=True)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(losses, norms)


if __name__ == "__main__":
    main()
