"""Which added tokens of a vocabulary are marks of a format, and which are just text."""

from __future__ import annotations

import re

_HTML = (
    "a|b|blockquote|br|caption|center|code|div|em|h[1-6]|hr|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|tbody|td"
    "|tfoot|th|thead|tr|u|ul"
)
_CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>", re.DOTALL)
_MARKUP = re.compile(rf"(?!</?(?:{_HTML})>)(?:<.+>|\[.+\])", re.DOTALL)


def is_control(word: str, special: bool) -> bool:
    """Whether an added token may be written by a template only: declared special, or in the manner of `<|im_end|>`.

    A token of one character cannot be written in two pieces and counts as text.
    """
    return len(word) > 1 and (special or _CONTROL.fullmatch(word) is not None)


def is_markup(word: str, special: bool) -> bool:
    """Whether an added token is a mark of some format, and no user means it: also `<think>` and `[INST]`.

    HTML tags, which some vocabularies hold, runs of white space and single letters are text.
    """
    return is_control(word, special) or _MARKUP.fullmatch(word) is not None
