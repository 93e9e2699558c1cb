"""Times generation or a DPO step with PyTorch and transformers and prints one JSON object.

    python pytorch.py generate --model FOLDER [--dtype bf16] [--threads 2] [--sequences 64]
    python pytorch.py train    --model FOLDER [--dtype bf16] [--threads 2] [--pairs 4]

generate  sampling at temperature 1 without cuts, 64 prompts of 64 tokens, 64 new tokens each, the end token masked
          out; one batch, key/value cache.
train     the step that TRL's DPOTrainer makes: rows of prompt + response (128 + 128 tokens) for both sides of every
          pair in one batch, forward of the policy and of a frozen reference, logits at every position, backward,
          AdamW. In bf16 the weights and the optimizer state are bf16, the quickest that PyTorch offers.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
NEW_TOKENS = 64
BETA = 0.1


def generate(model, tokens, args):
    prompts = torch.tensor([tokens["prompts"][i % len(tokens["prompts"])] for i in range(args.sequences)])
    mask = torch.ones_like(prompts)

    def once(new_tokens):
        return model.generate(
            prompts,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
        )

    torch.manual_seed(0)
    once(2)
    seconds, cpu_seconds = timed(lambda: once(NEW_TOKENS), args.steps)
    rate = args.sequences * NEW_TOKENS / seconds
    return {"new_tokens_per_s": rate, "seconds": seconds, "cpu_seconds": cpu_seconds}


def train(model, tokens, args):
    pairs = tokens["pairs"][: args.pairs]
    rows = torch.tensor([pair["prompt"] + pair[side] for side in ("real", "generated") for pair in pairs])
    prompt = len(pairs[0]["prompt"])
    reference = AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPES[args.dtype]).eval().requires_grad_(False)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def response_logprob(network):
        """Summed log-probability of every row's response, [rows]."""
        logits = network(rows, use_cache=False).logits[:, :-1].float()
        logprobs = logits.log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0]
        return logprobs[:, prompt - 1 :].sum(-1)

    def step():
        with torch.no_grad():
            then = response_logprob(reference)
        ratios = response_logprob(model) - then
        real, generated = ratios.chunk(2)
        F.softplus(-BETA * (real - generated)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    seconds, cpu_seconds = timed(step, args.steps)
    return {"pairs_per_s": len(pairs) / seconds, "seconds": seconds, "cpu_seconds": cpu_seconds}


def timed(work, steps):
    """Seconds of `work`, by the clock and of processor time over all threads: medians over `steps` runs."""
    clock, processor = [], []
    for _ in range(steps):
        start = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return statistics.median(clock), statistics.median(processor)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("generate", "train"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, default=Path(__file__).with_name("tokens.json"))
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=64, help="batch of `generate`")
    parser.add_argument("--pairs", type=int, default=4, help="pairs in a step of `train`, 4 at most")
    parser.add_argument("--steps", type=int, default=1, help="timed repetitions, after one that is not timed")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    tokens = json.loads(args.tokens.read_text())
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=DTYPES[args.dtype]).eval()
    figures = {"generate": generate, "train": train}[args.work](model, tokens, args)
    print(json.dumps({
        "work": args.work,
        "dtype": args.dtype,
        "threads": args.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **figures,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
