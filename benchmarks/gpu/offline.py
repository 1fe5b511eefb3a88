"""Prepares a folder for a machine with a GPU and no package index: wheels, and a script that installs from them.

    python -m benchmarks.gpu.offline kit --python 3.12      # here, with an index
    bash kit/install.sh                                     # there, in the checkout beside which the folder lies

torch and Triton must be there already. See offline.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ("cmake", "ninja", "pybind11", "scikit-build-core", "packaging", "pathspec")
THERE = ("torch", "numpy", "sympy", "mpmath")  # on the other machine, since torch brings them
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
INSTALL = """\
#!/usr/bin/env bash
# Installs branchwise from this checkout, without an index: {python} with torch and Triton.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")/{up}"
python=${{PYTHON:-python3}}
wheels={name}/wheels
pip() {{ "$python" -m pip install --quiet --no-index --find-links "$wheels" "$@"; }}
"$python" -c 'import sys; sys.version_info[:2] == {version} or sys.exit(
    "the wheels are for Python {python}, this is " + sys.version.split()[0] + ": prepare the folder for it")'
"$python" -c 'import torch, triton' || {{ echo "torch and Triton must be installed" >&2; exit 1; }}
"$python" -m pip --version >/dev/null || {{ echo "pip is missing" >&2; exit 1; }}
{wanted}
PATH="$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH"
pip --no-build-isolation --no-deps .
"$python" -c 'from branchwise import _C; print("branchwise is installed, its kernels are", _C.isa())'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where wheels and script go; in, or beside, the checkout")
    parser.add_argument("--python", default="3.12", metavar="3.X", help="of the other machine (default: 3.12)")
    args = parser.parse_args()
    version = tuple(map(int, args.python.split(".")))
    if len(version) != 2:
        sys.exit(f"--python {args.python}: expected two numbers, as in 3.12")
    wheels = args.folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    download(["--no-deps", *BUILD], args.python, wheels)
    download(dependencies(), args.python, wheels)
    for name in THERE:
        for wheel in wheels.glob(f"{name}-*"):
            wheel.unlink()
    write_script(args.folder, args.python, version)
    size = sum(file.stat().st_size for file in wheels.iterdir())
    count = len(list(wheels.iterdir()))
    print(f"{args.folder}: {count} wheels, {size / 2**20:.0f} MiB; there: bash {args.folder.name}/install.sh")


def dependencies() -> list[str]:
    """What the package needs at run time and torch does not bring."""
    listed = [each for each in requires("branchwise") or () if "extra ==" not in each]
    return [each for each in listed if not each.startswith(THERE)]


def download(wanted: list[str], python: str, wheels: Path) -> None:
    """Wheels for another Python, on x86-64 Linux."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = ["-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", python, *platforms]
    done = subprocess.run([sys.executable, *command, "--dest", str(wheels), *wanted], check=False)
    if done.returncode:
        sys.exit(f"pip could not bring {' '.join(wanted)} for Python {python}: what it says is above")


def write_script(folder: Path, python: str, version: tuple[int, ...]) -> None:
    """The script of the other machine."""
    inside = folder.resolve().is_relative_to(ROOT)
    name = folder.resolve().relative_to(ROOT if inside else ROOT.parent)
    up = "/".join([".."] * len(name.parts)) if inside else f"../{ROOT.name}"
    listed = name if inside else f"../{name}"
    wanted = "pip " + " ".join([*BUILD[:4], *(each.split(">")[0] for each in dependencies())])
    text = INSTALL.format(python=python, up=up, name=listed, version=version, wanted=wanted)
    script = folder / "install.sh"
    script.write_text(text)
    script.chmod(0o755)


if __name__ == "__main__":
    main()
