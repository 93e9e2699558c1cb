"""Writes tests/golden/smollm2.json: what SmolLM2-135M-Instruct computes from the dequantised weights of its GGUF file.

Run it with the Python that scripts/oracle/setup.sh prints; scripts/smollm2.sh fetches the model. It also leaves the
dequantised model as a Hugging Face folder (f32, with tokenizer) in target/models/smollm2-hf.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path

import gguf
import torch
import transformers
from gguf.quants import dequantize
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import reference
from smollm2_cases import CHATS, PROMPTS, TEXTS

ROOT = Path(__file__).resolve().parents[2]
GREEDY_TOKENS = 24

BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_model(path):
    """The GGUF file as a float32 transformers model."""
    file = gguf.GGUFReader(path)

    def value(key):
        return file.fields[key].contents()

    heads, kv_heads = value("llama.attention.head_count"), value("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=value("llama.rope.dimension_count"),
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=1e-5,  # the file holds the float32 nearest to it
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
        tie_word_embeddings=True,  # it has no `output.weight`
        bos_token_id=value("tokenizer.ggml.bos_token_id"),
        eos_token_id=value("tokenizer.ggml.eos_token_id"),
        pad_token_id=value("tokenizer.ggml.padding_token_id"),
    )
    weights = {}
    for tensor in file.tensors:
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{BLOCK_TENSORS[part]}.weight"
            if part in ("attn_q", "attn_k"):
                weight = halves(weight, heads if part == "attn_q" else kv_heads)
        weights[name] = weight
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def halves(weight, heads):
    """Rows of each head from GGUF's order (x0 y0 x1 y1 ...) to that of Hugging Face (x0 x1 ... y0 y1 ...)."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def read_tokenizer(path):
    """The tokenizer as it was trained. transformers reads all of it but the pre-tokenizer `smollm`, of which it knows
    nothing and takes GPT-2's: the model's own splits off every digit first, as llama.cpp does."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    return tokenizer


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def continuation_logprobs(logits, prompt, continuation):
    """Log-probabilities [len(continuation)] out of the logits of `prompt + continuation`."""
    predictions = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return predictions.gather(1, torch.tensor(continuation)[:, None])[:, 0]


def prompt_case(model, weights64, tokenizer, name, messages, response):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = encode(tokenizer, text)
    assert tokenizer.decode(prompt) == text
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=GREEDY_TOKENS)
    greedy = output[0, len(prompt) :].tolist()
    response_ids = encode(tokenizer, response) + [tokenizer.eos_token_id]

    logprobs, gap = {}, None
    for key, tokens in (("greedy", greedy), ("response", response_ids)):
        logits = model(torch.tensor([prompt + tokens])).logits[0]
        logprobs[key] = continuation_logprobs(logits, prompt, tokens)
        exact = continuation_logprobs(reference.logits(weights64, model.config, prompt + tokens), prompt, tokens)
        error = (logprobs[key] - exact).abs().max().item()
        assert error < 1e-4, f"float32 is {error} from float64"
        if key == "greedy":
            top = logits[len(prompt) - 1 : -1].topk(2)
            assert top.indices[:, 0].tolist() == greedy, "generation and scoring disagree"
            gap = (top.values[:, 0] - top.values[:, 1]).min().item()
            assert gap > 0.01, f"the greedy choice hangs on {gap}; choose another prompt"
        print(f"  {name:<12} {key:<9} {len(prompt):>4} + {len(tokens):<3} float64 differs by {error:.1e}")
    print(f"    gap {gap:.3f}: {tokenizer.decode(greedy)!r}")
    return {
        "name": name,
        "messages": messages,
        "text": text,
        "ids": prompt,
        "greedy_ids": greedy,
        "greedy_logprobs": logprobs["greedy"].tolist(),
        "response": response,
        "response_ids": response_ids,
        "response_logprobs": logprobs["response"].tolist(),
    }


def chat_case(tokenizer, messages, add_generation_prompt):
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    return {"messages": messages, "add_generation_prompt": add_generation_prompt, "text": text}


def text_cases(tokenizer, path):
    plain = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    cases = []
    for text in TEXTS:
        ids = encode(tokenizer, text)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text, text
        cases.append({"text": text, "ids": ids})
    differ = [case["text"] for case in cases if encode(plain, case["text"]) != case["ids"]]
    print(f"  {len(cases)} texts; the pre-tokenizer that transformers assumes would change {len(differ)}: {differ}")
    return cases


def save_folder(model, tokenizer, folder):
    work = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


@torch.no_grad()
def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder-only", action="store_true", help="leave the golden file as it is")
    folder_only = arguments.parse_args().folder_only
    transformers.utils.logging.disable_progress_bar()
    path = Path(subprocess.run([ROOT / "scripts/smollm2.sh"], check=True, capture_output=True, text=True).stdout.strip())
    model, tokenizer = read_model(path), read_tokenizer(path)

    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in model.state_dict().items())
    print("the weights equal those that transformers reads from the same file")
    del theirs
    folder = ROOT / "target" / "models" / "smollm2-hf"
    save_folder(model, tokenizer, folder)
    print(f"wrote {folder}")
    if folder_only:
        return

    weights64 = {name: parameter.double() for name, parameter in model.named_parameters()}
    golden = {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "prompts": [prompt_case(model, weights64, tokenizer, **case) for case in PROMPTS],
        "chats": [chat_case(tokenizer, *case) for case in CHATS],
        "texts": text_cases(tokenizer, path),
    }
    write_json(golden, ROOT / "tests" / "golden" / "smollm2.json")
    print("wrote tests/golden/smollm2.json")


def write_json(golden, path):
    """One case a line, so that a change shows in a diff."""
    lines = []
    for key, value in golden.items():
        if isinstance(value, list):
            cases = ",\n".join("    " + json.dumps(case, ensure_ascii=True) for case in value)
            lines.append(f"  {json.dumps(key)}: [\n{cases}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
