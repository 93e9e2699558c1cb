"""Writes tests/golden/objectives/: what pairs cost by each objective, and the derivatives by the policy's log-probability of each
response, in float64. Run it with the Python that scripts/oracle/setup.sh prints.

`trl.json` is what the loss of TRL's DPOTrainer says. It gets log-probabilities of tokens in the place of a model's output, one pair
at a time. `torch.json` is autograd on the published formula, written down here, for what TRL does not have.
"""

import json
import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.functional import logsigmoid, softplus
from trl import DPOTrainer

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden" / "objectives"
CASES = 4
SIDES = ["real", "generated", "base"]
PROMPT = 2

rng = random.Random(11)


def rounded(number):
    """So that it reads well."""
    return round(number, 3)


def response(tokens):
    """Log-probabilities of a response's tokens under the policy, and its sums under the opponent and the base model."""
    policy = [rounded(-rng.uniform(0.05, 3)) for _ in range(tokens)]
    total = rounded(sum(policy))
    other = lambda: rounded(min(total + rng.uniform(-4, 4), -0.01))  # noqa: E731
    return {"policy": policy, "logp": total, "opponent": other(), "base": other(), "tokens": tokens}


def triplet(alike=False):
    lengths = [rng.randint(1, 12) for _ in SIDES]
    return {side: response(lengths[0] if alike else length) for side, length in zip(SIDES, lengths)}


# What TRL calls an objective of ours, with the settings that make it the same; `factor` times TRL's loss is ours.


def plain(loss_type):
    def case(pair):
        beta = rounded(rng.uniform(0.05, 2))
        return {"beta": beta}, {"loss_type": [loss_type], "beta": beta}, 1.0

    return case


def squared(pair):
    """TRL divides IPO's log-ratios by the lengths of the responses. Where both have n tokens, that is ours at beta = 2 tau / n."""
    tau, tokens = rounded(rng.uniform(0.05, 2)), pair["real"]["tokens"]
    return {"beta": 2 * tau / tokens}, {"loss_type": ["ipo"], "beta": tau}, (2 * tau) ** 2


def sppo(pair):
    ours, theirs, _ = plain("sppo_hard")(pair)
    return ours, theirs, ours["beta"] ** 2


def smoothed(pair):
    """TRL's `sigmoid` ignores `label_smoothing`. Its `aot` sorts a batch before it smooths, which leaves one pair as it is."""
    ours, theirs, _ = plain("aot")(pair)
    share = rounded(rng.uniform(0.02, 0.45))
    return ours | {"label_smoothing": share}, theirs | {"label_smoothing": share}, 1.0


def anchored(pair):
    ours, _, _ = plain("sigmoid")(pair)
    nll = rounded(rng.uniform(0.1, 2))
    return ours | {"nll": nll}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll], "beta": ours["beta"]}, 1.0


TRL = [
    ("logistic", plain("sigmoid")),
    ("logistic", smoothed),
    ("logistic", anchored),
    ("hinge", plain("hinge")),
    ("squared", squared),
    ("sppo", sppo),
    ("space", plain("bco_pair")),
    ("apo_zero", plain("apo_zero")),
    ("length_normalized", plain("sigmoid_norm")),
]


