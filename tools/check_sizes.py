"""Sizes: how long files and functions may be, and which exceptions there are, each with its reason."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("python", "kernels", "csrc", "tests", "tools", "benchmarks")
PYTHON_FILE_LINES, CPP_FILE_LINES = 400, 500
FUNCTION_LINES, KERNEL_LINES = 60, 120  # a kernel is a function under @triton.jit
FILE_BYTES = 1 << 20

EXCEPTIONS: dict[str, str] = {}
"""What may be longer, "path" or "path:function", and why."""
LARGE_FILES = "python/branchwise/assets/"  # the bundled models; the issue of their total size is the wheel's
RUNS = "benchmarks/tiny_models/runs/"  # not under version control


def findings(root: Path) -> Iterator[tuple[str, str]]:
    """(what, how it is too large) for every file and function under `root` that exceeds its cap."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file() or path.suffix in (".pyc", ".so") or name.startswith(RUNS):
                continue
            if path.stat().st_size > FILE_BYTES and not name.startswith(LARGE_FILES):
                yield name, f"{path.stat().st_size} bytes, at most {FILE_BYTES} are allowed"
            cap = {".py": PYTHON_FILE_LINES, ".cpp": CPP_FILE_LINES, ".h": CPP_FILE_LINES}.get(path.suffix)
            if cap is None:
                continue
            text = path.read_text(encoding="utf-8")
            if (lines := text.count("\n")) > cap:
                yield name, f"{lines} lines, at most {cap} are allowed"
            if path.suffix == ".py":
                yield from ((f"{name}:{function}", why) for function, why in long_functions(text))


def long_functions(source: str) -> Iterator[tuple[str, str]]:
    """(name, how it is too long) for every function of a module, docstring and decorators included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(item) for item in node.decorator_list]
            cap = KERNEL_LINES if any(item.startswith("triton.jit") for item in decorators) else FUNCTION_LINES
            begin = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            if (lines := (node.end_lineno or begin) - begin + 1) > cap:
                yield node.name, f"{lines} lines, at most {cap} are allowed"


def main() -> int:
    """Print what is too large. Exit code 1 if anything is, or if an exception is no longer needed."""
    found = dict(findings(Path(__file__).resolve().parent.parent))
    bad = [f"{what}: {why}" for what, why in found.items() if what not in EXCEPTIONS]
    bad += [f"{what}: no longer too large, remove its exception" for what in EXCEPTIONS if what not in found]
    print("\n".join(bad) or "sizes: all within their caps")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
