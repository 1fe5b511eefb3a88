"""Draws the tree of a search as text, one step a line: scores, what was pruned, what finished.

A step that has no siblings continues in its parent's column, so chains stay narrow. What does not fit into the lines
that are given is folded, pruned steps first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.text import Text

from branchwise.types import Node

ALL, PRUNED_FOLDED, PRUNED_HIDDEN = range(3)  # levels of detail, tried in this order
_MIN_TEXT = 12  # cells that the text of a step gets, however deep it sits


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What lines and marks are drawn with."""

    branch: str = "├─ "
    last: str = "└─ "
    through: str = "│  "
    blank: str = "   "
    pruned: str = "✗"
    answer: str = "→"
    chosen: str = "★"
    more: str = "…"


UNICODE = Glyphs()
ASCII = Glyphs("|- ", "`- ", "|  ", "   ", "x", "->", "*", "...")


@dataclass(frozen=True, slots=True)
class Marks:
    """What is known beyond the nodes: the answers of finished branches, and the branch that won."""

    answers: Mapping[Node, str | None] = field(default_factory=dict)
    chosen: Node | None = None


def draw_tree(
    root: Node,
    marks: Marks | None = None,
    *,
    title: str = "",
    width: int = 100,
    lines: int = 80,
    glyphs: Glyphs = UNICODE,
) -> Text:
    """The tree under `root`, whose line shows `title`; `.plain` of the returned text is free of styles.

    width: cells of a line    lines: at most, the title included; the last one says how many are missing
    """
    marks = marks or Marks()
    drawn = [Text(shorten(title, width, glyphs.more), style="bold")]
    for detail in (ALL, PRUNED_FOLDED, PRUNED_HIDDEN):
        body = list(_lines(_items(root, detail, marks, glyphs), "", width, glyphs))
        if len(body) < lines:
            break
    if len(body) >= lines:
        missing = len(body) - (lines - 2)
        body = [*body[: lines - 2], Text(f"{glyphs.more} {missing} more lines", style="dim")]
    return Text("\n").join([*drawn, *body])


def shorten(text: str, width: int, more: str = "…") -> str:
    """`text` on one line of at most `width` cells, without control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    line = Text(" ".join(printable.split()))
    if line.cell_len > width:
        line.truncate(max(0, width - len(more)))
        line.append(more)
    return line.plain


def score_style(score: float) -> str:
    """Colour of a score in 0..1."""
    return "green" if score >= 0.7 else "yellow" if score >= 0.4 else "red"


@dataclass(slots=True)
class _Item:
    """One line to draw, and what hangs under it."""

    label: Text  # in front: score and mark
    text: str = ""  # shortened to fit
    suffix: Text = field(default_factory=Text)
    style: str = ""
    times: int = 1
    children: list[_Item] = field(default_factory=list)


def _items(node: Node, detail: int, marks: Marks, glyphs: Glyphs) -> list[_Item]:
    children = list(node.children)  # a copy: the search may be adding to it
    dead = [child for child in children if _is_dead(child)] if detail != ALL else []
    items = []
    twins: dict[tuple[str, float | None], _Item] = {}  # pruned steps that say the same share a line
    for child in children:
        if child in dead:
            continue
        twin = twins.get((child.text, child.score)) if child.pruned else None
        if twin is not None:
            twin.times += 1
            continue
        item = _item(child, marks, glyphs)
        item.children = _items(child, detail, marks, glyphs)
        items.append(item)
        if child.pruned:
            twins[child.text, child.score] = item
    if dead and detail == PRUNED_FOLDED:
        items.append(_folded(dead, glyphs))
    return items


def _is_dead(node: Node) -> bool:
    """True when nothing under a node is alive or finished."""
    return node.pruned or (bool(node.children) and all(_is_dead(child) for child in list(node.children)))


def _item(node: Node, marks: Marks, glyphs: Glyphs) -> _Item:
    chosen = node is marks.chosen
    label, suffix = Text(), Text()
    if node.score is not None:
        label.append(f"{node.score:.2f} ", style="dim" if node.pruned else score_style(node.score))
    if node.pruned:
        label.append(f"{glyphs.pruned} ", style="dim red")
    if node in marks.answers:
        answer = marks.answers[node]
        found = shorten(answer, 40, glyphs.more) if answer is not None else "no answer"
        suffix.append(f" {glyphs.answer} {found}", style="bold green" if chosen else "cyan" if answer else "dim")
    if chosen:
        suffix.append(f" {glyphs.chosen}", style="bold green")
    text = node.text if node.text.strip() or node.finish else glyphs.more  # without an end, it is still growing
    return _Item(label, text, suffix, "dim strike" if node.pruned else "bold" if chosen else "")


def _folded(nodes: list[Node], glyphs: Glyphs) -> _Item:
    """One line for siblings that came to nothing."""
    scores = sorted((node.score for node in nodes if node.score is not None), reverse=True)
    bounds = f", {scores[0]:.2f} to {scores[-1]:.2f}" if len(scores) > 1 else f", {scores[0]:.2f}" if scores else ""
    return _Item(Text(f"{glyphs.pruned} ", style="dim red"), f"{len(nodes)} pruned{bounds}", style="dim")


def _lines(items: list[_Item], indent: str, width: int, glyphs: Glyphs) -> Iterator[Text]:
    for place, first in enumerate(items):
        last = place == len(items) - 1
        guide, under = (glyphs.last, glyphs.blank) if last else (glyphs.branch, glyphs.through)
        item = first
        yield _line(item, indent + guide, width, glyphs)
        while len(item.children) == 1:
            item = item.children[0]
            yield _line(item, indent + under, width, glyphs)
        yield from _lines(item.children, indent + under, width, glyphs)


def _line(item: _Item, indent: str, width: int, glyphs: Glyphs) -> Text:
    suffix = item.suffix if item.times == 1 else Text(f"  {item.times} times", style="dim")
    room = width - len(indent) - item.label.cell_len - suffix.cell_len
    text = Text(shorten(item.text, max(_MIN_TEXT, room), glyphs.more), style=item.style)
    return Text.assemble((indent, "dim"), item.label, text, suffix)
