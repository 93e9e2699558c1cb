"""Writes tests/golden/tiny-llama and tests/golden/tiny-llama-tied: two random Llamas and what they must compute.

Run it with the Python that scripts/oracle/setup.sh prints. Every figure is computed in float32 on the CPU, as users
do, and compared with a float64 run of reference.py; a disagreement beyond 1e-5 stops the script.
tests/golden/README.md names what is written.
"""

import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import reference

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

# The seeds are chosen: in most draws some gradient element is so near to zero that its sign is rounding noise, which
# RMSprop's first step turns into a whole step. In these none is.
VARIANTS = {
    "tiny-llama": dict(
        seed=2,
        vocab_size=97,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
    # Odd sizes, one key/value head, and heads that together are wider than the residual stream.
    "tiny-llama-tied": dict(
        seed=34,
        vocab_size=61,
        hidden_size=33,
        intermediate_size=45,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=16,
        rope_theta=500000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    ),
}
SEQUENCE_LENGTHS = (1, 2, 7, 16, 33)
PAIR_LENGTHS = ((5, 6, 7), (1, 1, 5), (9, 4, 1), (3, 11, 8))  # prompt, real, generated
GREEDY_TOKENS = 12
BETA = 0.1
STEPS = 5
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
RMSPROP = dict(lr=1e-3, alpha=0.99, eps=1e-8, momentum=0.0, centered=False)
MAX_NORM = 0.5


def make_model(seed, rope_theta, **shape):
    """A Llama whose gradients are not tiny and whose norm weights are not one."""
    config = LlamaConfig(
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        attn_implementation="eager",
        **shape,
    )
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name else noise)
    return model, generator


def random_tokens(length, config, generator):
    return torch.randint(config.vocab_size, (length,), generator=generator).tolist()


def make_pairs(config, generator):
    pairs = []
    for prompt, real, generated in PAIR_LENGTHS:
        pairs.append({
            "prompt": random_tokens(prompt, config, generator),
            "real": random_tokens(real, config, generator),
            "generated": random_tokens(generated, config, generator),
        })
    # Two responses that begin alike: equal tokens in both branches must not be taken for one another.
    pairs[0]["generated"][:3] = pairs[0]["real"][:3]
    return pairs


class Hub:
    """transformers in float32, one unpadded row per call."""

    def __init__(self, model):
        self.model = model

    def logits(self, tokens):
        return self.model(torch.tensor([tokens])).logits[0]

    def parameters(self):
        return dict(self.model.named_parameters())


class Reference:
    """reference.py in float64, from the same weights."""

    def __init__(self, model):
        self.config = model.config
        self.weights = {
            name: parameter.detach().double().requires_grad_() for name, parameter in model.named_parameters()
        }

    def logits(self, tokens):
        return reference.logits(self.weights, self.config, tokens)

    def parameters(self):
        return self.weights


def response_logprobs(engine, prompt, response):
    """Log-probability of every response token, [len(response)]."""
    predictions = engine.logits(prompt + response)[len(prompt) - 1 : -1].log_softmax(-1)
    return predictions.gather(1, torch.tensor(response)[:, None])[:, 0]


def spin(engine, pairs, opponent):
    """The logistic loss of the batch, its margins, and the policy's log-probabilities."""
    policy = [{side: response_logprobs(engine, pair["prompt"], pair[side]) for side in SIDES} for pair in pairs]
    margins = torch.stack([
        BETA * (now["real"].sum() - then["real"].to(now["real"].dtype).sum())
        - BETA * (now["generated"].sum() - then["generated"].to(now["real"].dtype).sum())
        for now, then in zip(policy, opponent)
    ])
    return F.softplus(-margins).mean(), margins, policy


SIDES = ("real", "generated")


def train(engine, make_optimizer, pairs, opponent, max_norm=None):
    """Parameters after STEPS updates, with the loss and the gradient norm before each of them."""
    parameters = engine.parameters()
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = make_optimizer(list(parameters.values()))
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _, _ = spin(engine, pairs, opponent)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm if max_norm else float("inf"))
        losses.append(loss.item())
        norms.append(norm.item())
        optimizer.step()
    after = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(start[name])
            parameter.grad = None
    return after, {"loss": losses, "grad_norm": norms}


