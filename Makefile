# Everything a fresh clone needs: a Python >= 3.10 and a C++17 compiler. The rest is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BENCH_PYTHON ?= $(VENV)/bin/python
BENCH_MACHINE ?= $(shell uname -m)-$(shell nproc)core
QUALITY_METHODS ?=
BENCH_TOPICS ?= $(patsubst benchmarks/bench_%.py,%,$(wildcard benchmarks/bench_*.py))
PYTEST_ARGS ?=

# The kernels for a GPU take minutes to compile: where there is none, build for the CPU unless told otherwise.
ifeq ($(origin RECON_CUDA),undefined)
ifeq ($(shell command -v nvidia-smi 2>/dev/null),)
export RECON_CUDA := off
else
export RECON_CUDA := auto
export RECON_CUDA_ARCHITECTURES ?= native
endif
endif
export CMAKE_BUILD_PARALLEL_LEVEL ?= 2
unexport PYTHONPATH

sources := CMakeLists.txt pyproject.toml README.md LICENSE $(shell find csrc python -type f \
  \( -name '*.py' -o -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name 'py.typed' \))
py := $(VENV)/bin/python
pip := $(py) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs bench bench-growth bench-table quality surface wheel wheel-test clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

# Threads that wait without spinning: where other programs want the cores too, spinning costs ten times the work.
demo test quality: export OMP_WAIT_POLICY ?= PASSIVE

demo: $(VENV)/.installed ## install into .venv and reconstruct a building from its silhouettes
	$(VENV)/bin/recon demo

test: $(VENV)/.installed ## install into .venv and run the tests
	RECON_TEST_INSTALLED=1 $(py) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint ## check format, style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	find csrc tests/csrc \( -name '*.cpp' -o -name '*.cu' -o -name '*.h' \) -print0 | xargs -0 $(VENV)/bin/clang-format --dry-run -Werror
	$(VENV)/bin/mypy

format: $(VENV)/.lint ## rewrite the sources in the house format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	find csrc tests/csrc \( -name '*.cpp' -o -name '*.cu' -o -name '*.h' \) -print0 | xargs -0 $(VENV)/bin/clang-format -i

docs: $(VENV)/.docs ## build the documentation into build/docs
	$(py) -m sphinx -W --keep-going -q docs build/docs
	@echo "open build/docs/index.html"

# BENCH_PYTHON may be any Python with torch, for instance one that also has PyTorch3D: nothing is installed into it.
bench: $(VENV)/.torch ## time every case against the rivals that can be imported
	$(BENCH_PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target build/bench .
	$(BENCH_PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target build/bench pytest-benchmark
	@mkdir -p benchmarks/results/$(BENCH_MACHINE)
	for topic in $(BENCH_TOPICS); do \
	  PYTHONPATH=build/bench $(BENCH_PYTHON) -m pytest benchmarks/bench_$$topic.py -W ignore $(PYTEST_ARGS) \
	    --benchmark-json=benchmarks/results/$(BENCH_MACHINE)/$$topic.json || exit 1; \
	done
	$(BENCH_PYTHON) benchmarks/table.py

# How the cost grows with sizes: results/growth/ and the plots of docs/images. Needs matplotlib.
bench-growth: $(VENV)/.torch ## time the sweeps and draw them (after bench)
	PYTHONPATH=build/bench $(BENCH_PYTHON) -W ignore benchmarks/growth.py $(BENCH_MACHINE)

bench-table: ## write the tables again from the committed results
	$(PYTHON) benchmarks/table.py

# RECON_DATA names the folder of real meshes; rows of those are left out without it.
quality: $(VENV)/.installed ## measure what the methods reach (docs/quality.md)
	$(py) benchmarks/quality.py $(QUALITY_METHODS)
	$(if $(QUALITY_METHODS),,$(py) benchmarks/twins.py)

surface: $(VENV)/.installed ## write docs/surface.md again
	$(py) tests/surface.py

wheel: ## build the wheel of this Python version into dist/
	$(PYTHON) -m pip wheel --disable-pip-version-check . --no-deps --wheel-dir dist

wheel-test: wheel ## test the wheel in a fresh environment: make wheel-test TORCH=torch==2.4.1
	rm -rf build/wheel-test
	$(PYTHON) -m venv build/wheel-test
	build/wheel-test/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" "$$(ls -t dist/*.whl | head -n 1)[test]"
	RECON_TEST_INSTALLED=1 build/wheel-test/bin/python -m pytest $(PYTEST_ARGS)

clean: ## remove what make has made
	rm -rf $(VENV) build dist

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "recon_engine needs Python >= 3.10, $(PYTHON) is $$($(PYTHON) --version); run make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	$(py) -c 'import torch' 2>/dev/null || $(pip) install --quiet "$(TORCH)" numpy
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(sources)
	$(pip) install --quiet '.[test]'
	@touch $@

# recon_engine is there already: this brings what its extra names.
$(VENV)/.docs: $(VENV)/.installed
	$(pip) install --quiet 'recon_engine[docs]'
	@touch $@

$(VENV)/.lint: $(VENV)/.torch .ci/lint.txt
	$(pip) install --quiet -r .ci/lint.txt
	@touch $@
