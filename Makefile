# Every target makes the environment in .venv first, from requirements.lock, with uv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made-of
# Prefect's own 20 seconds are short where its temporary server makes its database for the first time.
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

.PHONY: demo test again netns-test vm-test qemu-test ui-test screens check docs lock format clean upstream-test oldest-test

demo: $(STAMP)  ## provision a cluster in the sandbox, run flows/quickstart.py on it, tear it down
	PREFECT_LOGGING_LEVEL=$${PREFECT_LOGGING_LEVEL:-WARNING} $(BIN)/python flows/quickstart.py

test: $(STAMP)  ## the suite, on two cores; netns-, ui-, vm- and qemu-test are apart
	$(BIN)/python -m pytest tests --ignore tests/netns --ignore tests/ui --ignore tests/vm --ignore tests/qemu \
	  --numprocesses 2 --dist loadfile

again: $(STAMP)  ## what failed in the last run, one test after the other
	$(BIN)/python -m pytest tests --last-failed --last-failed-no-failures none --timeout 600

netns-test: $(STAMP)  ## the firewall, in network namespaces; skipped where the kernel refuses them
	scripts/rootless $(BIN)/python -m pytest tests/netns

ui-test: $(STAMP) .venv/.made-with-ui  ## Prefect's UI in a browser; needs chromium, says so without
	$(BIN)/python -m pytest tests/ui

vm-test: $(STAMP)  ## whole Linux machines: real systemd, real cloud-init; needs root (docs/machines.md)
	PREFECT_COILED_VM_TEST=$${PREFECT_COILED_VM_TEST:-1} $(BIN)/python -m pytest tests/vm --timeout 600 --durations 10

qemu-test: $(STAMP)  ## one cluster of whole virtual machines: kernel, firmware, NVMe; slow, needs root (docs/machines.md)
	PREFECT_COILED_QEMU_TEST=$${PREFECT_COILED_QEMU_TEST:-1} $(BIN)/python -m pytest tests/qemu --timeout 1500 --durations 10

screens: $(STAMP) .venv/.made-with-ui  ## the pictures of Prefect's UI in docs/img, taken anew
	$(BIN)/python scripts/take_screens.py

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

oldest-test: $(STAMP)  ## the library with the oldest dependencies that it says it works with
	$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python .venv-oldest
	$(BIN)/python -m uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
	  --editable ".[sandbox,dataframe]" -r tests/oldest.txt
	.venv-oldest/bin/python -m pytest tests/unit tests/cluster/test_contract.py tests/runner/test_tasks.py \
	  --ignore tests/unit/test_policies.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)  ## resolve requirements.lock anew, for every supported Python
	$(BIN)/python -m uv pip compile pyproject.toml --universal --python-version 3.10 --upgrade \
	  --extra sandbox --extra dataframe --group dev --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet -o requirements.lock
	$(BIN)/python -m uv pip compile --group ui --universal --python-version 3.10 --upgrade \
	  --constraint requirements.lock --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --quiet -o requirements-ui.lock

clean:
	rm -rf .venv .venv-oldest

$(STAMP): requirements.lock pyproject.toml scripts/environment
	scripts/environment "$(PYTHON)"
	@touch $@

.venv/.made-with-ui: requirements-ui.lock $(STAMP)
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-ui.lock
	@touch $@
