# The whole project in a few words: make demo, make test, make lint. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?=
SEED ?=
BENCHES ?= makespan fleet busy latency paths growth replay_latency

.PHONY: help setup demo test schemas metrics docs faults guards bench bench-detector sbom audit-dependencies lint format lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## create .venv with the pinned dependencies

$(VENV)/.ready: requirements.lock ops/bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "stream_worker needs Python 3.11 or newer: name one with  make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r ops/bootstrap.lock
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## photos in, 3D objects out: the whole service on a private Kafka (IMAGES=folder for your own photos)
	$(BIN)/stream-worker demo $(if $(IMAGES),--images "$(IMAGES)")

test: setup ## the whole suite, against a real Apache Kafka and a real S3 server
	$(BIN)/python -m pytest $(ARGS)

schemas: setup ## write schemas/ anew from events.py and topics.py
	$(BIN)/python -m stream_worker.contract
	$(BIN)/python -m stream_worker.asyncapi

metrics: setup ## write ops/metrics.md and the dashboards anew from the registry and their script
	$(BIN)/python -m ops.docs.metrics
	$(BIN)/python -m ops.grafana.render

docs: setup ## the topics and events as one HTML page, build/docs/asyncapi.html (needs npm)
	$(BIN)/python -m ops.docs.render build/docs

faults: setup ## the long fault run, about an hour (SEED=n for one seed, IMAGES=n for fewer photos, SHORT=1 for a few minutes)
	$(BIN)/python -m tests.faults.long $(if $(SEED),--seeds $(SEED)) $(if $(IMAGES),--images $(IMAGES)) $(if $(SHORT),--short)

bench: setup ## how fast it is beside what could be done, as a page with plots (an hour and a quarter; BENCHES=names for some)
	@missed=; for name in $(BENCHES); do \
	  $(BIN)/python -m tests.benchmarks.$$name || missed="$$missed $$name"; \
	done; $(BIN)/python -m tests.benchmarks.page; \
	test -z "$$missed" || { echo "not all figures were reached:$$missed"; exit 1; }

bench-detector: setup ## images a second of the detector, beside its bare network and a plain loop (a quarter of an hour)
	$(BIN)/python -m tests.benchmarks.detector --network rooms-seg --images 400 --loop-images 100
	$(BIN)/python -m tests.benchmarks.detector --network yolo11l-seg

guards: setup ## take out each guard of the guarantees, and see its tests fail: half an hour
	$(BIN)/python -m tests.guards.run $(GUARD)

AUDIT := build/audit
SBOM := build/sbom.cdx.json

$(AUDIT)/.ready: ops/audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r ops/audit.lock
	@touch $@

sbom: $(AUDIT)/.ready ## every pinned dependency with its hashes, as CycloneDX: build/sbom.cdx.json
	$(AUDIT)/bin/cyclonedx-py requirements --output-reproducible --of JSON -o $(SBOM) requirements.lock

audit-dependencies: $(AUDIT)/.ready ## known vulnerabilities of the pins (asks a service over the network)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --require-hashes -r requirements.lock

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## let ruff rewrite the layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## pin every dependency again, with hashes and without an index's name
	$(BIN)/uv pip compile -q pyproject.toml --group dev --extra detector --extra demo --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --upgrade -o requirements.lock
	$(BIN)/uv pip compile -q tests/benchmarks/quix.in --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --upgrade -o tests/benchmarks/quix.lock
	echo uv | $(BIN)/uv pip compile -q - --generate-hashes --no-header --no-annotate --upgrade -o ops/bootstrap.lock
	printf 'cyclonedx-bom\npip-audit\n' | $(BIN)/uv pip compile -q - --python-version 3.11 --generate-hashes --no-header \
	  --no-annotate --upgrade -o ops/audit.lock

clean: ## remove what make created here
	rm -rf $(VENV) demo-out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
