"""What a restaurant description says, by pattern.

`mentions(text, name, near)` gives the values that a text states for each of the eight attributes of the E2E data.
Values that people use for one another are one class: `cheap` and `less than £20` are both `low`.

A pattern reads words that stand near each other, so it can be fooled; `slot_error_rate.py --references` on the human
descriptions says how often. Names are taken out of the text first: "Raja Indian Cuisine" serves no Indian food by its
name alone.
"""

import functools
import re
import unicodedata

ATTRIBUTES = ("name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near")

# Input value -> class. A value that is not listed is its own class, in small letters.
CLASSES = {
    "priceRange": {
        "cheap": "low", "less than £20": "low",
        "moderate": "middle", "£20-25": "middle",
        "high": "high", "more than £30": "high",
    },
    "customer rating": {
        "low": "low", "1 out of 5": "low",
        "average": "middle", "3 out of 5": "middle",
        "high": "high", "5 out of 5": "high",
    },
}

# The restaurants and landmarks of the data: a text that names one that its input does not has added it.
PLACES = (
    "Alimentum", "All Bar One", "Aromi", "Avalon", "Bibimbap House", "Blue Spice", "Browns Cambridge", "Burger King",
    "Café Adriatic", "Café Brazil", "Café Rouge", "Café Sicilia", "Clare Hall", "Clowns", "Cocum", "Cotto",
    "Crowne Plaza Hotel", "Express by Holiday Inn", "Fitzbillies", "Giraffe", "Green Man", "Loch Fyne",
    "Midsummer House", "Rainbow Vegetarian Café", "Raja Indian Cuisine", "Ranch", "Strada", "Taste of Cambridge",
    "The Bakers", "The Cambridge Blue", "The Cricketers", "The Dumpling Tree", "The Eagle", "The Golden Curry",
    "The Golden Palace", "The Mill", "The Olive Grove", "The Phoenix", "The Plough", "The Portland Arms", "The Punter",
    "The Rice Boat", "The Six Bells", "The Sorrento", "The Twenty Two", "The Vaults", "The Waterman", "The Wrestlers",
    "Travellers Rest Beefeater", "Wildwood", "Yippee Noodle Bar", "Zizzi",
)

# Stands in the text for a name taken out.
HOLE = " @ "


def either(words):
    """A group of the alternatives in a string, parted by white space; `_` stands for a space within one."""
    return "(?:" + "|".join(words.split()).replace("_", " ") + ")"


def any_of(*patterns):
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


# A landmark that the data does not know: a name in capitals after a word of place.
UNKNOWN_NEAR = re.compile(
    r"\b(?i:near|near to|nearby|close to|next to|beside|opposite|across from|adjacent to) (?:[Tt]he )?"
    r"(?!River|City|Town|Centre|Center|Raja|Cambridge\b)[A-Z][a-z]"
)

EAT_TYPE = {
    "coffee shop": any_of(r"\bcoffee\b", r"\bcafe\b"),
    "pub": any_of(r"\bpubs?\b"),
    "restaurant": any_of(r"\brestaurants?\b"),
}

FOOD = {
    "chinese": any_of(r"\bchin(?:ese?|a)\b"),
    "english": any_of(r"\b(?:english|british)\b", r"\bfish (?:and|&|'?n'?) chips\b"),
    "fast food": any_of(r"\bfast[ -]?foods?\b"),
    "french": any_of(r"\bfr(?:ench|ance)\b"),
    "indian": any_of(r"\bindian?\b"),
    "italian": any_of(r"\bital(?:ian|y)\b", r"\bpasta\b", r"\bpizzas?\b"),
    "japanese": any_of(r"\bjapan(?:ese)?\b", r"\bsushi\b"),
    # Never in the inputs, and so always added.
    "other": any_of(
        r"\b" + either("american mexican thai greek spanish german turkish korean vietnamese mediterranean") + r"\b",
        r"\b" + either("vegan vegetarian") + r"\b",
    ),
}

# "High price range", "the price range is high": an adjective and a noun, with none but these words between them.
PRICE_NOUN = either("price prices priced pricey pricing cost costs costing")
PRICE_FILLER = either("end range food menu average meal in on")
PRICE_GAP = either(
    """range ranges ranged ranging tag point bracket level is are of in into at a an the and being on side end food very
    quite has from considered fairly somewhat fall falls for customer rating ratings"""
)
NOT_RATED = r"(?![ -]*(?:in |for )?(?:customer|rating|rated|rate|quality|review|star))"


def price(adjectives):
    adjective = either(adjectives)
    return (
        rf"\b{adjective}[ -]+(?:{PRICE_FILLER}[ -]+)*{PRICE_NOUN}\b",
        rf"\b{PRICE_NOUN}\b(?::? {PRICE_GAP})*:? {adjective}\b{NOT_RATED}",
    )


