"""The waves of a budget in a file, so that a run that was cut goes on without drawing, or paying, any of them again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, TypedDict, cast

from branchwise.control.account import Key, Wave
from branchwise.errors import ResultsError
from branchwise.report.journal import Changed, Journal
from branchwise.report.kept import keep
from branchwise.report.lines import parse
from branchwise.report.record import Kept, misplaced
from branchwise.shapes import misfit
from branchwise.types import Candidate, Cost, Cut, Node

FORMAT, HEADER = 1, "branchwise_waves"


class KeptText(Kept):
    """A candidate of a wave."""

    text: str


class Line(TypedDict):
    """A wave. wave: see `Key`"""

    wave: tuple[str, int, int]
    candidates: list[KeptText]
    cost: Annotated[dict[str, Any], Cost]
    cuts: dict[Cut, int]


class WavesFile:
    """JSON lines, a wave each; without a path nothing is kept. ResultsError: it belongs to another run, or is damaged.

    settings: what waves depend on, and what is decided by
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self._known: dict[Key, Wave] = {}
        self._journal: Journal | None = None
        if path is None:
            return
        settings = json.loads(json.dumps(settings, default=str))
        try:
            self._journal = Journal(path)
        except OSError as error:
            raise ResultsError(f"cannot open {path}: {error.strerror}; choose another file for the waves") from error
        content = self._journal.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._journal.cut(len(whole))  # a line that was torn is drawn again
        lines = whole.splitlines()
        if not lines:
            self._append({HEADER: FORMAT, "settings": settings})
            return
        try:
            self._read(lines, settings)
        except BaseException:
            self._journal.close()
            raise

    def known(self, key: Key) -> Wave | None:
        """A wave that is there already."""
        return self._known.get(key)

    def write(self, key: Key, wave: Wave) -> None:
        """Keep a wave."""
        if self._journal is None:
            return
        texts = [candidate.text for candidate in wave.candidates]
        kept = [{**each, "text": text} for each, text in zip(keep(wave.candidates, wave.root), texts, strict=True)]
        self._append({"wave": list(key), "candidates": kept, "cost": asdict(wave.cost), "cuts": wave.cuts})

    def __enter__(self) -> WavesFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._journal is not None:
            self._journal.close()

    def _append(self, line: dict[str, Any]) -> None:
        assert self._journal is not None
        try:
            self._journal.append(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (OSError, Changed) as error:
            raise ResultsError(f"{self.path}: {error}; what it holds is safe, run the same again") from error

    def _read(self, lines: list[bytes], settings: dict[str, Any]) -> None:
        first = parse(lines[0])
        if first is None or first.get(HEADER) != FORMAT or not isinstance(first.get("settings"), dict):
            raise ResultsError(f"{self.path} holds no waves: choose another file")
        theirs = first["settings"]
        name = next((each for each in {**settings, **theirs} if theirs.get(each) != settings.get(each)), None)
        if name is not None:
            raise ResultsError(
                f"{self.path} was written with {name}={theirs.get(name)!r}, this run has {name}="
                f"{settings.get(name)!r}: use the same settings to go on with it, or choose another file"
            )
        for number, text in enumerate(lines[1:], start=2):
            made = parse(text)
            wrong = "it is damaged" if made is None else misfit(made, Line) or misplaced(made["candidates"])
            if wrong:
                raise ResultsError(
                    f"{self.path}, line {number}: not a wave of this version ({wrong}); remove it, it is drawn again"
                )
            line = cast(Line, made)
            problem, seed, place = line["wave"]
            self._known[problem, seed, place] = _wave(line)


def _wave(line: Line) -> Wave:
    root = Node(0, None, 0, 0, 0)
    candidates = [_candidate(root, each) for each in line["candidates"]]
    return Wave(candidates, Cost(**line["cost"]), root, line["cuts"])


def _candidate(root: Node, kept: KeptText) -> Candidate:
    """One of a wave; the steps that several have in common are one node."""
    node = root
    for index, tokens, score in zip(kept["path"], kept["steps"], _padded(kept), strict=True):
        child = next((each for each in node.children if each.index == index), None)
        if child is None:
            child = Node(0, node, index, node.depth + 1, 0, tokens=tokens, score=score)
            node.children.append(child)
        node = child
    node.finish, node.cut = kept["finish"], kept["cut"]
    return Candidate(node, kept["text"], kept["answer"], kept["scores"], kept["score"], kept["finish"], kept["count"])


def _padded(kept: Kept) -> list[float | None]:
    """A score for every step; those without one come last."""
    return [*kept["scores"], *[None] * (len(kept["steps"]) - len(kept["scores"]))]
