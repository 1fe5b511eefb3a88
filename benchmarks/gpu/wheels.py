"""Wheels for another Python: pip brings them, and here it is checked that nothing is missing.

`pip download --python-version` picks files for the other Python, but judges conditions like `python_version < "3.11"`
by its own. So requirements are read from the wheels themselves, and what is missing is asked for by name.
"""

from __future__ import annotations

import email
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]


def gather(wanted: Iterable[str], there: Iterable[str], python: str, folder: Path) -> None:
    """Wheels of `wanted` and all that they require, for "3.X" on x86-64 Linux; none of `there`, which need nothing."""
    missing = list(wanted)
    while missing:
        _download(missing, python, folder)
        before, missing = missing, unmet(wanted, there, python, folder)
        if missing == before:
            sys.exit(f"{folder} lacks {', '.join(missing)} for Python {python}, though pip has brought it")
    for name in there:
        for wheel in folder.glob(f"{name}-*.whl"):
            wheel.unlink()


def unmet(wanted: Iterable[str], there: Iterable[str], python: str, folder: Path) -> list[str]:
    """What of `wanted`, and of all that it requires, has no wheel in the folder that will do; sorted."""
    wheels = {parse_wheel_filename(path.name)[0]: path for path in folder.glob("*.whl")}
    missing, seen = set(), set()
    ahead = [Requirement(each) for each in wanted]
    while ahead:
        requirement = ahead.pop()
        name = canonicalize_name(requirement.name)
        if name in there or str(requirement) in seen:
            continue
        seen.add(str(requirement))
        if name not in wheels or not requirement.specifier.contains(_version(wheels[name]), prereleases=True):
            requirement.marker = None  # it holds, or the requirement would not be here
            missing.add(str(requirement))
        else:
            ahead += _required(wheels[name], requirement.extras, python)
    return sorted(missing)


def _version(wheel: Path) -> str:
    return str(parse_wheel_filename(wheel.name)[1])


def _required(wheel: Path, extras: set[str], python: str) -> list[Requirement]:
    """The requirements of a wheel whose conditions hold on the other machine."""
    with ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA") and each.count("/") == 1)
        metadata = email.message_from_bytes(archive.read(name))
    machine = {
        "python_version": python, "python_full_version": f"{python}.0", "implementation_version": f"{python}.0",
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "sys_platform": "linux",
        "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
    }  # fmt: skip
    listed = [Requirement(each) for each in metadata.get_all("Requires-Dist", [])]
    chosen = [machine | {"extra": extra} for extra in extras or {""}]
    return [each for each in listed if not each.marker or any(map(each.marker.evaluate, chosen))]


def _download(wanted: list[str], python: str, folder: Path) -> None:
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = ["-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", python, *platforms]
    done = subprocess.run([sys.executable, *command, "--dest", str(folder), *wanted], check=False)
    if done.returncode:
        sys.exit(f"pip could not bring {' '.join(wanted)} for Python {python}: what it says is above")
