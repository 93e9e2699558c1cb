"""Writes tests/golden/gguf-families: models of tests/golden/families as GGUF files, and what they must compute.

    python gguf_families.py

Run it with the Python that scripts/oracle/setup.sh prints, into which `pip install -r scripts/oracle/requirements-llama.txt`
has brought llama.cpp: pip compiles it, some 15 minutes on two cores, so the setup leaves it out. Keys, names of tensors and what is done to their values are those of
llama.cpp's `convert_hf_to_gguf.py`. That they mean to llama.cpp what the models mean to transformers is checked: the script
stops where the logits of the two differ.
"""

import json
import math
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
OUT = GOLDEN / "gguf-families"
# Largest difference of logits, relative to the largest logit. llama.cpp looks GELU up in a table of f16.
TOLERANCE = 1e-3
TOTAL_BYTES = 1_500_000

# By name of the folder: the architecture, and settings of the model that are changed, for files do not hold them and llama.cpp
# takes the published models' own (it also rounds contexts up to 256 positions, and chooses factors by that).
WIDTH_OF_HEAD = dict(query_pre_attn_scalar=8)
SLIDING, FULL = "sliding_attention", "full_attention"
MODELS = {
    "llama-llama3": ("llama", {}),
    "llama-yarn": ("llama", {}),
    "llama-biases": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", dict(tie_word_embeddings=True, **WIDTH_OF_HEAD)),
    "gemma3": ("gemma3", dict(layer_types=4 * [SLIDING], **WIDTH_OF_HEAD)),
    "gemma3-scaled": ("gemma3", WIDTH_OF_HEAD),
    "phi4-mini": ("phi3", dict(max_position_embeddings=2048, original_max_position_embeddings=256)),
    "smollm3": ("smollm3", dict(no_rope_layers=[1, 1, 1, 0])),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
}
# The one whose file says which layers have windows: llama.cpp reads that, though its conversion leaves it out.
PATTERNED = "gemma3-scaled"
# Architectures whose rotary positions turn neighbours, for which rows of queries and keys are reordered.
INTERLEAVED = ("llama", "smollm3", "granite")


def configure(name):
    _, changes = MODELS[name]
    config = AutoConfig.from_pretrained(GOLDEN / "families" / name)
    for key, value in changes.items():
        setattr(config, key, value)
        if key in config.rope_parameters:
            config.rope_parameters[key] = value
    return config


def add_settings(writer, name, config):
    architecture, _ = MODELS[name]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if hasattr(config, "head_dim") and architecture != "granite":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture in INTERLEAVED:
        writer.add_rope_dimension_count(head_dim)
    rope = config.rope_parameters.get(FULL, config.rope_parameters)
    if architecture != "gemma2":
        writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])

    if architecture.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "gemma3":
        writer.add_rope_freq_base_swa(config.rope_parameters[SLIDING]["rope_theta"])
    if name == PATTERNED:
        writer.add_sliding_window_pattern([kind == SLIDING for kind in config.layer_types])
    if architecture == "phi3":
        original = rope["original_max_position_embeddings"]
        stretch = config.max_position_embeddings / original
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
        writer.add_sliding_window(config.sliding_window or 0)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(stretch) / math.log(original)))
    if architecture == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def llama3_divisors(rope, head_dim):
    """What each frequency is divided by (arXiv 2407.21783): nothing, the factor, or what lies between."""
    frequencies = rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / rope["factor"])).astype(np.float32)


def interleave(tensor, heads):
    """Row i + s hd/2 of each head becomes row 2i + s."""
    rows = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def add_tensors(writer, name, config, model):
    architecture, _ = MODELS[name]
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for theirs, tensor in model.state_dict().items():
        if theirs == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensor = tensor.numpy()
        if architecture.startswith("gemma") and theirs.endswith("norm.weight"):
            tensor = tensor + np.float32(1)
        if architecture in INTERLEAVED and (".q_proj." in theirs or ".k_proj." in theirs):
            heads = config.num_attention_heads if ".q_proj." in theirs else config.num_key_value_heads
            tensor = interleave(tensor, heads)
        ours = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(ours, np.ascontiguousarray(tensor))
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(rope, config.head_dim))
    for length in ("long", "short"):
        if factors := rope.get(f"{length}_factor"):
            writer.add_tensor(f"rope_factors_{length}.weight", np.array(factors, dtype=np.float32))


def llama_cpp_logits(path, sequences):
    """Logits behind the last token of each sequence, [V]."""
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, type_k=f32, type_v=f32, n_threads=1, verbose=False)
    found = []
    for tokens in sequences:
        model.reset()
        model.eval(tokens)
        found.append(torch.tensor(model.scores[len(tokens) - 1].copy()))
    return found


def write(name):
    """The logits, by name of tensor, and how far llama.cpp's are from them."""
    architecture, _ = MODELS[name]
    config = configure(name)
    model = AutoModelForCausalLM.from_pretrained(
        GOLDEN / "families" / name, config=config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    path = OUT / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    add_settings(writer, name, config)
    add_tensors(writer, name, config, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings = config.to_diff_dict()
    settings.pop("_name_or_path", None)
    (OUT / f"{name}.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")

    sequences = json.loads((GOLDEN / "families" / name / "expected.json").read_text())["sequences"]
    with torch.no_grad():
        expected = [model(torch.tensor([tokens])).logits[0, -1].contiguous() for tokens in sequences]
    found = llama_cpp_logits(path, sequences)
    distance = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected))
    assert distance < TOLERANCE, f"{name}: llama.cpp's logits are {distance:.1e} from those of transformers"
    return {f"{name}.{i}": logits for i, logits in enumerate(expected)}, distance


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    OUT.mkdir(exist_ok=True)
    logits = {}
    for name in MODELS:
        found, distance = write(name)
        logits |= found
        print(f"{name:<14} {(OUT / f'{name}.gguf').stat().st_size / 1e3:4.0f} kB  llama.cpp is {distance:.1e} away")
    save_file(logits, OUT / "logits.safetensors")
    for file in OUT.iterdir():
        file.chmod(0o644)
    assert sum(file.stat().st_size for file in OUT.iterdir()) < TOTAL_BYTES, "too large to be committed"


if __name__ == "__main__":
    main()
