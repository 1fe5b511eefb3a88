"""The interpreter patches `triton.language` at every call of a device function; once a launch is enough, and faster."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter


def install() -> None:
    """Patch the interpreter of this process; once."""
    launch, patch = interpreter.GridExecutor.__call__, interpreter._patch_lang
    scopes: list[Any] = []
    patched: set[int] = set()

    def whole_launch(self, *args, **kwargs):
        try:
            return launch(self, *args, **kwargs)
        finally:
            while scopes:
                scopes.pop().restore()
            patched.clear()

    def device_call(self, *args, **kwargs):
        module = id(self.fn.__globals__)
        if module not in patched:
            patched.add(module)
            scopes.append(patch(self.fn))
        return self.rewrite()(*args, **kwargs)

    interpreter.GridExecutor.__call__ = whole_launch
    interpreter.InterpretedFunction.__call__ = device_call