POUND = r"(?:£|\$|l|e|gbp)? ?"
TO = "(?:-|to|and|or|through|/)"
# An amount says more than an adjective: "on average more than £30" is high.
AMOUNT = {
    "low": any_of(
        either("less lower under below cheaper fewer")
        + rf"(?: (?:than|that|then))?(?: an?)?(?: average)?(?: of)? {POUND}(?:20|twenty)\b",
        rf"(?:<|up to) ?{POUND}20\b",
        r"£ ?20 (?:or|and) (?:less|under|below)",
    ),
    "middle": any_of(rf"\b(?:20|twenty) ?(?:pounds )?{TO} ?{POUND}(?:25|twenty[ -]five)\b"),
    "high": any_of(
        either("more over above greater higher upward upwards")
        + rf"(?: (?:than|that|then|of))?(?: an?)? {POUND}(?:30|thirty)\b",
        r"£ ?30\b",
        r"\b30 ?(?:\+|pounds|euros?|price)",
    ),
}
PRICE = {
    "low": any_of(
        r"(?<!not )(?<!not the )(?<!n't )\bcheap(?:er|ly|est)?\b",
        r"\binexpensive",
        r"\bbudget\b",
        r"\blow-?cost\b",
        *price("low lower lowest lowly"),
    ),
    # What pleases a guest may be either.
    "low|middle": any_of(
        r"\baffordabl[ey]", *price("reasonable reasonably fair fairly(?=[_-]+pric) good great decent modest modestly")
    ),
    "middle": any_of(
        rf"\bmoderate(?:ly)?\b(?! (?:expensive|cheap)){NOT_RATED}",
        rf"\bmid(?:dle|ium)?[ -]+(?:ranged?|of the range)\b{NOT_RATED}",
        *price("mid middle medium average averagely"),
    ),
    "high": any_of(
        r"(?<!not )(?<!n't )\bexpensive",
        r"(?:\bnot|n't) (?:very |exactly |the )?cheap",
        r"\b" + either("pricey costly upscale") + r"\b",
        r"\bhigh(?:er)?-?end\b",
        *price("high higher highest highly"),
    ),
}

RATING_NOUN = either(
    """rating ratings rated rates rate review reviews reviewed scores? scored customer(?!_service) reputation feedback
    quality standards?"""
)
RATING_FILLER = either(
    """5 five star customers?'?s? costumer consumer user guest overall quality in by satisfaction service(?=_rat)"""
)
RATING_GAP = either(
    """rating ratings score scores customer customers reviews is are was were of at a an the that as it its them their @
    very experience only by being from quite has have satisfaction"""
)


def rating(adjectives):
    adjective = either(adjectives)
    return (
        rf"\b{adjective}[ -]+(?:{RATING_FILLER}[ -]+)*{RATING_NOUN}\b",
        rf"\b{RATING_NOUN}\b:?(?: {RATING_GAP})* {adjective}\b(?![ -]*(?:end )?(?:pric|cost|expensive|cheap))",
    )


def stars(numbers):
    number = rf"(?<![\d.]){either(numbers)}"
    out_of = "(?:(?:out|put|our|points?|stars?|a) )*(?:out of|of|our|put|out|on)"
    return (
        rf"\b{number}(?:\.0)?[ -]+(?:stars?[ -]+)?{out_of}[ -]*(?:an? )?(?:possible )?(?:5|five)\b",
        rf"\b{number} ?/ ?5\b",
        # Not the second number of "1 out of 5 stars".
        rf"(?<!out of )(?<!\d of )(?<!one of )(?<!three of )(?<!out )(?<!on )(?<!possible )(?<!/)"
        rf"\b{number}[ -]*stars?\b",
        rf"\brat(?:ed|ing)(?: of| is| as| a| at| it)* {number}\b(?! ?(?:-|to|stars?|out|of|our|put|on|/))",
    )


NOT_GOOD = any_of(
    rf"(?:\bnot|n't)(?: [a-z]+){{0,3}}? {either('good great high highly well best')}[ -]+(?:customer )?{RATING_NOUN}\b",
    rf"\b{RATING_NOUN} (?:is|are)?(?: not|n't) (?:very |so |too )?{either('good great high well')}\b",
    rf"\bnot (?:rated|reviewed) (?:very |so |too |that )?{either('good well highly high')}\b",
)
RATING = {
    "low": any_of(*stars("1 one"), *rating("low lower lowest lowly poor poorly bad badly terrible")),
    "middle": any_of(
        *stars("3 three"),
        *rating("average averagely mediocre moderate moderately medium mid mid[_-]ranged? ok okay decent"),
    ),
    # Guests speak of good reviews where the input says average, and where it says high.
    "middle|high": any_of(*rating("good well positive")),
    "high": any_of(
        *stars("5 five"),
        *rating("high higher highest highly excellent excellently great top very_good very_well best outstanding"),
    ),
    # Never in the inputs.
    "other": any_of(*stars(r"2 4 two four [1-4]\.5")),
}

