#!/usr/bin/env python3
"""Looks at pages of `topspin report` in headless Chromium as a reader would: pointer, keys, both colour schemes, a phone.

    tests/browser/report.py RUN PAGE [PAGE_OF_TWO] [--text TEXT] [--screenshots DIR]

RUN is the run's folder, with whose files the page is compared; PAGE_OF_TWO lays another one over it. Needs Debian's packages `chromium` and `chromium-driver`, and
nothing else; ends with 77 where they are missing.
"""

import argparse
import json
import pathlib
import re
import sys

import webdriver

MISSING = 77
# As many of each kind as a page has unless it is asked for others.
PROMPTS = 2000
READY = "return document.documentElement.dataset.ready"
CARDS = "return [...document.querySelectorAll('[role=tabpanel]:not([hidden]) .card')].map((card) => card.innerText)"
COUNT = "return document.querySelector('[role=tabpanel]:not([hidden]) .pager [role=status]').textContent"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("page_of_two", type=pathlib.Path, nargs="?")
    parser.add_argument("--text", help="what a test prompt has, and must stay text", default="")
    parser.add_argument("--screenshots", type=pathlib.Path)
    args = parser.parse_args()
    paths = webdriver.installed()
    if not paths:
        print("there is no `chromium` with its `chromedriver`; apt-get install chromium chromium-driver")
        return MISSING
    with webdriver.Browser(*paths) as browser:
        browser.size(1280, 900)
        browser.scheme("light")
        visit(browser, args.page.resolve())
        draws_what_the_files_hold(browser, args.run)
        compares_rows(browser)
        searches_sorts_and_pages(browser)
        shades_what_the_next_stage_made(browser, args.run)
        goes_by_keys(browser)
        explains_shades(browser)
        keeps_text_text(browser, args.text)
        names_what_is_pressed(browser)
        reads_in_both_schemes(browser, args.screenshots)
        fits_a_phone(browser, args.screenshots)
        prints(browser)
        is_quiet(browser, args.page)
        if args.page_of_two:
            browser.size(1280, 900)
            visit(browser, args.page_of_two.resolve())
            lays_two_runs_over_each_other(browser)
            is_quiet(browser, args.page_of_two)
    print("the page is well")
    return 0


def visit(browser, path):
    browser.open(path)
    browser.wait(READY, f"{path.name} to be drawn")
    # Charts are drawn once their size is known.
    browser.wait("return [...document.querySelectorAll('.plot')].every((plot) => plot.firstChild)", "the charts")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def draws_what_the_files_hold(browser, run):
    evaluated = sorted(path.parent.name for path in run.glob("*/eval.json") if not path.parent.is_symlink())
    table = "#results .scroll table"
    rows = browser.js(f"return [...document.querySelector('{table}').tBodies[0].rows].map((row) => row.cells[0].firstChild.textContent)")
    assert sorted(rows) == evaluated, rows
    best = browser.js(f"return document.querySelector('{table} tr.best th').firstChild.textContent")
    assert best == (run / "best").readlink().name, best

    charts = browser.js("""return [...document.querySelectorAll('figure')].map((figure) => [figure.querySelector('h3').textContent,
        Math.max(0, ...[...figure.querySelectorAll('path')].map((path) => path.getAttribute('d').split(/[ML]/).length - 1))])""")
    titles = [title for title, _ in charts]
    for title in ["Told apart, held out", "Loss of self-play", "Accuracy", "Log-probability of answers", "Gradient norm", "Learning rate", "Throughput", "MFU"]:
        assert title in titles, titles
    assert all(points > 0 for _, points in charts), charts
    # Each piece of the curve is a stage, with as many points as the stage has steps.
    stages = sorted(path for path in run.glob("iter-*") if "rewards/margins" in (path / "metrics.jsonl").read_text())
    loss = "[...document.querySelectorAll('figure')].find((figure) => figure.querySelector('h3').textContent === 'Loss of self-play')"
    pieces = browser.js(f"return [...{loss}.querySelectorAll('path:not(.raw)')].map((path) => path.getAttribute('d').split(/[ML]/).length - 1)")
    assert pieces == [len(lines(stage / "metrics.jsonl")) for stage in stages], pieces
    browser.js(f"{loss}.querySelector('svg[tabindex]').focus()")
    browser.press("End")
    said = browser.js(f"return {loss}.querySelector('.readout').textContent")
    last = lines(stages[-1] / "metrics.jsonl")[-1]
    # Runs of earlier versions say `loss`.
    last = last.get("train/loss", last.get("loss"))
    assert f"loss {last:.3f}" in said.replace("−", "-") and stages[-1].name in said, (said, last)


