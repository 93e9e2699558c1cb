"""What the peers share: flags, the environment that suits them, timing, and the report."""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from importlib import metadata
from pathlib import Path

NEW_TOKENS = 64

# glibc gives large blocks back to the kernel and gets them again, zeroed, page by page, at every step. PyTorch loses two
# fifths of a training step to that. With these settings it keeps them.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def in_environment(**variables):
    """Starts this program anew with these variables: the allocator and the loader read theirs only at the start."""
    variables |= KEEP_MEMORY | OFFLINE
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | variables)


def parser(description):
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    flags.add_argument("--tokens", type=Path, required=True, help="token ids, as make_tokens.py writes them")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--steps", type=int, default=3, help="timed repetitions, after one that is not timed")
    return flags


def generation_parser(description):
    flags = parser(description)
    flags.add_argument("--sequences", type=int, default=64, help="prompts, or those in a batch of an iteration")
    flags.add_argument("--pairs", type=Path, help="answer `iteration` to the natural end, and write the pairs here")
    return flags


def measure(flags, generate):
    """Times `generate(prompts, new_tokens, to_the_end)`, which returns each prompt's new tokens, and reports.

    With `to_the_end` a response ends where the model ends it; else it is exactly `new_tokens` long.
    """
    tokens = json.loads(flags.tokens.read_text())
    if flags.pairs:
        examples = tokens["iteration"]
        prompts = [example["prompt"] for example in examples]
        generate(prompts[: flags.sequences], 4, True)
        seconds, responses = timed(lambda: generate(prompts, NEW_TOKENS, True))
        pairs = [example | {"generated": response} for example, response in zip(examples, responses)]
        flags.pairs.write_text(json.dumps({"pairs": pairs}))
    else:
        prompts = tokens["prompts"][: flags.sequences]
        generate(prompts, NEW_TOKENS, False)
        runs = [timed(lambda: generate(prompts, NEW_TOKENS, False)) for _ in range(flags.steps)]
        seconds, responses = statistics.median(seconds for seconds, _ in runs), runs[-1][1]
    new_tokens = sum(map(len, responses))
    return {
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": new_tokens,
        "new_tokens_per_s": new_tokens / seconds,
        "seconds": seconds,
    }


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def only_the_report():
    """Sends what libraries print to stderr, and returns a function that prints the report to stdout."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(flags, packages, **figures):
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        settings = {name: value for name, value in vars(flags).items() if not isinstance(value, Path)}
        versions = {name: metadata.version(name) for name in packages}
        print(json.dumps(figures | {"peak_rss_bytes": peak * 1024, "settings": settings, "versions": versions}), file=stdout)

    return report
