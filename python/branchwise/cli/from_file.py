"""Objects that a command takes from a user's file: `my.py:Rebase` is `Rebase` of my.py."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from branchwise.errors import ConfigError


def names_file(text: str) -> bool:
    """Whether it is a place in a file, and not the name of something of ours."""
    return text.endswith(".py") or ".py:" in text


def load(place: str, option: str, example: str) -> tuple[Any, str]:
    """The object at a place, and a digest of its file. ConfigError, in one line, says why there is none.

    option: as it was given; example: of a place: for the error. The file's folder may be imported from; a file runs
    once.
    """
    path, _, name = place.rpartition(":") if ".py:" in place else (place, "", "")
    file = Path(path).expanduser()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {place}: cannot read {file}: {error.strerror}") from error
    module = _module(file, f"{option} {place}")
    public = [each for each in _made(content) if not each.startswith("_") and hasattr(module, each)]
    if not name or not hasattr(module, name):
        from branchwise.strategies.options import nearest

        what = f"has no {name!r}" if name else f"holds several things: say which, as in {example}"
        known = f"; it has {', '.join(public)}" if public else ""
        raise ConfigError(f"{option} {place}: {file} {what}{known}{nearest(name, public) if name else ''}")
    return getattr(module, name), hashlib.blake2b(content, digest_size=8).hexdigest()


def _module(file: Path, what: str) -> ModuleType:
    """The file, run as a module of its own name where that is free, so that what it holds can be pickled."""
    file = file.resolve()
    name = file.stem if file.stem.isidentifier() and not _is_taken(file) else f"branchwise_file_{_digest(file)}"
    known = sys.modules.get(name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module  # dataclasses look there for the module of their class
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        where = f"{file.name}{_line(error, file)}"
        raise ConfigError(f"{what}: {where}: {type(error).__name__}: {_first(error)}") from error
    return module


def _is_taken(file: Path) -> bool:
    """Whether an import of the file's name would bring, or has brought, another module."""
    known = sys.modules.get(file.stem)
    if known is not None:
        return getattr(known, "__file__", None) != str(file)
    found = importlib.util.find_spec(file.stem)
    return found is not None and found.origin != str(file)


def _digest(file: Path) -> str:
    return hashlib.blake2b(str(file).encode(errors="surrogateescape"), digest_size=6).hexdigest()


def _line(error: BaseException, file: Path) -> str:
    """Where in the file the error came from."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def _first(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return text.strip().splitlines()[0] if text.strip() else "no message"


def _made(content: bytes) -> list[str]:
    """Names that a file makes and does not import."""
    names: list[str] = []
    for line in ast.parse(content).body:
        if isinstance(line, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(line.name)
        elif isinstance(line, ast.Assign):
            names += [target.id for target in line.targets if isinstance(target, ast.Name)]
    return list(dict.fromkeys(names))
