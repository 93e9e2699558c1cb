"""Times `generate` of transformers, bf16, at temperature 1 without cuts, and prints one JSON object.

    python transformers_generate.py --model FOLDER --tokens FILE [--sequences 64] [--attention eager]
    python transformers_generate.py --model FOLDER --tokens FILE --pairs FILE

64 new tokens for each of the `prompts`, in one batch, the end token masked out; or, with --pairs, a response to each
prompt of `iteration`, ended by the model or after 64 tokens, in batches of prompts of like length, padded on the left.
"""

import peer

peer.in_environment()
report = peer.only_the_report()

import torch
import transformers
from transformers import AutoModelForCausalLM


def main():
    parser = peer.generation_parser(__doc__)
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        flags.model, dtype=torch.bfloat16, attn_implementation=flags.attention
    ).eval()
    end, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id

    def batch(prompts, new_tokens, to_the_end):
        longest = max(map(len, prompts))
        rows = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = model.generate(
            rows,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=None if to_the_end else new_tokens,
            max_new_tokens=new_tokens,
        )
        return [response[: response.index(end) + 1] if end in response else response
                for response in output[:, longest:].tolist()]

    def generate(prompts, new_tokens, to_the_end):
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        responses = [None] * len(prompts)
        for start in range(0, len(order), flags.sequences):
            chosen = order[start : start + flags.sequences]
            for at, response in zip(chosen, batch([prompts[at] for at in chosen], new_tokens, to_the_end)):
                responses[at] = response
        return responses

    report(flags, ("torch", "transformers"), **peer.measure(flags, generate))


if __name__ == "__main__":
    main()