AREA = {
    "city centre": any_of(
        r"\b(?:city|cities|town)[ -']*s? ?cent(?:re|er)",
        r"\bcent(?:re|er|ral)\.?(?: part)?(?: of| in)(?: the| a)? (?:city|town|cambridge)",
        r"\bheart of (?:the |a )?(?:city|town)",
        r"\bdowntown\b",
        r"\bcentral(?:ly)?[ -]located\b",
    ),
    "riverside": any_of(r"\briver", r"\bwater ?(?:front|side)\b", r"\bthames\b"),
}

YOUNG = (
    either("famil(?:y|ies|iy) famly child(?:ren|rens|s)? kid(?:s|dies|die|dy)? toddlers? youngsters minors")
    + "(?:'s?)?"
)
YOUNGS = rf"{YOUNG}(?:[ -]+(?:and|or|nor|&)[ -]+{YOUNG})*"
NOT = (
    r"(?:n't|\b"
    + either("not no non none never nor isnt doesnt dont arent cannot without avoid bans?")
    + r"\b|\b"
    + either("discourages? lacks? prohibits? excludes?")
    + r"\b)"
)
# Words that may stand between a negation and what it negates; those left out begin another statement.
REACH = rf"(?:(?!{either('but and only far is are more less (?<!friendly_)with though yet')}\b)[\w']+[ -]+){{0,8}}?"

FAMILY_NO = any_of(
    rf"{NOT}[ -]*{REACH}{YOUNGS}(?!\w)",
    rf"\b{YOUNG}[ :-]+(?:(?!{either('but and with eat')}\b)[\w']+[ :-]+){{0,3}}?"
    + either("not free unfriendly prohibited banned unwelcome discouraged no")
    + r"\b(?! (?:more|only|far))",
    rf"\b{YOUNG}[ -]+{either('is are were would should do does ca wo')}n't\b",
    rf"\b{either('unsuitable inappropriate unfriendly unwelcoming')}(?: \w+){{0,2}} {YOUNG}",
    r"\badults?[ -]only\b",
    r"\bonly (?:for )?adults?\b",
    r"\bfor adults\b(?! (?:and|as well|alike))",
    r"\badults?[ -]+" + either("establish venue place orient environment restaurant pub coffee themed friendly"),
    r"\badults?[ -]+" + either("atmosphere crowd setting location style"),
)
FAMILY_YES = any_of(rf"\b{YOUNG}(?!\w)", r"\ball ages\b")


def tidy(text):
    """No accents, straight quotes and hyphens, single spaces."""
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub("[\u2018\u2019`\u00b4]", "'", text)
    text = re.sub("[\u2010-\u2015]", "-", text)
    return re.sub(r"\s+", " ", text).strip()


def fold(text):
    return tidy(text).lower()


@functools.cache
def place_pattern(place):
    """A name with or without its article, and with small slips: `Browns`, `Brown's`; `Crown Plaza`."""
    words = place.split()
    if words[0] == "the" and len(words) > 1:
        words = words[1:]
    tail = ""
    if words[-1] in ("hotel", "cafe", "cuisine") and len(words) > 2:
        tail = rf"(?:[\s-]+{words.pop()})?"
    body = r"[\s-]+".join(re.sub("([es])$", r"'?\1?", re.escape(word)) for word in words)
    return re.compile(rf"\b(?:the )?{body}{tail}(?:'?s)?(?!\w)", re.IGNORECASE)


def stated(patterns, text):
    return {value for value, pattern in patterns.items() if pattern.search(text)}


def priced(text):
    amounts = stated(AMOUNT, text)
    if not amounts and "£20" in text:
        amounts = {"low|middle"}
    if not amounts and re.search(r"[£$€] ?\d", text):
        amounts = {"other"}
    return amounts or stated(PRICE, text)


def rated(text):
    text, count = NOT_GOOD.subn(" ", text)
    return stated(RATING, text) | ({"low"} if count else set())


def family(text):
    """`no` beside `yes` counts as `no`: the mention that made `yes` is mostly part of the same statement."""
    if FAMILY_NO.search(text):
        return {"no"}
    return {"yes"} if FAMILY_YES.search(text) else set()


def mentions(text, name=None, near=None):
    """The classes of values that `text` states, by attribute; `name` and `near` are those of the input.

    A class such as `low|middle` is said by words that fit either. A place that the input does not have is a value of
    `near`, or of `name` where the input has none.
    """
    found = {attribute: set() for attribute in ATTRIBUTES}
    own = {fold(place): attribute for attribute, place in (("near", near), ("name", name)) if place}
    others = [place for place in map(fold, PLACES) if place not in own]
    text = tidy(text)
    for place in sorted(own, key=len, reverse=True) + sorted(others, key=len, reverse=True):
        text, count = place_pattern(place).subn(HOLE, text)
        if count:
            found[own.get(place, "near" if name else "name")].add(place)
    if UNKNOWN_NEAR.search(text):
        found["near"].add("other")
    text = fold(text)
    found["eatType"] = stated(EAT_TYPE, text)
    found["food"] = stated(FOOD, text)
    found["priceRange"] = priced(text)
    found["customer rating"] = rated(text)
    found["area"] = stated(AREA, text)
    found["familyFriendly"] = family(text)
    return found
