"""Times TRL's DPOTrainer, full fine-tuning with AdamW or PEFT's LoRA, and prints one JSON object.

    python trl_train.py --model FOLDER --tokens FILE [--dtype bf16] [--batch 4] [--steps 3] [--lora-rank 16]
    python trl_train.py --model FOLDER --tokens FILE --epoch 16 [--batch 16]

Optimizer steps on all `pairs` of the file at once, the reference log-probabilities computed before; or, with --epoch,
the reference log-probabilities and then one epoch, with so many pairs in a step. README.md has what other settings do.
"""

import json
import statistics
import tempfile
import time

import peer

peer.in_environment(TQDM_DISABLE="1")
report = peer.only_the_report()

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class TokenTrainer(DPOTrainer):
    """A DPOTrainer that takes token ids as they are, and knows how long the reference log-probabilities took."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _precompute_ref_logps(self, *args):
        self.reference_seconds, dataset = peer.timed(lambda: super(TokenTrainer, self)._precompute_ref_logps(*args))
        return dataset


class StepClock(TrainerCallback):
    """The time at the end of every optimizer step."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


def adapter(rank):
    """Of every linear layer of attention and MLP."""
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def make_trainer(flags, pairs, clock):
    pairs_per_step = flags.epoch or len(pairs)
    bf16_weights = flags.dtype == "bf16" and not flags.autocast
    model = AutoModelForCausalLM.from_pretrained(
        flags.model, dtype=torch.bfloat16 if bf16_weights else torch.float32, attn_implementation=flags.attention
    )
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=flags.dtype == "bf16" and flags.autocast,
        precompute_ref_log_probs=not flags.reference_in_steps,
        precompute_ref_batch_size=flags.reference_batch,
        per_device_train_batch_size=flags.batch,
        gradient_accumulation_steps=pairs_per_step // flags.batch,
        gradient_checkpointing=flags.checkpointing,
        torch_compile=flags.compile,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,  # the sampler needs `length`
        num_train_epochs=1 if flags.epoch else flags.steps + 1,
        max_length=None,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    columns = [
        {
            "prompt_ids": pair["prompt"],
            "chosen_ids": pair["real"],
            "rejected_ids": pair["generated"],
            "length": len(pair["prompt"]) + max(len(pair["real"]), len(pair["generated"])),
        }
        for pair in pairs
    ]
    trainer = TokenTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(columns),
        processing_class=AutoTokenizer.from_pretrained(flags.model),
        callbacks=[clock],
        peft_config=adapter(flags.lora_rank) if flags.lora_rank else None,
    )
    if flags.lora_rank and bf16_weights and not flags.f32_adapter:
        # PEFT makes it in f32 and converts its inputs at every product.
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return trainer


def main():
    parser = peer.parser(__doc__)
    parser.add_argument("--epoch", type=int, metavar="PAIRS", help="pairs of a step; time an epoch of such steps")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--autocast", action="store_true", help="of bf16: keep the weights in f32")
    parser.add_argument("--batch", type=int, default=4, help="pairs of one forward and backward")
    parser.add_argument("--reference-batch", type=int, default=4, help="pairs of one reference forward")
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in the backward")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--lora-rank", type=int, metavar="R", help="train an adapter of this rank; its alpha is twice that")
    parser.add_argument("--f32-adapter", action="store_true", help="of bf16: keep the adapter in f32, as PEFT does by itself")
    parser.add_argument("--reference-in-steps", action="store_true",
                        help="of an adapter's steps: compute the reference log-probabilities there, without it")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()

    pairs = json.loads(flags.tokens.read_text())["pairs"]
    clock = StepClock()
    trainer = make_trainer(flags, pairs, clock)
    train_seconds, _ = peer.timed(trainer.train)
    figures = {
        "pairs": len(pairs),
        "tokens": sum(2 * len(pair["prompt"]) + len(pair["real"]) + len(pair["generated"]) for pair in pairs),
    }
    if flags.epoch:
        figures |= {"reference_s": trainer.reference_seconds, "train_s": train_seconds, "optimizer_steps": len(clock.ends)}
    else:
        train_seconds = statistics.median(end - start for start, end in zip(clock.ends, clock.ends[1:]))
        figures |= {"seconds": train_seconds}
    figures["pairs_per_s"] = len(pairs) / train_seconds
    report(flags, ("torch", "transformers", "trl", *(["peft"] if flags.lora_rank else [])), **figures)


if __name__ == "__main__":
    main()
