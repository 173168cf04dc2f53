# Everything runs in .venv; `make demo` on a bare machine needs only Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILES ?=
PROVIDER ?= local

.DEFAULT_GOAL := help
.PHONY: help install check test test-all test-chaos test-tiers test-live wheel-guard demo up up-docker bench clean

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

test-chaos: install  ## Kill things at length, and print what became of the uploads
	$(BIN)/pytest tests/test_chaos.py --chaos

test-tiers: install  ## The tiers' rates over minutes, by a fleet of four workers
	$(BIN)/pytest tests/test_fleet_limits.py --tiers

test-live: install  ## The flows that count, at Google's service: needs GEMINI_API_KEY
	@if [ -z "$$GEMINI_API_KEY" ]; then \
	  echo "Skipped: GEMINI_API_KEY is not set, so nothing was tried at Google's service."; \
	else $(BIN)/pytest tests/test_live.py --live; fi

wheel-guard: install  ## Build the wheel and import all of it where nothing else is
	@set -e; out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	$(BIN)/python -m build --quiet --wheel --outdir "$$out" .; \
	for extras in bare google,emulator; do \
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
	@mkdir -p "$${PROVIDER_UPLOADS_FILES:-files}"; \
	export PROVIDER_UPLOADS_USER="$${PROVIDER_UPLOADS_USER:-$$(id -u):$$(id -g)}"; \
	if [ -z "$$PROVIDER_UPLOADS_FLOWER_AUTH" ] && \
	  ! grep -qs '^PROVIDER_UPLOADS_FLOWER_AUTH=.' .env; then \
	  export PROVIDER_UPLOADS_FLOWER_AUTH="operator:$$($(PYTHON) -c \
	    'import secrets; print(secrets.token_urlsafe(9))')"; \
	  echo "Flower: http://127.0.0.1:$${PROVIDER_UPLOADS_FLOWER_PORT:-5555}" \
	    "login $$PROVIDER_UPLOADS_FLOWER_AUTH"; \
	fi; \
	if [ -n "$$GEMINI_API_KEY$$PROVIDER_UPLOADS_BASE_URL" ] || \
	  grep -qsE '^(GEMINI_API_KEY|PROVIDER_UPLOADS_BASE_URL)=.' .env; then \
	  docker compose up --build --detach --wait; \
	else \
	  PROVIDER_UPLOADS_BASE_URL=http://local-gemini:8123 \
	  PROVIDER_UPLOADS_TIER=$${PROVIDER_UPLOADS_TIER:-unlimited} \
	    docker compose --profile local up --build --detach --wait; \
	fi

bench: install   ## Speed, as ratios against peers in the same run
	$(BIN)/python -m benchmarks

clean:           ## Remove .venv and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
