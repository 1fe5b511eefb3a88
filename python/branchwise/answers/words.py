"""Words around numbers: units, magnitudes, numbers written out, hedges, and words that make another number of it."""

from __future__ import annotations

import re
from fractions import Fraction


def _split(words: str) -> list[str]:
    return words.split()


_UNITS = {
    "%": "percent percentage pct",
    "deg": "degree degrees deg degs",
    "$": "dollar dollars usd buck bucks",
    "cent": "cent cents penny pennies",
    "euro": "euro euros eur",
    "pound": "pound pounds lb lbs quid gbp",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm cms centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kms kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yds yard yards",
    "mi": "mi mile miles",
    "mg": "mg milligram milligrams",
    "g": "g gram grams",
    "kg": "kg kgs kilogram kilograms kilo kilos",
    "oz": "oz ounce ounces",
    "ton": "ton tons tonne tonnes",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "l": "l liter liters litre litres",
    "gal": "gal gallon gallons",
    "pt": "pint pints",
    "qt": "qt quart quarts",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks wk wks",
    "month": "month months",
    "year": "year years yr yrs",
    "sq": "square squared sq",
    "cu": "cubic cubed cu",
    "rad": "rad rads radian radians",
    "J": "j joule joules kj",
    "N": "n newton newtons",
    "W": "w watt watts",
    "V": "v volt volts",
    "A": "ampere amperes amps",
    "K": "k kelvin",
    "C": "celsius",
    "F": "fahrenheit",
    "Hz": "hz hertz",
    "am": "am",
    "pm": "pm",
}
_COMPOUND = {"mph": ("mi", "h"), "kph": ("km", "h"), "kmh": ("km", "h"), "kmph": ("km", "h"), "fps": ("ft", "s")}
_UNIT = {word: (unit,) for unit, words in _UNITS.items() for word in words.split()} | _COMPOUND
_LETTERS = frozenset("mglshLJNWVK")  # units of one letter: only in upright text, else they are variables

