"""Writes tests/golden/metrics/: texts and numbers, and what the field's tools make of them.

    python text_metrics.py [--out FOLDER] [--seed N]

Run it with the Python that `scripts/oracle/setup.sh metrics` prints. With another seed than 0 it draws twenty times as many cases: write
those elsewhere and let the tests read them, as tests/golden/README.md says.
"""

import argparse
import json
import math
import random
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from confidenceinterval.delong import delong_roc_variance
from lm_eval.api.metrics import bits_per_byte, exact_match_hf_evaluate, mean_stderr, weighted_perplexity
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.filters.extraction import RegexFilter
from lm_eval.tasks.qasper.metrics import normalize_answer
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from scipy.stats import binomtest, ks_2samp
from sklearn.metrics import roc_auc_score

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "tests" / "golden" / "metrics")
PARSER.add_argument("--seed", type=int, default=0)
ARGS = PARSER.parse_args()
RNG = random.Random(ARGS.seed)
MANY = 20 if ARGS.seed else 1
WORDS = (
    "the a an cats running relational happily flies agreed, hopping don't U.S.A. 1,234.56 -3 $5.00 3.14. 10-12 2-year .5 "
    "(hi) (hi there) e.g. \"quoted\" &quot;entity&quot; &amp;lt;b&gt; <skipped> naïve Straße İstanbul ΟΔΟΣ トンボ 日本語。 "
    "a\u0301 🙂 👨‍👩‍👧 !!! ... a.,b 5., ,5 #hash @at x-\ny line\nbreak tab\there no\u00a0break thin\u2009space sep\x1carator "
    "zero\u200bwidth ½ ² A.B well-known — – ' ` ~ {x} [y] a/b c\\d K"
).split(" ")


def word() -> str:
    """A word of the list or, now and then, of random letters and marks."""
    if RNG.random() < 0.85:
        return RNG.choice(WORDS)
    return "".join(chr(RNG.choice([RNG.randint(33, 126), RNG.randint(0xA0, 0x24F), RNG.randint(0x370, 0x3FF)])) for _ in range(RNG.randint(1, 5)))


def text(least: int, most: int) -> str:
    return " ".join(word() for _ in range(RNG.randint(least, most)))


def changed(reference: str) -> str:
    """The reference with words left out, repeated and put elsewhere, so that there is something in common."""
    words = [word for word in reference.split(" ") for _ in range(RNG.choice([0, 1, 1, 1, 1, 1, 2]))]
    if words and RNG.random() < 0.5:
        words.insert(RNG.randrange(len(words)), words.pop(RNG.randrange(len(words))))
    if RNG.random() < 0.3:
        words.append(text(1, 3))
    return " ".join(words)


