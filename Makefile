# Every target makes the environment in .venv first, from requirements.lock, with uv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made-of
# Prefect's own 20 seconds are short where its temporary server makes its database for the first time.
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_SERVER_ANALYTICS_ENABLED ?= false
# The machine's own certificates, as in scripts/environment.
export UV_SYSTEM_CERTS ?= 1
export UV_NATIVE_TLS ?= 1
# Of the emulators' environments; a path where uv finds none and may fetch none.
EMULATORS_PYTHON ?= 3.13

# Suites with a target of their own; and files that take minutes for what others show in part.
APART := tests/soak tests/netns tests/ui tests/vm tests/qemu tests/clients tests/emulators tests/upstream
LONG := tests/deployments tests/bare $(addprefix tests/cli/test_,backend_options.py environment_diff.py failures.py interrupted.py json.py no_server.py pipes.py places.py role.py) \
  $(addprefix tests/cluster/test_,adapting.py api_keys.py architectures.py beside_local.py broken_off.py containers.py costs.py doctor.py ends.py fresh_account.py gpu.py \
    heavy_use.py instance_policy.py lending.py logs_in_prefect.py machines_counted.py notebook.py one_address.py other_places.py \
    one_port.py results.py results_by_option.py shared_name.py sharing.py shipped_flows.py spot.py watching.py who_is_told.py) \
  $(addprefix tests/provision/test_,account_settings.py closed_ways.py daylight_saving.py destruction.py \
    each_call.py known.py organisations.py permissions.py plans.py regions.py registry.py removals_refused.py rotated_keys.py story.py ways_down.py what_is_left.py) \
  $(addprefix tests/runner/test_,https.py processes.py relay_away.py relay_ends.py served.py situations.py) \
  $(addprefix tests/sandbox/test_,bare_machines.py docker.py loaded_late.py orphans.py) tests/lost_work/test_server_away.py \
  $(addprefix tests/netns/test_,from_nothing.py network_gone.py to_aws.py)

# Of the parts, those in which a dependency has a say.
OF_DEPENDENCIES := anteroom api_errors blocks by_name caller certificates credentials dask_config entries errors \
  gate hints internals keeping main_script newer_database one_port outbox places recording relay_answering relay_events \
  relay_exchange relay_forwarder relay_kept_blocks renewed secrets shipping short_visits slots temporary_server time_limit \
  tls waits worker_settings

# What touches the dependencies: such parts, the command line, a flow on a cluster of the sandbox, tasks.
VERSIONS_TESTS := \
  tests/cluster/test_flows.py::test_a_flow_gets_a_cluster_of_its_own_shown_as_subflows_and_gone_afterwards \
  tests/runner/test_tasks.py::test_async_flows_and_async_tasks \
  tests/runner/test_tasks.py::test_get_dask_client_works_with_tls_inside_a_task \
  tests/runner/test_tasks.py::test_the_shipped_context_has_the_parts_that_prefect_serialises \
  tests/cli/test_help.py $(patsubst %,tests/unit/test_%.py,$(OF_DEPENDENCIES)) \
  --deselect tests/unit/test_credentials.py::test_an_endpoint_that_does_not_answer_is_told_in_one_line

# An environment of its own, of the versions that a strategy of uv's takes, and in it the tests:
# $(call with_versions,NAME,STRATEGY).
define with_versions
	$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python .venv-$(1)
	$(BIN)/python -m uv pip install --quiet --python .venv-$(1)/bin/python --resolution $(2) --upgrade \
	  --editable ".[sandbox,dataframe]" -r tests/versions.txt
	.venv-$(1)/bin/python -m pytest -p no:cacheprovider --durations 5 --numprocesses 2 --dist loadfile $(VERSIONS_TESTS)
endef

.PHONY: demo test long-test clients-test again netns-test vm-test qemu-test ui-test screens check build docs lock format clean \
  relay-test upstream-test moto-test crash-matrix races soak lost-work mutants emulators oldest-test newest-test

clients-test: $(STAMP)  ## environments made by uv, pip, poetry, pdm and others, with each Python that is here
	$(BIN)/python -m pytest tests/clients --timeout 600

demo: $(STAMP)  ## provision a cluster in the sandbox, run flows/quickstart.py on it, tear it down
	PREFECT_LOGGING_LEVEL=$${PREFECT_LOGGING_LEVEL:-WARNING} \
	PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=$${PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS:-120} \
	  $(BIN)/python flows/quickstart.py

test: $(STAMP)  ## the suite, three files at a time, but for what takes long and what needs more than Python
	$(BIN)/python -m pytest tests -m "not long" $(addprefix --ignore ,$(APART) $(LONG)) --numprocesses 3 --dist loadfile --durations 40

long-test: $(STAMP)  ## the rest of it
	$(BIN)/python -m pytest $(LONG) --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest tests -m long $(addprefix --ignore ,$(APART) $(LONG)) --numprocesses 2 --dist loadfile

again: $(STAMP)  ## what failed in the last run, one test after the other; .venv/second-tries.txt keeps their names
	$(BIN)/python -m pytest --cache-show cache/lastfailed | grep :: >> .venv/second-tries.txt || true
	$(BIN)/python -m pytest tests --last-failed --last-failed-no-failures none --timeout 600

netns-test: $(STAMP)  ## the firewall, in network namespaces; skipped where the kernel refuses them
	scripts/rootless $(BIN)/python -m pytest tests/netns $(addprefix --ignore ,$(filter tests/netns/%,$(LONG)))

