"""What only shows is removed: delimiters, fonts, spacing, and the many ways to write one symbol."""

from __future__ import annotations

import re

UPRIGHT, END = "\x02", "\x03"  # around upright text, which is a unit or a word where italics would be variables

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau upsilon"
    " phi chi psi omega"
)
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}", "-"),
        **dict.fromkeys("\N{MULTIPLICATION SIGN}\N{DOT OPERATOR}\N{MIDDLE DOT}\N{ASTERISK OPERATOR}", "*"),
        **dict.fromkeys("\N{DIVISION SIGN}\N{DIVISION SLASH}\N{FRACTION SLASH}", "/"),
        **dict.fromkeys("\N{LESS-THAN OR EQUAL TO}\N{LESS-THAN OR SLANTED EQUAL TO}", r"\leq "),
        **dict.fromkeys("\N{GREATER-THAN OR EQUAL TO}\N{GREATER-THAN OR SLANTED EQUAL TO}", r"\geq "),
        **dict.fromkeys("\N{ALMOST EQUAL TO}\N{ASYMPTOTICALLY EQUAL TO}", r"\approx "),
        **dict.fromkeys("\N{RIGHT SINGLE QUOTATION MARK}\N{PRIME}", "'"),
        **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
        **dict.fromkeys("\N{EMPTY SET}\N{LATIN SMALL LETTER O WITH STROKE}", r"\emptyset "),
        **dict(zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-", strict=True)),
        **{chr(0x2080 + digit): f"_{digit}" for digit in range(10)},
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **{chr(0x3B1 + index): rf"\{name} " for index, name in enumerate(_GREEK.split())},
        "\N{NOT EQUAL TO}": r"\neq ",
        "\N{INFINITY}": r"\infty ",
        "\N{SQUARE ROOT}": r"\sqrt ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{UNION}": r"\cup ",
        "\N{INTERSECTION}": r"\cap ",
        "\N{ELEMENT OF}": r"\in ",
        "\N{ANGLE}": r"\angle ",
        "\N{DOUBLE-STRUCK CAPITAL R}": r"\reals ",
        "\N{VULGAR FRACTION ONE HALF}": r"\frac{1}{2}",
        "\N{VULGAR FRACTION ONE QUARTER}": r"\frac{1}{4}",
        "\N{VULGAR FRACTION THREE QUARTERS}": r"\frac{3}{4}",
        "\N{VULGAR FRACTION ONE THIRD}": r"\frac{1}{3}",
        "\N{VULGAR FRACTION TWO THIRDS}": r"\frac{2}{3}",
        "\N{HORIZONTAL ELLIPSIS}": "...",
    }
)  # fmt: skip
_RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_NAMES = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(("le", "leqslant", "leqq"), r"\leq"),
    **dict.fromkeys(("ge", "geqslant", "geqq"), r"\geq"),
    **dict.fromkeys(("ne", "not="), r"\neq"),
    **dict.fromkeys(("lbrace", "lbrack"), r"\{"),
    **dict.fromkeys(("rbrace", "rbrack"), r"\}"),
    **dict.fromkeys(("cdot", "times", "ast"), "*"),
    **dict.fromkeys(("ldots", "dots", "cdots", "dotsc", "dotsb"), "..."),
    **dict.fromkeys(("sim", "simeq"), r"\approx"),
    **dict.fromkeys(("varnothing", "O"), r"\emptyset"),
    **dict.fromkeys(("Reals", "R"), r"\reals"),
    **dict.fromkeys(("quad", "qquad", "space", "hspace", "enspace", "thinspace"), " "),
    **dict.fromkeys(
        ("left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "middle", "displaystyle"), ""
    ),
    **dict.fromkeys(("textstyle", "limits", "boxed", "fbox", "bf", "rm", "it", "hfill", "mathopen", "mathclose"), ""),
    "varphi": r"\phi",
    "degree": r"^\circ",
    "div": "/",
    "colon": ":",
    "lt": "<",
    "gt": ">",
    "infin": r"\infty",
    "lvert": "|",
    "rvert": "|",
    "cancel": "",
    "implies": " ",
    "Rightarrow": " ",
}
_COMMAND = re.compile(r"\\(?:([a-zA-Z]+)(\*?)|([,;:!> \\()\[\]$%#&_]))")
_SHORT = {"!": "", "\\": " ", "(": "", ")": "", "[": "", "]": "", "$": "$", "%": "%", "#": "#", "&": "&", "_": "_"}
_UPRIGHT = re.compile(r"\\(?:text|textrm|textnormal|textsf|mathrm|mbox|hbox|operatorname|rm)\s*\{([^{}]*)\}")
_LEANING = re.compile(
    r"\\(?:textbf|textit|mathbf|mathit|boldsymbol|bm|mathsf|emph|underline|mathcal|bold|hat|vec|texttt)\s*\{([^{}]*)\}"
)
_ROWS = re.compile(r"(?<!\\)&(?=\s?(?:[=<>]|\\(?:leq?|geq?|neq?|approx)(?![a-z])))|(?<=[=<>])\s?&")
_SPACED = re.compile(r"(?<![\d.,/] )(?<![\d.,/])\d{1,3}(?: \d{3})+(?![\d/]| \d)")
_TAG = re.compile(r"</?(?:b|strong|em|u|code|span|p|mark)>", re.IGNORECASE)
_OVER = re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}|^([^{}]*)\\over(?![a-zA-Z])([^{}]*)$")
_THIN = re.compile(r"(?<=\d)(?:\\,|\\!|\{,\}|,\\!|\\;|\\ |~)\s*(?=\d{3}(?!\d))")
_REALS = re.compile(r"\\math(?:bb|bf|rm)\s*\{?R\}?(?![a-zA-Z])")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{(?!\w{0,2}matrix|cases|array)[a-zA-Z]{1,20}\*?\}")
_MARKS = re.compile(f"[{UPRIGHT}{END}]")
_EMPHASIS = re.compile(r"^(\*\*|__|`|\"|')(?=\S)(.*)(?<=\S)\1$", re.DOTALL)
_ASCII = (
    (re.compile("<="), r"\\leq "),
    (re.compile(">="), r"\\geq "),
    (re.compile(r"(?<![\d)])!="), r"\\neq "),  # 5!=120 is a factorial
    (re.compile("=>|~"), " "),
)


