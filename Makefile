# Every command of the project. `make demo` and `make test` work on a fresh clone: they install what they need into .venv.
PYTHON ?= python3
# With an NVIDIA GPU torch's newest build, else the release the CPU backend is measured with. Where the package index
# serves CUDA builds only, `TORCH_INSTALL="torch --index-url <PyTorch's CPU index>"` saves gigabytes.
TORCH_INSTALL ?= $(if $(shell command -v nvidia-smi),torch,torch==2.13.0)

BIN := .venv/bin
READY := .venv/.ready
# Suites that share no process run as two jobs of one thread each, longest first; each is shown as a whole when it ends,
# and all of them run whatever fails. Fused multiply-adds in kernels as in production.
TOGETHER = @echo "Two jobs at a time, each shown when it ends: $(1)"; \
	$(MAKE) --no-print-directory --jobs=2 --output-sync --keep-going $(1)
# What builds in there shall not take part in make's own counting of jobs.
ALONE := env -u MAKEFLAGS
PYTEST := $(ALONE) $(BIN)/python -m pytest
# The oldest and the newest torch and Triton of docs/gpu.md. `make test-all` puts each before what .venv holds: 12 GB in
# build/pairs, as PyPI's torch comes with CUDA. PAIR_INSTALL="--index-url <PyTorch's CPU index> --extra-index-url
# <PyPI>" saves most of it.
OLDEST := 2.10.0+3.6.0
NEWEST := 2.15.0+3.9.0
PAIR :=  # what kernels are tested with, where not with what .venv holds
PAIR_INSTALL ?=
PAIR_READY = $(PAIR:%=build/pairs/%/.ready)
KERNELS = $(PAIR:%=PYTHONPATH=$(CURDIR)/build/pairs/%) TRITON_DEFAULT_FP_FUSION=1 $(PYTEST)
CHOICE :=  # of tests, where not the default
NATIVE := build/native
CPP := $(shell find csrc tests/cpp tests/emulation -name '*.h' -o -name '*.cpp' 2>/dev/null)
VS := PYTHONPATH=. $(BIN)/python -m benchmarks.vs
BENCHES := $(wildcard benchmarks/*/bench_*.py)
# A change of these asks for a new install; plain Python files are used where they lie.
BUILD_INPUTS := pyproject.toml $(shell find . -name CMakeLists.txt -not -path './.venv/*' -not -path './build/*') \
	$(filter csrc/%,$(CPP)) $(shell find python kernels -name __init__.py)

.PHONY: help demo dev test test-all test-gpu lint fmt cpp-test bench bench-full wheel clean
.PHONY: .main .interpreted .compiled .oldest .newest .sanitized .emulated

help:  ## list the targets
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## watch search with a small model against a larger one (some minutes)
	$(BIN)/branchwise demo

dev: $(READY)  ## make .venv and install everything into it

test: $(READY)  ## run the default test suite
	$(call TOGETHER,.interpreted .main .compiled)

test-all: $(READY)  ## run every test, the slow ones too
	$(call TOGETHER,.oldest .newest .interpreted .main .compiled CHOICE='-m "not gpu"')

.main: $(READY)
	$(PYTEST) $(CHOICE)

# Triton's interpreter and its compiler cannot share a process.
.interpreted: $(READY) $(PAIR_READY)
	TRITON_INTERPRET=1 $(KERNELS) tests/kernels_interp $(CHOICE)

.compiled: $(READY) $(PAIR_READY)
	$(KERNELS) tests/kernels_static $(CHOICE)

.oldest: PAIR := $(OLDEST)
.newest: PAIR := $(NEWEST)
.oldest .newest: $(READY)
	@$(MAKE) --no-print-directory --keep-going .interpreted .compiled PAIR=$(PAIR)

# The pair is what is asked for: no constraint of the machine's may forbid it.
build/pairs/%/.ready: | $(READY)
	rm -rf $(@D)
	PIP_CONSTRAINT=/dev/null $(BIN)/python -m pip install --quiet --no-compile --target $(@D) $(PAIR_INSTALL) \
		torch==$(subst +, triton==,$*)
	@touch $@

test-gpu: $(READY)  ## run the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu tests/gpu

lint: $(READY)  ## check style, format, types, sizes and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/python tools/check_sizes.py
	$(BIN)/lint-imports
	$(BIN)/mypy

fmt: $(READY)  ## format everything in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

cpp-test: $(READY)  ## test the C++ core with sanitizers, and kernels of processors that this one is not
	$(call TOGETHER,.emulated .sanitized)

.sanitized: $(READY)
	$(PYTEST) tests/cpp

.emulated: $(READY)
	@if $(BIN)/python -c 'import sys; from branchwise import _C; sys.exit(_C.isa() != "amx")'; then \
		echo "All instruction sets run on this processor: there is nothing to emulate"; else \
		$(ALONE) $(BIN)/cmake --build $(NATIVE) --target emulated && \
		BRANCHWISE_TEST_EXTENSION=$$(echo $(NATIVE)/emulated.*.so) $(PYTEST) tests/kernels \
			--ignore tests/kernels/test_isa.py -k 'avx512 or amx or instruction_sets'; fi

bench: $(READY)  ## run every benchmark in its quick form (minutes; longer without AVX-512)
	set -e; for file in $(BENCHES); do PYTHONPATH=. $(BIN)/python $$file --quick; done
	$(VS) sampling --rows 16 --top-p 0.95 --runs 3 --block 32
	$(VS) dvts --n 8 --steps 4 --length 20 --levels --structures tuned --runs 1

bench-full: $(READY)  ## measure beside the rivals, append to benchmarks/results/vs.jsonl, draw table and plot (hours)
	$(VS) setup vllm llamacpp transformers
	for isa in native $(if $(shell grep -m1 -o amx_tile /proc/cpuinfo),avx512_bf16); do \
		$(VS) sampling --isa $$isa --save && $(VS) beam --isa $$isa --save && $(VS) dvts --isa $$isa --save || exit 1; done
	$(BIN)/pip install --quiet '.[bench]'
	$(VS) report

wheel: $(READY)  ## build a wheel into dist/
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

clean:  ## remove what was built; packages in .venv stay
	rm -rf build $(READY) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Without build isolation, so that a changed C++ file is all that is compiled again.
$(READY): $(BUILD_INPUTS)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("branchwise needs Python 3.10 or later, this is " \
		+ sys.version.split()[0] + ": name a later one, as in make $(MAKECMDGOALS) PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: some minutes the first time"
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet --no-compile $(TORCH_INSTALL)
	$(BIN)/pip install --quiet --no-compile cmake ninja pybind11 scikit-build-core
	$(BIN)/pip install --quiet --no-compile --no-build-isolation --config-settings build-dir=$(NATIVE) --editable '.[dev]'
	@touch $@
