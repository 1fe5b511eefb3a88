"""Answers in words: "the answer is ...", a heading "Answer" with the answer below it, "the correct option is (B)"."""

from __future__ import annotations

import re

from branchwise.answers.reading import MAX_LENGTH, is_answer, read
from branchwise.answers.words import without_hedges

_TRIES = 40  # statements looked at, from the last one on
_WINDOW = 2 * MAX_LENGTH  # characters looked at behind one

_CUE = re.compile(
    r"(?<![a-zA-Z])ans(?:[.:]|(?=[ =]))(?=[ \t]{0,8}[-$\\\d(])"
    r"|(?<![a-zA-Z])answers?[*_]{0,3}"
    r"(?:,? (?:then|therefore|thus|here|now)\b| \([^()\n]{1,40}\)"
    r"| (?:to|for|of|in|you|we|that) ?[a-z' ]{0,40}?(?= (?:is|are)\b))?"
    r",?(?:\*\*)?[ \t]{0,8}"
    r"(?:(?:\n\s{0,8})?(?:is|are|was|equals|becomes"
    r"|(?:should|must|would|will|can only|has to|turns out to|comes out to)(?: be)?)\b"
    r"|[:=]|[-\u2013\u2014\u2192](?=\s)|\\(?:rightarrow|to)(?![a-zA-Z])|(?=[ \t*_]{0,8}(?:\n|$)))"
    r"|\b(?:correct|right|best) (?:option|choice|statement)(?:\*\*)?[ \t]{0,8}(?:is\b|:)"
    r"|^[ \t]{0,8}(?:#{1,6} {0,4}|\*\*)(?:final )?(?:answer|result)[ \t]{0,8}:?(?:\*\*)?[ \t]{0,8}:?[ \t]{0,8}$",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    r"^[ \t]{0,8}(?:#{1,6} {0,4}|\*\*|__)?\*?(?:(?:the|my|our) )?(?:(?:final|correct) )?answers?$", re.IGNORECASE
)
_BEFORE = re.compile(r",? (?:is|are) (?:the|our|my) (?:final |correct )?answer\b", re.IGNORECASE)
_PRAISED = re.compile(r" is (?:the )?(?:correct|right)(?: (?:answer|option|choice|one))?(?=[.,!;\s]|$)", re.IGNORECASE)
_LED_IN = re.compile(r"(?:so|thus|hence|therefore|then|and)\b,?\s*|(?:the )?correct ", re.IGNORECASE)
_DOUBTED = re.compile(
    r"\b(?:if|whether|unless|when|hope|ensure|verify|check|sure|assume|assuming|suppose|think|guess|what|why|how|until"
    r"|means|that)"
    r"(?: that| if)?(?: (?:the|this|our|my|your|that))?(?: (?:final|correct|above|whole))?\s{0,4}$",
    re.IGNORECASE,
)
_HOPEFUL = re.compile(r"\b(?:think|guess|means|that)\b[^.]{0,24}$", re.IGNORECASE)
_SKIPPED = re.compile(
    r"(?:\s|\*\*|__|[*:]|-{3,}|={3,}|`{3}[a-z]{0,8}(?=\n)|>(?=\s)|(?<=\n)(?:1[.)]|[-\u2022])(?= )"
    r"|\b(?:as follows|the following|given as|given by|below)\b[.:]?)*",
    re.I,
)
_DISPLAY = re.compile(
    r"\$\$(?P<a>(?:[^$\\]|\\.)+)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)"
    r"|(?P<d>\\begin\{(?P<env>[a-z]{1,12}\*?)\}.+?\\end\{(?P=env)\})"
    r"|\$(?P<e>(?:[^$\\\n]|\\.)+)\$",
    re.DOTALL,
)
_BOUND = re.compile(
    r"(?:at (?:most|least)|no (?:more|less) than|up to|not more than|more or less)\s+(?=\S)", re.IGNORECASE
)
_NOT = re.compile(
    r"not\b(?! defined)[^.;\n]{0,120}?(?:[.;,]\s+|\s+)"
    r"(?:(?:but|instead|rather),?(?: it(?:'s| is))?|it(?:'s| is))\s+(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_END = re.compile(
    r"(?P<stop>(?<!\\)[.?!;](?=[\s*\"')]|$))"
    r"|,?\s(?:so|since|because|which|where|while|whereas|given that|after|assuming|if|when|giving|making|thus|hence"
    r"|therefore|rather than|instead of|i\.e|as (?:shown|required|desired|we|it|the))\b"
    r"|, (?:as|not|but|and (?:the|so|we|it))\b|\s(?:-{2,}|\u2014)\s"
    r"|\s-\s(?=(?:the|this|that|since|because|which|it)\b)|\s\((?:since|because|as|in|or|which|i\.e)\b|\n",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:Dr|Mr|Mrs|Ms|St|Mt|Prof|Jr|Sr|Sgt|Capt|Gen|Lt|Col|Rev|Inc|Ltd|Co|vs|approx|e\.g|i\.e|[a-z]|[a-zA-Z](?:\.[a-zA-Z])+)$"
)
_SHORT_UNIT = re.compile(
    r"\b(?:No|Fig|Eq|Ch|Vol|Jan|Feb|Mar|Apr|Aug|Sept?|Oct|Nov|Dec|sq|cu)$"
    r"|\d ?(?:ft|in|lbs?|oz|min|hrs?|sec|yd|mi|[mck]?m|k?g)$"
)
_SENTENCE = re.compile(r"[A-Za-z][^\d$\\\n]*[ (](?:[a-z]+|=) (?P<rest>[-+]?(?:\\?\$)?\.?\d[^\n]*)")
_NEGATED = re.compile(
    r"\b(?:not|no|never|less|more|than|between|of|at|from|world|number|chapter|version|below|above)\b", re.IGNORECASE
)
_UNANSWERING = re.compile(
    r"(?:correct|right|wrong|incorrect|clear|reasonable|unique|obtained|found|derived|because|based|determined|calculated"
    r"|computed|always|never|what|how|why|that|supposed|expected|also|still|verified|confirmed|consistent|easy"
    r"|hidden|unclear|unknown|needed|required|simple|straightforward|not|expressed|written|rounded|now|here"
    r"|an? (?:integer|number|whole|single|positive|fraction|decimal)|in (?:terms|simplest|the)|therefore$)\b",
    re.IGNORECASE,
)


