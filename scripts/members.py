#!/usr/bin/env python3
"""Plays members of the family against each other: objectives, additions and opponents, on one task from one supervised
model for each seed, and prints a table of held-out figures by iteration.

    scripts/members.py quickstart OUT                       # the quick start's task, seconds a run
    scripts/members.py e2e OUT --data DIR                   # restaurant descriptions, minutes a run
    scripts/members.py e2e OUT --data DIR --seeds 0 1 2 --only logistic hinge

OUT keeps every run: the same command again goes on where it ended, and a table is made of what is there. Python's
standard library is all it needs; for e2e also `scripts/smollm2.sh`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Settings beside the task's own. A beta other than the task's is part of the name.
MEMBERS = {
    "logistic": [],
    "logistic, beta 0.1": ["game.beta=0.1"],
    "logistic, beta 5": ["game.beta=5"],
    "linear": ["game.objective=linear"],
    "hinge": ["game.objective=hinge"],
    "exponential": ["game.objective=exponential"],
    "squared": ["game.objective=squared"],
    "length_normalized": ["game.objective=length_normalized", "game.beta={length}"],
    "sppo": ["game.objective=sppo"],
    "space": ["game.objective=space"],
    "apo_zero": ["game.objective=apo_zero"],
    "triplet, beta 0.1": ["game.objective=triplet", "game.beta=0.1"],
    "logistic + nll": ["game.nll={length}"],
    "logistic + dpop 5": ["game.dpop=5"],
    "logistic + smoothing 0.1": ["game.label_smoothing=0.1"],
    "logistic + forward_kl 0.1": ["game.forward_kl=0.1"],
    "logistic + reverse_kl 0.1": ["game.reverse_kl=0.1"],
    "linear + reverse_kl 1": ["game.objective=linear", "game.reverse_kl=1"],
    # Where the laws of docs/method.md give them the step that logistic has at beta 1.
    "exponential, beta 0.5": ["game.objective=exponential", "game.beta=0.5"],
    "squared, beta 0.5": ["game.objective=squared", "game.beta=0.5"],
    "sppo, beta 0.25": ["game.objective=sppo", "game.beta=0.25"],
    "hinge, beta 0.5": ["game.objective=hinge", "game.beta=0.5"],
    "triplet, beta 1": ["game.objective=triplet", "game.beta=1"],
    "latest_two": ["game.opponent=latest_two"],
    "history": ["game.opponent=history"],
    "base": ["game.opponent=base"],
    "average": ["game.opponent=average"],
    "mixture 0.3": ["game.opponent=mixture", "game.mixture=0.3"],
}


class Quickstart:
    """Twelve examples; the answer is the only right one, so the likelihood is KL(data || model)."""

    columns = {"right mass": "nll.probability", "greedy": "greedy.exact_match", "KL": "nll.per_response"}
    length = 10
    start = "run"

    def __init__(self, topspin, out, args):
        self.topspin, self.out = topspin, out

    def prepare(self, seed):
        """The folder of a run whose supervised model the members start from."""
        dir = self.out / f"seed-{seed}"
        if not (dir / "run/best").exists():
            subprocess.run([self.topspin, "quickstart", "--seed", str(seed), "--output", dir], check=True,
                           stdout=subprocess.DEVNULL)
        return dir / "run"

    def config(self, start):
        return start / "config.toml", []


class E2e:
    """Restaurant descriptions with an adapter on SmolLM2-135M-Instruct."""

    columns = {"slot errors, sampled": "sampled.slot_error_rate", "greedy": "greedy.slot_error_rate",
               "NLL": "nll.per_token", "tokens": "sampled.tokens.mean"}
    length = 30

    def __init__(self, topspin, out, args):
        if args.data is None:
            sys.exit("e2e needs --data, the folder of train.jsonl and test.jsonl; see examples/e2e/README.md")
        self.topspin, self.out = topspin, out
        self.sets = [f"data.train={args.data}/train.jsonl", f"data.test={args.data}/test.jsonl", "data.prompts=120"]

    def prepare(self, seed):
        dir = self.out / f"seed-{seed}" / "supervised"
        # The same pass once more, 75 updates where the two iterations have 30: at the same rate, and at a tenth of it.
        controls = "sft.controls=[{ epochs = 1, lr = 1e-3 }, { epochs = 1, lr = 1e-4 }]"
        sets = self.sets + [controls, f"game.seed={seed}", f"output.dir={dir}"]
        run([self.topspin, "sft", "configs/e2e-smollm2-lora.toml"], sets)
        return dir

    def config(self, start):
        sets = self.sets + [f"model.path={start}/iter-0/model", "adapter.rank=0",
                            "train.pairs_per_prompt=4"]
        return Path("configs/e2e-smollm2-lora.toml"), sets


def run(command, sets):
    subprocess.run(command + [arg for set in sets for arg in ("--set", set)], check=True, stdout=subprocess.DEVNULL)


def figures(folder, names):
    """The figures of a stage's evaluation."""
    report = json.loads((folder / "eval.json").read_text())
    return [report["figures"][name]["value"] for name in names]


