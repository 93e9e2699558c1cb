"""Writes tests/golden/families: random models of every family of decoders, and what they must compute.

    python families.py [--out FOLDER] [--seed N]

Run it with the Python that scripts/oracle/setup.sh prints. With another seed than 0 the sizes are drawn too: write those
elsewhere and let the tests read them, as tests/golden/README.md says.
"""

import argparse
import copy
import json
import random
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
SEQUENCE_LENGTHS = (1, 7, 45)
PROMPT_LENGTHS = (3, 21)
PAIR_LENGTHS = ((4, 9, 7), (20, 3, 12))  # prompt, real, generated
GREEDY_TOKENS = 32
BETA = 0.1
SIDES = ("real", "generated")
# A greedy choice as narrow as this may turn on a rounding error.
NARROW = 1e-3
# How far float32 may be from float64, relative to the largest magnitude of a tensor: beyond it the model as drawn says more
# about rounding than about arithmetic. (transformers computes norms, angles and softmax in float32 in either.)
ROUNDING = 1e-5

POSITIONS = 64
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
GEMMA = dict(hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=24, sliding_window=9)

# By name of the folder: the family, and what it does not share with the others.
VARIANTS = {
    "llama-linear": ("llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0))),
    "llama-dynamic": ("llama", dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0))),
    "llama-llama3": ("llama", dict(rope_parameters=dict(rope_theta=5e5, **LLAMA3), tie_word_embeddings=True)),
    "llama-yarn": (
        "llama",
        dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=16)),
    ),
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "mistral": ("mistral", dict(sliding_window=None)),
    "mistral-window": ("mistral", dict(sliding_window=11)),
    "qwen2": ("qwen2", dict(rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=10, max_window_layers=1)),
    "qwen3": ("qwen3", dict(tie_word_embeddings=True)),
    "gemma2": ("gemma2", dict(attn_logit_softcapping=3.0, final_logit_softcapping=4.0, **GEMMA)),
    "gemma3": ("gemma3_text", dict(num_hidden_layers=4, sliding_window_pattern=3, **GEMMA)),
    "gemma3-scaled": (
        "gemma3_text",
        dict(
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                sliding_attention=dict(rope_type="default", rope_theta=1e4),
            ),
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            **GEMMA,
        ),
    ),
    "gemma3-yarn": (
        "gemma3_text",
        dict(
            rope_parameters=dict(
                full_attention=dict(
                    rope_type="yarn", factor=4.0, rope_theta=1e4, original_max_position_embeddings=16
                ),
                sliding_attention=dict(rope_type="default", rope_theta=1e4),
            ),
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            **GEMMA,
        ),
    ),
    "phi3": ("phi3", dict(sliding_window=13)),
    "phi4-mini": (
        "phi3",
        dict(
            partial_rotary_factor=0.75,
            tie_word_embeddings=True,
            # 64 of 512 positions, so that all of the sequences are short ones.
            max_position_embeddings=512,
            original_max_position_embeddings=POSITIONS,
            rope_parameters=dict(rope_type="longrope", rope_theta=1e4, partial_rotary_factor=0.75),
        ),
    ),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, no_rope_layer_interval=2)),
    "smollm3-window": ("smollm3", dict(use_sliding_window=True, sliding_window=12, no_rope_layers=[1, 0, 1])),
    "olmo2": ("olmo2", dict()),
    "granite": (
        "granite",
        dict(embedding_multiplier=3.0, logits_scaling=1.5, residual_multiplier=0.22, attention_multiplier=0.11),
    ),
}


def sizes(draw):
    """Those of the committed models, or drawn ones."""
    if draw is None:
        return dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=3), (4, 2, 8)
    kv_heads, group, head_dim = draw.choice((1, 2, 3)), draw.choice((1, 2, 3)), draw.choice((8, 16, 24))
    heads = kv_heads * group
    shape = dict(
        vocab_size=draw.randrange(40, 120),
        hidden_size=heads * head_dim,
        intermediate_size=draw.randrange(20, 70),
        num_hidden_layers=3,
    )
    return shape, (heads, kv_heads, head_dim)


