"""Writes tests/golden/gguf-blocks/: random blocks of every element type as a GGUF file, what the `gguf` package decodes
them to, and numbers with the blocks that it encodes them as.

Run it with the Python that scripts/oracle/setup.sh prints. Bytes are uniform, so every bit of a code or a scale is
exercised; only the halves `d` and `m` are kept finite, and have both signs.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden" / "gguf-blocks"
ROWS = 2

# Elements in a row, and where in a block the f16 fields begin.
TYPES = {
    Type.F32: (24, []),
    Type.F16: (48, [0]),
    Type.BF16: (48, []),
    Type.Q4_0: (96, [0]),
    Type.Q4_1: (96, [0, 2]),
    Type.Q5_0: (96, [0]),
    Type.Q5_1: (96, [0, 2]),
    Type.Q8_0: (96, [0]),
    Type.Q2_K: (512, [80, 82]),
    Type.Q3_K: (512, [108]),
    Type.Q4_K: (512, [0, 2]),
    Type.Q5_K: (512, [0, 2]),
    Type.Q6_K: (512, [208]),
}


def random_blocks(kind, elements, halves, generator):
    """Encoded rows, [ROWS, bytes]."""
    block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (ROWS * elements // block_elements, block_bytes), dtype=np.uint8)
    for at in halves:
        # An exponent of 31 is infinity or no number: the top bit of the exponent is cleared there.
        odd = (blocks[:, at + 1] & 0x7C) == 0x7C
        blocks[odd, at + 1] &= 0xBF
    if kind in (Type.F32, Type.BF16):
        odd = (blocks[:, -1] & 0x7F) == 0x7F
        blocks[odd, -1] &= 0xBF
    return blocks.reshape(ROWS, -1)


def encoded(generator):
    """Numbers of magnitudes from the smallest half to thousands, ties and zeros among them, and their encodings."""
    spread = generator.normal(size=(24, 32)) * 10.0 ** generator.integers(-6, 4, (24, 1))
    ties = generator.integers(-253, 254, (6, 32)) / 2.0
    ties[:, 0] = 127  # so that the scale is 1
    halves = 1 + generator.integers(0, 4096, (4, 32)) / 8192
    values = np.concatenate([spread, ties, halves, -halves, np.zeros((1, 32)), np.full((1, 32), 1e-9)]).astype(np.float32)
    types = (Type.F16, Type.BF16, Type.Q8_0)
    return {"values": values} | {kind.name: quantize(values, kind).view(np.uint8) for kind in types}


def main():
    generator = np.random.default_rng(20)
    FOLDER.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(FOLDER / "blocks.gguf", "llama")
    decoded = {}
    for kind, (elements, halves) in TYPES.items():
        blocks = random_blocks(kind, elements, halves, generator)
        values = np.ascontiguousarray(dequantize(blocks, kind))
        assert values.shape == (ROWS, elements) and values.dtype == np.float32
        assert np.isfinite(values).all() and (values < 0).any() and (values > 0).any(), kind
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        decoded[kind.name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(decoded, FOLDER / "decoded.safetensors")
    save_file(encoded(generator), FOLDER / "encoded.safetensors")
    for file in FOLDER.iterdir():
        file.chmod(0o644)
    print(f"{sum(file.stat().st_size for file in FOLDER.iterdir()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
