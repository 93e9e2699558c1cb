"""Shows that what `topspin export` writes is the same model elsewhere. Stops where it is not.

    python check_export.py transformers|llama|vllm [--topspin target/release/topspin]

Each part exports with the built program and opens the result in another: folders in transformers (and GGUF files with the
`gguf` package), GGUF files in llama.cpp, folders in vLLM. `transformers` runs with the Python that scripts/oracle/setup.sh
prints, `llama` where scripts/oracle/requirements-llama.txt is installed, `vllm` with that of benches/peers/setup.sh. The model is
SmolLM2-135M-Instruct (scripts/smollm2.sh); llama.cpp also gets the small random models of tests/golden/families.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
NEW_TOKENS = 24

# Largest difference of log-probabilities that is put down to the order of sums, or to rounded activations: llama.cpp
# multiplies matrices of F16 and BF16 with vectors of the same type, and those of Q8_0 with vectors of 8 bits.
SAME = 2e-3
ROUNDED = {"f32": SAME, "f16": 2e-2, "bf16": 2e-1, "q8_0": 5e-1}


class Program:
    def __init__(self, path, folder):
        self.path, self.folder = path.resolve(), folder

    def run(self, *arguments):
        return subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True)

    def export(self, model, name, *flags):
        """The folder that is written."""
        output = self.folder / name
        done = self.run("export", model, "--output", output, *flags)
        assert done.returncode == 0, done.stderr
        assert (output / "README.md").read_text().startswith("---\n"), "a model card"
        return output

    def greedy(self, model, records, new_tokens=NEW_TOKENS):
        """Token ids of the greedy answers, and their log-probabilities."""
        lines = self.folder / "prompts.jsonl"
        lines.write_text("".join(json.dumps(record) + "\n" for record in records))
        done = self.run(
            "generate", "--model", model, "--input", lines, "--greedy", "--dtype", "f32", "--max-new-tokens", new_tokens
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        return [(answer["token_ids"], answer["logprobs"]) for answer in answers]


def smollm2():
    path = subprocess.run([ROOT / "scripts/smollm2.sh"], check=True, capture_output=True, text=True).stdout.strip()
    golden = json.loads((GOLDEN / "smollm2.json").read_text())
    prompts = [{"messages": case["messages"]} for case in golden["prompts"]]
    return Path(path), golden, prompts


def single(folder, pattern):
    (file,) = folder.glob(pattern)
    return file


# transformers and the gguf package.


def check_transformers(program):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    path, golden, prompts = smollm2()
    folders = {}
    for kind, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        folder = folders[kind] = program.export(path, f"hf-{kind}", "--type", kind)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for case in golden["prompts"]:
            ids = tokenizer.apply_chat_template(case["messages"], add_generation_prompt=True, return_dict=False)
            assert ids == case["ids"], case["name"]
        ours = program.greedy(folder, prompts)
        auto = AutoModelForCausalLM.from_pretrained(folder)
        assert auto.dtype == dtype, f"{auto.dtype} in config.json"
        assert auto.generation_config.eos_token_id == tokenizer.eos_token_id
        for computed in {torch.float32, dtype}:
            model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=computed, output_loading_info=True)
            assert not any(loading.values()), loading
            same, distance = 0, 0.0
            for case, (greedy, logprobs) in zip(golden["prompts"], ours):
                ids = torch.tensor([case["ids"]])
                theirs = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS)
                same += theirs[0, ids.shape[1] :].tolist() == greedy
                logits = model(torch.tensor([case["ids"] + greedy])).logits[0, ids.shape[1] - 1 : -1].float()
                found = logits.log_softmax(-1).gather(1, torch.tensor(greedy)[:, None])[:, 0]
                distance = max(distance, (found - torch.tensor(logprobs)).abs().max().item())
            exact = computed == torch.float32
            assert not exact or (same == len(ours) and distance < 1e-3), (kind, same, distance)
            print(f"transformers {kind:<4} in {computed}: {same} of {len(ours)} greedy answers, log-probabilities {distance:.1e}")
    check_gguf_package(program, path, folders["f32"])


def check_gguf_package(program, path, reference):
    import gguf
    import numpy as np
    from gguf.quants import quantize
    from safetensors.torch import load_file

    import smollm2 as reader

    exact = load_file(reference / "model.safetensors")
    for kind in ("f32", "f16", "bf16", "q8_0"):
        file = single(program.export(path, f"gguf-{kind}", "--format", "gguf", "--type", kind), "*.gguf")
        ours = load_file(program.export(file, f"again-{kind}") / "model.safetensors")
        theirs = reader.read_model(file).state_dict()
        assert all(weight.equal(theirs[name]) for name, weight in ours.items()), kind
        assert kind != "f32" or all(weight.equal(exact[name]) for name, weight in ours.items())
        blocks = 0
        for tensor in gguf.GGUFReader(file).tensors:
            assert tensor.data.ndim > 1 or tensor.tensor_type == gguf.GGMLQuantizationType.F32, tensor.name
            if kind == "q8_0" and tensor.name in ("token_embd.weight", "blk.0.ffn_up.weight"):
                name = {"token_embd.weight": "model.embed_tokens.weight"}.get(tensor.name, "model.layers.0.mlp.up_proj.weight")
                expected = quantize(exact[name].numpy(), tensor.tensor_type)
                assert np.array_equal(expected.view(np.uint8), tensor.data.view(np.uint8)), tensor.name
                blocks += expected.size // 34
        note = f", {blocks} blocks of Q8_0 to the bit" if blocks else ""
        shutil.rmtree(program.folder / f"again-{kind}")
        print(f"gguf {kind:<4}: {len(ours)} tensors decoded to the same numbers{note}")


# llama.cpp.


def letters(folder):
    """A tokenizer of 61 ids: letters, and tokens that begin and end a text."""
    tokens = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "Ġ", "Ċ", "<s>", "</s>"]
    added = [
        {"id": tokens.index(token), "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in ("<s>", "</s>")
    ]  # fmt: skip
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    definition = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": gpt2, "post_processor": None, "decoder": gpt2,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: id for id, token in enumerate(tokens)}, "merges": []},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokens


# What files have no place for, by what the program says of it.
REFUSED = {
    "gemma3-yarn": "rotary positions scaled as `yarn`",
    "llama-dynamic": "rotary positions scaled as `dynamic`",
    "mistral-window": "the model's sliding window",
    "qwen2-window": "the model's sliding window",
    "smollm3-window": "the model's sliding window",
}
# Phi's window is in the file, but llama.cpp does without it: such sequences stay within.
WITHIN_WINDOW = {"phi3": 12}


def open_llama(file, context):
    import llama_cpp

    f32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(file), n_ctx=context, logits_all=True, type_k=f32, type_v=f32, n_threads=2, flash_attn=False, verbose=False
    )


def compare(model, cases):
    """Feeds each prompt with our continuation. Of all positions: whether its likeliest token is ours, by how much it prefers
    another, and how far the log-probabilities are."""
    import numpy as np

    positions, other, preference, distance = 0, 0, 0.0, 0.0
    for prompt, (greedy, logprobs) in cases:
        model.reset()
        model.eval(prompt + greedy)
        logits = np.array(model.scores[len(prompt) - 1 : len(prompt) + len(greedy) - 1], dtype=np.float64)
        found = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        at = np.arange(len(greedy))
        gaps = found.max(axis=1) - found[at, greedy]
        positions += len(greedy)
        other += int((gaps > 0).sum())
        preference = max(preference, gaps.max())
        distance = max(distance, np.abs(found[at, greedy] - logprobs).max())
    return positions, other, preference, distance


def check_llama(program):
    path, golden, prompts = smollm2()
    for kind in ("f32", "f16", "bf16", "q8_0"):
        file = single(program.export(path, f"smollm2-{kind}", "--format", "gguf", "--type", kind), "*.gguf")
        ours = program.greedy(file, prompts)
        model = open_llama(file, 1024)
        for case in golden["prompts"]:
            assert model.tokenize(case["text"].encode(), add_bos=False, special=True) == case["ids"], case["name"]
        texts = [case for case in golden["texts"] if "\0" not in case["text"] and case["text"]]
        wrong = [
            case["text"] for case in texts if model.tokenize(case["text"].encode(), add_bos=False, special=True) != case["ids"]
        ]
        print(f"llama.cpp {kind:<4}: {len(texts) - len(wrong)} of {len(texts)} texts become the same ids", *map(repr, wrong))
        report(f"smollm2 {kind}", kind, compare(model, [(c["ids"], answer) for c, answer in zip(golden["prompts"], ours)]))
        del model
        shutil.rmtree(file.parent)
    for folder in sorted((GOLDEN / "families").iterdir()):
        check_family(program, folder)


def check_family(program, golden):
    name = golden.name
    folder = program.folder / name
    folder.mkdir()
    # The same models as those of gguf-families: with changes that files, or llama.cpp, ask for.
    changed = GOLDEN / "gguf-families" / f"{name}.json"
    shutil.copy(changed if changed.exists() else golden / "config.json", folder / "config.json")
    shutil.copy(golden / "model.safetensors", folder)
    tokens = letters(folder)
    if problem := REFUSED.get(name):
        done = program.run("export", folder, "--output", program.folder / "none", "--format", "gguf")
        assert done.returncode == 2 and problem in done.stderr, done.stderr
        print(f"llama.cpp {name}: {done.stderr.split('GGUF: ')[1].strip()}")
        return
    texts = ["topspin", "a Letter", "The quick", "x"]
    prompts = [[tokens.index("Ġ" if letter == " " else letter) for letter in text] for text in texts]
    new_tokens = NEW_TOKENS
    if window := WITHIN_WINDOW.get(name):
        new_tokens = window - max(map(len, prompts))
    for kind in ("f32", "f16", "bf16", "q8_0"):
        file = single(program.export(folder, f"{name}-{kind}", "--format", "gguf", "--type", kind), "*.gguf")
        ours = program.greedy(file, [{"prompt": text} for text in texts], new_tokens)
        model = open_llama(file, 256)
        report(f"{name} {kind}", kind, compare(model, list(zip(prompts, ours))))
        del model


def report(name, kind, found):
    positions, other, preference, distance = found
    print(
        f"llama.cpp {name:<20}: {positions - other} of {positions} tokens are its likeliest too"
        + (f" (it prefers others by {preference:.1e} at most)" if other else "")
        + f"; log-probabilities {distance:.1e}",
        flush=True,
    )
    # Where it prefers another token, it must be a tie within what rounding explains.
    assert distance < ROUNDED[kind] and preference < ROUNDED[kind], name
    assert kind != "f32" or other == 0, name


# vLLM.


def check_vllm(program):
    environment = {
        "LD_PRELOAD": f"{sys.prefix}/lib/libiomp5.so",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)
    from vllm import LLM, SamplingParams

    path, golden, prompts = smollm2()
    for kind in ("f32", "bf16"):
        folder = program.export(path, f"vllm-{kind}", "--type", kind)
        ours = program.greedy(folder, prompts)
        # Computed in f32 also from weights of bf16, so that ties do not decide.
        llm = LLM(model=str(folder), dtype="float32", enforce_eager=True, max_model_len=1024, seed=0)
        sampling = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, logprobs=0)
        outputs = llm.chat([case["messages"] for case in golden["prompts"]], sampling, use_tqdm=False)
        same, distance = 0, 0.0
        for case, output, (greedy, logprobs) in zip(golden["prompts"], outputs, ours):
            assert list(output.prompt_token_ids) == case["ids"], case["name"]
            found = output.outputs[0]
            same += list(found.token_ids) == greedy
            theirs = [step[token].logprob for step, token in zip(found.logprobs, found.token_ids)]
            distance = max(distance, *(abs(a - b) for a, b in zip(theirs, logprobs)))
        print(f"vLLM {kind:<4}: {same} of {len(ours)} greedy answers, log-probabilities {distance:.1e}", flush=True)
        assert same == len(ours) and distance < SAME, kind
        del llm
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("transformers", "llama", "vllm"))
    parser.add_argument("--topspin", type=Path, default=ROOT / "target" / "release" / "topspin")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        globals()[f"check_{args.part}"](Program(args.topspin, Path(folder)))


if __name__ == "__main__":
    main()
