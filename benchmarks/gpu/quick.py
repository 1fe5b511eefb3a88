"""Less work for the interpreter, in which an operation takes some 100 us whatever its size.

It patches `triton.language` at every call of a device function: once a launch is enough. Sums and products of int32
are made a second time in int64, for an assertion that nobody hears: what overflows wraps, as on the GPU. Types are
made anew for every result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def install() -> None:
    """Patch the interpreter of this process; once."""
    _patch_once_a_launch()
    _remember_types()
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


def _remember_types() -> None:
    """Block types of plain numbers are made once, and so is what numpy calls them."""
    make, name_of = tl.block_type.__init__, interpreter._get_np_dtype
    made: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    names: dict[str, Any] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        if type(element_ty) is not tl.dtype:
            make(self, element_ty, shape)
            return
        key = element_ty.name, tuple(int(size) for size in shape)
        if key not in made:
            make(self, element_ty, shape)
            made[key] = dict(vars(self))
        vars(self).update(made[key])

    def np_dtype(kind: Any) -> Any:
        if isinstance(kind, tl.pointer_type):
            return name_of(kind)
        if kind.name not in names:
            names[kind.name] = name_of(kind)
        return names[kind.name]

    tl.block_type.__init__ = init
    interpreter._get_np_dtype = np_dtype


def _patch_once_a_launch() -> None:
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
