# Every target makes the environment in .venv first, from requirements.lock, with uv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made-of
# Prefect's own 20 seconds are short where its temporary server makes its database for the first time.
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

.PHONY: demo test netns-test vm-test check docs lock format clean upstream-test

demo: $(STAMP)  ## provision a cluster in the sandbox, run flows/quickstart.py on it, tear it down
	PREFECT_LOGGING_LEVEL=$${PREFECT_LOGGING_LEVEL:-WARNING} $(BIN)/python flows/quickstart.py

test: $(STAMP)  ## the whole suite but for tests/netns, on two cores
	$(BIN)/python -m pytest tests --ignore tests/netns --numprocesses 2 --dist loadfile

netns-test: $(STAMP)  ## the firewall, in network namespaces; skipped where the kernel refuses them
	scripts/rootless $(BIN)/python -m pytest tests/netns

vm-test: $(STAMP)  ## whole Linux machines: real systemd, real cloud-init; needs root (docs/machines.md)
	PREFECT_COILED_VM_TEST=$${PREFECT_COILED_VM_TEST:-1} $(BIN)/python -m pytest tests/vm --timeout 600 --durations 10

check: $(STAMP)  ## lint, format, types, import layers, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .venv/site

docs: $(STAMP)  ## the docs site, at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

upstream-test: $(STAMP)  ## prefect-dask's own tests on CoiledTaskRunner; PREFECT_DASK_TESTS names their folder
	$(BIN)/python -m pytest tests/upstream --timeout 0

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)  ## resolve requirements.lock anew, for every supported Python
	$(BIN)/python -m uv pip compile pyproject.toml --universal --python-version 3.10 --upgrade \
	  --extra sandbox --extra dataframe --group dev --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet -o requirements.lock

clean:
	rm -rf .venv

$(STAMP): requirements.lock pyproject.toml scripts/environment
	scripts/environment "$(PYTHON)"
	@touch $@
