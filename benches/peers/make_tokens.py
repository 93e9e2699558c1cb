"""Writes tokens.json: the token ids that both programs are timed on. Random, since no figure depends on their meaning."""

import json
import random
from pathlib import Path

SPECIAL, VOCABULARY = 17, 49152  # SmolLM2: ids below 17 are control tokens


def main():
    draw = random.Random(0)

    def tokens(count):
        return [draw.randrange(SPECIAL, VOCABULARY) for _ in range(count)]

    lines = {
        "prompts": [tokens(64) for _ in range(64)],
        "pairs": [{"prompt": tokens(128), "real": tokens(128), "generated": tokens(128)} for _ in range(4)],
    }
    text = ",\n".join(
        f'"{key}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"
        for key, rows in lines.items()
    )
    Path(__file__).with_name("tokens.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
