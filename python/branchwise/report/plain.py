"""Text of models, files and users as a terminal may see it."""

from __future__ import annotations


def printable(text: str) -> str:
    """Control characters, which could steer the terminal, become U+FFFD; line ends stay, a tab is a space."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else " " if letter == "\t" else "\ufffd"
        for letter in text.replace("\r\n", "\n")
    )
