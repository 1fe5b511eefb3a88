"""Draws the tree of a search as text, one step a line: scores, what was pruned, what finished.

A step that has no siblings continues in its parent's column, so chains stay narrow. What does not fit into the lines
that are given is folded, pruned steps first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.text import Text

from branchwise.report.plain import printable
from branchwise.tree import walk
from branchwise.types import Node

ALL, PRUNED_FOLDED, PRUNED_HIDDEN = range(3)  # levels of detail, tried in this order
_LEVELS = 64  # that are drawn to the left of a step
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
    for detail in (ALL, PRUNED_FOLDED, PRUNED_HIDDEN):
        places = list(_places(_items(root, detail, marks, glyphs)))
        if len(places) < lines:
            break
    shown = places if len(places) < lines else places[: lines - 2]
    drawn = [Text(shorten(title, width, glyphs.more), style="bold")]
    drawn += [_line(place, width, glyphs) for place in shown]
    if len(shown) < len(places):
        drawn.append(Text(f"{glyphs.more} {len(places) - len(shown)} more lines", style="dim"))
    return Text("\n").join(drawn)


def shorten(text: str, width: int, more: str = "…") -> str:
    """`text` on one line of at most `width` cells, without control characters."""
    line = Text(printable(" ".join(text.split())))
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item is drawn: `above` says of the last levels over it whether more comes there, `depth` counts all."""

    item: _Item
    above: tuple[bool, ...] = ()
    depth: int = 0
    guide: bool | None = None  # whether more siblings come; None: it continues the column of its parent


def _items(root: Node, detail: int, marks: Marks, glyphs: Glyphs) -> list[_Item]:
    """What is drawn under the root. Without recursion: a search may be thousands of steps deep."""
    dead = _dead(root) if detail != ALL else set()
    top = _Item(Text())
    todo = [(root, top)]
    while todo:
        node, item = todo.pop()
        twins: dict[tuple[str, float | None], _Item] = {}  # pruned steps that say the same share a line
        children = list(node.children)  # a copy: the search may be adding to it
        for child in children:
            if child in dead:
                continue
            twin = twins.get((child.text, child.score)) if child.pruned else None
            if twin is not None:
                twin.times += 1
                continue
            made = _item(child, marks, glyphs)
            item.children.append(made)
            todo.append((child, made))
            if child.pruned:
                twins[child.text, child.score] = made
        folded = [child for child in children if child in dead]
        if folded and detail == PRUNED_FOLDED:
            item.children.append(_folded(folded, glyphs))
    return top.children


def _dead(root: Node) -> set[Node]:
    """Nodes under which nothing is alive or finished."""
    dead: set[Node] = set()
    for node in reversed(list(walk(root))):
        if node.pruned or (node.children and all(child in dead for child in list(node.children))):
            dead.add(node)
    return dead


def _item(node: Node, marks: Marks, glyphs: Glyphs) -> _Item:
    chosen = node is marks.chosen
    label, suffix = Text(), Text()
    if node.score is not None:
        label.append(f"{node.score:.2f} ", style="dim" if node.pruned else score_style(node.score))
    if node.pruned:
        label.append(f"{glyphs.pruned} ", style="dim red")
    if node.is_prompt:
        label.append("prompt: ", style="dim")
    if node in marks.answers:
        answer = marks.answers[node]
        found = shorten(answer, 40, glyphs.more) if answer is not None else "no answer"
        suffix.append(f" {glyphs.answer} {found}", style="bold green" if chosen else "cyan" if answer else "dim")
    if chosen:
        suffix.append(f" {glyphs.chosen}", style="bold green")
    text = node.text if node.text.strip() or node.finish else glyphs.more  # without an end, it is still growing
    style = "dim strike" if node.pruned else "bold" if chosen else "dim" if node.is_prompt else ""
    return _Item(label, text, suffix, style)


def _folded(nodes: list[Node], glyphs: Glyphs) -> _Item:
    """One line for siblings that came to nothing."""
    scores = sorted((node.score for node in nodes if node.score is not None), reverse=True)
    bounds = f", {scores[0]:.2f} to {scores[-1]:.2f}" if len(scores) > 1 else f", {scores[0]:.2f}" if scores else ""
    return _Item(Text(f"{glyphs.pruned} ", style="dim red"), f"{len(nodes)} pruned{bounds}", style="dim")


def _places(items: list[_Item]) -> Iterator[_Place]:
    """The items in the order of their lines."""
    todo = [_Place(item, guide=more > 0) for more, item in enumerate(reversed(items))]
    while todo:
        place = todo.pop()
        yield place
        children, above, depth = place.item.children, place.above, place.depth
        if place.guide is not None:
            above, depth = (*above, place.guide)[-_LEVELS:], depth + 1
        if len(children) == 1:
            todo.append(_Place(children[0], above, depth))
        else:
            todo += [_Place(child, above, depth, more > 0) for more, child in enumerate(reversed(children))]


def _line(place: _Place, width: int, glyphs: Glyphs) -> Text:
    item = place.item
    suffix = item.suffix if item.times == 1 else Text(f"  {item.times} times", style="dim")
    most = width - item.label.cell_len - suffix.cell_len
    indent = _indent(place, max(0, most - _MIN_TEXT), glyphs)
    text = Text(shorten(item.text, max(_MIN_TEXT, most - len(indent)), glyphs.more), style=item.style)
    return Text.assemble((indent, "dim"), item.label, text, suffix)


def _indent(place: _Place, width: int, glyphs: Glyphs) -> str:
    """The lines to the left; of a place that is too deep, the last ones."""
    levels = max(0, width // len(glyphs.blank) - 1)
    shown = place.above[max(0, len(place.above) - levels) :]
    guides = [glyphs.through if more else glyphs.blank for more in shown]
    if place.guide is not None:
        guides.append(glyphs.branch if place.guide else glyphs.last)
    return "".join([glyphs.more if len(shown) < place.depth else "", *guides])
