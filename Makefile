# Every target works alone on a fresh clone: what it needs is installed first, once.
PYTHON ?= python3
# Where pip may also look for torch, e.g. PyTorch's index of CPU builds (gigabytes less than the CUDA build).
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt
STAMP := $(VENV)/.installed
# What `make bench` and `make bench-quick` run on, separated by commas; `cpbench list backbones` names them.
BACKBONES ?= miniature
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-gpu test-quantization fuzz lint format bench bench-quick leaderboard reference pretrain golden

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install cpbench, editable, with the pinned versions

test: $(STAMP) ## run the tests
	$(PYTEST)

test-slow: $(STAMP) ## run the tests that take minutes: kills at random moments, Ray with lost workers and nodes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

test-quantization: $(STAMP) ## run the tests of weights in 8 and 4 bits, with torchao in a folder of its own
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/quantization 'torchao>=0.18'
	PYTHONPATH=$(VENV)/quantization OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_quantization.py

fuzz: $(STAMP) ## try broken inputs on all readers for half an hour
	CPBENCH_FUZZ_SECONDS=$${CPBENCH_FUZZ_SECONDS:-1800} OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/test_fuzz.py

golden: $(STAMP) ## keep what the golden runs give on this kind of processor (raise SCORES first)
	OMP_NUM_THREADS=1 CPBENCH_CACHE= $(BIN)/python tests/golden.py "$$(mktemp -d)" --keep

lint: $(STAMP) ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## run six methods over dreambench10 and write the leaderboard; BACKBONES=miniature-flow: the other miniature
	$(BIN)/cpbench sweep --grid bench --backbones $(BACKBONES); code=$$?; $(BIN)/cpbench leaderboard && exit $$code

bench-quick: $(STAMP) ## the same over a short sequence with few prompts
	$(BIN)/cpbench sweep --grid bench-quick --backbones $(BACKBONES); code=$$?; $(BIN)/cpbench leaderboard && exit $$code

leaderboard: $(STAMP) ## rebuild the leaderboards: of results/, and of what is committed in results/reference
	$(BIN)/cpbench leaderboard results/reference
	$(BIN)/cpbench leaderboard

reference: $(STAMP) ## keep the finished runs' tables and grids in results/reference, and their numbers in the docs
	$(BIN)/python -m cpbench.leaderboard.reference
	$(BIN)/python benchmarks/doc_tables.py
	$(BIN)/python benchmarks/doc_charts.py

pretrain: $(STAMP) ## train the miniature and its judges again
	$(BIN)/cpbench pretrain --all

# torch comes first and alone, at its pinned version: a CPU build of that version counts, and is kept.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'cpbench needs Python 3.11 or newer; name one: make setup PYTHON=python3.12' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e '.[dev]'
	@touch $@
