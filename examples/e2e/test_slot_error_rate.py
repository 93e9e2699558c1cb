"""python3 -m unittest, in this folder."""

import contextlib
import io
import json
import os
import tempfile
import unittest
from unittest import mock

import convert
import patterns
import slot_error_rate as ser

# (attribute, the class it states, ways to say it). No text is from the data.
SAID = [
    ("eatType", "coffee shop", ["a coffee shop", "this Coffee-house", "a café"]),
    ("eatType", "pub", ["a lively pub"]),
    ("eatType", "restaurant", ["one of the best restaurants"]),
    ("food", "english", ["serves British food", "English breakfast"]),
    ("food", "fast food", ["fast food", "fast-food"]),
    ("food", "italian", ["pizza and pasta", "Italian cuisine"]),
    ("food", "japanese", ["sushi", "Japanese dishes"]),
    ("food", "other", ["Thai food", "vegan dishes"]),
    ("priceRange", "low", [
        "cheap food", "low prices", "a low price range", "low-cost", "an inexpensive meal", "less than £20",
        "under £20 a head", "for less than 20 pounds", "the prices are very low", "£20 or less", "Price range: low",
        "on average less than £20", "low-priced",
    ]),
    ("priceRange", "low|middle", ["affordable", "reasonably priced", "a fair price", "about £20"]),
    ("priceRange", "middle", [
        "moderate", "moderately priced", "mid-priced", "in the mid price range", "£20-25", "£20 - £25", "£20–25",
        "between 20 and 25 pounds", "average prices", "the price range is average",
    ]),
    ("priceRange", "high", [
        "high prices", "a high price range", "expensive", "not cheap", "more than £30", "over 30 pounds", "pricey",
        "prices above £30", "the price range is high", "highly priced", "its prices are in the high range",
        "an average price of more than £30", "£30 or more",
    ]),
    ("priceRange", "other", ["meals at £12", "between $10 and $15", "£5"]),
    ("customer rating", "low", [
        "a low customer rating", "1 out of 5", "one out of five stars", "rated 1 out of 5", "poorly rated", "1/5",
        "a one-star place", "not well rated", "does not have good reviews", "customer rating: low", "rated low",
        "the customer rating is 1 out of 5",
    ]),
    ("customer rating", "middle", ["an average rating", "3 out of 5", "three stars", "rated average", "3-star"]),
    ("customer rating", "middle|high", ["a good rating", "good reviews"]),
    ("customer rating", "high", [
        "a high customer rating", "5 out of 5", "five stars", "highly rated", "excellent reviews", "5 of 5 stars",
        "customers rate it highly", "rated high by customers", "a rating of 5",
    ]),
    ("customer rating", "other", ["4 out of 5", "rated 4.5 out of 5", "two stars"]),
    ("area", "city centre", ["in the city centre", "the city center", "in the centre of the city", "heart of town"]),
    ("area", "riverside", ["by the river", "in the riverside area", "on the Riverside"]),
    ("familyFriendly", "yes", [
        "family friendly", "family-friendly", "kid friendly", "children are welcome", "good for families",
        "a family restaurant", "suitable for all ages", "not only large but child-friendly", "Family friendly: yes",
        "not far from the bridge and family-friendly", "great for adults and children", "kids eat free",
    ]),
    ("familyFriendly", "no", [
        "not family-friendly", "isn't family friendly", "not kid or family friendly", "no children allowed",
        "adults only",
        "adult-only", "not suitable for families with children", "not really a place for kids", "a child-free place",
        "children are not welcome", "doesn't cater to families", "non-family-friendly", "unsuitable for children",
        "Family friendly: no", "not the best place to bring your kids", "not friendly to children", "for adults",
    ]),
]


def stated(text, **own):
    return {attribute: values for attribute, values in patterns.mentions(text, **own).items() if values}