def clean(text: str) -> str:
    r"""The same mathematics with one way to write each symbol; upright text lies between UPRIGHT and END.

    Keeps braces, `\frac`, `\sqrt`, relations, brackets, `$` and `%` where they are units, and single spaces.
    """
    text = _TAG.sub("", text).strip()
    if text.endswith("\\") and not text.endswith(r"\\"):
        text = text[:-1].rstrip()  # of a space that a backslash stood before
    while match := _EMPHASIS.match(text):
        text = match[2].strip()
    text = _RAISED.sub(lambda raised: f"^{{{raised[0].translate(_SYMBOLS)}}}", text).translate(_SYMBOLS)
    while (joined := _THIN.sub("", text)) != text:
        text = joined
    text = _OVER.sub(lambda over: rf"\frac{{{over[1] or over[3]}}}{{{over[2] or over[4]}}}", text)
    text = text.replace("per cent", "percent")
    text = _REALS.sub(r"\\reals ", text)
    text = _ENVIRONMENT.sub(" ", text)
    text = _LEANING.sub(r"\1", text)
    text = _UPRIGHT.sub(lambda match: UPRIGHT + match[1] + END, text)
    text = _unquoted(text)
    keep_rows = r"\begin" in text
    text = _COMMAND.sub(lambda match: _command(match, keep_rows), text if keep_rows else _ROWS.sub(" ", text))
    text = text if keep_rows else text.replace("&", " and ")
    for pattern, replacement in _ASCII:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    # "1 000" is a thousand; in "12 345" there may be two numbers.
    return _SPACED.sub(lambda spaced: spaced[0].replace(" ", "") if " 0" in spaced[0] else spaced[0], text)


def _unquoted(text: str) -> str:
    r"""Without the dollar signs of formulas; a lone one in front of a number is money, and stays as `\$`."""
    money = text.count(r"\$")
    if text.count("$") - money == 1 and not text.endswith("$"):
        return text.replace("$", r"\$") if not money else text
    return text if "$" not in text else re.sub(r"(?<!\\)\$", "", text)


def _command(match: re.Match[str], keep_rows: bool) -> str:
    name, star, short = match.groups()
    if name is not None:
        known = _NAMES.get(name)
        return match[0] if known is None else known + (star or " " if known[-1:].isalpha() else star)
    if short == "\\" and keep_rows:
        return match[0]
    return _SHORT.get(short, " ")


def without_marks(text: str) -> str:
    """Upright text as any other."""
    return _MARKS.sub(" ", text) if UPRIGHT in text or END in text else text


def is_blank(text: str) -> bool:
    """Whether cleaned text says nothing: no letter and no digit is in it, and it is no operator, delimiters at most."""
    return not any(letter.isalnum() for letter in text) and text not in tuple("+-*/<>=")