def compares_rows(browser):
    differences = "return [...document.querySelectorAll('#results .scroll')[0].querySelectorAll('td small')].map((cell) => cell.textContent)"
    before = browser.js(differences)
    assert before and not any("unpaired" in cell for cell in before), before
    browser.choose("Differences to", "0")
    after = browser.js(differences)
    assert after and after != before, after


def searches_sorts_and_pages(browser):
    def cards():
        return browser.js(CARDS)

    def search(text):
        count = browser.js(COUNT)
        browser.js("const box = document.querySelector('input[type=search]'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))", text)
        return browser.wait(f"const now = document.querySelector('.pager [role=status]').textContent; return now !== {json.dumps(count)} && now", "the search")

    total = int(browser.js(COUNT).rsplit(" ", 1)[1])
    assert total > 10 and len(cards()) == 10, total
    first = cards()
    word = max(re.findall(r"[a-z]{2,}", browser.js("return document.querySelector('.card .prompt').textContent")), key=len)
    search(word)
    assert cards() and all(word in card.lower() for card in cards()), word
    search("there is no such word")
    assert cards() == [] and "No prompt fits" in browser.js("return document.querySelector('.cards').innerText")
    search("")
    assert cards() == first

    browser.choose("Sort by", "change")
    changes = [float(re.search(r"change ([\d.]+)", card)[1]) for card in cards()]
    assert changes == sorted(changes, reverse=True), changes
    browser.choose("Show", "changed")
    assert all(float(re.search(r"change ([\d.]+)", card)[1]) > 0 for card in cards())
    browser.choose("Show", "all")
    browser.choose("Sort by", "run")
    browser.js("[...document.querySelectorAll('.pager button')].find((button) => button.textContent === 'Next').click()")
    assert browser.js(COUNT).startswith("11–"), browser.js(COUNT)
    assert len(cards()) == min(10, total - 10) and cards() != first


def shades_what_the_next_stage_made(browser, run):
    """In the test prompts: margins, sums and tokens' log-ratios are those of the files, for each stage with one before it."""
    records = {path.parent.name: lines(path)[:PROMPTS] for path in run.glob("*/eval.jsonl") if not path.parent.is_symlink()}
    before = {stage: json.loads((run / stage / "eval.json").read_text()).get("before") for stage in records}
    before = {stage: other for stage, other in before.items() if other in records}
    assert before, "no stage is set against one before it"

    def log_ratios(stage, kind, at):
        now, then = records[stage][at]["responses"], records[before[stage]][at]["responses"]
        then = then["real" if kind == "real" else "sampled"]
        now = now["real" if kind == "real" else "sampled_before"]
        assert now["token_ids"] == then["token_ids"]
        return [b - a for a, b in zip(then["logprobs"], now["logprobs"])]

    def minus(text):
        return float(text.replace("−", "-"))

    def near(found, expected):
        # Rounded twice, to hundredths each time.
        return len(found) == len(expected) and all(abs(a - b) < 0.0151 for a, b in zip(found, expected))

    opened = browser.js("return document.querySelector('[role=tabpanel]:not([hidden]) .bar').innerText")
    assert "sampled at temperature 1" in opened, opened
    shown = "[...document.querySelectorAll('.card > small')].map((facts) => facts.querySelector('strong').textContent)"
    latest = browser.js(f"return {shown}")[0].split(" ")[0]
    assert latest == max((stage for stage in before if stage.startswith("iter-")), key=lambda stage: int(stage[5:])), latest
    for stage, other in before.items():
        browser.choose("Stage", stage)
        margins = [sum(log_ratios(stage, "real", at)) - sum(log_ratios(stage, "sampled", at)) for at in range(len(records[stage]))]
        for sort, ordered in [("margin", sorted(margins)), ("margin-down", sorted(margins, reverse=True)), ("run", margins)]:
            browser.choose("Sort by", sort)
            facts = [text.split(" ") for text in browser.js(f"return {shown}")]
            assert {name for name, _ in facts} == {stage}
            assert near([minus(margin) for _, margin in facts], ordered[: len(facts)]), (stage, sort, facts, ordered[:10])
        browser.choose("Show", "confused")
        count = browser.js(COUNT).split(" of ")[-1]
        assert abs(int(count) - sum(margin < 0 for margin in margins)) <= sum(abs(margin) < 5e-4 for margin in margins), count
        browser.choose("Show", "all")
        # The first prompt's real answer, and what the stage before answered to it.
        sides = [("real", "Real answer"), ("sampled", other)]
        for kind, title in sides:
            side = f"""[...document.querySelector('.card').querySelectorAll('.side')].find((side) =>
                side.querySelector('h4').textContent.startsWith({json.dumps(title)}))"""
            tokens = browser.js(f"return [...{side}.querySelector('.text').querySelectorAll('.tok')].map((token) => token.title)")
            expected = log_ratios(stage, kind, 0)
            assert near([minus(re.search(r"log-ratio (\S+)$", token)[1]) for token in tokens], expected), (stage, kind, tokens, expected)
            colours = browser.js(f"return [...{side}.querySelector('.text').querySelectorAll('.tok')].map((token) => token.style.backgroundColor)")
            for colour, log_ratio in zip(colours, expected):
                assert abs(log_ratio) < 0.0151 or ("--up" if log_ratio > 0 else "--down") in colour, (colour, log_ratio)
            total = browser.js(f"return {side}.querySelector('.facts-of').innerText")
            assert f"log-ratio of {stage} to {other}" in total and f"in {stage}'s margin" in total, total
            assert near([minus(re.search(r"Δ\s(\S+)\snats", total)[1])], [sum(expected)]), (total, sum(expected))
    browser.choose("Stage", latest)

    shades = "return [...document.querySelectorAll('.card .tok')].map((token) => token.style.backgroundColor).join()"
    plain = browser.js(shades)
    box = "[...document.querySelectorAll('[role=tabpanel]:not([hidden]) label.check')].find((label) => label.innerText === 'mark new tokens').firstChild"
    marks = "return document.querySelectorAll('.card .tok.new').length"
    assert browser.js(marks) == 0
    browser.js(f"{box}.click()")
    assert browser.js(marks) > 0 and browser.js(shades) == plain, "marks go with shades"
    browser.choose("Answers", "greedy")
    assert browser.js("return document.querySelectorAll('.card .side:not(.real) .tok[title]').length") == 0
    assert "Greedy answers are not scored" in browser.js("return document.querySelector('.legend').innerText")
    browser.js(f"{box}.click()")
    assert browser.js(marks) == 0
    browser.choose("Answers", "sampled")