class Patterns(unittest.TestCase):
    def test_each_way_to_say_a_value_states_it_and_nothing_else(self):
        for attribute, value, texts in SAID:
            for text in texts:
                with self.subTest(text=text):
                    expected = {attribute: {value}}
                    if text == "a family restaurant":
                        expected["eatType"] = {"restaurant"}
                    self.assertEqual(stated(text), expected)

    def test_price_and_rating_do_not_mix(self):
        for text, price, rating in [
            ("a high price range and a low customer rating", "high", "low"),
            ("It has low prices but high ratings.", "low", "high"),
            ("average rating, cheap", "low", "middle"),
            ("The price range is moderate and the customer rating is 1 out of 5.", "middle", "low"),
            ("highly rated with prices of less than £20", "low", "high"),
            ("poorly rated, moderately expensive", "high", "low"),
            ("The customer rating is average, the price range is high.", "high", "middle"),
        ]:
            with self.subTest(text=text):
                self.assertEqual(stated(text), {"priceRange": {price}, "customer rating": {rating}})

    def test_names_are_taken_out_first(self):
        text = "The Cambridge Blue, near Cafe Brazil and Raja Indian Cuisine"
        found = stated(text, name="The Cambridge Blue", near="Café Brazil")
        self.assertEqual(found, {"name": {"the cambridge blue"}, "near": {"cafe brazil", "raja indian cuisine"}})
        self.assertEqual(stated("Brown's Cambridge", name="Browns Cambridge"), {"name": {"browns cambridge"}})
        self.assertEqual(stated("Eagle, by the Crown Plaza", name="The Eagle", near="Crowne Plaza Hotel").keys(),
                         {"name", "near"})

    def test_an_unknown_landmark_is_seen(self):
        self.assertEqual(stated("close to the Grand Library"), {"near": {"other"}})
        self.assertEqual(stated("near the city centre"), {"area": {"city centre"}})


PROMPT = "name[Aromi], eatType[pub], priceRange[less than £20], area[riverside]"
RIGHT = "Aromi is a cheap pub by the river."


class Errors(unittest.TestCase):
    def errors(self, text, prompt=PROMPT):
        return ser.errors(ser.parse_input(prompt), text)

    def test_a_right_description_has_none(self):
        self.assertEqual(self.errors(RIGHT), {})

    def test_each_kind(self):
        self.assertEqual(self.errors("Aromi is a cheap pub."), {"area": "missing"})
        self.assertEqual(self.errors("Aromi is an expensive pub by the river."), {"priceRange": "wrong"})
        self.assertEqual(self.errors(RIGHT + " It serves French food."), {"food": "added"})
        self.assertEqual(self.errors(RIGHT + " It is a restaurant."), {"eatType": "added"})
        self.assertEqual(self.errors("Zizzi is a cheap pub by the river."), {"name": "missing", "near": "added"})
        self.assertEqual(set(self.errors("").values()), {"missing"})

    def test_words_that_fit_two_classes_are_right_for_either(self):
        for value, count in [("cheap", 0), ("moderate", 0), ("high", 1)]:
            prompt = f"name[Aromi], priceRange[{value}]"
            self.assertEqual(len(self.errors("Aromi is affordable.", prompt)), count)

    def test_an_attribute_with_two_values_is_right_with_either(self):
        prompt = "name[Aromi], customer rating[5 out of 5], customer rating[average]"
        for text, count in [("5 out of 5", 0), ("average rating", 0), ("1 out of 5", 1)]:
            self.assertEqual(len(self.errors("Aromi: " + text, prompt)), count)