def stage_folders(dir):
    return sorted((f for f in dir.glob("iter-*") if (f / "eval.json").exists()), key=lambda f: int(f.name[5:]))


def play(task, members, seeds):
    for seed in seeds:
        start = task.prepare(seed)
        for name in members:
            dir = task.out / f"seed-{seed}" / name.replace(" ", "-").replace(",", "")
            if (dir / "seconds").exists():
                continue
            config, sets = task.config(start)
            own = [set.format(length=task.length) for set in MEMBERS[name]]
            supervised = [f"model.path={start}/iter-0/model", "sft.enabled=false", "sft.controls=[]"]
            sets = sets + supervised + own + [f"game.seed={seed}", f"output.dir={dir}"]
            began = time.time()
            print(f"seed {seed}: {name}", file=sys.stderr, flush=True)
            run([task.topspin, "run", config], sets)
            (dir / "seconds").write_text(f"{time.time() - began:.0f}\n")


def table(task, members, seeds):
    names = list(task.columns.values())
    head = ["member", "stage", *task.columns, "seeds", "minutes"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))

    def row(member, stage, of_seeds, minutes=""):
        cells = []
        for values in zip(*of_seeds):
            each = " ".join(f"{value:.3f}" for value in values)
            cells.append(f"{statistics.mean(values):.3f} ({each})")
        print(f"| {member} | {stage} | " + " | ".join(cells) + f" | {len(of_seeds)} | {minutes} |")

    starts = [task.prepare(seed) for seed in seeds]
    row("supervised", "0", [figures(start / "iter-0", names) for start in starts])
    for n in range(1, 1 + len(list(starts[0].glob("control-*")))):
        row(f"control {n}", "", [figures(start / f"control-{n}", names) for start in starts])
    for name in members:
        dirs = [task.out / f"seed-{seed}" / name.replace(" ", "-").replace(",", "") for seed in seeds]
        dirs = [dir for dir in dirs if (dir / "seconds").exists()]
        if not dirs:
            continue
        minutes = statistics.mean(int((dir / "seconds").read_text()) for dir in dirs) / 60
        folders = [stage_folders(dir)[1:] for dir in dirs]
        for stages in zip(*folders):
            row(name, stages[0].name[5:], [figures(stage, names) for stage in stages], f"{minutes:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["quickstart", "e2e"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(MEMBERS), choices=list(MEMBERS), metavar="MEMBER")
    parser.add_argument("--topspin", default="target/release/topspin")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    args = parser.parse_args()
    task = {"quickstart": Quickstart, "e2e": E2e}[args.task](args.topspin, args.out, args)
    if not args.table:
        play(task, args.only, args.seeds)
    table(task, args.only, args.seeds)


if __name__ == "__main__":
    main()
