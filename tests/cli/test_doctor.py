"""`doctor` reports what is there, and by its exit code whether something is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from branchwise import assemble, assets
from branchwise.cli.doctor import busy_hint
from branchwise.env import VARIABLES
from small_device import SmallDevice


def test_report(command, monkeypatch):
    monkeypatch.setenv("BRANCHWISE_THREADS", "2")
    done = command("doctor")
    for word in ("CPU", "memory", "kernels", "torch", "GPU", "hub cache", *assets.NAMES):
        assert word in done.out
    for variable in VARIABLES:
        assert variable.name in done.out
    assert done.code == (0 if "no problems found" in done.out else 1)


def test_json(command):
    document = command("doctor", "--json").document
    assert document["hardware"]["usable cpus"] >= 1
    assert document["libraries"]["torch"]
    kernels = document["kernels"]
    assert kernels["chosen"] in kernels["supported"]
    assert not set(kernels["missing"]) & set(kernels["supported"])
    assert {each["name"] for each in document["environment"]} == {variable.name for variable in VARIABLES}


def test_busy_cpus_are_seen(command):
    idle = command("doctor", "--json").document["hardware"]["busy cpus"]
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        hardware = command("doctor", "--json").document["hardware"]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert 0 <= idle <= hardware["usable cpus"]
    assert hardware["busy cpus"] > 0.5


@pytest.mark.parametrize(("busy", "threads", "advice"), [(1.1, 8, "7"), (7.9, 8, "1"), (1.0, 7, None), (0.4, 8, None)])
def test_the_advice_leaves_others_their_cpus(busy, threads, advice):
    hint = busy_hint(busy, 8, threads)
    assert hint is None if advice is None else f"BRANCHWISE_THREADS={advice} " in hint
    assert busy_hint(8.0, 8, 1) is None


def test_a_missing_model_is_a_problem(command, monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "asset_path", lambda name: tmp_path / name)
    done = command("doctor", "--json")
    assert done.code == 1
    assert len(done.document["problems"]) == len(assets.NAMES)
    assert "install branchwise again" in done.document["problems"][0]


def test_memory_is_split_before_anything_loads(command):
    pair = (
        "--policy",
        str(assets.asset_path("policy-small")),
        "--prm",
        str(assets.asset_path("prm")),
        "--device",
        "cpu",
    )
    memory = command("doctor", *pair, "--json").document["memory"]
    (device,) = memory["devices"]
    assert device["weights"]["policy"] > 0 < device["weights"]["PRM"]
    assert sum(device["weights"].values()) + device["kv"] <= device["free"]
    assert memory["searches at once"] >= 1
    assert "searches at once" in command("doctor", *pair).out
    pruning = command("doctor", *pair, "--expand", "4", "--json").document["memory"]
    assert pruning["searches at once"] >= 2 * memory["searches at once"]
    assert "n=16, expand=4, 2048 tokens a branch" in command("doctor", *pair, "--expand", "4").out
    refused = command("doctor", *pair, "-n", "1000000")
    assert refused.code == 2
    assert "is the most, or lower max_tokens" in repr(refused)


def test_memory_of_two_devices(command, monkeypatch):
    rooms = {"cpu": 3 << 30, "cuda:0": 2 << 30, "cuda:1": 1 << 30}
    monkeypatch.setattr(assemble, "open_backend", lambda name, option="device": SmallDevice(rooms[name], name))
    pair = ("--policy", str(assets.asset_path("policy-small")), "--prm", str(assets.asset_path("prm")))
    on_two = command("doctor", *pair, "--device", "cuda:0", "--prm-device", "cuda:1", "--json").document["memory"]
    first, second = on_two["devices"]
    assert (first["device"], list(first["weights"]), first["free"]) == ("cuda:0", ["policy"], 2 << 30)
    assert (second["device"], list(second["weights"]), second["free"]) == ("cuda:1", ["PRM"], 1 << 30)
    assert on_two["searches at once"] == min(first["searches at once"], second["searches at once"])
    printed = command("doctor", *pair, "--device", "cuda:0", "--prm-device", "cuda:1").out
    assert all(word in printed for word in ("cuda:0, ", "cuda:1, ", "policy weights", "PRM weights"))
    on_one = command("doctor", *pair, "--device", "cpu", "--prm-device", "cpu", "--json").document["memory"]
    assert [list(each["weights"]) for each in on_one["devices"]] == [["policy", "PRM"]]


def test_a_thread_count_that_cannot_work_is_a_problem(command, monkeypatch):
    monkeypatch.setenv("BRANCHWISE_THREADS", "100000")
    done = command("doctor")
    assert done.code == 1
    assert "BRANCHWISE_THREADS=100000" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prm", "x"), "--prm x needs --policy"),
        (("--policy", "x", "--device", "abacus"), "device='abacus': expected"),
        (("--policy", "x", "--prm-device", "abacus"), "prm_device='abacus': expected"),
        (("--policy", "x", "--dtype", "int3"), "dtype='int3'"),
        (("--policy", "x", "--weights", "gold"), "weights='gold'"),
        (("--policy", "x", "-n", "10", "--expand", "4"), "n=10 is no multiple of expand=4"),
        (("--policy", "no-such"), "no model at 'no-such'"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(command, words, message):
    done = command("doctor", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