def configure(family, own, draw):
    shape, (heads, kv_heads, head_dim) = sizes(draw)
    settings = dict(
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **shape,
    )
    if family in ("llama", "mistral", "qwen3", "gemma2", "gemma3_text"):
        settings["head_dim"] = head_dim
    settings |= json.loads(json.dumps(own))
    parameters = settings.get("rope_parameters", {})
    if parameters.get("rope_type") == "longrope":
        pairs = int(settings["hidden_size"] // heads * settings["partial_rotary_factor"]) // 2
        parameters["short_factor"] = [1.0 + 0.1 * i for i in range(pairs)]
        parameters["long_factor"] = [2.0 + 0.5 * i for i in range(pairs)]
    return AutoConfig.for_model(family, **settings)


def make_model(config, seed):
    """A model whose gradients are not tiny and whose norm weights are not one."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    around = 0 if config.model_type.startswith("gemma") else 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 1.1 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.2
            parameter.copy_(around + 0.3 * noise if "norm" in name else scale * noise)
    return model, generator


def logprobs(model, prompt, response):
    """Log-probability of every response token, [len(response)]."""
    predictions = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return predictions.gather(1, torch.tensor(response)[:, None])[:, 0]


@torch.no_grad()
def greedy(model, prompt):
    """Greedy tokens, and how narrow the narrowest choice was."""
    tokens, narrowest = list(prompt), float("inf")
    for _ in range(GREEDY_TOKENS):
        best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
        narrowest = min(narrowest, (best.values[0] - best.values[1]).item())
        tokens.append(best.indices[0].item())
    return tokens[len(prompt) :], narrowest


def distance(a, b):
    """Largest difference, relative to the largest magnitude in the tensor."""
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def opponent(model, pairs, generator):
    """Log-probabilities under another model, so that no margin is zero."""
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        found = [{side: logprobs(model, pair["prompt"], pair[side]) for side in SIDES} for pair in pairs]
    model.load_state_dict(weights)
    return found


def expectations(model, sequences, pairs, opponents, gradients):
    """What the model computes: tensors, among them the gradients of the named parameters, the loss and the margins."""
    tensors = {}
    with torch.no_grad():
        for i, tokens in enumerate(sequences):
            tensors[f"logits.{i}"] = model(torch.tensor([tokens])).logits[0, -1]
            if len(tokens) > 1:
                tensors[f"logprobs.{i}"] = logprobs(model, tokens[:1], tokens[1:])
    margins = []
    for pair, then in zip(pairs, opponents):
        ratios = [(logprobs(model, pair["prompt"], pair[side]) - then[side]).sum() for side in SIDES]
        margins.append(BETA * (ratios[0] - ratios[1]))
    loss = F.softplus(-torch.stack(margins)).mean()
    loss.backward()
    for name in gradients:
        tensors[f"grad.{name}"] = dict(model.named_parameters())[name].grad
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    return tensors, loss.item(), [margin.item() for margin in margins]


def chosen_gradients(model):
    """One matrix, and the two vectors that say most about a family."""
    layer = [name for name, _ in model.named_parameters() if ".layers.1." in name]
    matrix = next(name for name in layer if "k_proj.weight" in name or "qkv_proj.weight" in name)
    vectors = [name for name in layer if "norm" in name or "bias" in name]
    return [matrix, vectors[0], vectors[-1]]


def draw_inputs(vocab_size, generator):
    """Sequences, prompts and pairs of random tokens."""
    draw = lambda length: torch.randint(vocab_size, (length,), generator=generator).tolist()
    sequences = [draw(length) for length in SEQUENCE_LENGTHS]
    prompts = [draw(length) for length in PROMPT_LENGTHS]
    return sequences, prompts, [dict(zip(("prompt", *SIDES), map(draw, lengths))) for lengths in PAIR_LENGTHS]


def compute(config, seed):
    """The model, its expected tensors and scalars; nothing if they turn on rounding."""
    model, generator = make_model(config, seed)
    sequences, prompts, pairs = draw_inputs(config.vocab_size, generator)
    opponents = opponent(model, pairs, generator)
    return judge(model, sequences, prompts, pairs, opponents, chosen_gradients(model))


def judge(model, sequences, prompts, pairs, opponents, gradients):
    """The model, its expected tensors and scalars; nothing if they turn on rounding."""
    answers = [greedy(model, prompt) for prompt in prompts]
    if min(narrowest for _, narrowest in answers) < NARROW:
        return None

    tensors, loss, margins = expectations(model, sequences, pairs, opponents, gradients)
    double, *_ = expectations(copy.deepcopy(model).double(), sequences, pairs, opponents, gradients)
    if max(distance(tensor, double[name]) for name, tensor in tensors.items()) > ROUNDING:
        return None

    tensors |= {f"opponent.{i}.{side}": then[side] for i, then in enumerate(opponents) for side in SIDES}
    scalars = {
        "sequences": sequences,
        "prompts": prompts,
        "greedy": [tokens for tokens, _ in answers],
        "spin": {"beta": BETA, "pairs": pairs, "loss": loss, "margins": margins},
        "gradients": gradients,
    }
    return model, tensors, scalars


def write(folder, compute):
    """The first of 100 tries, `compute(try)`, that does not turn on rounding; returns bytes."""
    model, tensors, scalars = next(found for attempt in range(100) if (found := compute(attempt)))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for extra in ("generation_config.json", "README.md"):
        (folder / extra).unlink(missing_ok=True)
    write_expected(folder, "expected", tensors, scalars)
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name:<16} {size / 1e3:4.0f} kB  loss {scalars['spin']['loss']:.6f}  {', '.join(scalars['gradients'])}")
    return size


def write_expected(folder, name, tensors, scalars):
    save_file(tensors, folder / f"{name}.safetensors")
    expected = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, **scalars}
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items())
    (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDEN / "families")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    draw = random.Random(args.seed) if args.seed else None
    for name, (family, own) in VARIANTS.items():
        config = configure(family, own, draw)
        size = write(args.out / name, lambda attempt: compute(config, 1000 * args.seed + attempt))
        assert draw or size < 300_000, "too large to be committed"


if __name__ == "__main__":
    main()
