"""Writes tests/golden/dpo/: a tiny random model with its tokenizer, preference pairs, and five steps of DPO on them as TRL's
DPOTrainer makes them. Run it with the Python that scripts/oracle/setup.sh prints.
"""

import json
import random
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden" / "dpo"
SPECIAL = ["<pad>", "<end>", "<user>", "<model>"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}<model>{{ m.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
LETTERS = "abcdefgh "
SETTINGS = {"beta": 0.3, "lr": 1e-2, "steps": 5}


class Recorder(DPOTrainer):
    """Keeps losses unrounded."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append((loss[0] if isinstance(loss, tuple) else loss).item())
        return loss

    losses = []


def tokenizer():
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.add_special_tokens(SPECIAL)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def pairs():
    rng = random.Random(5)
    words = lambda least, most: "".join(rng.choices(LETTERS.strip(), k=rng.randint(least, most)))  # noqa: E731
    made = []
    for k in range(8):
        # Two pairs of one prompt.
        prompt = made[0]["prompt"] if k == 3 else words(1, 9)
        made.append({"id": prompt, "prompt": prompt, "chosen": words(1, 8), "rejected": words(1, 8)})
    return made


def main():
    torch.manual_seed(3)
    FOLDER.mkdir(exist_ok=True)
    tok, records = tokenizer(), pairs()
    config = LlamaConfig(
        vocab_size=len(tok), hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        initializer_range=0.3, bos_token_id=None, eos_token_id=1, pad_token_id=0, dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(FOLDER)
    tok.save_pretrained(FOLDER)
    (FOLDER / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    user = lambda text: [{"role": "user", "content": text}]  # noqa: E731
    answer = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    rows = [
        {"prompt": user(r["prompt"]), "chosen": answer(r["chosen"]), "rejected": answer(r["rejected"])} for r in records
    ]
    with tempfile.TemporaryDirectory() as out:
        args = DPOConfig(
            output_dir=out, beta=SETTINGS["beta"], learning_rate=SETTINGS["lr"], max_steps=SETTINGS["steps"],
            per_device_train_batch_size=len(rows), lr_scheduler_type="constant", warmup_steps=0, optim="adamw_torch",
            weight_decay=0.0, max_grad_norm=1e9, logging_steps=1, report_to=[], use_cpu=True, model_init_kwargs={"dtype": "float32"}, bf16=False, fp16=False,
            save_strategy="no", gradient_checkpointing=False, max_length=None,
        )  # fmt: skip
        trainer = Recorder(model=str(FOLDER), args=args, train_dataset=Dataset.from_list(rows), processing_class=tok)
        trainer.train()
        logs = [line for line in trainer.state.log_history if "grad_norm" in line]
    keys = {
        "train/grad_norm": "grad_norm",
        "rewards/real": "rewards/chosen",
        "rewards/generated": "rewards/rejected",
        "rewards/margins": "rewards/margins",
        "logps/real": "logps/chosen",
        "logps/generated": "logps/rejected",
    }
    steps = [
        {"train/loss": loss} | {ours: line[theirs] for ours, theirs in keys.items()}
        for loss, line in zip(trainer.losses, logs, strict=True)
    ]
    (FOLDER / "expected.json").write_text(json.dumps({"settings": SETTINGS, "steps": steps}, indent=1) + "\n")
    for step in steps:
        print(step)


if __name__ == "__main__":
    main()
