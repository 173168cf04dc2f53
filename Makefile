# Everything runs in .venv; `make demo` on a bare machine needs only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILES ?=
PROVIDER ?= local
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help install check test test-all test-pythons test-chaos test-tiers test-fuzz test-live wheel-guard demo up up-docker bench clean

help:            ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Make .venv with everything in it

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

check: install   ## Style, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: install    ## The tests that are quick, for every change
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow"

test-all: install  ## All tests, as CI runs them: chaos, stacks and the docs too
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

test-pythons:    ## The quick tests on every supported Python found, each in an environment of its own
	@.ci/pythons

test-chaos: install  ## Kill things at length, and print what became of the uploads
	$(BIN)/pytest tests/test_chaos.py tests/test_poison_properties.py \
	  tests/test_upgrade.py tests/test_batch_scale.py tests/test_flow_batch_kills.py --chaos

test-tiers: install  ## The tiers' rates over minutes, by a fleet of four workers
	$(BIN)/pytest tests/test_fleet_limits.py --tiers

test-fuzz: install  ## Two minutes of any requests at the local Gemini: no 500, memory flat
	$(BIN)/pytest tests/test_emulator_fuzz.py --fuzz -s

test-live: install  ## The flows that count, at Google's service: needs GEMINI_API_KEY
	@if [ -z "$$GEMINI_API_KEY" ]; then \
	  echo "Skipped: GEMINI_API_KEY is not set, so nothing was tried at Google's service."; \
	else $(BIN)/pytest tests/test_live.py --live; fi

wheel-guard: install  ## Build the wheel and import all of it where nothing else is
	@set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	$(BIN)/python -m build --quiet --wheel --outdir "$$out" .; \
	for extras in bare worker,emulator; do \
	  $(BIN)/python -m venv "$$out/$$extras"; \
	  $(BIN)/python -m pip --python "$$out/$$extras/bin/python" install --quiet \
	    "$$(ls "$$out"/*.whl)$$([ $$extras = bare ] || echo "[$$extras]")"; \
	  mkdir -p "$$out/empty"; cp .ci/wheel_guard.py "$$out/guard-$$extras.py"; \
	  (cd "$$out/empty" && "../$$extras/bin/python" "../guard-$$extras.py" $$extras); \
	done

demo: install    ## Watch files become ACTIVE: make demo [FILES="a.pdf b.mp4"] [PROVIDER=gemini]
	@$(BIN)/provider-uploads demo --provider $(PROVIDER) $(FILES)

up: install      ## The whole stack in the foreground; Ctrl-C stops it
	@$(BIN)/provider-uploads up --flower

up-docker:       ## The stack in containers; the local Gemini unless there is a GEMINI_API_KEY
	@sh config/compose_env.sh
	@docker compose up --build --detach --wait

bench: $(VENV)/.bench  ## Speed, as ratios against peers in the same run: make bench [BENCH="--only peers"]
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/.bench: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --group bench
	@touch $@

clean:           ## Remove .venv and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
