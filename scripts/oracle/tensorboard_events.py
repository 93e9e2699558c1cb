"""Writes tests/golden/tensorboard: an event file by TensorBoard's own writer of records and messages, and what is in it.

    $(scripts/oracle/setup.sh tensorboard) scripts/oracle/tensorboard_events.py
"""

import json
import random
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FOLDER = Path(__file__).resolve().parents[2] / "tests/golden/tensorboard"
# Steps of one, two and more bytes; 0 is left out of a message.
STEPS = [0, 1, 2, 127, 128, 70_000, 2**40]
TAGS = ["train/loss", "rewards/margins", "eval/nll.per_token", "déjà vu"]


def main():
    rng = random.Random(5)
    events = []
    for at, step in enumerate(STEPS):
        # A long one, whose size takes two bytes.
        tags = TAGS[: 1 + at % len(TAGS)] + [f"long/{'x' * 150}"] * (at == 4)
        scalars = [[tag, rng.choice([0.0, rng.uniform(-3, 3), rng.uniform(-1e9, 1e9), 1e-30])] for tag in tags]
        events.append({"wall_time": 1.7e9 + rng.random() * 1e6, "step": step, "scalars": scalars})
    began = 1.7e9 + 0.125
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "events.out.tfevents.golden", "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
        for event in events:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in event["scalars"]]
            message = Event(wall_time=event["wall_time"], step=event["step"], summary=Summary(value=values))
            writer.write(message.SerializeToString())
    (FOLDER / "events.json").write_text(json.dumps({"wall_time": began, "events": events}, indent=1) + "\n")


if __name__ == "__main__":
    main()
