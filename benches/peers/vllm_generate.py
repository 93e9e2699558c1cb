"""Times vLLM's generation on the CPU and prints one JSON object."""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ["VLLM_LOGGING_LEVEL"] = os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_NO_USAGE_STATS"] = "1"

import peer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    from vllm import LLM, SamplingParams

    prompts = json.loads(args.tokens.read_text())["prompts"][: args.sequences]
    llm = LLM(
        model=str(args.model),
        dtype="bfloat16",
        enforce_eager=not args.compile,
        enable_prefix_caching=False,
        max_model_len=1024,
        max_num_seqs=64,
        seed=0,
    )

    def once(new_tokens):
        sampling = SamplingParams(temperature=1.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        return llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)

    once(8)
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        outputs = once(64)
        times.append(time.perf_counter() - start)
    new = sum(len(o.outputs[0].token_ids) for o in outputs)
    seconds = statistics.median(times)
    print(times)
    print(json.dumps({"new_tokens_per_s": new / seconds, "seconds": seconds, "new": new, "peak_rss_bytes": peer.peak_rss_bytes()}))


if __name__ == "__main__":
    main()
