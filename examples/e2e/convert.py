#!/usr/bin/env python3
"""From the CSV of the E2E NLG challenge to JSONL.

    python3 convert.py devel-fixed.no-ol.csv > train.jsonl
    python3 convert.py --references test-fixed.csv > test.jsonl

The columns `mr` (the input) and `ref` (a description by a person) are read; the cleaned data has `fixed` and `orig_mr`
besides, which are not needed. Each row becomes {"prompt", "response"}; with `--references` the rows of one input become
one {"prompt", "references"}, in the order of their first row.
"""

import argparse
import csv
import json
import sys


def rows(lines):
    """(input, description) for each row; raises ValueError with the line of a bad one."""
    reader = csv.DictReader(lines)
    names = {name.strip().lower(): name for name in reader.fieldnames or ()}
    if not {"mr", "ref"} <= names.keys():
        raise ValueError("the first line must name the columns `mr` and `ref`; is this a file of the E2E data?")
    for row in reader:
        pair = tuple((row[names[column]] or "").strip() for column in ("mr", "ref"))
        if not all(pair):
            raise ValueError(f"line {reader.line_num}: `mr` or `ref` is empty; fill it in or remove the row")
        yield pair


def convert(lines, references):
    """JSON objects, one a pair or one an input."""
    if not references:
        return [{"prompt": prompt, "response": text} for prompt, text in rows(lines)]
    grouped = {}
    for prompt, text in rows(lines):
        grouped.setdefault(prompt, []).append(text)
    return [{"prompt": prompt, "references": texts} for prompt, texts in grouped.items()]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="From the CSV of the E2E NLG challenge to JSONL, on standard output.")
    parser.add_argument("file", metavar="FILE.csv")
    parser.add_argument("--references", action="store_true", help="one line an input, with all its descriptions")
    given = parser.parse_args(arguments)
    try:
        with open(given.file, encoding="utf-8-sig", newline="") as lines:
            records = convert(lines, given.references)
    except OSError as error:
        print(f"convert.py: cannot read `{given.file}`: {error.strerror}; check the path", file=sys.stderr)
        return 2
    except (ValueError, csv.Error) as error:
        print(f"convert.py: `{given.file}`: {error}", file=sys.stderr)
        return 2
    # The bytes are to be the same everywhere, whatever the locale.
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    for record in records:
        print(json.dumps(record, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
