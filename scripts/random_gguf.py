"""Writes a GGUF file in the dimensions of Llama 3 8B (arXiv 2407.21783), random in every block: what is measured with it,
memory and time, does not depend on the weights.

    python scripts/random_gguf.py OUT.gguf [--type q4_0 | q4_k_m] [--layers 32]

Run it with the Python that scripts/oracle/setup.sh prints. Tensors are written one by one; 32 layers in Q4_0 are 4.5 GB.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 4096, 14336, 32, 8, 128_256
# Where in a block the halves lie.
HALVES = {Type.Q4_0: [0], Type.Q4_K: [0, 2], Type.Q6_K: [208]}


def byte_characters() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b if b in printable else next(moved)) for b in range(256)]


def random_rows(rng: np.random.Generator, kind: Type, rows: int, columns: int) -> np.ndarray:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
    for at in HALVES[kind]:
        # Of either sign, from 2^-11 to 2^-9 in blocks of 32, whose codes reach 8, and 2^-15 to 2^-13 in those of 256.
        high = 0x10 if elements == 32 else 0x00
        blocks[:, at + 1] = (blocks[:, at + 1] & 0x83) | high
    return blocks.reshape(rows, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=["q4_0", "q4_k_m"], default="q4_0")
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()

    writer = gguf.GGUFWriter(args.out, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    tokens = [*byte_characters(), "<|end_of_text|>", "th"]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3, 1])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(256)

    tensors: list[tuple[str, Type, tuple[int, ...]]] = []

    def add(name: str, *shape: int, better: bool = False) -> None:
        quantised = Type.Q4_0 if args.type == "q4_0" else Type.Q6_K if better else Type.Q4_K
        tensors.append((f"{name}.weight", quantised if len(shape) == 2 else Type.F32, shape))

    add("token_embd", VOCABULARY, WIDTH)
    kv = KV_HEADS * WIDTH // HEADS
    for layer in range(args.layers):
        block = f"blk.{layer}"
        # llama.cpp's Q4_K_M: Q6_K in the first and last eighth of the layers and in every third between.
        eighth = args.layers // 8
        better = layer < eighth or layer >= 7 * args.layers // 8 or (layer - eighth) % 3 == 2
        add(f"{block}.attn_norm", WIDTH)
        add(f"{block}.attn_q", WIDTH, WIDTH)
        add(f"{block}.attn_k", kv, WIDTH)
        add(f"{block}.attn_v", kv, WIDTH, better=better)
        add(f"{block}.attn_output", WIDTH, WIDTH)
        add(f"{block}.ffn_norm", WIDTH)
        add(f"{block}.ffn_gate", INNER, WIDTH)
        add(f"{block}.ffn_up", INNER, WIDTH)
        add(f"{block}.ffn_down", WIDTH, INNER, better=better)
    add("output_norm", WIDTH)
    add("output", VOCABULARY, WIDTH, better=True)

    for name, kind, shape in tensors:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape)) // elements * size
        if kind == Type.F32:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), count)
        else:
            stored = (*shape[:-1], shape[-1] // elements * size)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), count, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for _, kind, shape in tensors:
        tensor = np.ones(shape, np.float32) if kind == Type.F32 else random_rows(rng, kind, *shape)
        writer.write_tensor_data(tensor)
    writer.close()


if __name__ == "__main__":
    main()
