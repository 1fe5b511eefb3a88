"""An engine on a device of its own takes everything with it, closed or only let go of."""

from __future__ import annotations

import pytest

import twins
from lives import check_lives


@pytest.mark.parametrize("closed", [True, False], ids=["close", "del"])
def test_nothing_stays_of_five_engines(closed, monkeypatch):
    twins.install(monkeypatch)
    check_lives(twins.TwinBackend, closed, "float32", monkeypatch)
