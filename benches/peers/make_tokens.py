"""Writes the token ids that all programs are timed on.

    python make_tokens.py --out FOLDER
    python make_tokens.py --out FOLDER --model FOLDER --data FILE [--prompts 512]

128.json and 512.json: `prompts` of 64 random ids, and `pairs` of prompts of so many and both responses of 128; no time
depends on their meaning. iteration.json, with --data: `iteration`, prompts and real responses out of a file of JSON lines
with `prompt` and `response`, distinct prompts drawn at random, rendered by the model's chat template.
"""

import argparse
import json
import random
from pathlib import Path

SPECIAL, VOCABULARY = 17, 49152  # SmolLM2: ids below 17 are control tokens
PROMPTS, PAIRS = 64, 4


def random_tokens(prompt_tokens):
    draw = random.Random(prompt_tokens)

    def tokens(count):
        return [draw.randrange(SPECIAL, VOCABULARY) for _ in range(count)]

    pairs = [{"prompt": tokens(prompt_tokens), "real": tokens(128), "generated": tokens(128)} for _ in range(PAIRS)]
    return {"prompts": [tokens(64) for _ in range(PROMPTS)], "pairs": pairs}


def real_tokens(model, data, count):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    def example(record):
        messages = [{"role": "user", "content": record["prompt"]}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return {"prompt": encode(prompt), "real": encode(record["response"]) + [tokenizer.eos_token_id]}

    by_prompt = {}
    for line in data.read_text().splitlines():
        record = json.loads(line)
        by_prompt.setdefault(record["prompt"], record)
    return {"iteration": [example(record) for record in random.Random(0).sample(list(by_prompt.values()), count)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    parser.add_argument("--model", type=Path, help="the Hugging Face folder whose tokenizer and template to use")
    parser.add_argument("--data", type=Path, help="JSON lines with `prompt` and `response`")
    parser.add_argument("--prompts", type=int, default=512, help="prompts to draw from --data")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    files = {f"{size}.json": random_tokens(size) for size in (128, 512)}
    if flags.data:
        files["iteration.json"] = real_tokens(flags.model, flags.data, flags.prompts)
    for name, tokens in files.items():
        (flags.out / name).write_text(json.dumps(tokens) + "\n")


if __name__ == "__main__":
    main()