def cases() -> list[dict]:
    fixed = [
        ("", ["a reference"]),
        ("a response", [""]),
        ("", [""]),
        (" \n\t ", ["\u00a0"]),
        ("日本語", ["日本"]),
        ("...", ["..", "....", "."]),
        ("cat", ["cat", "cats"]),
        ("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
        ("It is a guide to action that ensures that the military will forever heed Party commands.",
         ["It is the guiding principle which guarantees the military forces always being under the command of the Party.",
          "It is the practical guide for the army always to heed the directions of the party."]),
    ]
    made = [{"response": response, "references": references, "times": 1} for response, references in fixed]
    for _ in range(24 * MANY):
        references = [text(1, 18)]
        references += [changed(references[0]) for _ in range(RNG.choice([0, 0, 1, 3]))]
        made.append({"response": changed(RNG.choice(references)), "references": references, "times": 1})
    # Long texts, told by what they repeat.
    made.append({"response": text(6, 9) + " ", "references": [text(6, 9) + " "], "times": 150})
    made.append({"response": "cats running 1,234 ", "references": ["cats run 1,234. ", "no"], "times": 300})
    return made


def variant(**ignored: bool):
    return lambda response, reference: exact_match_hf_evaluate([response], [reference], **ignored)["exact_match"]


MATCHES = {
    "exact": variant(),
    "case": variant(ignore_case=True),
    "case_punctuation": variant(ignore_case=True, ignore_punctuation=True),
    "numbers": variant(ignore_numbers=True),
    "squad": lambda response, reference: normalize_answer(response) == normalize_answer(reference),
}


def texts() -> dict:
    bleu, sentence, chrf, plus = BLEU(), BLEU(effective_order=True), CHRF(), CHRF(word_order=2)
    plain, stemmed = RougeScorer(["rougeL"]), RougeScorer(["rougeL"], use_stemmer=True)
    made = cases()
    responses = [case["response"] * case["times"] for case in made]
    references = [[reference * case["times"] for reference in case["references"]] for case in made]
    for case, response, several in zip(made, responses, references):
        case["sentence_bleu"] = sentence.sentence_score(response, several).score
        case["bleu_sums"] = [int(x) for x in bleu._extract_corpus_statistics([response], [[r] for r in several])[0]]
        case["chrf"] = chrf.sentence_score(response, several).score
        case["chrf++"] = plus.sentence_score(response, several).score
        case["rouge_l"] = list(plain.score_multi(several, response)["rougeL"])
        case["rouge_l_stemmed"] = list(stemmed.score_multi(several, response)["rougeL"])
        if case["times"] == 1:
            case["normalised"] = normalize_answer(response)
    most = max(map(len, references))
    streams = [[several[k] if k < len(several) else None for several in references] for k in range(most)]
    corpus = {}
    for name, metric in [("bleu", bleu), ("chrf", chrf), ("chrf++", plus)]:
        corpus[name] = metric.corpus_score(responses, streams).score
        # The half width of sacrebleu's own interval, by its own random numbers; the long texts would outweigh the rest.
        short = [stream[:-2] for stream in streams]
        drawn = metric.corpus_score(responses[:-2], short, n_bootstrap=4000)
        corpus[f"{name}_short"], corpus[f"{name}_half_width"] = drawn.score, float(drawn._ci)
    return {"cases": made, "corpus": corpus}


def matches() -> list[dict]:
    pairs = [
        ("The cat.", "cat"), ("The cat.", "the cat"), ("THE  CAT", "the cat"), ("an a the", ""), ("anthem", "them"),
        ("B-52", "b52"), ("B-52", "B-"), ("ΟΔΟΣ", "οδος"), ("STRASSE", "straße"), (" x", "x"), ("a\u00a0b", "b"),
        ("٣", "3"), ("“quoted”", "quoted"), ("1,000", "1000"), ("it's a_the_b", "its atheb"), ("É an É", "é é"),
        ("", ""), ("...", ""), ("a.the.b", "athe b"), ("x\x1cy", "x y"), ("the", "THE"),
    ]
    return [
        {"response": response, "reference": reference,
         **{name: bool(matches(response, reference)) for name, matches in MATCHES.items()}}
        for response, reference in pairs
    ]


GSM8K = [",", r"\$", "(?s).*#### ", r"\.$"]
STRICT = r"#### (\-?[0-9\.\,]+)"
FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
EXACT = Context(prec=400)


def number(found: str) -> str | None:
    try:
        value = Decimal(found.replace("$", "").replace(",", "").rstrip("."))
    except InvalidOperation:
        return None
    value = EXACT.normalize(value)
    return f"{abs(value) if value == 0 else value:f}"


def answers() -> list[dict]:
    pieces = ["#### 72", "####72", "#### -1,234.50", "#### ,", "#### 007.", "18", "$18.00", "-5", "10-12", "3.14.", "1.2.3", "...",
              "..", "$", "1,000,000", "0.50", ".5", "-.25", "-0", "1e5", "½", "٣", "no", "so", "\n", "7.0", "000", "5...",
              "123456789012345678901234567890.10", "$$3", "-$4", "$-4", "x2y"]
    strict, flexible = RegexFilter(STRICT, 0), RegexFilter(FLEXIBLE, -1)
    made = ["", "#### "] + [" ".join(RNG.choice(pieces) for _ in range(RNG.randint(1, 4))) for _ in range(40 * MANY)] + pieces
    rows = []
    for response in made:
        found = strict.regex.findall(response)[:1] + ["".join(groups) for groups in flexible.regex.findall(response)][::-1]
        first, last = strict.apply([[response]], [{}])[0][0], flexible.apply([[response]], [{}])[0][0]
        right = lambda filtered: exact_match_hf_evaluate([filtered], ["He has #### 72"], GSM8K, True)["exact_match"]
        rows.append({
            "response": response, "strict": first, "flexible": last, "number": next(filter(None, map(number, found)), None),
            "strict_right": bool(right(first)), "flexible_right": bool(right(last)),
        })
    return rows


def filters() -> list[dict]:
    patterns = [
        (r"answer is \(?([ABCD])\)?", 0), (r"(?i)answer is \(?([abcd])\)?", -1), (r"\b\w+\b", 1), (r"(\d+)|([a-z]+)", -2),
        (r"x(y)?", 0), (r"(x)?(y)?z", 0), (r"(?<=: ).*", 0), (r"(\w)\1", 0), (r"[A-Z]\s", 2), ("日(.)", 0),
    ]
    responses = ["The answer is (B). No, the Answer is d", "z", "x xy xyz 12 ab", ": one\n: two ", "A B C aa bb", "日本 日光", ""]
    made = []
    for pattern, select in patterns:
        regex = RegexFilter(pattern, select)
        for response in responses:
            try:
                filtered = regex.apply([[response]], [{}])[0][0]
            except IndexError:
                # The harness fails where there are matches, but not that many.
                continue
            made.append({"pattern": pattern, "select": select, "response": response, "filtered": filtered})
    return made


def choices() -> list[dict]:
    """What the harness's own task makes of log-probabilities; its constructor would fetch a data set."""
    task = object.__new__(ConfigurableTask)
    task.OUTPUT_TYPE, task.multiple_input, task.multiple_target = "multiple_choice", 0, 0
    task._metric_fn_list = {"acc": None, "acc_norm": None, "acc_bytes": None}
    task._config = type("Config", (), {"process_results": None})()
    task.doc_to_choice, task.doc_to_target = lambda doc: doc["choices"], lambda doc: doc["gold"]
    made = []
    for _ in range(40 * MANY):
        texts = [RNG.choice(["yes", "no, never", "日本語", "naïve", "a much longer answer", "B", "ééé"]) for _ in range(RNG.randint(1, 5))]
        logprobs = [RNG.choice([-1.0, -2.0, -RNG.uniform(0, 9) * len(text)]) for text in texts]
        several = RNG.random() < 0.3
        gold = sorted(RNG.sample(range(len(texts)), RNG.randint(1, len(texts)))) if several else RNG.randrange(len(texts))
        task.multiple_target = len(gold) if several else 0
        said = task.process_results({"choices": texts, "gold": gold}, [(logprob, False) for logprob in logprobs])
        made.append({"choices": texts, "logprobs": logprobs, "gold": gold if several else [gold], **said})
    return made


def perplexities() -> dict:
    documents = [text(0, 12) for _ in range(12)] + ["", " ends in spaces  ", "\n"]
    nats = [RNG.uniform(0.5, 4) * len(document) for document in documents]
    units = {"words": [Task.count_words(d) for d in documents], "bytes": [Task.count_bytes(d) for d in documents]}
    pairs = lambda unit: list(zip([-x for x in nats], units[unit]))
    return {
        "documents": documents, "nats": nats, **units,
        "word_perplexity": weighted_perplexity(pairs("words")),
        "byte_perplexity": weighted_perplexity(pairs("bytes")),
        "bits_per_byte": bits_per_byte(pairs("bytes")),
        "mean_stderr": mean_stderr(nats),
    }


def delong(real: list[float], generated: list[float]) -> float:
    """DeLong's standard error by its definition, held against the package `confidenceinterval`, which is in float32."""
    wins = np.array([[(x > y) + 0.5 * (x == y) for y in generated] for x in real])
    variance = wins.mean(1).var(ddof=1) / len(real) + wins.mean(0).var(ddof=1) / len(generated)
    labels = np.array([1] * len(real) + [0] * len(generated))
    _, theirs = delong_roc_variance(labels == 1, np.array(real + generated))
    if not math.isclose(variance, float(theirs), rel_tol=1e-4, abs_tol=1e-9):
        raise SystemExit(f"DeLong's variance is {variance} by definition and {theirs} by the package")
    return math.sqrt(variance)


def discrimination() -> list[dict]:
    draws = [
        (12, 9, lambda: RNG.gauss(1, 1), lambda: RNG.gauss(0, 1)),
        (15, 15, lambda: float(RNG.randint(0, 5)), lambda: float(RNG.randint(2, 6))),
        (6, 20, lambda: RNG.uniform(5, 6), lambda: RNG.uniform(0, 1)),
        (5, 4, lambda: 2.0, lambda: 2.0),
    ]
    made = []
    for m, n, of_real, of_generated in draws * MANY:
        real, generated = [of_real() for _ in range(m)], [of_generated() for _ in range(n)]
        auc = roc_auc_score([1] * m + [0] * n, real + generated)
        # The best balanced accuracy over thresholds and directions is (1 + D) / 2 with Kolmogorov and Smirnov's D.
        best = (1 + ks_2samp(real, generated).statistic) / 2
        made.append({"real": real, "generated": generated, "auc": auc, "stderr": delong(real, generated), "best": best})
    return made


def win_rates() -> list[dict]:
    made = []
    for wins, n in [(7, 10), (0, 5), (9, 9), (50, 120)]:
        interval = binomtest(wins, n).proportion_ci(method="wilson")
        made.append({"wins": wins, "n": n, "low": interval.low, "high": interval.high})
    return made


def stems() -> dict:
    """Words that meet every rule: stems of many shapes with the endings of all steps."""
    heads = "tr ee sk happ enj cre gr conform theo ge oper hop fil tann hiss fall sky relat digit radic syzyg oat y ay 4x buzz wow".split()
    endings = ("s es ies sses ed ied eed ing ying ational tional enci izer bli alli entli eli ousli ization ator alism iveness fulness "
               "aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent "
               "sion tion ion ou ism ate iti ous ive ize e ll lle y").split()
    every = [head + ending for ending in endings for head in RNG.sample(heads, 7 if MANY == 1 else len(heads))]
    words = ["skies", "dying", "news", "innings", "howe", "proceed", "exceed", "succeed", "ties", "died", "flies", "geology", "controll"]
    words += [word for word in every if len(word) > 3]
    return {word: PorterStemmer().stem(word) for word in sorted(set(words))}


def write(name: str, content: object) -> None:
    lines = content if isinstance(content, list) else None
    dump = lambda value: json.dumps(value, ensure_ascii=False)
    whole = "[\n" + ",\n".join(map(dump, lines)) + "\n]\n" if lines else dump(content) + "\n"
    (ARGS.out / name).write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    ARGS.out.mkdir(parents=True, exist_ok=True)
    of_texts = texts()
    write("texts.json", of_texts["cases"])
    write("corpus.json", of_texts["corpus"])
    write("matches.json", matches())
    write("answers.json", answers())
    write("filters.json", filters())
    write("choices.json", choices())
    write("perplexities.json", perplexities())
    write("discrimination.json", discrimination())
    write("win_rates.json", win_rates())
    write("stems.json", stems())
