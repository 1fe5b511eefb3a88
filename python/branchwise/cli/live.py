"""What a search looks like: the tree as it grows, and the answer with its votes and cost when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.text import Text

from branchwise.cli.output import glyphs_of
from branchwise.report import numbers
from branchwise.report.cuts import cut_lines, unjudged_lines
from branchwise.report.plain import printable
from branchwise.report.text_tree import Marks, draw_tree, shorten
from branchwise.search.protocol import Progress
from branchwise.types import Node, Result

FINAL_LINES = 80  # of a finished tree
_VOTES = 8  # classes of answers shown
_BAR = 24  # cells of the longest bar


class LiveTree:
    """Listens to one search and draws it; the drawing may be asked for from another thread."""

    def __init__(self, console: Console, question: str) -> None:
        self._console = console
        self._question = question
        self._begun = time.monotonic()
        self._root: Node | None = None
        self._steps = self._pruned = self._tokens = 0
        self._answers: dict[Node, str | None] = {}

    def __call__(self, progress: Progress) -> None:
        """Take an event of the driver."""
        node = progress.node
        if progress.kind == "started":
            self._root = node
        elif progress.kind == "pruned":
            self._pruned += 1
        elif progress.kind == "generated":
            from branchwise.answers.extract import extract_answer

            self._steps += 1
            self._tokens += len(node.tokens)
            if node.is_final:
                self._answers = {**self._answers, node: extract_answer(node.branch_text)}

    def render(self) -> RenderableType:
        """The tree as it is now, in as many lines as the terminal has, and a line of counts."""
        seconds = time.monotonic() - self._begun
        counts = Text(
            f"{self._steps} steps, {self._pruned} pruned, {len(self._answers)} finished,"
            f" {numbers.count(self._tokens)} tokens, {numbers.seconds(seconds)}",
            style="dim",
        )
        if self._root is None:
            return counts
        size = self._console.size
        tree = draw_tree(
            self._root, Marks(self._answers), title=self._question, width=size.width - 1,
            lines=max(4, size.height - 3), glyphs=glyphs_of(self._console),
        )  # fmt: skip
        return Group(tree, counts)


def describe(result: Result, console: Console, *, solution: bool = True) -> RenderableType:
    """A finished search: its tree, the chosen solution, the votes, the answer, what limits cut, the cost."""
    parts: list[RenderableType] = [finished_tree(result, console), Text()]
    if solution and result.text.strip():
        parts += [Text("solution", style="bold"), Text(printable(result.text.strip())), Text()]
    parts += list(_votes(result, console))
    answer = Text.assemble(("answer   ", "bold"), (printable(result.answer or "none was stated"), "bold green"))
    if result.correct is not None:
        answer.append(
            "  right" if result.correct else printable(f"  wrong, it is {result.problem.answer}"), style="dim"
        )
    if result.confidence is not None:
        answer.append(f"  {confidence(result)}", style="dim")
    parts += [answer, Text(printable(f"why      {result.why}"), style="dim")]
    parts += [Text(f"{'cut' if place == 0 else '':8} {line}") for place, line in enumerate(cut_lines(result.cuts))]
    parts += [
        Text(printable(f"{'judge' if place == 0 else '':8} {line}"))
        for place, line in enumerate(unjudged_lines(result.unjudged))
    ]
    parts.append(Text(cost_line(result), style="dim"))
    return Group(*parts)


def confidence(result: Result) -> str:
    """How probably the answer is right, and how that is known."""
    how = "measured" if result.calibrated else "by rule of thumb"
    return f"right with probability {result.confidence:.2f}, {how}"


def finished_tree(result: Result, console: Console) -> Text:
    """The tree of a result, with the answers of its candidates."""
    answers = {candidate.node: candidate.answer for candidate in result.candidates}
    chosen = next((each.node for each in result.candidates if each.text == result.text), None)
    return draw_tree(
        result.tree, Marks(answers, chosen), title=result.problem.text, width=console.width - 1,
        lines=FINAL_LINES, glyphs=glyphs_of(console),
    )  # fmt: skip


def cost_line(result: Result) -> str:
    """What a search cost, in words."""
    cost = result.cost
    cached = f" and {numbers.count(cost.cached_tokens)} known already" if cost.cached_tokens else ""
    return (
        f"cost     {numbers.count(cost.generated_tokens)} tokens generated, {numbers.count(cost.prefill_tokens)} read,"
        f" {numbers.count(cost.prm_tokens)} judged{cached}, {numbers.large(cost.flops)}FLOP,"
        f" {numbers.seconds(cost.seconds)}"
    )


def _votes(result: Result, console: Console) -> Iterator[Text]:
    shown = result.votes[:_VOTES]
    if not shown:
        return
    heaviest = max(weight for _, weight in shown) or 1.0
    names = [shorten(answer, 24, glyphs_of(console).more) for answer, _ in shown]
    width = max(map(len, names))
    fill = "█" if console.encoding.startswith("utf") else "#"
    for place, (name, (_, weight)) in enumerate(zip(names, shown, strict=True)):
        bar = fill * max(1, round(_BAR * weight / heaviest))
        amount = f"{weight:g}" if weight == int(weight) else f"{weight:.2f}"
        yield Text.assemble(
            ("votes    " if place == 0 else " " * 9, "bold"), f"{name:>{width}} ", (bar, "cyan"), f" {amount}"
        )
    if len(result.votes) > _VOTES:
        yield Text(f"         and {len(result.votes) - _VOTES} more", style="dim")