relay-test: $(STAMP)  ## the task runner's tests on workers that have no way to the Prefect API
	PREFECT_COILED_WORKERS=$${PREFECT_COILED_WORKERS:-apart} scripts/rootless $(BIN)/python -m pytest tests/runner

ui-test: $(STAMP) .venv/.made-with-ui  ## Prefect's UI in a browser; needs chromium, says so without
	$(BIN)/python -m pytest tests/ui

vm-test: $(STAMP)  ## whole Linux machines: real systemd, real cloud-init; needs root (docs/machines.md)
	PREFECT_COILED_VM_TEST=$${PREFECT_COILED_VM_TEST:-1} $(BIN)/python -m pytest tests/vm --timeout 600 --durations 10

qemu-test: $(STAMP)  ## one cluster of whole virtual machines: kernel, firmware, NVMe; slow, needs root (docs/machines.md)
	PREFECT_COILED_QEMU_TEST=$${PREFECT_COILED_QEMU_TEST:-1} $(BIN)/python -m pytest tests/qemu --timeout 1500 --durations 10

screens: $(STAMP) .venv/.made-with-ui  ## the pictures of Prefect's UI in docs/img, taken anew
	$(BIN)/python scripts/take_screens.py

check: $(STAMP)  ## lint, format, types, import layers, docs; advisories, where ADVISORIES names a copy of them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/scan_lock.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .venv/site

build: $(STAMP)  ## what is published, in dist: a wheel, a source archive, and their bill of materials (CycloneDX)
	$(BIN)/python -m uv build --quiet --out-dir dist
	$(BIN)/python scripts/write_sbom.py dist/prefect-dask-ec2.cdx.json

docs: $(STAMP)  ## the docs site, at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

upstream-test: $(STAMP)  ## prefect-dask's and Prefect's own tests on CoiledTaskRunner; distributed's on Cluster (CONTRIBUTING.md)
	[ -z "$$PREFECT_TESTS" ] || $(BIN)/uv pip install --quiet --no-deps --target .emulators/prefect respx "pytest-asyncio<1.5" \
	  opentelemetry-sdk opentelemetry-semantic-conventions opentelemetry-test-utils
	PREFECT_TESTS_NEED=$(CURDIR)/.emulators/prefect \
	  $(BIN)/python -m pytest tests/upstream/test_upstream.py tests/upstream/test_deploy.py tests/upstream/test_prefect.py --timeout 0

crash-matrix: $(STAMP)  ## each call that changes something, gone wrong in six ways, one after the other; hours
	PREFECT_COILED_MATRIX=all PREFECT_COILED_MATRIX_TABLE=$${PREFECT_COILED_MATRIX_TABLE:-$(CURDIR)/.venv/crash-matrix.jsonl} \
	  $(BIN)/python -m pytest tests/matrix/test_crash.py

races: $(STAMP)  ## two users at once: each held at each of his changes while the other goes on; hours
	PREFECT_COILED_RACES=all PREFECT_COILED_RACES_TABLE=$${PREFECT_COILED_RACES_TABLE:-$(CURDIR)/.venv/races.jsonl} \
	  $(BIN)/python -m pytest tests/matrix/test_races.py

lost-work: $(STAMP)  ## whatever is killed, at each moment of a flow: 640 cases one after the other; hours
	PREFECT_COILED_LOST_WORK=$${PREFECT_COILED_LOST_WORK:-all} \
	PREFECT_COILED_LOST_WORK_TABLE=$${PREFECT_COILED_LOST_WORK_TABLE:-$(CURDIR)/.venv/lost-work.json} \
	  $(BIN)/python -m pytest tests/lost_work

soak: $(STAMP)  ## 200 clusters, four at a time, while calls of AWS's fail here and there
	PREFECT_COILED_SOAK=all PREFECT_COILED_SOAK_TABLE=$${PREFECT_COILED_SOAK_TABLE:-$(CURDIR)/.venv/soak.json} \
	  $(BIN)/python -m pytest tests/soak

mutants: $(STAMP)  ## faults sown into the package, one at a time: the tests have to fail; MUTANTS="--only lease"
	$(BIN)/python -m tests.mutants --table $(CURDIR)/.venv/mutants.json $(MUTANTS)

moto-test: $(STAMP)  ## moto's own tests with the sandbox's corrections; MOTO_TESTS names a folder with its `tests`
	$(BIN)/uv pip install --quiet --no-deps --target .emulators/moto freezegun
	PYTHONPATH=$(CURDIR)/.emulators/moto $(BIN)/python -m pytest tests/upstream/test_moto.py --timeout 0

emulators: $(STAMP)  ## the life of an account on AWS emulators that others wrote; LocalEmu needs Python 3.13
	for name in ministack localemu; do \
	  [ -x .emulators/$$name/bin/$$name ] || { $(BIN)/uv venv --quiet --clear --python $(EMULATORS_PYTHON) .emulators/$$name \
	    && $(BIN)/uv pip install --quiet --python .emulators/$$name/bin/python $$name; } || exit 1; \
	done
	$(BIN)/python -m pytest tests/emulators --timeout 900

oldest-test: $(STAMP)  ## the library with the oldest dependencies that it says it works with
	$(call with_versions,oldest,lowest-direct)

newest-test: $(STAMP)  ## the same with the newest that are out: a release that breaks us is seen here
	$(call with_versions,newest,highest)

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
	rm -rf .venv .venv-oldest .venv-newest .emulators

$(STAMP): requirements.lock pyproject.toml scripts/environment
	scripts/environment "$(PYTHON)"
	@touch $@

.venv/.made-with-ui: requirements-ui.lock $(STAMP)
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-ui.lock
	@touch $@