def trl_loss(pair, loss_type, beta, loss_weights=None, label_smoothing=0.0):
    """DPOTrainer's loss of one pair, and its derivatives by the log-probability of each response."""
    sides = [pair["real"], pair["generated"]]
    longest = max(side["tokens"] for side in sides)
    mask = torch.tensor([[0] * PROMPT + [1] * s["tokens"] + [0] * (longest - s["tokens"]) for s in sides])
    rows = [[0.0] * (PROMPT - 1) + s["policy"] + [0.0] * (longest - s["tokens"]) for s in sides]
    logps = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros_like(logps)
    output = SimpleNamespace(log_probs=logps, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, use_weighting=False,
        precompute_ref_logps=True, ld_alpha=None, f_divergence_type="reverse_kl", loss_types=loss_type,
        loss_weights=loss_weights or [1.0] * len(loss_type), beta=beta, label_smoothing=label_smoothing,
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    reference = [torch.tensor([side["opponent"]], dtype=torch.float64) for side in sides]
    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": mask, "completion_mask": mask,
        "ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False)
    loss.backward()
    derivatives = []
    for row, side in zip(logps.grad, sides):
        # What a sum depends on has the same derivative by each part of it.
        own = row[PROMPT - 1 : PROMPT - 1 + side["tokens"]]
        assert torch.allclose(own, own[0], rtol=1e-14, atol=0), own
        derivatives.append(own[0].item())
    return loss.item(), *derivatives, 0.0


# Formulas as they are published: `w`, `y` and `z` are log-probabilities of the real, the generated and the base model's
# response, with `_q` under the opponent and with `_0` under the base model.


def exponential(beta, v):
    """GPO, arXiv 2402.05749, table 1."""
    return torch.exp(-beta * (v.w - v.w_q - (v.y - v.y_q)))


def truncated_quadratic(beta, v):
    """GPO, arXiv 2402.05749, table 1."""
    return torch.clamp(1 - beta * (v.w - v.w_q - (v.y - v.y_q)), min=0) ** 2


def linear(beta, v):
    """SPIN, arXiv 2401.01335, equation 4.1 with f = beta log(p / q)."""
    return -(beta * torch.log(torch.exp(v.w - v.w_q)) - beta * torch.log(torch.exp(v.y - v.y_q)))


def space(beta, v):
    """SPACE, arXiv 2512.07175, with mu = 1, of rewards times beta."""
    noise = lambda x: 1 / (1 + torch.exp(-x))  # noqa: E731
    return -torch.log(noise(beta * (v.w - v.w_q))) - torch.log(1 - noise(beta * (v.y - v.y_q)))


def triplet_loss(beta, v):
    """T-SPIN, arXiv 2601.08198, with the logistic loss and both advantages of the same weight."""
    return softplus(-(beta * v.w - beta * v.y)) + softplus(-(beta * v.y - beta * v.z))


def logistic(beta, v):
    """SPIN, arXiv 2401.01335, equation 4.7."""
    return torch.log1p(torch.exp(-(beta * (v.w - v.w_q) - beta * (v.y - v.y_q))))


def dpop(beta, v, weight):
    """DPO-Positive, arXiv 2402.13228, equation 3."""
    return -logsigmoid(beta * (v.w - v.w_q - (v.y - v.y_q) - weight * torch.clamp(v.w_q - v.w, min=0)))


def forward_kl(beta, v, weight):
    """KL(base || policy) of a sample `z` of the base model."""
    return logistic(beta, v) + weight * (v.z_0 - v.z)


def reverse_kl(beta, v, weight):
    """KL(policy || base), the expectation taken over a sample `y` of the opponent, less what has the expectation 0."""
    ratio = torch.exp(v.y) / torch.exp(v.y_q)
    return logistic(beta, v) + weight * (ratio * (v.y - v.y_0) - (ratio - 1))


TORCH = [
    ("exponential", exponential, None),
    ("truncated_quadratic", truncated_quadratic, None),
    ("linear", linear, None),
    ("space", space, None),
    ("triplet", triplet_loss, None),
    ("logistic", dpop, "dpop"),
    ("logistic", forward_kl, "forward_kl"),
    ("logistic", reverse_kl, "reverse_kl"),
]


def torch_loss(triplet, formula, *arguments):
    value = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    policy = [value(triplet[side]["logp"]).requires_grad_() for side in SIDES]
    given = {
        f"{letter}_{model}": value(triplet[side][of])
        for side, letter in zip(SIDES, "wyz")
        for model, of in [("q", "opponent"), ("0", "base")]
    }
    v = SimpleNamespace(**dict(zip("wyz", policy)), **given, tokens=triplet["real"]["tokens"])
    loss = formula(arguments[0], v, *arguments[1:])
    loss.backward()
    return loss.item(), *[0.0 if x.grad is None else x.grad.item() for x in policy]


def entry(objective, settings, theirs, factor, triplet, results):
    stored = {side: {k: v for k, v in triplet[side].items() if k != "policy"} for side in SIDES}
    names = ["loss", "d_real", "d_generated", "d_base"]
    return {"objective": objective, **settings, "theirs": theirs, "factor": factor} | stored | dict(zip(names, results))


def write(name, entries):
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (FOLDER / name).write_text(f"[\n{lines}\n]\n")


def main():
    FOLDER.mkdir(exist_ok=True)
    entries = []
    for objective, case in TRL:
        for _ in range(CASES):
            pair = triplet(alike=case is squared)
            ours, theirs, factor = case(pair)
            entries.append(entry(objective, ours, theirs, factor, pair, trl_loss(pair, **theirs)))
    write("trl.json", entries)

    entries = []
    for objective, formula, addition in TORCH:
        for _ in range(CASES):
            three, beta = triplet(), rounded(rng.uniform(0.05, 2))
            weight = rounded(rng.uniform(0.02, 0.45))
            settings = {"beta": beta} | ({addition: weight} if addition else {})
            results = torch_loss(three, formula, *settings.values())
            entries.append(entry(objective, settings, {"formula": formula.__doc__}, 1.0, three, results))
    write("torch.json", entries)


if __name__ == "__main__":
    main()
