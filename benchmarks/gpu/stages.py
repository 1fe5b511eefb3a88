"""The stages of the check, most valuable first, and how one runs: in a process of its own, under a limit of time.

An illegal access, a crash or a hang costs its own stage; what a stage has reported by then is kept.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

Record = dict[str, Any]
State = Literal["passed", "failed", "killed", "skipped"]
MINUTES = 8.0  # what the limits below are for
START = 90.0  # seconds that a process may take before its stage begins, imports of a cold disk among them


@dataclass(frozen=True)
class Bench:
    """What a stage is told. tiny: small sizes, in Triton's interpreter; peaks: of this machine, once measured."""

    tiny: bool
    bandwidth: float = 1.0  # bytes/s
    flops: float = 1.0  # of a bf16 product, 1/s

    @property
    def device(self) -> str:
        """As `EngineConfig.device` has it."""
        return "interpreter" if self.tiny else "cuda"

    @property
    def torch_device(self) -> str:
        """As torch has it."""
        return "cpu" if self.tiny else "cuda"

    def with_peaks(self, records: Iterable[Record]) -> Bench:
        """The same with the peaks among the records of stages that ran."""
        found = [each for each in records if each["kind"] == "peaks"]
        return replace(self, bandwidth=found[-1]["bandwidth"], flops=found[-1]["flops"]) if found else self


class Skipped(Exception):
    """Raised by a stage that has nothing to do here; says why."""


@dataclass(frozen=True)
class Stage:
    """work: "module:function", which takes a `Bench` and yields records; one with `right` false fails the stage."""

    name: str
    seconds: float  # at most, in a run of `MINUTES`
    work: str
    about: str


STAGES = (
    Stage("machine", 60, "benchmarks.gpu.machine:machine", "extension, versions, bandwidth, matrix peak"),
    Stage("kernels", 100, "benchmarks.gpu.kernels:kernels", "every kernel against its float64 twin, and its time"),
    Stage("tokens", 80, "benchmarks.gpu.tokens:tokens", "bundled pair: tokens of the CPU; bursts like iterations"),
    Stage("decode", 70, "benchmarks.gpu.decode:decode", "replay of a decode iteration, share of the roofline"),
    Stage("openings", 30, "benchmarks.gpu.openings:openings", "first iterations of steps, launched and replayed"),
    Stage("prm", 40, "benchmarks.gpu.prm:prm", "PRM passes of 512 to 4,096 tokens"),
    Stage(
        "search", 90, "benchmarks.gpu.search:search", "taped beam search and DVTS: problems/h, how busy the device is"
    ),
    Stage("life", 40, "benchmarks.gpu.life:life", "five engines in turn: memory comes back"),
    Stage("vllm", 120, "benchmarks.gpu.rival:vllm", "vLLM beside it, where it is installed"),
)


@dataclass(frozen=True)
class Outcome:
    """How a stage ended. why: of any state but "passed", one line."""

    stage: Stage
    state: State
    seconds: float
    why: str = ""

    def record(self) -> Record:
        return {
            "stage": self.stage.name,
            "kind": "stage",
            "state": self.state,
            "seconds": self.seconds,
            "why": self.why,
        }


def run_stage(stage: Stage, bench: Bench, seconds: float, log: Path, report: Callable[[Record], None]) -> Outcome:
    """Run a stage for so many seconds at most; `report` gets every record as it comes, output goes to `log`."""
    context = multiprocessing.get_context("forkserver")  # which has imported torch once, and holds no device
    context.set_forkserver_preload(["benchmarks.gpu.preload"])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(stage, bench, sender, log), daemon=False)
    child.start()
    sender.close()
    wrong: list[str] = []
    end: tuple[State, str] | None = None
    begun, until = time.monotonic(), time.monotonic() + START
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            try:
                kind, content = receiver.recv()
            except EOFError:
                break
            if kind == "begun":
                begun, until = time.monotonic(), time.monotonic() + seconds
            elif kind == "record":
                report({"stage": stage.name, **content})
                if content.get("right") is False:
                    wrong.append(str(content.get("name") or content.get("kind")))
            else:
                end = kind, content
        late = time.monotonic() >= until
        child.join(0 if late else 5)
    finally:
        _end(child)
    spent = time.monotonic() - begun
    if late:
        return Outcome(stage, "killed", spent, f"it took longer than its {until - begun:.0f} s; output in {log.name}")
    if end is None:
        return Outcome(stage, "failed", spent, f"its process ended with {_exit_name(child.exitcode)}; see {log.name}")
    if end[0] == "passed" and wrong:
        return Outcome(stage, "failed", spent, f"wrong: {', '.join(wrong[:4])} ({len(wrong)} in all)")
    return Outcome(stage, end[0], spent, end[1])


def _child(stage: Stage, bench: Bench, sender: Connection, log: Path) -> None:
    os.setsid()  # what it starts ends with it
    with log.open("ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    print(f"=== {stage.name}", flush=True)
    try:
        work = _work(stage)
        sender.send(("begun", ""))  # its time counts from here
        for record in work(bench):
            sender.send(("record", record))
        sender.send(("passed", ""))
    except Skipped as reason:
        sender.send(("skipped", str(reason)))
    except BaseException as error:
        traceback.print_exc()
        lines = (str(error) or type(error).__name__).splitlines()
        sender.send(("failed", f"{type(error).__name__}: {lines[0]}"))


def _work(stage: Stage) -> Callable[[Bench], Iterable[Record]]:
    module, function = stage.work.split(":")
    work: Callable[[Bench], Iterable[Record]] = getattr(importlib.import_module(module), function)
    return work


def _end(child: Any) -> None:
    """Nothing of a stage outlives it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()  # it may not have had the time to lead a group
    child.join()


def _exit_name(code: int | None) -> str:
    if code is None:
        return "no exit code"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