def goes_by_keys(browser):
    visit(browser, pathlib.Path(browser.js("return location.pathname")))
    browser.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    browser.press("Tab")
    assert browser.js("return document.activeElement.className") == "skip"
    total = browser.js(COUNT)
    browser.press("/")
    assert browser.js("return document.activeElement.type") == "search"
    # In the search box letters are letters.
    browser.press("j")
    assert browser.js("return document.activeElement.value") == "j"
    browser.wait(f"{COUNT} !== {json.dumps(total)}", "fewer prompts")
    browser.js("document.activeElement.value = ''; document.activeElement.dispatchEvent(new Event('input'))")
    browser.wait(f"{COUNT} === {json.dumps(total)}", "all prompts")
    browser.press("Escape")
    at = "return [...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    browser.press("j", "j", "j")
    assert browser.js(at) == 2, browser.js(at)
    browser.press("k")
    assert browser.js(at) == 1, browser.js(at)
    browser.press("Right")
    assert browser.js(COUNT).startswith("11–"), browser.js(COUNT)
    browser.press("Left")
    assert browser.js(COUNT).startswith("1–"), browser.js(COUNT)
    browser.press(*["j"] * 11)
    assert browser.js(COUNT).startswith("11–") and browser.js(at) == 0, browser.js(COUNT)
    browser.js("document.getElementById('tab-0').focus()")
    browser.press("Right")
    assert browser.js("return document.activeElement.id") == "tab-1"
    assert browser.js("return document.activeElement.getAttribute('aria-selected')") == "true"


def explains_shades(browser):
    """In the training prompts, which are open by now."""
    browser.choose("Sort by", "gap")
    gaps = [float(re.search(r"real less generated ([+−][\d.]+)", card)[1].replace("−", "-")) for card in browser.js(CARDS)]
    assert gaps == sorted(gaps), gaps
    browser.choose("Sort by", "run")
    tokens = "[role=tabpanel]:not([hidden]) .tok"
    titles = browser.js(f"return [...document.querySelectorAll('{tokens}')].map((token) => token.title)")
    assert titles and all("log-ratio" in title or "log-probability" in title for title in titles), titles[:5]
    colours = browser.js(f"return new Set([...document.querySelectorAll('{tokens}')].map((token) => token.style.backgroundColor)).size")
    assert colours > 3, colours
    legend = browser.js("return document.querySelector('[role=tabpanel]:not([hidden]) .legend').innerText")
    assert "log-ratio" in legend and "log-probability" in legend, legend
    browser.click("[role=tabpanel]:not([hidden]) input[type=checkbox]")
    numbers = browser.js("return [...document.querySelectorAll('rt')].map((number) => number.textContent)")
    assert len(numbers) == len(titles) and all(re.fullmatch(r"[+−]?\d+\.\d\d", number) for number in numbers), numbers[:5]
    browser.choose("Shade", "none")
    assert browser.js(f"return document.querySelectorAll('{tokens}').length") == 0