def compute(engine, sequences, prompts, pairs, opponent):
    """Everything that is stored: (tensors, scalars)."""
    tensors, scalars = {}, {}
    for i, tokens in enumerate(sequences):
        logits = engine.logits(tokens)
        tensors[f"logits.{i}"] = logits
        if len(tokens) > 1:
            targets = torch.tensor(tokens[1:])[:, None]
            tensors[f"logprobs.{i}"] = logits[:-1].log_softmax(-1).gather(1, targets)[:, 0]
    scalars["greedy"] = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(GREEDY_TOKENS):
            tokens.append(engine.logits(tokens)[-1].argmax().item())
        scalars["greedy"].append(tokens[len(prompt) :])

    loss, margins, policy = spin(engine, pairs, opponent)
    loss.backward()
    scalars["spin"] = {"loss": loss.item(), "margins": margins.tolist()}
    for i, sides in enumerate(policy):
        for side, logprobs in sides.items():
            tensors[f"policy.{i}.{side}"] = logprobs
    for name, parameter in engine.parameters().items():
        tensors[f"grad.{name}"] = parameter.grad.clone()

    runs = {
        "adamw": (lambda p: torch.optim.AdamW(p, foreach=False, **ADAMW), None),
        "adamw_clipped": (lambda p: torch.optim.AdamW(p, foreach=False, **ADAMW), MAX_NORM),
        "rmsprop": (lambda p: torch.optim.RMSprop(p, foreach=False, **RMSPROP), None),
    }
    for run, (make_optimizer, max_norm) in runs.items():
        after, scalars[run] = train(engine, make_optimizer, pairs, opponent, max_norm)
        tensors |= {f"{run}.{name}": parameter for name, parameter in after.items()}
    return {name: tensor.detach() for name, tensor in tensors.items()}, scalars


def distance(a, b):
    """Largest difference, relative to the largest magnitude in the tensor."""
    a, b = torch.as_tensor(a).double(), torch.as_tensor(b).double()
    return ((a - b).abs().max() / b.abs().max()).item()


def compare(single, double):
    """Prints how far float32 is from float64, by group, and refuses more than 1e-5."""
    (tensors, scalars), (tensors64, scalars64) = single, double
    worst = {}
    for name, tensor in tensors.items():
        group = name.split(".")[0]
        worst[group] = max(worst.get(group, 0.0), distance(tensor, tensors64[name]))
    for run, values in scalars.items():
        if run == "greedy":
            assert values == scalars64[run], "float32 and float64 choose different greedy tokens"
            continue
        for field, value in values.items():
            worst[f"{run}.{field}"] = distance(value, scalars64[run][field])
    for group, value in worst.items():
        print(f"  {group:<24} {value:.1e}")
    assert max(worst.values()) < 1e-5, "float32 is too far from float64; choose another seed"


def write(name, seed, rope_theta, **shape):
    print(name)
    model, generator = make_model(seed, rope_theta, **shape)
    config = model.config
    sequences = [random_tokens(length, config, generator) for length in SEQUENCE_LENGTHS]
    pairs = make_pairs(config, generator)

    # The opponent is another model, so that no margin is zero.
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        opponent = [
            {side: response_logprobs(Hub(model), pair["prompt"], pair[side]) for side in SIDES} for pair in pairs
        ]
    model.load_state_dict(weights)

    prompts = sequences[:4]
    single = compute(Hub(model), sequences, prompts, pairs, opponent)
    compare(single, compute(Reference(model), sequences, prompts, pairs, opponent))
    tensors, scalars = single
    for i, sides in enumerate(opponent):
        tensors |= {f"opponent.{i}.{side}": logprobs for side, logprobs in sides.items()}
    print(f"  loss {scalars['spin']['loss']:.6f}, margins {scalars['spin']['margins']}")
    print(f"  gradient norms {scalars['adamw']['grad_norm']}, clipped run {scalars['adamw_clipped']['grad_norm']}")

    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    (folder / "model.safetensors").chmod(0o644)
    if config.tie_word_embeddings:
        rewrite_config_in_older_layout(folder / "config.json", rope_theta)
    again = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert torch.equal(Hub(again).logits(sequences[-1]), tensors[f"logits.{len(sequences) - 1}"])

    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "expected.safetensors")
    (folder / "expected.safetensors").chmod(0o644)
    expected = {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "seed": seed,
        "sequences": sequences,
        "greedy": scalars["greedy"],
        "spin": {"beta": BETA, "pairs": pairs, **scalars["spin"]},
        "adamw": {"steps": STEPS, **ADAMW, **scalars["adamw"]},
        "adamw_clipped": {"steps": STEPS, **ADAMW, "max_norm": MAX_NORM, **scalars["adamw_clipped"]},
        "rmsprop": {"steps": STEPS, **RMSPROP, **scalars["rmsprop"]},
    }
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items())
    (folder / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"  {sum(file.stat().st_size for file in folder.iterdir()) / 1e3:.0f} kB")


def rewrite_config_in_older_layout(path, rope_theta):
    """Most folders in the wild say `rope_theta` and `torch_dtype` where transformers 5 writes otherwise."""
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    config["rope_theta"] = rope_theta
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for variant, settings in VARIANTS.items():
        write(variant, **settings)
