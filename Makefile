# The project's commands. `make help` says what each does.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := server,runner,examples,dev
# Where the CPU build of torch comes from: PyTorch's own CPU index if it answers within 3 s, else the configured index.
TORCH_CPU := https://download.pytorch.org/whl/cpu
PROBE := import urllib.request as u; u.urlopen('$(TORCH_CPU)/', timeout=3)
TORCH_INDEX ?= $(shell $(PYTHON) -c "$(PROBE)" 2>/dev/null && echo $(TORCH_CPU))
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
DEMO_DIR ?= .demo
# Published traces, which are not part of the project; see docs/benchmarks.md.
TRACES ?= ../shared/traces

.PHONY: help install demo up test test-full check bench format clean

help: ## say what each command does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP) ## create .venv with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMP) ## run the main example on a factory of its own, then stop it
	$(BIN)/python -m examples.footfall.demo --data $(DEMO_DIR)

up: $(STAMP) ## start the embedded factory to work with (Ctrl-C ends it)
	$(BIN)/factory up

test: $(STAMP) ## run the tests (at most 12 minutes on 2 cores)
	$(BIN)/python -m pytest

test-full: $(STAMP) ## run the tests and the slow ones
	$(BIN)/python -m pytest -m "full or not full"

check: $(STAMP) ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

# Small enough for a coffee; docs/benchmarks.md has the full commands and what they showed. Not here: benchmarks.mutation.
bench: $(STAMP) ## run the benchmarks in small (5 minutes); each prints one JSON object
	@set -e; bench() { echo "== benchmarks.$$*"; $(BIN)/python -m benchmarks."$$@"; }; \
	bench forecast --seeds 0; \
	bench scale --queued 10000 --tenants 100 --nodes 1000 --cycles 50; \
	bench admission --workload kueue-baseline; \
	bench jct; \
	bench fairness --days 1; \
	if test -d $(TRACES)/openb; then \
	  bench packing --nodes $(TRACES)/openb/openb_node_list_gpu_node.csv --pods $(TRACES)/openb/openb_pod_list_default.csv --seeds 42; \
	else echo "== benchmarks.packing: left out, no $(TRACES)/openb (make bench TRACES=FOLDER)"; fi

format: $(STAMP) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## remove what was built, not the data
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
