"""What a machine without a package index is given: wheels of all that it needs, and a script that installs them."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu import wheels
from benchmarks.gpu.offline import BUILD, THERE, dependencies, write_script
from benchmarks.gpu.wheels import gather, unmet

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"3.{sys.version_info.minor}"
PATIENCE = "40"  # minutes for the check: stages have limits in proportion, and this machine may have other work
NOWHERE = "http://127.0.0.1:9/"  # an index that nobody serves


def wheel(folder: Path, name: str, *required: str, version: str = "1.0") -> None:
    """An empty wheel that requires others."""
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in required)]
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\nAbout it.\n")


def test_conditions_are_those_of_the_other_python(tmp_path):
    wheel(tmp_path, "a", 'old; python_version < "3.12"', 'new; python_version >= "3.12"', 'w; os_name == "nt"')
    assert unmet(["a"], (), "3.12", tmp_path) == ["new"]
    assert unmet(["a"], (), "3.10", tmp_path) == ["old"]


def test_extras_and_versions_count(tmp_path):
    wheel(tmp_path, "a", "b_b[fast]>=2", "there", 'never; extra == "fast"')
    wheel(tmp_path, "b_b", 'c; extra == "fast"', 'd; extra == "slow"', "a", version="2.1")
    assert unmet(["a"], ("there",), "3.12", tmp_path) == ["c"]
    wheel(tmp_path, "c")
    assert unmet(["a"], ("there",), "3.12", tmp_path) == []
    assert unmet(["a>=2", "e"], ("there",), "3.12", tmp_path) == ["a>=2", "e"]


def test_what_pip_left_out_is_asked_for(tmp_path, monkeypatch):
    asked = []

    def download(wanted, python, folder):
        asked.append(wanted)
        if wanted == ["a"]:
            wheel(folder, "a", 'b>=1; python_version < "3.11"', "there")
            wheel(folder, "there", version="3.0")
        elif len(asked) < 4:
            wheel(folder, "b")

    monkeypatch.setattr(wheels, "_download", download)
    gather(["a"], ("there",), "3.10", tmp_path)
    assert asked == [["a"], ["b>=1"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.0-py3-none-any.whl", "b-1.0-py3-none-any.whl"]
    (tmp_path / "b-1.0-py3-none-any.whl").unlink()
    asked += [[]] * 4
    with pytest.raises(SystemExit, match="lacks b>=1 for Python 3"):
        gather(["a"], ("there",), "3.10", tmp_path)


def test_what_the_package_needs_is_asked_for():
    names = {Requirement(each).name for each in dependencies()}
    assert {"math-verify", "tokenizers", "safetensors"} <= names
    assert not names & {*THERE, "triton", "pytest"}


@pytest.mark.parametrize(
    ("python", "folder", "said"),
    [
        ("3.99", ROOT, "the wheels are for Python 3.99, this is 3."),
        (PYTHON, ROOT.parent, "this is not a checkout of branchwise"),
    ],
)
def test_the_script_says_why_it_cannot(python, folder, said, tmp_path):
    write_script(tmp_path / "install.sh", python, BUILD)
    done = installed(tmp_path, sys.executable, folder)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_python_that_is_none(tmp_path):
    done = offline(ROOT, str(tmp_path), "--python", "312")
    assert done.returncode == 1
    assert done.stderr == "--python 312: expected two numbers, as in 3.12\n"


@pytest.mark.slow
@pytest.mark.network
def test_the_whole_way_without_an_index(tmp_path):
    """As offline.md says, with this Python: kit, script, import, and the check in the interpreter."""
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "mdurl"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("pip reaches no package index")
    checkout, there = tmp_path / "checkout", tmp_path / "there"
    copy_checkout(checkout)
    done = offline(checkout, "kit", "--python", PYTHON)
    assert done.returncode == 0, done.stderr
    python = environment_of(there, "torch", "triton", "numpy")
    done = installed(checkout / "kit", python, checkout)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "branchwise is installed, its kernels are" in done.stdout
    where = ran([python, "-c", "import branchwise; print(branchwise.__file__)"], tmp_path)
    assert where.stdout.startswith(str(there)), where.stderr
    command = [python, "-m", "benchmarks.gpu", "--tiny", "--minutes", PATIENCE, "--out", str(tmp_path / "tiny")]
    done = ran(command, checkout, TRITON_INTERPRET="1", PYTHONPATH=".")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 8 stages that ran passed" in done.stdout


def offline(checkout: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command of step 1."""
    command = [sys.executable, "-m", "benchmarks.gpu.offline", *args]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def installed(kit: Path, python: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The first command of step 3, run in `folder`."""
    return ran(["bash", str(kit / "install.sh")], folder, PYTHON=str(python))


def ran(command: list[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command where pip knows no index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    nowhere = {"PIP_NO_INDEX": "1", "PIP_INDEX_URL": NOWHERE, "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(
        command, cwd=folder, env=kept | nowhere | environment, capture_output=True, text=True, check=False
    )


def copy_checkout(target: Path) -> None:
    """The files that git knows, or would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


def environment_of(folder: Path, *names: str) -> Path:
    """A fresh environment with pip and links to what is installed here of these packages and all that they require."""
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    ahead, linked = list(names), set()
    while ahead:
        package: Distribution = distribution(ahead.pop())
        if package.name in linked:
            continue
        linked.add(package.name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(package.locate_file(top)).resolve())
        required = map(Requirement, package.requires or ())
        ahead += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    return folder / "bin" / "python"
