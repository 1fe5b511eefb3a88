"""Drawn trees: golden drawings, folding, widths, and texts that would steer a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from branchwise.report.text_tree import ASCII, Marks, draw_tree, shorten
from branchwise.types import Node


@dataclass
class Step:
    """A node as a test writes it."""

    text: str
    score: float | None = None
    pruned: bool = False
    finish: str = "stop"
    children: list[Step] = field(default_factory=list)


def grow(steps: list[Step], parent: Node | None = None) -> Node:
    parent = parent or Node(0, None, 0, 0, 0)
    for index, step in enumerate(steps):
        node = Node(0, parent, index, parent.depth + 1, 0, text=step.text, score=step.score, finish=step.finish)
        node.pruned = step.pruned
        parent.children.append(node)
        grow(step.children, node)
    return parent


def leaf(root: Node, *path: int) -> Node:
    for index in path:
        root = root.children[index]
    return root


SEARCH = [
    Step("3*4=12;\n12+12\n\n", 0.912, children=[
        Step("12+12=24; \\boxed{24}", 0.88, finish="eos"),
        Step("12+12=34;", 0.05, pruned=True),
        Step("12+12=34;", 0.05, pruned=True),
        Step("12+12=25;", 0.5, children=[Step("so it is 25", 0.41, children=[Step("", None, finish="length")])]),
    ]),
    Step("12+3=15;", 0.2, pruned=True),
    Step("", None, finish=None),
]  # fmt: skip

DRAWN = """\
12+3*4=?
├─ 0.91 3*4=12; 12+12
│  ├─ 0.88 12+12=24; \\boxed{24} → 24 ★
│  ├─ 0.05 ✗ 12+12=34;  2 times
│  └─ 0.50 12+12=25;
│     0.41 so it is 25
│      → no answer
├─ 0.20 ✗ 12+3=15;
└─ …"""

FOLDED = """\
12+3*4=?
|- 0.91 3*4=12; 12+12
|  |- 0.88 12+12=24; \\boxed{24} -> 24 *
|  |- 0.50 12+12=25;
|  |  0.41 so it is 25
|  |   -> no answer
|  `- x 2 pruned, 0.05 to 0.05
|- ...
`- x 9 pruned, 0.80 to 0.00"""


def marked(root: Node) -> Marks:
    best = leaf(root, 0, 0)
    return Marks({best: "24", leaf(root, 0, 3, 0, 0): None}, best)


def test_drawing():
    root = grow(SEARCH)
    assert draw_tree(root, marked(root), title="12+3*4=?").plain == DRAWN


def test_pruned_steps_fold_where_lines_are_few():
    root = grow([*SEARCH[:1], *SEARCH[2:], *[Step(f"wrong {i}", i / 10, pruned=True) for i in range(9)]])
    assert draw_tree(root, marked(root), title="12+3*4=?", lines=9, glyphs=ASCII).plain == FOLDED


def test_pruned_steps_are_hidden_where_folding_is_not_enough():
    root = grow(SEARCH)
    lines = len(DRAWN.splitlines()) - 1  # in this small tree, folding saves nothing
    drawn = draw_tree(root, marked(root), title="12+3*4=?", lines=lines).plain
    assert "✗" not in drawn
    assert "pruned" not in drawn
    assert "24 ★" in drawn


def test_a_branch_whose_ends_were_all_pruned_folds_as_one():
    dead = Step("b", 0.6, children=[Step("b1", 0.3, pruned=True), Step("b2", 0.2, pruned=True)])
    root = grow([Step("a", 0.9, finish="eos"), dead, Step("c", 0.1, pruned=True)])
    assert draw_tree(root, title="q", lines=4).plain == "q\n├─ 0.90 a\n└─ ✗ 2 pruned, 0.60 to 0.10"


def test_a_tree_that_cannot_fit_says_what_is_missing():
    drawn = draw_tree(grow([Step(f"step {i}", 0.5) for i in range(20)]), title="q", lines=6).plain.splitlines()
    assert len(drawn) == 6
    assert drawn[-1] == "… 16 more lines"


def test_pruned_steps_are_struck_and_scores_coloured():
    drawn = draw_tree(grow(SEARCH), title="q")
    styles = {drawn.plain[span.start : span.end]: str(span.style) for span in drawn.spans}
    assert styles["12+3=15;"] == "dim strike"
    assert (styles["0.91 "], styles["0.50 "], styles["0.20 "]) == ("green", "yellow", "dim")


def test_text_cannot_steer_the_terminal():
    root = grow([Step("\x1b[2Jgone\x07\r\u202eback", 0.5), Step("[bold]markup[/bold] :smile:", 0.5)])
    drawn = draw_tree(root, title="a\x1b]0;title\x07b")
    assert drawn.plain.replace("\n", "").isprintable()
    assert "[bold]markup[/bold] :smile:" in drawn.plain


@given(st.text(), st.integers(1, 40))
def test_shortened_text_fits(text, width):
    short = shorten(text, width)
    assert cell_len(short) <= width
    assert "\n" not in short


STEPS = st.recursive(
    st.builds(Step, st.text(max_size=30), st.none() | st.floats(0, 1), st.booleans(), st.sampled_from(("eos", "stop"))),
    lambda kids: st.builds(
        Step,
        st.text(max_size=30),
        st.none() | st.floats(0, 1),
        st.just(False),
        st.just("stop"),
        st.lists(kids, max_size=4),
    ),
    max_leaves=30,
)


@given(st.lists(STEPS, max_size=5), st.integers(4, 40))
def test_every_tree_keeps_to_its_lines(steps, lines):
    drawn = draw_tree(grow(steps), title="q", lines=lines, width=60).plain.split("\n")
    assert len(drawn) <= lines


@pytest.mark.parametrize("width", [30, 60, 120])
def test_lines_keep_to_the_width(width):
    root = grow([Step("日本語" * 30, 0.7, children=[Step("long " * 50, 0.7, finish="eos")])])
    drawn = draw_tree(root, Marks({leaf(root, 0, 0): "42"}), title="why " * 60, width=width)
    assert all(cell_len(line) <= width for line in drawn.plain.split("\n"))
    assert drawn.plain.endswith("→ 42")


@pytest.mark.parametrize("siblings", [1, 2])
def test_a_search_may_be_thousands_of_steps_deep(siblings):
    root = node = Node(0, None, 0, 0, 0)
    for depth in range(2000):
        node.children = [Node(0, node, i, depth + 1, 0, text=f"step {depth}", finish="stop") for i in range(siblings)]
        node = node.children[0]
    node.text, node.finish = "the end", "eos"
    drawn = draw_tree(root, Marks({node: "7"}, node), title="q", width=60, lines=5000).plain.splitlines()
    assert len(drawn) == 1 + 2000 * siblings
    assert all(cell_len(line) <= 60 for line in drawn)
    assert any("the end → 7 ★" in line for line in drawn)
    assert len(draw_tree(root, title="q", lines=10).plain.splitlines()) == 10
