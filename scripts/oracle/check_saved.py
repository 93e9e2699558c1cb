"""Shows that transformers opens a saved model folder: prints, as JSON, what it answers greedily.

    python check_saved.py FOLDER PROMPTS_JSON [--max-new-tokens 24] [--dtype float32]

PROMPTS_JSON holds a list of objects with `messages` or `prompt` (one user message), or an object whose `prompts` is
such a list, like tests/golden/smollm2.json. A `prompt` is fed as it is to a model that has no chat template.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def render(tokenizer, case):
    if tokenizer.chat_template is None:
        return case["prompt"]
    messages = case.get("messages") or [{"role": "user", "content": case["prompt"]}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@torch.no_grad()
def answer(model, tokenizer, case, max_new_tokens):
    text = render(tokenizer, case)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens)
    greedy = output[0, len(prompt) :]
    logprobs = model(output).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return {
        "text": text,
        "ids": prompt,
        "greedy_ids": greedy.tolist(),
        "greedy_logprobs": logprobs.gather(1, greedy[:, None])[:, 0].tolist(),
        "answer": tokenizer.decode(greedy),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()

    transformers.utils.logging.disable_progress_bar()
    cases = json.loads(args.prompts.read_text())
    cases = cases["prompts"] if isinstance(cases, dict) else cases
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model, loading = AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=getattr(torch, args.dtype), output_loading_info=True
    )
    faults = {key: sorted(names) for key, names in loading.items() if names}
    if faults:
        sys.exit(f"the weights in {args.folder} do not fit its config.json: {faults}")
    answers = [answer(model.eval(), tokenizer, case, args.max_new_tokens) for case in cases]
    json.dump(answers, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
