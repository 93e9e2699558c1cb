"""Times optimizer steps of TRL's DPOTrainer and prints one JSON object.

    python trl_train.py --model FOLDER --tokens FILE [--dtype bf16] [--threads 2]

Full fine-tuning with AdamW on all pairs of the token file in every step, the reference log-probabilities precomputed
before the clock starts. What is slower than the defaults here is in README.md.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
import trl
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

import peer


class TokenTrainer(DPOTrainer):
    """A DPOTrainer that takes token ids as they are."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


def stat():
    v=[int(x) for x in open("/proc/stat").readline().split()[1:]]
    return sum(v)-v[3]-v[4]


class StepClock(TrainerCallback):
    """The time at the end of every optimizer step."""

    def __init__(self):
        self.ends = []; self.cpu=[]; self.stat=[]

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter()); self.cpu.append(time.process_time()); self.stat.append(stat())


def trainer(args, pairs, pairs_a_step, steps, clock):
    """A trainer over `pairs`, whose reference log-probabilities are computed here."""
    half = args.dtype == "bf16"
    model = AutoModelForCausalLM.from_pretrained(
        args.model,
        dtype=torch.bfloat16 if half and args.weights == "bf16" else torch.float32,
        attn_implementation=args.attention,
    )
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=half and args.weights == "f32",
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=args.reference_batch,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=pairs_a_step // args.batch,
        gradient_checkpointing=args.checkpointing,
        torch_compile=args.compile,
        max_steps=steps,
        max_length=None,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    columns = [
        {"prompt_ids": pair["prompt"], "chosen_ids": pair["real"], "rejected_ids": pair["generated"]} for pair in pairs
    ]
    return TokenTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(columns),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        callbacks=[clock],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not timed")
    parser.add_argument("--weights", choices=("bf16", "f32"), default="bf16", help="of --dtype bf16; f32: autocast")
    parser.add_argument("--batch", type=int, default=4, help="pairs of one forward and backward")
    parser.add_argument("--reference-batch", type=int, default=4, help="pairs of one reference forward")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()
    pairs = json.loads(args.tokens.read_text())["pairs"]
    clock = StepClock()
    trainer(args, pairs, len(pairs), args.steps + 1, clock).train()
    times = [end - start for start, end in zip(clock.ends, clock.ends[1:])]
    seconds = statistics.median(times)
    print([f"{a:.2f} cpu {(d-c)/a:.2f} busy {(f-e)/100/a:.2f};" for a,c,d,e,f in zip(times,clock.cpu,clock.cpu[1:],clock.stat,clock.stat[1:])])
    print(json.dumps({
        "work": "train",
        "pairs_per_s": len(pairs) / seconds,
        "seconds": seconds,
        "peak_rss_bytes": peer.peak_rss_bytes(),
    }))


if __name__ == "__main__":
    main()
