# One entry point for people and for CI; `make` alone prints this list.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= .cdds
# Three workers keep two cores busy while system tests wait. A test module stays in one worker, for its fixtures.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Images set it to stay small; here every service that a test starts would compile all its modules again.
unexport PYTHONDONTWRITEBYTECODE
RESOLVE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header
COMPILE := $(RESOLVE) pyproject.toml

.PHONY: help
help: ## Show this list
	@awk -F':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml requirements.lock services/exporter/pipeline/_rows.c
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@rm -f services/exporter/pipeline/_rows*.so # of an earlier version, and it would outlive a build that fails
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(VENV)/.rivals: requirements-rivals.lock $(VENV)/.installed
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-rivals.lock
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## Make .venv with the locked dependencies

.PHONY: lock
lock: $(VENV)/.installed ## Resolve pyproject.toml into the lock files again
	$(COMPILE) --extra local --extra demo --extra otel --extra bench --extra dev -o requirements.lock
	$(COMPILE) --extra bench --extra rivals -c requirements.lock -o requirements-rivals.lock
	$(COMPILE) --extra otel -c requirements.lock -o deploy/image/runtime.lock
	$(COMPILE) --extra otel --extra demo -c requirements.lock -o deploy/image/demo.lock
	$(RESOLVE) --group build -o deploy/image/build.lock

.PHONY: demo
demo: install ## One export from job to decrypted rows, then stop
	@$(BIN)/cdds demo

.PHONY: up
up: install ## Start the local stack and keep it running in the background
	@$(BIN)/cdds up --data $(DATA) --demo-data --detach

.PHONY: down
down: install ## Stop the local stack
	@$(BIN)/cdds down --data $(DATA)

.PHONY: test
test: install ## The tests that need nothing but Python
	$(BIN)/pytest $(PARALLEL) -m "not apache and not faults and not slow and not docker"

.PHONY: test-apache
test-apache: install ## The system tests on Apache Kafka (CDDS_TEST_KAFKA, Docker, or Maven and Java 17)
	$(BIN)/pytest $(if $(CDDS_TEST_KAFKA),,$(PARALLEL)) -m "apache and not slow and not faults"

.PHONY: test-docker
test-docker: install ## The image and the compose file on a Docker engine: the demo, and every part killed in the middle of a run
	CDDS_REQUIRE_DOCKER=1 $(BIN)/pytest -m docker tests/deploy/docker

SEEDS ?= 1000

.PHONY: simulate
simulate: install ## Virtual years of the scheduler with faults: SEEDS=1000 of them, or the one of SEED=1234
	$(BIN)/python -m tests.simulation $(if $(SEED),$(SEED),--seeds $(SEEDS))

.PHONY: format
format: install ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lint
lint: install ## Format, lint, types and import contracts, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

.PHONY: check
check: install ## Everything a commit must pass: lint beside test, then test-apache
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line lint test
	@$(MAKE) --no-print-directory test-apache

.PHONY: test-slow
test-slow: install ## Every crash point, every fault of source and store, broker losses and short outages
	$(BIN)/pytest -m "slow and not faults"

.PHONY: faults
faults: install ## The real five-minute outages and what takes as long
	$(BIN)/pytest -m "faults"

MINUTES ?= 20

.PHONY: soak
soak: install ## A week of load with faults in MINUTES=20, SEED=7: nothing may be wrong, nothing may grow (soak.json)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(or $(SEED),7)

.PHONY: rehearse-upgrade
rehearse-upgrade: install ## From version FROM=26fe8a2 to this one and back, service by service, under load
	$(BIN)/python -m tests.operate.upgrade $(if $(FROM),--from $(FROM))

.PHONY: screenshots
screenshots: install ## Every page of the console, light and dark, on a laptop and on a phone; needs Chromium
	$(BIN)/python -m tests.console.browser.screenshots

.PHONY: bench-export
bench-export: install $(VENV)/.rivals ## Export 2 million rows beside raw COPY, a shell pipeline, dlt and sling; memory up to 5 million
	$(BIN)/python -m bench.export

.PHONY: bench-outbox
bench-outbox: install ## Outbox relay throughput and commit-to-consumer latency on Apache Kafka
	$(BIN)/python -m bench.outbox

.PHONY: bench-api
bench-api: install ## POST and GET /jobs at a steady 500 requests a second, beside a bare FastAPI and asyncpg
	$(BIN)/python -m bench.api

.PHONY: bench-scheduler
bench-scheduler: install ## 10,000 and 100,000 jobs due at one boundary among a million, beside APScheduler
	$(BIN)/python -m bench.scheduler

.PHONY: bench-console
bench-console: install ## First pages of 100,000 jobs and 10 million executions, and what 200 open pages with live updates cost
	$(BIN)/python -m bench.console

.PHONY: bench-history
bench-history: install ## Catching up, lag, lists among 10 million executions, and 500 readers of the stream
	$(BIN)/python -m bench.history

.PHONY: bench-capacity
bench-capacity: install ## What a run costs each service in CPU time, and leaves behind in bytes
	$(BIN)/python -m bench.capacity
