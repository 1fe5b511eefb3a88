"""One template worker for the whole suite, as one engine would have it."""

from __future__ import annotations

import pytest

from branchwise.text.chat_template import ChatTemplate


@pytest.fixture(scope="session", autouse=True)
def template_worker() -> ChatTemplate:
    return ChatTemplate("", {})