def spoken(text: str) -> str | None:
    """What the last statement of an answer states, up to the end of its sentence; or None."""
    phrase = None
    for cue in reversed(list(_CUE.finditer(text))[-_TRIES:]):
        found = _behind(text, cue)
        if found is not None and not _is_phrase(found):
            return found
        phrase = phrase or found
    if phrase is not None:
        return phrase
    for match in reversed([*_PRAISED.finditer(text)][-_TRIES:] + [*_BEFORE.finditer(text)][-_TRIES:]):
        said = re.split(r"\n|[.:] ", text[max(0, match.start() - 80) : match.start()])[-1].strip()
        said = said[_end_of(_LED_IN, said) :].strip(" *")
        allowed = read(said).kind == "choice" if match.re is _PRAISED else read(said).kind not in ("text", "relation")
        if is_answer(said) and allowed:
            return said
    return None


def _is_phrase(answer: str) -> bool:
    """Whether it may only talk about the answer: "the smallest of them"."""
    return (
        read(answer).kind == "text"
        and (len(answer.split()) > 2 or answer[:3] == "in ")
        and not re.search(r"[\d\\=$]", answer)
    )


def _end_of(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0


def _behind(text: str, cue: re.Match[str]) -> str | None:
    line = text.rfind("\n", max(0, cue.start() - 80), cue.start()) + 1
    before = text[max(line, cue.start() - 60) : cue.start()]
    if _DOUBTED.search(before) and not _HOPEFUL.search(before):
        return None
    if cue[0].rstrip(" \t*_").lower().endswith(("answer", "answers")) and not _HEADING.match(
        before + cue[0].rstrip(" \t*_")
    ):
        return None  # a line that only happens to end with the word
    return value(text[cue.end() : cue.end() + _WINDOW])


def value(rest: str) -> str | None:
    """The answer that a text begins with."""
    rest = _without_openers(rest)
    if match := _NOT.match(rest):
        rest = _without_openers(match["rest"])
    if _UNANSWERING.match(rest):
        return None
    end = _end(rest)
    if rest[end : end + 1] == "?":
        return None
    clause = rest[:end].strip().strip("*_ \t:,`").strip()
    clause = clause.replace("**", "") if clause.count("**") == 1 else clause  # its twin was in front
    formula = _DISPLAY.match(clause)
    if formula is None and (formula := _DISPLAY.match(rest)) is not None:
        clause = formula[0]
    if formula is not None:
        inner = next(filter(None, formula.group("a", "b", "c", "d", "e"))).strip()
        behind = clause[formula.end() :].strip()
        if not behind or read(clause).kind in ("text", "blank", "relation"):
            clause = inner
    if not is_answer(clause) or clause.count("{") != clause.count("}"):
        return None  # nothing, or cut off
    return (_number_in(clause) or clause) if read(clause).kind == "text" else clause


def _number_in(clause: str) -> str | None:
    """The number that a sentence comes to: "Janet makes $18 every day"."""
    match = _SENTENCE.fullmatch(clause)
    found = match["rest"].strip() if match and not _NEGATED.search(clause, 0, match.start("rest")) else None
    return found if found and read(found).kind in ("number", "expression", "clock") else None


def _is_abbreviation(rest: str, at: int) -> bool:
    """Whether a stop belongs to the word before it; to a unit only where the sentence clearly goes on."""
    if _ABBREVIATION.search(rest, max(0, at - 12), at):
        return True
    behind = rest[at + 1 :].lstrip()[:1]
    return (behind.islower() or behind.isdigit()) and _SHORT_UNIT.search(rest, max(0, at - 12), at) is not None


def _without_openers(rest: str) -> str:
    """Behind line breaks, rules, fences, hedges and bounds."""
    while True:
        before = rest
        skipped = _SKIPPED.match(rest)
        rest = without_hedges(rest[skipped.end() if skipped else 0 :])
        rest = _BOUND.sub("", rest, count=1) if _BOUND.match(rest) else rest
        if rest == before:
            return rest


def _end(rest: str) -> int:
    """Where the statement ends: at a sentence's end or a clause that explains, outside of formulas."""
    formulas = [match.span() for match in _DISPLAY.finditer(rest)]
    for match in _END.finditer(rest):
        at = match.start()
        if any(begin <= at < end - 1 for begin, end in formulas):
            continue
        if match["stop"] == "." and _is_abbreviation(rest, at):
            continue
        if at or match["stop"]:
            return at
    return len(rest)
