"""Runs Topspin and its peers in turn on the same cores and writes RESULTS.md. See compare.sh.

Every reading is a fresh process, kept in target/peers/readings.jsonl. In each round each program has its turn, A B C A B C.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "target/peers"
READINGS = WORK / "readings.jsonl"
HF = [str(ROOT / "target/oracle-venv/bin/python")]
VLLM = [str(ROOT / "target/vllm-venv/bin/python")]
TOPSPIN = [str(ROOT / "target/release/topspin"), "-q", "bench"]

# Work, what is measured, and each program's command; README.md says why these settings.
COMMANDS = {
    "train-128": ("pairs_per_s", {
        "Topspin": [*TOPSPIN, "train", "--tokens", WORK / "128.json", "--dtype", "bf16", "--json"],
        "TRL": [*HF, HERE / "trl_train.py", "--tokens", WORK / "128.json", "--attention", "eager", "--batch", "4"],
    }),
    "train-512": ("pairs_per_s", {
        "Topspin": [*TOPSPIN, "train", "--tokens", WORK / "512.json", "--dtype", "bf16", "--json"],
        "TRL": [*HF, HERE / "trl_train.py", "--tokens", WORK / "512.json", "--attention", "eager", "--batch", "1"],
    }),
    "train-128-f32": ("pairs_per_s", {
        "Topspin": [*TOPSPIN, "train", "--tokens", WORK / "128.json", "--dtype", "f32", "--json"],
        "TRL": [*HF, HERE / "trl_train.py", "--tokens", WORK / "128.json", "--dtype", "f32", "--attention", "sdpa",
                "--batch", "4"],
    }),
    "lora": ("pairs_per_s", {
        "Topspin": [*TOPSPIN, "train", "--tokens", WORK / "128.json", "--dtype", "bf16", "--lora-rank", "16", "--json"],
        "TRL": [*HF, HERE / "trl_train.py", "--tokens", WORK / "128.json", "--lora-rank", "16", "--attention", "eager",
                "--batch", "4"],
    }),
    "generate-64": ("new_tokens_per_s", {
        "Topspin": [*TOPSPIN, "generate", "--tokens", WORK / "128.json", "--dtype", "bf16", "--json"],
        "transformers": [*HF, HERE / "transformers_generate.py", "--tokens", WORK / "128.json", "--attention", "eager"],
        "vLLM": [*VLLM, HERE / "vllm_generate.py", "--tokens", WORK / "128.json"],
    }),
    "generate-1": ("new_tokens_per_s", {
        "Topspin": [*TOPSPIN, "generate", "--tokens", WORK / "128.json", "--dtype", "bf16", "--sequences", "1", "--json"],
        "transformers": [*HF, HERE / "transformers_generate.py", "--tokens", WORK / "128.json", "--sequences", "1",
                         "--attention", "sdpa"],
        "vLLM": [*VLLM, HERE / "vllm_generate.py", "--tokens", WORK / "128.json", "--sequences", "1"],
    }),
    "iteration": ("seconds", {
        "Topspin": [*TOPSPIN, "iteration", "--tokens", WORK / "iteration.json", "--dtype", "bf16", "--max-new-tokens",
                    "64", "--batch-pairs", "16", "--json"],
        "transformers": [*HF, HERE / "transformers_generate.py", "--tokens", WORK / "iteration.json", "--pairs",
                         WORK / "pairs.json"],
        "vLLM": [*VLLM, HERE / "vllm_generate.py", "--tokens", WORK / "iteration.json", "--pairs", WORK / "pairs-vllm.json"],
        "TRL": [*HF, HERE / "trl_train.py", "--tokens", WORK / "pairs.json", "--epoch", "16", "--attention", "eager",
                "--batch", "4", "--reference-batch", "16"],
    }),
}
TITLES = {
    "train-128": "Training step, prompts of 128 and responses of 128 tokens, 4 pairs, bf16",
    "train-512": "Training step, prompts of 512 and responses of 128 tokens, 4 pairs, bf16",
    "train-128-f32": "Training step, prompts of 128 and responses of 128 tokens, 4 pairs, f32",
    "lora": "Training step of a LoRA adapter of rank 16, prompts of 128 and responses of 128 tokens, 4 pairs, bf16",
    "generate-64": "Generation, 64 prompts of 64 tokens, 64 new tokens each, bf16",
    "generate-1": "Generation, a single prompt of 64 tokens, 64 new tokens, bf16",
    "iteration": "A whole iteration on 512 prompts",
}
UNITS = {"pairs_per_s": "pairs/s", "new_tokens_per_s": "new tokens/s", "seconds": "seconds"}


def measure(work, program, flags):
    """One reading of one program, kept as soon as it is there."""
    threads = ["--model", flags.model, "--threads", str(len(flags.cores))]
    command = [str(part) for part in [*COMMANDS[work][1][program], *threads]]
    child = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, flags.cores)
    )
    if child.returncode != 0:
        sys.exit(f"{work}: {program} ended with {child.returncode}: {' '.join(command)}")
    reading = json.loads(child.stdout.splitlines()[-1])
    with open(READINGS, "a") as readings:
        readings.write(json.dumps({**reading, "work": work, "program": program}) + "\n")
    print(f"  {work:<14} {program:<13} {reading.get(COMMANDS[work][0], '')}", file=sys.stderr, flush=True)


def kept():
    """All readings, by work and program."""
    runs = {work: {program: [] for program in programs} for work, (_, programs) in COMMANDS.items()}
    for line in READINGS.read_text().splitlines() if READINGS.exists() else ():
        reading = json.loads(line)
        runs[reading["work"]][reading["program"]].append(reading)
    return runs


def forget(work):
    """Drops the readings of a work, which is measured anew."""
    readings = [reading for other, programs in kept().items() if other != work for of in programs.values() for reading in of]
    READINGS.write_text("".join(json.dumps(reading) + "\n" for reading in readings))


def spread(values, places=2):
    return f"{statistics.median(values):.{places}f} [{min(values):.{places}f}, {max(values):.{places}f}]"


def ratio(a, b):
    """Of the medians, and round by round the least and most."""
    by_round = [x / y for x, y in zip(a, b)]
    return f"{statistics.median(a) / statistics.median(b):.2f} [{min(by_round):.2f}, {max(by_round):.2f}]"


def mebibytes(readings):
    return spread([reading["peak_rss_bytes"] / 2**20 for reading in readings], 0)


def table(work, runs):
    """Medians and spread of one work, and each peer's ratio to Topspin round by round."""
    key = COMMANDS[work][0]
    yield f"| | {UNITS[key]} | Topspin's, as a multiple | peak MiB | Topspin's, as a part | MFU | of one large product |"
    yield "|---|---|---|---|---|---|---|"
    own = runs["Topspin"]
    for program, readings in runs.items():
        multiple = memory = mfu = share = ""
        if program == "Topspin":
            mfu, share = (spread([100 * reading[name] for reading in own], 0) + " %" for name in ("mfu", "peak_share"))
        else:
            multiple = ratio(*([reading[key] for reading in of] for of in (own, readings)))
            memory = ratio(*([reading["peak_rss_bytes"] for reading in of] for of in (own, readings)))
        rates = spread([reading[key] for reading in readings], 1 if key == "new_tokens_per_s" else 3)
        yield f"| {program} | {rates} | {multiple} | {mebibytes(readings)} | {memory} | {mfu} | {share} |"


