"""The repository keeps its rules: sizes, import directions, documents that match the code, nothing of one machine."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "structure.md", ROOT / "docs" / "decisions.md")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:root|work|Users|home/\w+)/[\w.]")


def check_sizes():
    spec = importlib.util.spec_from_file_location("check_sizes", ROOT / "tools" / "check_sizes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)


def make_targets() -> list[str]:
    return re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def extension() -> Path:
    spec = importlib.util.find_spec("branchwise._C")
    if spec is None or spec.origin is None:
        pytest.skip("the extension is not built: make dev")
    return Path(spec.origin)


def test_sizes():
    module = check_sizes()
    found = dict(module.findings(ROOT))
    assert found.keys() == module.EXCEPTIONS.keys(), found


def test_sizes_of_functions_count_decorators_and_know_kernels():
    module = check_sizes()
    body = "\n    x = 1" * 60
    assert dict(module.long_functions(f"def f():{body}")) == {"f": "61 lines, at most 60 are allowed"}
    assert not dict(module.long_functions(f"@triton.jit\ndef f():{body}"))
    assert dict(module.long_functions(f"@cache\ndef f():{body[:-10]}")) == {"f": "61 lines, at most 60 are allowed"}


def test_sizes_report_a_long_and_a_large_file(tmp_path):
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "long.cpp").write_text("\n" * 501)
    (tmp_path / "csrc" / "large.bin").write_bytes(b"\0" * ((1 << 20) + 1))
    assert set(dict(check_sizes().findings(tmp_path))) == {"csrc/long.cpp", "csrc/large.bin"}


def test_makefile_is_short_and_every_target_is_explained():
    targets = make_targets()
    assert len(targets) <= 13
    text = (ROOT / "Makefile").read_text()
    assert re.findall(r"^([a-z][a-z-]*):.*## \w", text, re.MULTILINE) == targets
    assert set(text.split(".PHONY:")[1].split("\n")[0].split()) == set(targets)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_that_exist(path):
    code = "\n".join(re.findall(r"`([^`]+)`", path.read_text()) + code_blocks(path, "sh"))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", code))
    assert named <= set(make_targets())
    if path == README:
        assert {"demo", "test"} <= named


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_structure_lists_every_folder_and_no_other():
    text = (ROOT / "docs" / "structure.md").read_text()
    listed = set(re.findall(r"^\| `([\w/]+/)`", text, re.MULTILINE))
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / "python").glob("branchwise/**/__init__.py")}
    sources = {f"csrc/{name}/" for name in ("bind", "core", "cpu")}
    assert packages | sources | {"kernels/branchwise_kernels/"} <= listed
    assert {folder for folder in listed if not (ROOT / folder).is_dir()} == set()
    assert len(text.splitlines()) <= 100


def test_command_line_examples_use_options_that_exist():
    if importlib.util.find_spec("branchwise.cli") is None:
        pytest.skip("the command line is not in this build")
    (block,) = (block for block in code_blocks(README, "sh") if "branchwise solve" in block)
    commands = re.findall(r"^branchwise (\w+)(.*?)(?:  #.*)?$", block, re.MULTILINE)
    assert {name for name, _ in commands} >= {"demo", "solve", "eval", "doctor"}
    start = "import sys; from branchwise.cli import main; sys.exit(main())"
    helps = {name: run(sys.executable, "-c", start, name, "--help") for name, _ in commands}
    for name, arguments in commands:
        assert helps[name].returncode == 0, helps[name].stderr
        known = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", helps[name].stdout)
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", arguments)) <= set(known), name


def test_python_example_runs():
    assets = ROOT / "python" / "branchwise" / "assets"
    if not (assets / "prm").is_dir():
        pytest.skip("the bundled models are not in this build")
    extension()
    (example,) = code_blocks(README, "python")
    assert len(example.splitlines()) <= 12
    done = run(sys.executable, "-c", example)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_import_directions():
    tool = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("import-linter is not installed: make dev")
    done = run(tool)
    assert done.returncode == 0, done.stdout + done.stderr


def test_core_and_kernels_include_nothing_foreign():
    """`csrc/core` and `csrc/cpu` know the standard library, OpenMP and intrinsics; cpu may use core."""
    allowed = re.compile(r"<(?:[a-z_]+|omp\.h|immintrin\.h|(?:sys|asm)/\w+\.h|unistd\.h|cpuid\.h)>")
    for folder, own in (("core", ("core/",)), ("cpu", ("core/", "cpu/"))):
        for path in (ROOT / "csrc" / folder).rglob("*.[ch]*"):
            for include in re.findall(r"^\s*#\s*include\s+(\S+)", path.read_text(), re.MULTILINE):
                ours = include.startswith(tuple(f'"{name}' for name in own))
                assert ours or allowed.fullmatch(include), f"{path.relative_to(ROOT)} includes {include}"


def test_extension_needs_no_libtorch():
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("nm is not installed: it comes with binutils")
    done = run(tool, "-D", "--undefined-only", extension())
    assert done.returncode == 0, done.stderr
    assert not re.findall(r".*(?:c10|_ZN2at|torch).*", done.stdout)


def test_import_does_no_torch_work():
    done = run(sys.executable, "-c", "import branchwise, sys; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr or "import branchwise imports torch"


def test_tracked_files_name_no_machine():
    listed = run("git", "ls-files", "-z") if (ROOT / ".git").exists() and shutil.which("git") else None
    if listed is None or listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".safetensors", ".gguf", ".png") or not path.is_file():
            continue
        found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{name} names a path of one machine: {found.group() if found else ''}"
