"""Writes tests/golden/lora/steps.json and steps.safetensors: what TRL and PEFT make of the adapter `llama-all-linear` in five steps.

    python lora_steps.py [--out FOLDER]

Run it with the Python that scripts/oracle/setup.sh prints, behind lora.py. TRL's trainer is given the pairs and the reference's
log-probabilities that lora.py wrote. A loop of plain PyTorch in float64 goes the same way; the script stops where they part.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path

import families
import peft
import tiny_llama
import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

LORA = families.GOLDEN / "lora"
CASE = "llama-all-linear"
STEPS = 5
ADAMW = dict(lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
MAX_NORM = 0.5
# Relative to the largest magnitude, of parameters; what the steps change is hundreds of times as much.
TOLERANCE = 1e-5


class GivenReference(DPOTrainer):
    """A DPOTrainer that takes token ids and the reference's log-probabilities as they are."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _precompute_ref_logps(self, dataset, *_):
        return dataset


class Adapted:
    """The adapted model, of which the adapter is trained: what tiny_llama.train takes."""

    def __init__(self, model):
        self.model = model

    def logits(self, tokens):
        return self.model(torch.tensor([tokens])).logits[0]

    def parameters(self):
        return adapter(self.model)


def adapter(model):
    """A and B by their names in files."""
    named = model.named_parameters()
    return {name.replace(".default.", "."): parameter for name, parameter in named if ".default." in name}


def load():
    base = json.loads((LORA / CASE / "expected.json").read_text())["base"]
    model = families.AutoModelForCausalLM.from_pretrained(
        families.GOLDEN / "families" / base, attn_implementation="eager", dtype=torch.float32
    )
    return PeftModel.from_pretrained(model, LORA / CASE, is_trainable=True)


def padding_tokenizer():
    """TRL asks for a token to pad with; its masks hide it."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})), pad_token="<pad>")


def train_with_trl(model, pairs, opponents):
    """The adapter after the steps, with the loss and the norm of the gradient before each of them."""
    rows = [
        {
            "prompt_ids": pair["prompt"],
            "chosen_ids": pair["real"],
            "rejected_ids": pair["generated"],
            "ref_chosen_logps": then["real"].sum().item(),
            "ref_rejected_logps": then["generated"].sum().item(),
        }
        for pair, then in zip(pairs, opponents)
    ]
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        beta=families.BETA,
        precompute_ref_log_probs=True,
        per_device_train_batch_size=len(pairs),
        max_steps=STEPS,
        max_length=None,
        gradient_checkpointing=False,
        optim="adamw_torch",
        learning_rate=ADAMW["lr"],
        adam_beta1=ADAMW["betas"][0],
        adam_beta2=ADAMW["betas"][1],
        adam_epsilon=ADAMW["eps"],
        weight_decay=ADAMW["weight_decay"],
        max_grad_norm=MAX_NORM,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GivenReference(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=padding_tokenizer()
    )
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    after = {name: parameter.detach().clone() for name, parameter in adapter(trainer.model).items()}
    return after, {key: [float(step[key]) for step in steps] for key in ("loss", "grad_norm")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=LORA)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()

    pairs = json.loads((LORA / CASE / "expected.json").read_text())["spin"]["pairs"]
    tensors = load_file(LORA / CASE / "expected.safetensors")
    opponents = [{side: tensors[f"opponent.{i}.{side}"] for side in families.SIDES} for i in range(len(pairs))]
    model = load()
    double = Adapted(copy.deepcopy(model).double())
    before = {name: parameter.detach().clone() for name, parameter in adapter(model).items()}

    make_optimizer = lambda parameters: torch.optim.AdamW(parameters, foreach=False, **ADAMW)
    after64, scalars64 = tiny_llama.train(double, make_optimizer, pairs, opponents, MAX_NORM)
    after, scalars = train_with_trl(model, pairs, opponents)
    for name, parameter in after.items():
        assert families.distance(parameter, after64[name]) < TOLERANCE, name
    for key, values in scalars.items():
        assert families.distance(torch.tensor(values), torch.tensor(scalars64[key])) < TOLERANCE, (key, values, scalars64[key])
    changes = [families.distance(before[name], parameter) for name, parameter in after.items()]
    rounding = max(families.distance(parameter, after64[name]) for name, parameter in after.items())
    print(f"changes {min(changes):.1e} to {max(changes):.1e}, float64 within {rounding:.1e}; {scalars}")

    families.write_expected(
        args.out,
        "steps",
        {name: parameter.contiguous() for name, parameter in after.items()},
        {"peft": peft.__version__, "trl": trl.__version__, "adapter": CASE, "steps": STEPS, **ADAMW, "max_norm": MAX_NORM, **scalars},
    )
    for file in args.out.glob("steps.*"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
