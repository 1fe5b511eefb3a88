"""One search: what its strategy asked for, what has come back, and when the strategy may decide."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from branchwise.errors import BranchwiseError, ConfigError, InputError, StrategyError
from branchwise.pair.protocol import Pair, TreeT
from branchwise.search.branches import Branches
from branchwise.search.keyed_random import KeyedRandom
from branchwise.search.problems import prompt_problem
from branchwise.search.protocol import Callback, Later, Progress, ProgressKind
from branchwise.search.request import Board, Expansion
from branchwise.strategies.options import check_count
from branchwise.strategies.outlook import Outlook, standing
from branchwise.strategies.protocol import Ask, Demand, Drop, Finish, Limits, Reply, State, Strategy
from branchwise.tree import number, total_cost, walk
from branchwise.types import Cut, Grader, Node, Problem, Result, Selection, Settings

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How one problem is searched.

    deadline: time.monotonic() at which it is cut short    outlook: says how right its answer is
    """

    strategy: Strategy
    settings: Settings
    on_event: Callback | None = None
    grade: Grader | None = None
    deadline: float | None = None
    outlook: Outlook | None = None


class Session(Generic[TreeT]):
    """Carries one problem from `begin` to `finish`: the job of a search.

    The strategy sees a reply only when all of it is complete, and replies of a lane one by one in the order of the
    asks, so what it decides depends on no timing. Node ids mean nothing until `finish` numbers the tree breadth first.
    """

    needs_room = True

    def __init__(self, problem: Problem, options: SearchOptions, pair: Pair[TreeT], board: Board) -> None:
        self.problem = problem
        self.deadline = options.deadline
        self._options = options
        self._strategy = options.strategy
        self._pair = pair
        self._board = board
        self._begun = time.perf_counter()
        self._demand: Demand | None = None
        self._tree: TreeT | None = None  # while it is open
        self._root = Node(0, None, 0, 0, 0)
        self._state: State | None = None
        self._lanes: dict[Hashable, deque[tuple[Ask, Expansion[TreeT]]]] = {}
        self._branches: Branches  # from `begin` on
        self._over = False
        self._late = False

    # --- the job -----------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Open the tree and let the strategy ask for its first steps; False while there is no room."""
        if self._demand is None:
            self._demand = demand_of(self._strategy, self._options.settings)
            if self._demand.confidence is not None:
                told = replace(self._options.settings, confidence=self._demand.confidence)
                self._options = replace(self._options, settings=told)
        demand = self._demand
        tree = self._guard("opening it", lambda: self._pair.open(self.problem, demand, self._options.settings))
        if tree is None:
            return False
        self._tree, self._root = tree, tree.root
        self._begun = time.perf_counter()
        self._branches = Branches(tree.root, self._free)
        self._tell("started", tree.root)
        random = KeyedRandom(self._options.settings.seed)
        self._state = self._call("start", lambda: self._strategy.start(self.problem, tree.root, random), State)
        self._propose_until_busy()
        if not self._lanes and not self._over:
            raise self._broken("it asked for nothing at first: propose() must ask for at least one child of the root")
        return True

    def advance(self) -> None:
        """Let the strategy decide on the replies whose turn it is, one after another."""
        progress = True
        while progress and not self._over:
            progress = False
            for key in list(self._lanes):
                lane = self._lanes.get(key)
                if lane and lane[0][1].is_complete and not self._over:
                    self._deliver(key)
                    progress = True

    @property
    def is_over(self) -> bool:
        """True when nothing is in flight and the strategy has seen everything, or wants no more."""
        return self._over or (self._state is not None and not self._lanes)

    def cut(self) -> None:
        """Time is up: what is in flight is given up, and the strategy chooses among what there is."""
        self._late = self._over = True

    def finish(self) -> Result | Later:
        """Close the tree and return the result; one that is graded by algebra comes later."""
        state = self._state
        if state is None:
            return self._result(Selection(None, [], [], "its time was over before there was room for it"))
        self._cancel(lambda node: True)
        selection = self._call("select", lambda: self._strategy.select(state), Selection)
        self._check_judged(selection)
        grade, gold = self._options.grade, self.problem.answer
        answer = selection.chosen.answer if selection.chosen else None
        correct = None
        if grade is not None and gold is not None:
            correct = self._guard("grading it", partial(grade, answer, gold))
        self.abort()
        result = self._result(selection)
        if self._options.outlook is not None:
            now = standing(selection)
            result.confidence, result.calibrated = self._options.outlook.right(now), self._options.outlook.knows(now)
        if isinstance(correct, Future) and not correct.done():
            return Later(correct, partial(self._graded, result))
        return self._graded(result, correct)

    def _graded(self, result: Result, correct: Future[bool] | bool | None) -> Result:
        result.correct = self._guard("grading it", correct.result) if isinstance(correct, Future) else correct
        self._tell("finished", self._root, result)
        return result

    def failed(self, error: BranchwiseError) -> Result:
        """The result of a search that ended with an error, without the frames that would keep models alive with it."""
        error.__context__ = None
        return self._result(Selection(None, [], [], "the search failed"), error=error.with_traceback(None))

    def abort(self) -> None:
        """Free everything; again, it does nothing."""
        if self._tree is None:
            return
        self._cancel(lambda node: True)
        tree, self._tree = self._tree, None
        del self._branches  # it knows this session
        self._pair.close(tree)

    # --- replies -----------------------------------------------------------------------------------------------

    def _deliver(self, key: Hashable) -> None:
        lane = self._lanes[key]
        ask, expansion = lane.popleft()
        if not lane:
            del self._lanes[key]
        nodes = expansion.result()
        if ask.max_tokens is not None:  # a cap that the strategy wished for: no limit of the run
            _forgive([step for node in nodes for step in node.path])
        self._branches.hold(ask.node, nodes)
        state = self._state
        assert state is not None
        self._call("observe", lambda: self._strategy.observe(state, [Reply(ask, nodes)]), object)
        self._propose_until_busy()

    # --- proposals ---------------------------------------------------------------------------------------------

    def _propose_until_busy(self) -> None:
        """Ask the strategy until something is in flight or it has no more to say."""
        while self._propose() and not self._lanes and not self._over:
            pass

    def _propose(self) -> bool:
        """Do what the strategy proposes; False when that is nothing."""
        state = self._state
        assert state is not None
        actions = self._call("propose", lambda: list(self._strategy.propose(state)), list)
        dropped: dict[Node, None] = {}
        for action in actions:
            if isinstance(action, Ask):
                self._ask(action, dropped)
            elif isinstance(action, Drop):
                if (
                    not isinstance(action.node, Node)
                    or action.node not in self._branches
                    or _below(action.node, dropped)
                ):
                    raise self._broken(f"it dropped node {_path(action.node)} twice, or dropped what is not its own")
                dropped[action.node] = None
            elif isinstance(action, Finish):
                self._over = True
            else:
                raise self._broken(f"propose() returned {action!r}: expected Ask, Drop or Finish")
        if dropped:
            self._drop(dropped)
        return bool(actions)

    def _ask(self, ask: Ask, dropped: Collection[Node]) -> None:
        assert self._demand is not None
        assert self._tree is not None
        node, most = ask.node, self._demand.branches
        if not isinstance(node, Node) or node not in self._branches or _below(node, dropped):
            raise self._broken(f"it asked for children of node {_path(node)}, which was dropped or is not its own")
        if node.is_final:
            raise self._broken(f"it asked for children of node {node.lineage_path}, which has ended: {node.finish!r}")
        try:
            check_count("Ask", "n", ask.n)
            check_count("Ask", "steps", ask.steps)
            options = self._options.settings.step(ask.sampling, ask.stop, ask.max_tokens, ask.feed)
            prompt = None if ask.prompt is None else prompt_problem(ask.prompt)
            hash(ask.lane)
        except (ConfigError, InputError, TypeError) as error:
            raise self._broken(f"its Ask cannot work: {error}") from None
        in_flight = sum(each.n for lane in self._lanes.values() for each, _ in lane)
        if in_flight + ask.n > most:
            raise self._broken(
                f"it wants {in_flight + ask.n} steps at once, but its demand is {most} branches: ask for less,"
                " or demand more"
            )
        score = self._demand.scores if ask.score is None else ask.score
        if prompt is not None:
            node = self._plant(node, prompt, scores=bool(score))
        expansion = Expansion(
            self, self._pair, self._board, self._tree, node, ask.n, options, ask.steps, score, self._tell,
            f"problem {self.problem.id!r}", planted=prompt is not None,
        )  # fmt: skip
        expansion.begin()
        self._lanes.setdefault(ask.lane, deque()).append((ask, expansion))

    def _plant(self, node: Node, prompt: Problem, *, scores: bool) -> Node:
        assert self._tree is not None
        try:
            return self._pair.plant(self._tree, node, prompt, self._options.settings, scores=scores)
        except InputError as error:
            raise self._broken(f"the prompt of its Ask cannot be: {error}") from None

    def _drop(self, tops: Collection[Node]) -> None:
        """Give up nodes with all below them: first what is in flight there, then what is held."""
        assert self._state is not None
        self._cancel(lambda node: _below(node, tops))
        for node in [node for top in tops for node in self._branches.drop(top)]:
            if not node.children and node not in self._state.finished:
                node.pruned = True
                self._tell("pruned", node)
        wanted = {ask.node for lane in self._lanes.values() for ask, _ in lane}
        for top in tops:
            self._branches.fall(top.parent, wanted)

    def _free(self, node: Node) -> None:
        assert self._tree is not None
        self._pair.prune(self._tree, node)

    def _cancel(self, below: Callable[[Node], bool]) -> None:
        """Take back the asks of nodes for which `below` is true."""
        for key, lane in list(self._lanes.items()):
            for ask, expansion in lane:
                if below(ask.node):
                    expansion.cancel()
            kept = deque((ask, expansion) for ask, expansion in lane if not below(ask.node))
            if kept:
                self._lanes[key] = kept
            else:
                del self._lanes[key]

    # --- results and errors ------------------------------------------------------------------------------------

    def _result(self, selection: Selection, *, error: BranchwiseError | None = None) -> Result:
        """The result, with its numbered tree and its cost; the tree must be closed."""
        number(self._root)
        cost = total_cost(self._root)
        cost.seconds = time.perf_counter() - self._begun
        chosen = selection.chosen
        return Result(
            problem=self.problem,
            answer=chosen.answer if chosen else None,
            text=chosen.text if chosen else "",
            score=chosen.score if chosen else None,
            scores=chosen.scores if chosen else [],
            votes=selection.votes,
            candidates=selection.candidates,
            cost=cost,
            tree=self._root,
            strategy=self._strategy.name,
            why=selection.why,
            cuts=self._cuts(selection),
            equal=0 if self._state is None else self._state.equal,
            decisions=[] if self._state is None else self._state.decisions,
            unjudged=dict(Counter(node.unjudged for node in walk(self._root) if node.unjudged is not None)),
            error=error,
        )

    def _check_judged(self, selection: Selection) -> None:
        """InputError when the judge's context held no step at all, so that nothing could be chosen by its scores."""
        nodes = [candidate.node for candidate in selection.candidates]
        if self._demand is not None and self._demand.scores and nodes and not any(node.scores for node in nodes):
            too_long = next((node for node in nodes if node.cut == "prm_context"), None)
            if too_long is not None:
                raise InputError(
                    f"problem {self.problem.id!r}: no step fits into the PRM's context beside the question (the first"
                    f" has {len(too_long.path[0].tokens)} tokens of the policy): shorten the question, lower"
                    " max_step_tokens, or take a PRM of a longer context"
                )

    def _cuts(self, selection: Selection) -> dict[Cut, int]:
        """How many branches each limit ended: those that the policy could not go on with, and those that stopped."""
        steps = self._demand.steps if self._demand is not None else None
        for node in (candidate.node for candidate in selection.candidates):
            deepest = steps is not None and node.depth >= steps
            if node.finish == "stop" and (self._late or deepest):
                node.cut = "steps" if deepest else "time"
        cuts = Counter(node.cut for node in walk(self._root) if node.cut is not None)
        if self._late:
            cuts["time"] = max(1, cuts["time"])
        return dict(cuts)

    def _call(self, name: str, call: Callable[[], Value], kind: type) -> Value:
        """What the strategy returns. StrategyError, with the cause, when it raises an error or returns another kind."""
        try:
            value = call()
        except BranchwiseError:
            raise
        except Exception as error:
            raise self._broken(f"{name}() raised {type(error).__name__}: {error}") from error
        if not isinstance(value, kind):
            raise self._broken(f"{name}() returned {value!r}: expected a {kind.__name__}")
        return value

    def _guard(self, what: str, call: Callable[[], Value]) -> Value:
        """What `call` returns. InputError, with the cause, when it raises what is no error of ours."""
        try:
            return call()
        except BranchwiseError:
            raise
        except Exception as error:
            problem = f"problem {self.problem.id!r}"
            raise InputError(f"{problem}: {what} raised {type(error).__name__}: {error}; leave it out") from error

    def _broken(self, what: str) -> StrategyError:
        return StrategyError(f"strategy {self._strategy.name!r} on problem {self.problem.id!r}: {what}")

    def _tell(self, kind: ProgressKind, node: Node, result: Result | None = None) -> None:
        if self._options.on_event is not None:
            self._options.on_event(Progress(kind, self.problem, node, result))


def demand_of(strategy: Strategy, settings: Settings) -> Demand:
    """What a strategy may need at once. StrategyError: it raises an error, or its demand cannot work."""
    limits = Limits(settings.max_tokens, settings.max_step_tokens)
    try:
        demand = strategy.demand(limits)
        works = isinstance(demand, Demand) and 1 <= demand.paths <= demand.branches
        works = works and (demand.steps is None or demand.steps >= 1)
    except BranchwiseError:
        raise
    except Exception as error:
        raise StrategyError(f"strategy {strategy.name!r}: demand() raised {type(error).__name__}: {error}") from error
    if not works:
        raise StrategyError(
            f"strategy {strategy.name!r}: its demand is {demand!r}, expected a Demand of 1 <= paths <= branches and"
            " steps >= 1 or None"
        )
    return demand


def _forgive(steps: Iterable[Node]) -> None:
    for step in steps:
        if step.cut == "step_tokens":
            step.cut = None


def _path(node: object) -> object:
    return node.lineage_path if isinstance(node, Node) else node


def _below(node: Node | None, tops: Collection[Node]) -> bool:
    """Whether a node is one of `tops`, or below one."""
    while tops and node is not None:
        if node in tops:
            return True
        node = node.parent
    return False
