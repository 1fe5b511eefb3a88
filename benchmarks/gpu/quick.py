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

    patch_tensor = interpreter._patch_lang_tensor

    def tensor_with_index(tensor: Any, scope: Any) -> None:
        """Triton 3.6 takes the number of a one-element array, which NumPy 2.4 gives for those of no axes only."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = tensor_with_index
    interpreter.GridExecutor.__call__ = whole_launch
    interpreter.InterpretedFunction.__call__ = device_call
