#!/usr/bin/env python3
"""Slot error rate of restaurant descriptions, with intervals.

    python3 slot_error_rate.py base.jsonl sft.jsonl iter-1.jsonl
    python3 slot_error_rate.py --references test.jsonl
    python3 slot_error_rate.py --each < iter-1.jsonl

Each line of a file is a JSON object with the input in `prompt` (or in the last user message of `messages`), such as
`name[Aromi], eatType[pub], area[riverside]`, and the description in `response`. For each attribute at most one error
is counted: it is *missing* (in the input, not in the text), *wrong* (the text gives another value), or *added* (in the
text, not in the input; or the right value beside another one). The rate is the errors over the attributes of the
inputs.

With `--each` it is the scorer of a run (`eval.scorer`) or of `topspin eval`: for each line that it reads it prints one of
JSON, the errors and the attributes, at once.

Intervals are percentile bootstrap intervals over inputs (all responses to an input are drawn together), 95%. Of several
files, each is also compared with the first, input by input.
"""

import argparse
import collections
import json
import random
import re
import sys

import patterns

KINDS = ("added", "missing", "wrong")
INPUT = re.compile("(" + "|".join(patterns.ATTRIBUTES) + r")\[([^\]]*)\]")


class BadInput(Exception):
    """A file that cannot be scored; the message says where and why."""


def parse_input(prompt):
    """`name[Aromi], area[riverside]` -> {"name": ["Aromi"], "area": ["riverside"]}."""
    values = collections.defaultdict(list)
    for attribute, value in INPUT.findall(prompt):
        values[attribute].append(value)
    return dict(values)


def errors(values, text):
    """The errors of a description: {attribute: "added" | "missing" | "wrong"}.

    An attribute that the input gives two values (the data has a few) is right with either.
    """
    one = {attribute: values.get(attribute, [None])[0] for attribute in ("name", "near")}
    found = patterns.mentions(text, **one)
    result = {}
    for attribute in patterns.ATTRIBUTES:
        classes = patterns.CLASSES.get(attribute, {})
        wanted = {classes.get(value, patterns.fold(value)) for value in values.get(attribute, ())}
        right = {value for value in found[attribute] if wanted & set(value.split("|"))}
        if wanted and not found[attribute]:
            result[attribute] = "missing"
        elif wanted and not right:
            result[attribute] = "wrong"
        elif found[attribute] - right:
            result[attribute] = "added"
    return result


def prompt_of(record):
    if isinstance(record.get("prompt"), str):
        return record["prompt"]
    turns = [turn["content"] for turn in record.get("messages") or () if turn.get("role") == "user"]
    return turns[-1] if turns else ""


