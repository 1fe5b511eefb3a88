"""Completions while they are written: pieces of text from the service's thread to an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from branchwise.completions import Piece
from branchwise.pair.protocol import TreeT
from branchwise.search.completion import OneCompletion, Wanted, as_sample
from branchwise.search.service import Service
from branchwise.text.pieces import Pieces
from branchwise.types import Node

Give = Callable[[Piece], None]


class StreamJob(OneCompletion[TreeT]):
    """A completion that is told while it grows: `give` gets every piece, in the service's thread."""

    def __init__(self, service: Service[TreeT], wanted: Wanted, pieces: Callable[[], Pieces], give: Give) -> None:
        super().__init__(service, wanted)
        self._pieces = pieces
        self._give = give
        self._growing: dict[Node, tuple[Pieces, int]] = {}  # with the number of tokens that have been told
        self._told: set[Node] = set()

    def begin(self) -> bool:
        begun = super().begin()
        if begun:
            self._service.board.watching[self] = self._look
        return begun

    def abort(self) -> None:
        self._service.board.watching.pop(self, None)
        super().abort()

    def _look(self) -> None:
        """Tell what is new."""
        assert self._tree is not None
        for node in self._tree.root.children:
            if node in self._told:
                continue
            pieces, told = self._growing[node] if node in self._growing else (self._pieces(), 0)
            if node.finish is not None:
                self._end(node, pieces)
                continue
            self._growing[node] = pieces, len(node.tokens)
            if text := pieces.add(node.tokens[told:]):
                self._give(Piece(node.index, text))

    def _end(self, node: Node, pieces: Pieces) -> None:
        """The last piece of a sample, and of those that repeat it."""
        self._give(Piece(node.index, pieces.rest(node.text), as_sample(node, self._told)))
        if self.wanted.options.sampling.is_greedy:
            for index in range(1, self.wanted.n):
                self._give(Piece(index, node.text, as_sample(node, self._told)))


async def stream(service: Service[Any], wanted: Wanted, pieces: Callable[[], Pieces]) -> AsyncIterator[Piece]:
    """The pieces of a completion as they come. Closed early, it frees its rows and KV at the next step."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Piece | None]()

    def give(piece: Piece | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            loop.call_soon_threadsafe(queue.put_nowait, piece)

    ticket = service.submit(StreamJob(service, wanted, pieces, give))
    ticket.add_done_callback(lambda _: give(None))
    service.start()
    try:
        while (piece := await queue.get()) is not None:
            yield piece
        ticket.result()  # raises what it ended with
    finally:
        ticket.cancel()
