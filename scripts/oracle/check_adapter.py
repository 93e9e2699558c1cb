"""Shows that PEFT opens saved LoRA adapters and computes with them what Topspin does.

    python check_adapter.py FOLDER... [--base FOLDER] [--scores FILE]

The scores, FOLDER/scores.jsonl unless named, are JSON lines as `topspin score` writes them for the adapted model in float32, with
`prompt` or `question`, or, for a base without a tokenizer, a `prompt` that is a list of token ids. The base is the adapter's
`base_model_name_or_path` unless given. Ends with an error where a name of a tensor is missing or not expected, or a
log-probability is farther than 1e-3 from PEFT's.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from check_scores import differences, encode
from peft import PeftConfig, PeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-3


def load(base, folder, config):
    """The adapted model; ends with an error where the files do not name just its adapter's tensors."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModelForCausalLM(model, config)
    names = model.load_adapter(folder, "default")
    if names.missing_keys or names.unexpected_keys:
        sys.exit(f"{folder}: missing {names.missing_keys}, not expected {names.unexpected_keys}")
    return model.eval()


def prompt_ids(base, record):
    given = record.get("prompt")
    return given if isinstance(given, list) else encode(AutoTokenizer.from_pretrained(base), record)


def check(folder, base, scores):
    """The largest difference of a log-probability."""
    config = PeftConfig.from_pretrained(folder)
    base = base or config.base_model_name_or_path
    model = load(base, folder, config)
    records = [json.loads(line) for line in scores.read_text().splitlines()]
    tokens = torch.cat([differences(model, prompt_ids(base, record), record) for record in records])
    print(f"{folder}: {len(records)} texts, {len(tokens)} tokens: the largest difference is {tokens.max():.1e}")
    return tokens.max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--scores", type=Path)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    found = [check(folder, args.base, args.scores or folder / "scores.jsonl") for folder in args.folders]
    # Not `>`: a NaN is no agreement.
    if not all(difference <= TOLERANCE for difference in found):
        sys.exit(f"farther than {TOLERANCE} from PEFT")


if __name__ == "__main__":
    main()