def descriptions(line, where, references=False):
    """The input of a line and its descriptions."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: this is not JSON ({error.msg}); write one JSON object a line") from None
    prompt = prompt_of(record) if isinstance(record, dict) else ""
    if not parse_input(prompt):
        raise BadInput(f"{where}: there is no input such as `name[Aromi], food[Thai]`; add it as `prompt`")
    texts = record.get("references") if references else [record.get("response")]
    if not texts or not all(isinstance(text, str) for text in texts):
        wanted = "`references`, a list of strings" if references else "`response`, a string"
        raise BadInput(f"{where}: there is no description; add {wanted}")
    return prompt, texts


def read(path, references):
    """(prompt, text) for each description of a file."""
    pairs = []
    try:
        with open(path, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    prompt, texts = descriptions(line, f"`{path}`, line {number}", references)
                    pairs += [(prompt, text) for text in texts]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"cannot read `{path}`: {reason}; check the path") from None
    if not pairs:
        raise BadInput(f"`{path}` holds no description; write one JSON object a line")
    return pairs


def score_each(lines):
    """Prints the slot error rate of each line as a scorer does: errors and attributes, whose sums make the rate."""
    for number, line in enumerate(lines, 1):
        prompt, (text,) = descriptions(line, f"line {number}")
        values = parse_input(prompt)
        print(json.dumps({"slot_error_rate": [len(errors(values, text)), len(values)]}), flush=True)


class Score:
    """The errors of a file, by input."""

    def __init__(self, pairs):
        self.errors = collections.Counter()  # prompt -> errors in its responses
        self.slots = collections.Counter()  # prompt -> attributes that its responses should have said
        self.kinds = collections.Counter()
        self.attributes = collections.Counter()
        self.expected = collections.Counter()
        self.examples = []
        for prompt, text in pairs:
            values = parse_input(prompt)
            found = errors(values, text)
            self.errors[prompt] += len(found)
            self.slots[prompt] += len(values)
            self.kinds.update(found.values())
            self.attributes.update(found.items())
            self.expected.update(values.keys())
            if found:
                self.examples.append((prompt, text, found))

    def rate(self, prompts):
        return sum(map(self.errors.__getitem__, prompts)) / sum(map(self.slots.__getitem__, prompts))


def draws(prompts, replicates, seed):
    """Inputs drawn with replacement, as many as there are, `replicates` times."""
    source = random.Random(seed)
    return [source.choices(prompts, k=len(prompts)) for _ in range(replicates)]


def interval(values):
    """The 2.5th and the 97.5th percentile."""
    values = sorted(values)
    last = len(values) - 1
    return values[round(0.025 * last)], values[round(0.975 * last)]


def table(rows):
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
        print("  ".join(cells).rstrip())


def report(scores, replicates, seed, by_attribute, show):
    (first, base), *others = scores.items()
    prompts = list(base.slots)
    for path, score in others:
        if set(score.slots) != set(prompts):
            odd = next(iter(set(score.slots) ^ set(prompts)))
            raise BadInput(f"`{first}` and `{path}` do not answer the same inputs, as `{odd}`; score them one by one")
    drawn = draws(prompts, replicates, seed)
    rates = {path: [score.rate(draw) for draw in drawn] for path, score in scores.items()}

    rows = [("", "inputs", "slot error rate", "95% interval", *KINDS)]
    for path, score in scores.items():
        low, high = interval(rates[path])
        counts = (str(score.kinds[kind]) for kind in KINDS)
        rows.append((path, str(len(prompts)), f"{score.rate(prompts):.4f}", f"[{low:.4f}, {high:.4f}]", *counts))
    table(rows)
    if others:
        print()
        rows = [(f"less that of {first}", "difference", "95% interval")]
        for path, score in others:
            low, high = interval([a - b for a, b in zip(rates[path], rates[first])])
            rows.append((path, f"{score.rate(prompts) - base.rate(prompts):+.4f}", f"[{low:+.4f}, {high:+.4f}]"))
        table(rows)
    for path, score in scores.items() if by_attribute else ():
        print()
        rows = [(path, "expected", *KINDS)]
        for attribute in patterns.ATTRIBUTES:
            counts = (str(score.attributes[attribute, kind]) for kind in KINDS)
            rows.append((attribute, str(score.expected[attribute]), *counts))
        table(rows)
    for path, score in scores.items() if show else ():
        print(f"\n{path}")
        for prompt, text, found in score.examples[:show]:
            said = ", ".join(f"{attribute} {kind}" for attribute, kind in found.items())
            print(f"  {prompt}\n    {text}\n    {said}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Slot error rate of E2E restaurant descriptions, with 95%% intervals.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="JSONL with `prompt` and `response`")
    parser.add_argument("--references", action="store_true", help="score the human `references` instead")
    parser.add_argument("--each", action="store_true", help="score each line of the standard input, in JSON")
    parser.add_argument("--by-attribute", action="store_true", help="also count the errors of each attribute")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="also print the first N faulty descriptions")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap draws (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")
    given = parser.parse_args(arguments)
    if given.replicates < 1:
        parser.error("`--replicates` must be at least 1")
    if given.each == bool(given.files):
        parser.error("name files to compare, or score each line of the standard input with `--each`")
    try:
        if given.each:
            score_each(sys.stdin)
            return 0
        scores = {path: Score(read(path, given.references)) for path in given.files}
        report(scores, given.replicates, given.seed, given.by_attribute, given.show)
    except BadInput as error:
        print(f"slot_error_rate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
