"""The table of docs/gpu.md is what the script computes."""

from __future__ import annotations

from benchmarks.gpu.roofline import BEGIN, DOCUMENT, END, table


def test_the_document_says_what_is_computed():
    assert DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip() == table()
