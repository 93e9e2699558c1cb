"""Shows that transformers loads the `trainer_state.json` of each model of a run, and that it is what `metrics.jsonl` holds.

    python check_trainer_state.py RUN

Prints a line for each model. Saved again by transformers the state is the same, field for field.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

from transformers import TrainerState


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(path):
    state = TrainerState.load_from_json(str(path))
    metrics = lines(path.parents[1] / "metrics.jsonl")
    assert state.global_step == state.max_steps == len(metrics) == len(state.log_history)
    assert math.isclose(state.epoch, state.num_train_epochs) and state.is_world_process_zero and state.logging_steps == 1
    for entry, step in zip(state.log_history, metrics, strict=True):
        theirs = {name.removeprefix("train/"): value for name, value in step.items()}
        assert entry == theirs | {"epoch": step["step"] * state.num_train_epochs / state.max_steps}, entry
        assert {"loss", "grad_norm", "learning_rate", "epoch", "step"} <= set(entry)
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "trainer_state.json"
        state.save_to_json(str(again))
        assert json.loads(again.read_text()) == json.loads(path.read_text())
    last = state.log_history[-1]
    print(f"{path.parents[1].name}: {state.global_step} steps, {state.num_train_epochs} epochs, last loss {last['loss']:.4f}")


if __name__ == "__main__":
    models = Path(sys.argv[1]).glob("*/model/trainer_state.json")
    # `best` is a link to one of the others.
    found = sorted(path for path in models if not path.parents[1].is_symlink())
    assert found, f"no trainer_state.json in {sys.argv[1]}"
    for path in found:
        check(path)
