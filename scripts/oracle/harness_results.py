"""Writes tests/golden/metrics/harness/: what lm-evaluation-harness writes of two small tasks, answered by a model that is a table.

Results lose what is of the machine and the moment alone. Run it with the Python that `scripts/oracle/setup.sh metrics` prints.
"""

import json
import os
import tempfile
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "metrics" / "harness"
SUMS = [
    {"question": "Two and two?", "answer": "Two more than two.\n#### 4", "said": "It is 2 + 2 = 4.\n#### 4"},
    {"question": "Half of „9“?", "answer": "#### 4.5", "said": "That is $4.5"},
    {"question": "1,000 less 1?", "answer": "#### 999", "said": "#### 1,000, no, 999"},
    {"question": "Nothing?\tReally?", "answer": "#### 0", "said": "nothing"},
    {"question": "3 トンボ and 2?", "answer": "#### 5", "said": "5."},
]
PICKS = [
    {"question": "A top", "choices": ["spins", "sleeps soundly", "eats"], "label": 0, "weight": 0.1, "tags": []},
    {"question": "A naïve cat", "choices": ["naïvely purrs", "日本"], "label": 1, "weight": -2.5, "tags": ["x", {"deep": None}]},
    {"question": "Rain", "choices": ["falls", "climbs up the stairs", "barks", "ends"], "label": 3, "weight": 3, "tags": {}},
    {"question": "Ice", "choices": ["is cold", "is hot"], "label": 0, "weight": 12.0, "tags": ["\"quoted\" \\ \u0001"]},
]
SUMS_TASK = r"""
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:"], do_sample: false, temperature: 0.0}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
filter_list:
  - name: strict-match
    filter: [{function: regex, regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}, {function: take_first}]
  - name: flexible-extract
    filter: [{function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {function: take_first}]
metadata: {version: 3.0}
"""
PICKS_TASK = """
task: picks
dataset_path: json
dataset_kwargs: {data_files: {test: picks.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
# What the tables and tests need; the rest tells of versions, hours and hosts.
KEPT = ["results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "task_hashes"]


def run(folder: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Table(LM):
        def generate_until(self, requests):
            said = {f"Question: {row['question']}\nAnswer:": row["said"] for row in SUMS}
            return [said[request.args[0]] for request in requests]

        def loglikelihood(self, requests):
            # A sixteenth for each byte, and less for the right choices of some questions.
            easy = [" " + row["choices"][row["label"]] for row in PICKS[:2]]
            length = lambda text: -len(text.encode()) / 16
            return [(length(text) * (0.3 if text in easy else 1), len(text) % 2 == 0)
                    for _, text in (request.args for request in requests)]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

    for name, rows, task in [("sums", SUMS, SUMS_TASK), ("picks", PICKS, PICKS_TASK)]:
        lines = [json.dumps({key: value for key, value in row.items() if key != "said"}, ensure_ascii=False) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(task, encoding="utf-8")
    tracker = EvaluationTracker(output_path="out")
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    results = simple_evaluate(Table(), tasks=["sums", "picks"], task_manager=tasks, bootstrap_iters=100)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in samples:
        tracker.save_results_samples(task_name=name, samples=samples[name])


def golden() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ.update(HF_HOME=name, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        os.chdir(name)
        run(Path(name))
        [results] = Path("out").rglob("results_*.json")
        written = json.loads(results.read_text(encoding="utf-8"))
        if missing := [key for key in KEPT if key not in written]:
            raise SystemExit(f"the harness writes no {missing}")
        for config in written["configs"].values():
            del config["metadata"]["config_source"]
        OUT.mkdir(parents=True, exist_ok=True)
        kept = json.dumps({key: written[key] for key in KEPT}, indent=1, ensure_ascii=False) + "\n"
        if name in kept:
            raise SystemExit(f"the results name the folder {name}")
        (OUT / "results.json").write_text(kept, encoding="utf-8")
        for task in ["sums", "picks"]:
            [samples] = Path("out").rglob(f"samples_{task}_*.jsonl")
            (OUT / f"samples_{task}.jsonl").write_bytes(samples.read_bytes())
        os.chdir("/")


if __name__ == "__main__":
    golden()
