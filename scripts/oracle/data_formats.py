"""Writes tests/golden/data/: the same records in every format that Topspin reads, by other people's writers.

What Parquet files hold is told by pyarrow, which reads each one back; the rest is one list of records throughout.
"""

import csv
import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "data"
WORDS = "a top spins and sways, „Kreisel“ トンボ 'quoted' \"twice\" tab\there line\nbreak 100% ½ 🙂 back\\slash , ; |".split(" ")
RNG = random.Random(7)


def text(least: int, most: int) -> str:
    return " ".join(RNG.choice(WORDS) for _ in range(RNG.randint(least, most)))


def pairs() -> list[dict]:
    return [{"id": f"r{n}", "prompt": f"{n}: {text(1, 6)}", "response": text(1, 12)} for n in range(24)]


def chat(n: int) -> dict:
    """Rows with lists that are missing, empty, short and long, structures in them, and numbers beside."""
    turns = 2 * RNG.randint(1, 4)
    roles = ["user", "assistant"] * turns
    messages = [{"role": roles[k], "content": text(1, 5)} for k in range(turns)]
    references = RNG.choice([None, [], ["one"], [text(1, 3) for _ in range(5)], [None, "last"]])
    return {
        "id": n - 12,
        "messages": messages if n % 7 else None,
        "references": references,
        "stars": RNG.choice([None, -3, 5, 2**31 - 1, -(2**31)]),
        "votes": RNG.choice([0, 1, 2**62, -(2**62)]) + n,
        "score": RNG.choice([None, 0.1, -1e300, 3.0]),
        "flag": RNG.choice([True, True, True, False, None]),
        "source": RNG.choice([None, "web", "book"]),
        "nested": RNG.choice([None, {"names": None, "of": {"deep": [[1, 2], [], [3]]}}, {"names": ["x"], "of": None}]),
    }


SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("references", pa.list_(pa.string())),
        ("stars", pa.int32()),
        ("votes", pa.int64()),
        ("score", pa.float64()),
        ("flag", pa.bool_()),
        ("source", pa.string()),
        (
            "nested",
            pa.struct(
                [
                    ("names", pa.list_(pa.string())),
                    ("of", pa.struct([("deep", pa.list_(pa.list_(pa.int32())))])),
                ]
            ),
        ),
    ]
)


def write_texts(records: list[dict]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    (OUT / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    (OUT / "pairs.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    whole = {"version": "1.0", "data": records, "about": {"by": ["nobody"]}}
    (OUT / "object.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    for name, dialect in [("pairs.csv", "excel"), ("pairs.tsv", "excel-tab")]:
        with open(OUT / name, "w", newline="", encoding="utf-8-sig" if name == "pairs.csv" else "utf-8") as file:
            writer = csv.DictWriter(file, records[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(records)
    half = len(lines) // 2
    parts = ["".join(lines[:half]).encode(), "".join(lines[half:]).encode()]
    # Two members, as `cat a.gz b.gz` makes them, and two frames with one to be skipped in between.
    (OUT / "pairs.jsonl.gz").write_bytes(b"".join(gzip.compress(part, mtime=0) for part in parts))
    compress = zstandard.ZstdCompressor(level=19, write_checksum=True).compress
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"skip!"
    (OUT / "pairs.jsonl.zst").write_bytes(compress(parts[0]) + skipped + compress(parts[1]))


def write_parquet(rows: list[dict]) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    settings = {
        "none": {"compression": "none"},
        "snappy": {"compression": "snappy"},
        "gzip": {"compression": "gzip"},
        "zstd": {"compression": "zstd"},
        "lz4": {"compression": "lz4"},
        "v2": {"compression": "zstd", "data_page_version": "2.0"},
        "v2-none": {"compression": "none", "data_page_version": "2.0", "use_dictionary": False},
        # Lists that go on from one page to the next, and row groups that end anywhere.
        "pages": {"compression": "snappy", "use_dictionary": False, "data_page_size": 64, "write_batch_size": 2},
        "groups": {"compression": "zstd", "row_group_size": 7},
        "delta": {
            "compression": "zstd",
            "data_page_version": "2.0",
            "use_dictionary": False,
            "column_encoding": {
                "id": "DELTA_BINARY_PACKED",
                "stars": "DELTA_BINARY_PACKED",
                "votes": "DELTA_BINARY_PACKED",
                "flag": "RLE",
                "source": "DELTA_BYTE_ARRAY",
                "messages.list.element.role": "DELTA_BYTE_ARRAY",
                "messages.list.element.content": "DELTA_LENGTH_BYTE_ARRAY",
            },
        },
    }
    for name, options in settings.items():
        path = OUT / f"chat-{name}.parquet"
        pq.write_table(table, path, **options)
        if pq.read_table(path).to_pylist() != rows:
            raise SystemExit(f"{path} does not read back")
    (OUT / "chat.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0), encoding="utf-8")


def write_spin() -> None:
    """The form of the official SPIN sets (UCLA-AGI/SPIN_iter0 and others), with words of our own."""
    rows = []
    for n in range(4):
        prompt = {"content": f"{n}: {text(2, 5)}", "role": "user"}
        answer = lambda: [prompt, {"content": text(2, 6), "role": "assistant"}]
        rows.append({"real": answer(), "generated": answer()})
    pq.write_table(pa.Table.from_pylist(rows), OUT / "spin.parquet")
    (OUT / "spin.json").write_text(json.dumps(rows, ensure_ascii=False, indent=0), encoding="utf-8")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_texts(pairs())
    write_parquet([chat(n) for n in range(26)])
    write_spin()
