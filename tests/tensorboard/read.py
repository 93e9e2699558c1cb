"""Has TensorBoard read event files: prints, as JSON, all scalars of each folder by tag, as lists of step, value and time.

    python read.py FOLDER...
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_inspector import generators_from_logdir


def scalars(folder):
    assert len(generators_from_logdir(folder)) > 0, folder
    # 0 keeps all, where the default thins them out.
    accumulator = EventAccumulator(folder, size_guidance={"scalars": 0}, purge_orphaned_data=False)
    accumulator.Reload()
    return {
        tag: [[event.step, event.value, event.wall_time] for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


if __name__ == "__main__":
    print(json.dumps({folder: scalars(folder) for folder in sys.argv[1:]}))