def keeps_text_text(browser, text):
    assert browser.js("return window.owned === undefined && document.querySelectorAll('img, iframe').length === 0")
    assert browser.js("return document.scripts.length") == 3
    browser.click("#tab-0")
    browser.js("const box = document.querySelector('input[type=search]'); box.value = arguments[0]; box.dispatchEvent(new Event('input'))", text)
    browser.wait(f"{CARDS}.every((card) => card.includes({json.dumps(text)}))", "the text")
    # A script that came into the page all the same would not run.
    browser.js("const script = document.createElement('script'); script.textContent = 'window.owned = 1'; document.body.append(script); script.remove()")
    refused = [entry for entry in browser.log("browser") if entry["level"] == "SEVERE"]
    assert browser.js("return window.owned === undefined") and len(refused) == 1 and "Content Security Policy" in refused[0]["message"], refused
    visit(browser, pathlib.Path(browser.js("return location.pathname")))


def names_what_is_pressed(browser):
    browser.cdp("Accessibility.enable")
    roles = {"button", "link", "tab", "combobox", "searchbox", "checkbox", "img", "tabpanel", "region"}
    for node in browser.cdp("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if role in roles and not node.get("ignored"):
            assert node.get("name", {}).get("value"), node


def contrast(one, other):
    """By WCAG 2."""

    def light(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def reads_in_both_schemes(browser, screenshots):
    backs = set()
    for scheme in ["light", "dark"]:
        browser.scheme(scheme)
        back = browser.js("return getComputedStyle(document.querySelector('.card')).backgroundColor")
        backs.add(back)
        for selector in ["body", ".muted", ".answer h3", "#results td strong", "th small", ".card h4", "figcaption .key", "a", ".badge"]:
            colour = browser.js(f"return getComputedStyle(document.querySelector('{selector}')).color")
            assert contrast(colour, back) >= 4.5, (scheme, selector, colour, back)
        for line in range(4):
            stroke = browser.js(f"""const line = document.querySelector('.mean.line-{line}'); return line && getComputedStyle(line).stroke""")
            assert stroke is None or contrast(stroke, back) >= 3, (scheme, line, stroke)
        if screenshots:
            browser.screenshot(screenshots / f"{scheme}.png")
    assert len(backs) == 2, backs


def fits_a_phone(browser, screenshots):
    browser.size(390, 844)
    for tab in ["#tab-0", "#tab-1"]:
        browser.click(tab)
        width = browser.js("return document.documentElement.scrollWidth")
        wide = browser.js("return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 391 && !e.closest('.scroll')).map((e) => e.outerHTML.slice(0, 120))")
        assert width <= 390 and not wide, (width, wide[:3])
    if screenshots:
        browser.screenshot(screenshots / "phone.png")


def prints(browser):
    browser.size(1000, 900)
    browser.scheme("light", media="print")
    hidden = browser.js("return ['nav', '.bar', '.keys'].map((selector) => getComputedStyle(document.querySelector(selector)).display)")
    assert hidden == ["none"] * 3, hidden
    browser.scheme("light")


def lays_two_runs_over_each_other(browser):
    assert browser.js("return document.querySelectorAll('#glance .run-name').length") == 2
    assert browser.js("return document.querySelectorAll('#results .run-name').length") == 2
    dashes = browser.js("return document.querySelectorAll('.plot path[stroke-dasharray]').length")
    plain = browser.js("return document.querySelectorAll('.plot path.mean:not([stroke-dasharray])').length")
    assert dashes > 0 and plain > 0, (dashes, plain)
    second = "[...document.querySelectorAll('#results > div')].pop()"
    assert browser.js(f"return {second}.querySelector('select').selectedOptions[0].textContent") == "the same stage of A"
    cells = browser.js(f"return [...{second}.querySelectorAll('td small')].map((cell) => cell.textContent)")
    assert cells and not any("unpaired" in cell for cell in cells), cells
    card = browser.js("return document.querySelector('.card').innerText")
    assert re.search(r"\bA\s", card) and re.search(r"\bB\s", card), card


def is_quiet(browser, page):
    """Nothing was complained of, and nothing was asked for but the page."""
    said = [entry for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not said, said
    asked = set()
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    assert asked == {page.resolve().as_uri()}, asked
    assert browser.js("return performance.getEntriesByType('resource').length") == 0


if __name__ == "__main__":
    sys.exit(main())
