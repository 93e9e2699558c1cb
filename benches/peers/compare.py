"""Runs Topspin and PyTorch in turn, A B A B, on the same cores, and prints medians, spread and ratios. See compare.sh."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RATES = {"generate": "new_tokens_per_s", "train": "pairs_per_s"}


def command(program, args):
    model = ["--model", args.model, "--dtype", args.dtype, "--threads", str(len(args.cores))]
    tokens = ["--tokens", HERE / "tokens.json", "--steps", str(args.steps)]
    if program == "pytorch":
        size = {"generate": "--sequences", "train": "--pairs"}[args.work]
        return [sys.executable, HERE / "pytorch.py", args.work, *model, *tokens, size, str(args.size)]
    size = {
        "generate": ["--sequences", str(args.size), "--prompt-tokens", "64", "--response-tokens", "64"],
        "train": ["--pairs", str(args.size), "--prompt-tokens", "128", "--response-tokens", "128"],
    }[args.work]
    return [ROOT / "target/release/topspin", "bench", args.work, *model, *tokens, *size, "--json"]


def measure(program, args):
    """One run: its own rate, and the largest memory that the kernel saw it hold."""
    child = subprocess.Popen(
        command(program, args),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, args.cores),
    )
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{program} ended with {child.returncode}")
    rate = json.loads(output)[RATES[args.work]]
    print(f"  {program:<8} {rate:10.2f} {RATES[args.work]}, {usage.ru_maxrss / 1024:7.0f} MiB", file=sys.stderr)
    return {"rate": rate, "MiB": usage.ru_maxrss / 1024}


def row(figure, topspin, pytorch):
    def spread(values):
        return f"{statistics.median(values):.2f} [{min(values):.2f} {max(values):.2f}]"

    ratios = [a / b for a, b in zip(topspin, pytorch)]
    return f"| {figure} | {spread(topspin)} | {spread(pytorch)} | {spread(ratios)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=RATES)
    parser.add_argument("--model", type=Path, default=ROOT / "target/models/smollm2-hf")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--size", type=int, help="sequences (64) or pairs (4)")
    parser.add_argument("--steps", type=int, default=1, help="timed repetitions within a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program")
    parser.add_argument("--cores", default="0,1", help="processors to run on, as in `0,1`")
    args = parser.parse_args()
    args.size = args.size or {"generate": 64, "train": 4}[args.work]
    args.cores = {int(core) for core in args.cores.split(",")}

    runs = {"topspin": [], "pytorch": []}
    for _ in range(args.rounds):
        for program in runs:
            runs[program].append(measure(program, args))

    print(f"{args.work}, {args.dtype}, {len(args.cores)} cores, size {args.size}: median [least most] of {args.rounds}\n")
    print("| | Topspin | PyTorch | ratio, round by round |")
    print("|---|---|---|---|")
    for key, figure in (("rate", RATES[args.work]), ("MiB", "peak MiB")):
        print(row(figure, *([run[key] for run in runs[program]] for program in runs)))


if __name__ == "__main__":
    main()
