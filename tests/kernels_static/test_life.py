"""Of an engine on the tracing device nothing stays, closed or only let go of."""

from __future__ import annotations

import pytest

from benchmarks.gpu.dry import DryBackend
from lives import check_lives


@pytest.mark.parametrize("closed", [True, False], ids=["close", "del"])
def test_nothing_stays_of_five_engines(closed, monkeypatch):
    check_lives(lambda: DryBackend(90), closed, "bfloat16", monkeypatch)