def iteration_table(runs):
    """The stages of an iteration; a pipeline of peers is its generation and TRL's two parts, Topspin scores as it generates."""
    own, trl = runs["Topspin"], runs["TRL"]
    pipelines = {"Topspin": [(r["generate_s"], None, r["train_s"], r["seconds"], r["new_tokens"]) for r in own]}
    for peer in ("transformers", "vLLM"):
        pipelines[f"{peer} + TRL"] = [
            (g["seconds"], t["reference_s"], t["train_s"], g["seconds"] + t["reference_s"] + t["train_s"], g["new_tokens"])
            for g, t in zip(runs[peer], trl)
        ]
    yield "| | generation, s | opponent's log-probabilities, s | training, s | together, s | as a multiple of Topspin's | new tokens |"
    yield "|---|---|---|---|---|---|---|"
    for pipeline, rows in pipelines.items():
        columns = list(zip(*rows))[:4]
        parts = ["within generation" if None in column else spread(column, 1) for column in columns]
        multiple = "" if pipeline == "Topspin" else ratio(*([row[3] for row in of] for of in (rows, pipelines["Topspin"])))
        tokens = spread([row[4] for row in rows], 0)
        yield f"| {pipeline} | {' | '.join(parts)} | {multiple} | {tokens} |"
    yield ""
    yield f"Peak MiB: Topspin {mebibytes(own)}, transformers {mebibytes(runs['transformers'])}, vLLM {mebibytes(runs['vLLM'])}, TRL {mebibytes(trl)}."
    yield "TRL trains once a round, on the responses of transformers, and counts for both pipelines. Topspin's generation"
    yield "brings the opponent's log-probabilities of its own responses and of the real ones."


def machine(cores):
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    field = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in lines if ":" in line}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in field.get("flags", "").split()]
    name = f"{field.get('model name', platform.machine())}, family {field.get('cpu family')} model {field.get('model')}"
    return f"{name} ({', '.join(features)}), {len(cores)} cores of a shared host, {memory:.0f} GiB"


def versions(runs):
    """Of the libraries of all readings; vLLM's CPU build stands beside a torch of its own."""
    found = {}
    for programs in runs.values():
        for program, readings in programs.items():
            own = {"torch": "torch (vLLM)"} if program == "vLLM" else {}
            for reading in readings:
                found |= {own.get(name, name): version for name, version in reading.get("versions", {}).items()}
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def results(all_runs, cores):
    yield "# Beside what a user would run instead"
    yield ""
    yield "Written by `benches/peers/compare.sh`; README.md beside this file says what each program does and with which settings."
    yield ""
    yield f"- {datetime.date.today()}, {machine(cores)}"
    yield f"- SmolLM2-135M-Instruct; {versions(all_runs)}"
    yield "- medians [least, most] of the rounds; ratios are those of the medians [least, most within a round]; memory is the largest resident set"
    yield "- MFU: arithmetic done, over what the same matrix products alone reach in the same run"
    for work, runs in all_runs.items():
        count = min(map(len, runs.values()))
        if count == 0:
            continue
        yield from ("", f"## {TITLES[work]}", "", "One round." if count == 1 else f"{count} rounds.", "")
        yield from iteration_table(runs) if work == "iteration" else table(work, runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "target/models/smollm2-hf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="some of the works, separated by commas; the others keep their readings")
    parser.add_argument("--cores", default="0,1", help="processors to run on, as in `0,1`")
    flags = parser.parse_args()
    flags.cores = {int(core) for core in flags.cores.split(",")}
    works = flags.only.split(",") if flags.only else list(COMMANDS)

    for work in works:
        forget(work)
        for _ in range(flags.rounds):
            for program in COMMANDS[work][1]:
                measure(work, program, flags)
            (HERE / "RESULTS.md").write_text("\n".join(results(kept(), flags.cores)) + "\n")


if __name__ == "__main__":
    main()
