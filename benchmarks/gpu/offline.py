"""Prepares a folder for a machine with a GPU and no package index: wheels, and a script that installs from them.

    python -m benchmarks.gpu.offline kit --python 3.12      # here, with an index
    bash kit/install.sh                                     # there, in the checkout

torch and Triton must be there already. See offline.md.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from importlib.metadata import requires
from pathlib import Path

from benchmarks.gpu.wheels import gather

BUILD = ["cmake>=3.24", "ninja", "pybind11>=3.0", "scikit-build-core>=0.11"]
THERE = ("torch", "numpy", "sympy", "mpmath")  # on the other machine, since torch brings them
INSTALL = """\
#!/usr/bin/env bash
# Installs branchwise, from the checkout in the current folder and without an index, into a Python {python} with torch.
set -euo pipefail
fail() {{ echo "$1" >&2; exit 1; }}
python=${{PYTHON:-python3}}
wheels=$(dirname "${{BASH_SOURCE[0]}}")/wheels
pip() {{ "$python" -m pip install --quiet --no-index --find-links "$wheels" "$@"; }}
[ -d python/branchwise ] || fail "this is not a checkout of branchwise: cd to it, then bash .../install.sh"
"$python" -c 'import sys; sys.version_info[:2] == {version} or sys.exit(
    "the wheels are for Python {python}, this is " + sys.version.split()[0] + ": set PYTHON or prepare the kit for it")'
"$python" -c 'import torch, triton, numpy' || fail "torch, Triton and NumPy must be installed"
"$python" -m pip --version >/dev/null || fail "pip is missing"
command -v "${{CXX:-c++}}" >/dev/null || fail "a C++20 compiler is missing: c++, or what CXX names"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    fail "the headers of Python {python} are missing (python{python}-dev): the extension and Triton need them"
pip {wanted}
PATH="$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH"
pip --no-build-isolation --no-deps .
"$python" -c 'from branchwise import _C; print("branchwise is installed, its kernels are", _C.isa())'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where wheels and script go; old wheels in it are removed")
    parser.add_argument("--python", default="3.12", metavar="3.X", help="of the other machine (default: 3.12)")
    args = parser.parse_args()
    if not re.fullmatch(r"3\.\d+", args.python):
        sys.exit(f"--python {args.python}: expected two numbers, as in 3.12")
    wheels = args.folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    wanted = BUILD + dependencies()
    gather(wanted, THERE, args.python, wheels)
    write_script(args.folder / "install.sh", args.python, wanted)
    files = list(wheels.iterdir())
    size = sum(file.stat().st_size for file in files)
    print(f"{args.folder}: {len(files)} wheels, {size / 2**20:.0f} MiB; there: bash {args.folder.name}/install.sh")


def dependencies() -> list[str]:
    """What the package needs at run time and torch does not bring."""
    listed = [each for each in requires("branchwise") or () if "extra ==" not in each]
    return [each for each in listed if not each.startswith(THERE)]


def write_script(file: Path, python: str, wanted: list[str]) -> None:
    """The script of the other machine."""
    version = tuple(map(int, python.split(".")))
    file.write_text(INSTALL.format(python=python, version=version, wanted=shlex.join(wanted)))
    file.chmod(0o755)


if __name__ == "__main__":
    main()
