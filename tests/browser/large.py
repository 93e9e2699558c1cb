#!/usr/bin/env python3
"""How long the page of a large run takes: a run is blown up to many prompts of each kind, and its page opened in headless Chromium.

    tests/browser/large.py TOPSPIN RUN PROMPTS

TOPSPIN is the built program. Each prompt of RUN is repeated under new ids, with log-probabilities of its own, so that the page can
pack them no better than those of so many prompts. Prints seconds, the median of five visits, and the page's size.
"""

import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import webdriver

VISITS = 5
OPEN = "[role=tabpanel]:not([hidden])"
SEARCH = f"""const box = document.querySelector('{OPEN} input[type=search]'); box.value = 'no such word'; box.dispatchEvent(new Event('input'))"""
SORT = """const box = [...document.querySelectorAll('label')].find((label) => label.firstChild.textContent === 'Sort by').querySelector('select');
const begin = performance.now(); box.value = 'margin'; box.dispatchEvent(new Event('change')); return performance.now() - begin"""


def main():
    topspin, run, prompts = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        large, page = pathlib.Path(folder) / "run", pathlib.Path(folder) / "page.html"
        enlarge(run, large, prompts)
        begin = time.monotonic()
        subprocess.run([topspin, "-q", "report", large, "--prompts", str(prompts), "--output", page], check=True, stdout=subprocess.DEVNULL)
        print(f"written in {time.monotonic() - begin:.1f} s: {page.stat().st_size / 1e6:.1f} MB")
        with webdriver.Browser(*webdriver.installed()) as browser:
            for what, seconds in zip(("drawn", "first search", "sorted"), zip(*(visit(browser, page) for _ in range(VISITS)))):
                print(f"{what} in {statistics.median(seconds):.2f} s")


def visit(browser, page):
    browser.open(page)
    ready = float(browser.wait("return document.documentElement.dataset.ready", "the page to be drawn"))
    sort = browser.js(SORT)
    begin = time.monotonic()
    browser.js(SEARCH)
    browser.wait(f"return document.querySelector('{OPEN} .pager [role=status]').textContent === '0'", "the search")
    return ready / 1e3, time.monotonic() - begin, sort / 1e3


def enlarge(run, large, prompts):
    """Writes a run like `run` with so many prompts of each kind."""
    for path in sorted(run.glob("**/*.json*")):
        to = large / path.relative_to(run)
        if "model" in path.parts or "best" in path.parts or path.name in ("rollouts.jsonl", "real.jsonl"):
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.name in ("greedy.jsonl", "sampled.jsonl", "eval.jsonl", "pairs.jsonl"):
            with open(to, "w") as out:
                out.writelines(repeated(path.read_text().splitlines(), prompts))
        else:
            to.write_text(path.read_text())
    (large / "config.toml").write_text((run / "config.toml").read_text())


def repeated(lines, prompts):
    for k in range(prompts):
        record = json.loads(lines[k % len(lines)])
        name = "prompt_id" if "prompt_id" in record else "id"
        record[name] += f"-{k // len(lines)}"
        for response in [*record.get("responses", {}).values(), *record.get("generated", []), *filter(None, [record.get("real")])]:
            # A change of about a quarter: small log-probabilities stay small.
            response["logprobs"] = [logprob * random.lognormvariate(0, 0.25) for logprob in response["logprobs"]]
        yield json.dumps(record) + "\n"


if __name__ == "__main__":
    random.seed(0)
    main()