class Program(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, *records):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as out:
            out.writelines((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
        return path

    def run_main(self, module, *arguments, stdin=""):
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        with mock.patch("sys.stdin", io.StringIO(stdin)), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = module.main(list(arguments))
        out.flush()
        return code, out.buffer.getvalue().decode(), err.getvalue()

    def answers(self, name, faulty):
        prompts = [f"name[Aromi], food[{food}]" for food in ("French", "Indian", "Italian", "Chinese")]
        texts = [f"Aromi serves {p[17:-1] if i >= faulty else 'no'} food." for i, p in enumerate(prompts)]
        return self.write(name, *({"prompt": p, "response": t} for p, t in zip(prompts, texts)))

    def test_files_are_scored_and_compared(self):
        base, better = self.answers("base.jsonl", 4), self.answers("better.jsonl", 0)
        code, out, err = self.run_main(ser, "--by-attribute", "--show", "1", base, better)
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"base.jsonl +4 +0.5000 +\[0.5000, 0.5000\] +0 +4 +0\n")
        self.assertRegex(out, r"better.jsonl +4 +0.0000 +\[0.0000, 0.0000\] +0 +0 +0\n")
        self.assertRegex(out, r"better.jsonl +-0.5000 +\[-0.5000, -0.5000\]\n")
        self.assertRegex(out, r"food +4 +0 +4 +0\n")
        self.assertIn("food missing", out)

    def test_each_line_is_scored_for_a_run(self):
        with open(self.answers("half.jsonl", 2), encoding="utf-8") as lines:
            text = lines.read()
        code, out, err = self.run_main(ser, "--each", stdin=text)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual([json.loads(line)["slot_error_rate"] for line in out.splitlines()], [[1, 2]] * 2 + [[0, 2]] * 2)
        code, out, err = self.run_main(ser, "--each", stdin=text + "{\n")
        self.assertEqual((code, len(out.splitlines())), (2, 4))
        self.assertIn("line 5: this is not JSON", err)
        for wrong in ([], ["--each", "half.jsonl"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                ser.main(wrong)

    def test_the_same_seed_gives_the_same_interval(self):
        half = self.answers("half.jsonl", 2)
        first, again = (self.run_main(ser, "--replicates", "50", half)[1] for _ in range(2))
        self.assertEqual(first, again)
        self.assertRegex(first, r" 0.2500 +\[0\.[01]\d*, 0\.[345]\d*\]")

    def test_responses_to_one_input_are_drawn_together(self):
        pairs = [(PROMPT, RIGHT), (PROMPT, "Aromi."), ("name[Aromi]", "Aromi.")]
        score = ser.Score(pairs)
        self.assertEqual(list(score.slots.items()), [(PROMPT, 8), ("name[Aromi]", 1)])
        self.assertEqual(score.rate(score.slots), 3 / 9)
        self.assertEqual(score.rate([PROMPT, PROMPT]), 3 / 8)

    def test_references_and_messages_are_read(self):
        path = self.write("t.jsonl", {"messages": [{"role": "user", "content": "Describe: " + PROMPT}],
                                      "references": [RIGHT, "Aromi."]})
        self.assertEqual([text for _, text in ser.read(path, True)], [RIGHT, "Aromi."])
        self.assertEqual(ser.parse_input(ser.read(path, True)[0][0])["area"], ["riverside"])

    def test_what_cannot_be_scored_is_named(self):
        good = {"prompt": PROMPT, "response": RIGHT}
        for records, message in [
            ([good, "{"], "line 2: this is not JSON"),
            ([good, {"prompt": "Hello", "response": "x"}], "line 2: there is no input such as"),
            ([good, [1]], "line 2: there is no input such as"),
            ([{"prompt": PROMPT}], "line 1: there is no description; add `response`"),
            ([""], "holds no description"),
        ]:
            code, out, err = self.run_main(ser, self.write("bad.jsonl", *records))
            self.assertEqual((code, out), (2, ""))
            self.assertIn(message, err)
        self.assertIn("check the path", self.run_main(ser, os.path.join(self.folder, "absent"))[2])
        other = self.write("other.jsonl", {"prompt": "name[Zizzi]", "response": "Zizzi."})
        code, _, err = self.run_main(ser, self.write("good.jsonl", good), other)
        self.assertEqual(code, 2)
        self.assertIn("do not answer the same inputs", err)

    def test_csv_becomes_jsonl(self):
        path = self.write("c.csv", "mr,ref,fixed,orig_mr", '"name[Aromi], food[French]","Say ""oui"", é.",0,x',
                          "name[Zizzi],Zizzi.,1,y", '"name[Aromi], food[French]",Aromi.,0,x')
        pairs = [json.loads(line) for line in self.run_main(convert, path)[1].splitlines()]
        self.assertEqual(pairs[0], {"prompt": "name[Aromi], food[French]", "response": 'Say "oui", é.'})
        self.assertEqual(len(pairs), 3)
        grouped = [json.loads(line) for line in self.run_main(convert, "--references", path)[1].splitlines()]
        self.assertEqual([len(record["references"]) for record in grouped], [2, 1])

    def test_another_csv_is_refused(self):
        for rows, message in [
            (["a,b", "1,2"], "must name the columns"),
            (["mr,ref", "x,"], "line 2: `mr` or `ref` is empty"),
            ([], "must name the columns"),
        ]:
            code, out, err = self.run_main(convert, self.write("c.csv", *rows))
            self.assertEqual((code, out), (2, ""))
            self.assertIn(message, err)


if __name__ == "__main__":
    unittest.main()
