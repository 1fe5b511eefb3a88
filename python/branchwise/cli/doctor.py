"""`branchwise doctor`: what this machine offers, what the kernels make of it, and what is missing."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from branchwise import __version__, assets, env
from branchwise.backend.memory import free_memory
from branchwise.cli.memory import memory_report, memory_rows
from branchwise.cli.options import Json
from branchwise.cli.output import make_console, print_json, say
from branchwise.cli.policy import policy_report, policy_rows
from branchwise.errors import BranchwiseError, ConfigError
from branchwise.report import numbers

_LOSSES = (  # in the order in which instruction sets build on each other
    ("avx2", "no 8-wide kernels: attention, norms and sampling run as plain C++"),
    ("avx512", "no 16-wide kernels: attention and sampling are up to two times slower"),
    ("avx512_bf16", "no bf16 and int8 products in vector registers: bf16 is widened to fp32, integers to 16 bits"),
    ("amx", "no matrix units: prompts, PRM batches and large n are slower in bf16 and int8"),
)


_LOOK = 0.3  # seconds in which other processes are watched


def doctor(
    json: Json = False,
    policy: Annotated[str | None, typer.Option(help="Also tell whether this policy fits into memory.")] = None,
    prm: Annotated[str | None, typer.Option(help="The PRM beside it.")] = None,
    device: Annotated[str, typer.Option(help="Where they would run: auto, cpu, cuda, cuda:1, ...")] = "auto",
    prm_device: Annotated[str | None, typer.Option(help="The PRM's, where it has one of its own.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    weights: Annotated[str, typer.Option(help="dense, stored, int8, q8 or q4.")] = "dense",
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Branches of a search.")] = 16,
    expand: Annotated[
        int, typer.Option(min=1, help="Branches for each that is kept, as in beam search; 1: all are, as in best-of-N.")
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a branch at most.")] = 2048,
) -> None:
    """Report hardware, kernels, libraries, bundled models, caches and environment variables.

    With --policy: how each device's memory would be split between weights and KV; exit code 2 when it cannot fit.
    """
    problems: list[str] = []
    if policy is None and prm is not None:
        raise ConfigError(f"--prm {prm} needs --policy: memory is split between both")
    devices, memory = (device, prm_device), None
    if policy is not None:
        memory = memory_report(policy, prm, devices, dtype, weights, n, expand, max_tokens)
    report = {
        "branchwise": __version__,
        "hardware": _hardware(),
        "kernels": _kernels(problems),
        "libraries": _libraries(problems),
        "bundled models": _bundled(problems),
        "hub cache": _hub_cache(),
        "environment": [
            {"name": each.name, "value": os.environ.get(each.name), "values": each.values, "default": each.default,
             "meaning": each.meaning}
            for each in env.VARIABLES
        ],
        "memory": memory,
        "policy": None if policy is None else policy_report(policy),
        "problems": problems,
    }  # fmt: skip
    if json:
        print_json(report)
    else:
        _print(report)
    if problems:
        raise typer.Exit(1)


def _hardware() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "usable cpus": len(os.sched_getaffinity(0)),
        "busy cpus": _busy_cpus(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "free memory": free_memory(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _busy_cpus() -> float:
    """How many of the usable CPUs other processes keep busy just now."""

    def ticks() -> tuple[int, int]:
        busy = total = 0
        usable = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, *counts = line.split()
            if name in usable:
                times = [int(count) for count in counts[:8]]  # user nice system idle iowait irq softirq steal
                busy, total = busy + sum(times) - times[3] - times[4], total + sum(times)
        return busy, total

    try:
        busy, total = ticks()
        time.sleep(_LOOK)
        later_busy, later_total = ticks()
    except OSError:
        return 0.0
    return round(len(os.sched_getaffinity(0)) * (later_busy - busy) / max(1, later_total - total), 1)


def busy_hint(busy: float, cpus: int, threads: int) -> str | None:
    """Advice where other processes need the CPUs that our threads would run on; None where there is room."""
    taken = round(busy)
    if taken == 0 or threads + taken <= cpus or threads == 1:
        return None
    return (
        f"other processes keep {busy:.1f} of {cpus} CPUs busy, and threads wait for the last of them: "
        f"BRANCHWISE_THREADS={max(1, cpus - taken)} is faster meanwhile"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def _kernels(problems: list[str]) -> dict[str, Any]:
    try:
        import torch  # noqa: F401  # first, so that both use one OpenMP runtime

        from branchwise import _C

        chosen, supported = _C.isa(), _C.supported_isas()
    except (BranchwiseError, ImportError, ValueError, RuntimeError) as error:
        problems.append(f"the extension branchwise._C does not work: {error}")
        return {"chosen": None, "supported": [], "missing": {}}
    missing = {name: loss for name, loss in _LOSSES if name not in supported}
    return {"chosen": chosen, "supported": supported, "missing": missing}


def _libraries(problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("torch", "triton", "tokenizers", "huggingface_hub", "math-verify"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            if name != "triton":
                problems.append(f"{name} is not installed: pip install {name}")
    if found["torch"] is not None:
        import torch

        found["threads"] = torch.get_num_threads()
        try:
            found["threads"] = env.threads() or found["threads"]
        except ConfigError as error:
            problems.append(str(error))
        found["cuda"] = torch.version.cuda
        usable = torch.cuda.is_available()
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if usable else []
    return found


def _bundled(problems: list[str]) -> dict[str, int | None]:
    """Bytes of every bundled asset; None where it is missing."""
    sizes: dict[str, int | None] = {}
    for name in assets.NAMES:
        path = assets.asset_path(name)
        files = [path] if path.is_file() else [file for file in path.glob("*") if file.is_file()]
        sizes[name] = sum(file.stat().st_size for file in files) if files else None
        if not files:
            problems.append(f"the bundled {name} is missing from {path.parent}: install branchwise again")
    return sizes


def _hub_cache() -> dict[str, Any]:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in folder.glob("models--*"))
    return {"path": str(folder), "models": models}


def _print(report: dict[str, Any]) -> None:
    from branchwise.report.table import table

    console = make_console()
    hardware, kernels, libraries = report["hardware"], report["kernels"], report["libraries"]
    rows = [
        ("branchwise", report["branchwise"]),
        (
            "CPU",
            f"{hardware['cpu']} ({hardware['architecture']}), {hardware['usable cpus']} of {hardware['cpus']} CPUs",
        ),
        *_busy_rows(hardware, libraries),
        ("memory", f"{numbers.size(hardware['memory'])}, {numbers.size(hardware['free memory'])} free"),
        ("system", f"{hardware['system']}, Python {hardware['python']}"),
        ("kernels", f"{kernels['chosen'] or 'none'} (possible here: {', '.join(kernels['supported']) or 'none'})"),
        *((f"  no {name}", loss) for name, loss in kernels["missing"].items()),
        ("torch", f"{libraries['torch'] or 'missing'}, {libraries.get('threads', 0)} threads"),
        ("GPU", _gpu(libraries)),
        *((name, libraries[name] or "missing") for name in ("tokenizers", "huggingface_hub", "math-verify")),
        *((name, numbers.size(size) if size else "missing") for name, size in report["bundled models"].items()),
        ("hub cache", f"{report['hub cache']['path']}, {len(report['hub cache']['models'])} models"),
    ]
    console.print(table(["", "found"], rows, names=2))
    if report["memory"] is not None:
        console.print(table(["memory", "split"], memory_rows(report["memory"]), names=2))
        console.print(table(["policy", "says"], policy_rows(report["policy"]), names=2))
    variables = [
        (each["name"], each["value"] or f"not set: {each['default']}", each["values"], each["meaning"])
        for each in report["environment"]
    ]
    console.print(table(["variable", "value", "takes", "meaning"], variables, names=4))
    for problem in report["problems"]:
        say(console, f"problem: {problem}", "red")
    if not report["problems"]:
        console.print("no problems found")


def _busy_rows(hardware: dict[str, Any], libraries: dict[str, Any]) -> list[tuple[str, str]]:
    hint = busy_hint(hardware["busy cpus"], hardware["usable cpus"], libraries.get("threads", 1))
    return [("  busy", hint)] if hint else []


def _gpu(libraries: dict[str, Any]) -> str:
    triton = f"triton {libraries['triton']}" if libraries["triton"] else "no triton"
    if libraries.get("gpus"):
        return f"{', '.join(libraries['gpus'])}, CUDA {libraries['cuda']}, {triton}"
    return f"none seen by torch (CUDA {libraries.get('cuda') or 'not built in'}, {triton}); models run on the CPU"
