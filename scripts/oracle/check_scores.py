"""Shows how far `topspin score` is from transformers: recomputes, in float32, each log-probability that it wrote.

    topspin score --model FOLDER --input RECORDS --output SCORES --dtype f32
    python check_scores.py FOLDER SCORES

RECORDS are JSON lines with `prompt` or `question`; FOLDER is a Hugging Face folder with a chat template.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def encode(tokenizer, record):
    chat = [{"role": "user", "content": record.get("prompt") or record["question"]}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


@torch.no_grad()
def differences(model, prompt, record):
    """Of the log-probability of each token of the response, [response]."""
    response = record["token_ids"]
    predictions = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    found = predictions.gather(1, torch.tensor(response)[:, None])[:, 0]
    return (found - torch.tensor(record["token_logprobs"])).abs()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("scores", type=Path)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.float32).eval()
    records = [json.loads(line) for line in args.scores.read_text().splitlines()]
    prompts = [encode(tokenizer, record) for record in records]
    tokens = torch.cat([differences(model, prompt, record) for prompt, record in zip(prompts, records)])
    print(f"{len(records)} texts, {len(tokens)} tokens: the largest difference is {tokens.max():.1e}, the mean {tokens.mean():.1e}")


if __name__ == "__main__":
    main()