_MAGNITUDES: dict[str, int | Fraction] = {
    "ten": 10, "tens": 10, "hundred": 100, "hundreds": 100, "thousand": 1000, "thousands": 1000, "grand": 1000,
    "million": 10**6, "millions": 10**6, "billion": 10**9, "billions": 10**9, "trillion": 10**12, "dozen": 12,
    "dozens": 12,
    "tenth": Fraction(1, 10), "tenths": Fraction(1, 10), "hundredth": Fraction(1, 100),
    "hundredths": Fraction(1, 100), "thousandth": Fraction(1, 1000), "thousandths": Fraction(1, 1000),
    "halves": Fraction(1, 2), "thirds": Fraction(1, 3), "fourths": Fraction(1, 4), "fifths": Fraction(1, 5),
    "sixths": Fraction(1, 6), "sevenths": Fraction(1, 7), "eighths": Fraction(1, 8), "ninths": Fraction(1, 9),
}  # fmt: skip
_CHANGING = frozenset(
    _split(
        "half quarter quarters third fourth fifth sixth eighth ninth"
        " score scores squared cubed factorial percentile"
        " than below above under over before after past until till minus plus negative mod"
        " modulo"
        " base to or and not no out choose divided multiplied by power root raised th st nd rd ago bce bc"
        " ad x pi e i sqrt sin cos tan cot sec csc log ln exp if when where that is are was theta alpha beta infinity"
    )
)
_ORDER = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: number for number, word in enumerate(_split(_ORDER))} | {
    word: 10 * ten for ten, word in enumerate(_split(_TENS), start=2)
}
_PARTS = {
    "half": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_BIG = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_VOWEL = re.compile("[aeiouAEIOU]")
_HEDGE = re.compile(
    r"(?:(?:approximately|approx\.?|about|roughly|around|nearly|almost|exactly|precisely|simply|just|only|equal to"
    r"|equals|\((?:approximately|approx\.?|about|roughly)\)|to be|going to be|either|both"
    r"|therefore|thus|hence|clearly|obviously|indeed|likely|probably|still|also|then|be|definitely|certainly|actually"
    r"|really|surely|of course|in fact|now|e\.g\.|i\.e\.|namely|again|correctly|a total of|the value of"
    r"|the (?:open |closed |half-open )?(?:interval|set|point|pair|ordered pair|vector|matrix|numbers|values)"
    r"(?= ?[\\([{$\d])"
    r"|the number|estimated at|close to|given by)(?![a-zA-Z\x03-])[ :,]*|\\approx|=(?!=)|:)\s*",
    re.IGNORECASE,
)


def without_hedges(text: str) -> str:
    """The text behind "approximately", "exactly", "equal to", "=" and their like."""
    end = 0
    while (match := _HEDGE.match(text, end)) and match.end() < len(text):
        end = match.end()
    return text[end:]


def is_unit(word: str, *, upright: bool) -> bool:
    """Whether a word is a known unit; single letters only in upright text."""
    return word.lower() in _UNIT and (len(word) > 1 or (upright and word in _LETTERS))


def quantity(words: list[tuple[str, bool]]) -> tuple[Fraction, frozenset[str]] | None:
    """What words after a number do to it: the factor that they are, and the units among them.

    words: each with whether it is upright text. None where they make something else of the number: "5 less than n",
    "5 x", "3 half-hours".
    """
    factor = Fraction(1)
    words = list(words)
    while words and words[0][0].lower() in _MAGNITUDES:
        factor *= _MAGNITUDES[words.pop(0)[0].lower()]
        if words and words[0][0].lower() == "of":
            words.pop(0)
    units: set[str] = set()
    for at, (word, upright) in enumerate(words):
        low = word.lower()
        if low in ("squared", "cubed") and at and units:
            units.update(_UNIT[low])
        elif low in _CHANGING or low in _MAGNITUDES or low in _NUMBERS:
            return None
        elif is_unit(word, upright=upright):
            units.update(_UNIT[low])
        elif not _is_word(word, upright, first=at == 0):
            return None
    return factor, frozenset(units)


def _is_word(word: str, upright: bool, *, first: bool) -> bool:
    """Whether it looks like a word of a language; "xyz" after a number is a product."""
    if upright or not first:
        return len(word) > 1 or word in "aA"
    return len(word) > 2 and _VOWEL.search(word) is not None


_FIRST = re.compile(
    r"(?:negative |minus |a )?(?:" + "|".join([*_NUMBERS, *_PARTS, *_BIG, "hundred", "dozen"]) + r")\b", re.I
)


def may_be_number(text: str) -> bool:
    """Whether a text begins with the word of a number."""
    return _FIRST.match(text) is not None


def number_words(text: str) -> tuple[Fraction, str] | None:
    """The number that a text begins with in words, and the rest: "thirty-five dollars" is 35 and "dollars"."""
    tokens = re.findall(r"[a-zA-Z]+|[^a-zA-Z\s]|\s+", text)
    words = [(token.lower(), at) for at, token in enumerate(tokens) if token.isalpha()]
    negative = bool(words) and words[0][0] in ("negative", "minus")
    at = int(negative)
    total, at = _whole(words, at)
    if total is None:
        return (Fraction(1, 2), "") if text.lower() == "half" else None
    found, at = _parts(words, at, total)
    if at < len(words) and "".join(tokens[words[at - 1][1] + 1 : words[at][1]]).strip():
        return None  # "one-to-one"
    rest = "".join(tokens[words[at - 1][1] + 1 :]).strip()
    return (-found if negative else found), rest


def _whole(words: list[tuple[str, int]], at: int) -> tuple[int | None, int]:
    """A whole number in words from position `at`, and the position behind it."""
    total = current = 0
    begin = at
    while at < len(words):
        word = words[at][0]
        ahead = words[at + 1][0] if at + 1 < len(words) else ""
        if word in _NUMBERS and _fits(current, _NUMBERS[word]):
            current += _NUMBERS[word]
        elif word == "a" and at == begin and ahead in {"hundred", "dozen", *_BIG, *_PARTS}:
            current = 1
        elif word == "hundred" and 0 < current < 100:
            current *= 100
        elif word == "dozen" and 0 < current < 100:
            return total + current * 12, at + 1
        elif word in _BIG and current:
            total, current = total + current * _BIG[word], 0
        elif not (word == "and" and at > begin and ahead in _NUMBERS and words[at - 1][0] in {"hundred", *_BIG}):
            break
        at += 1
    return (total + current if at > begin else None), at


def _fits(current: int, more: int) -> bool:
    """Whether a number may follow in the same word group: seven after twenty, anything after hundreds."""
    return current % 100 == 0 or (current % 10 == 0 and current % 100 >= 20 and 0 < more < 10)


def _parts(words: list[tuple[str, int]], at: int, whole: int) -> tuple[Fraction, int]:
    """A fraction behind a whole number: "two thirds", "one and a half", "one half"."""

    def part(index: int) -> int | None:
        if index >= len(words):
            return None
        word = words[index][0]
        return _PARTS.get(word) or (2 if word == "halves" else _PARTS.get(word.removesuffix("s")))

    if (below := part(at)) and whole:
        return Fraction(whole, below), at + 1
    if at < len(words) and words[at][0] == "and":
        above, behind = _whole(words, at + 1)
        if above is not None and (below := part(behind)) and above < below:
            return whole + Fraction(above, below), behind + 1
    return Fraction(whole), at
