"""What all stages import, once for all of them. Nothing here touches a device."""

from __future__ import annotations

import os
from contextlib import suppress

with suppress(ImportError):  # the stage that needs it says what is missing
    import branchwise  # noqa: F401

    if os.environ.get("TRITON_INTERPRET") == "1":
        from benchmarks.gpu import quick

        quick.install()
