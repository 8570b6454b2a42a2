# Everything that a developer types. `make venv` makes .venv/ from the locked versions; the other targets do that first.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 2000
# What to pass on to pytest or to the benchmarks, as in `make test ARGS="tests/stores -k claim"`.
ARGS ?=
# The image: its name, and what it is built on; empty: the Dockerfile's base where docker answers, else one that is made
# from Debian's packages.
IMAGE ?=
BASE_IMAGE ?=
# What `make test-python` runs the tests in; empty: python:3.13-slim where docker answers, else Debian trixie.
PYTHON_IMAGE ?=
# 1: a test that lacks its server fails instead of being skipped.
REQUIRE_ALL ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
UV := $(BIN)/python tools/uv.py
INSTALL_PROJECT := $(UV) pip install --quiet --no-deps --reinstall-package scheduledjob \
	--build-constraints requirements-wheel.lock --editable .
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(UPGRADE)

.PHONY: help venv demo test test-python test-cluster e2e image image-report release lint types contracts check crds chart install-yaml docs site terminal simulate bench bench-cluster lock cluster node cluster-down \
	clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed  ## make .venv/ from requirements-dev.lock, with the project editable in it

# Each file marks a step that is done. The first is uv alone, which installs the rest.
$(VENV)/.uv: requirements-uv.lock
	@python=; for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
		if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "no Python 3.11 or newer with venv and pip found: install one (Debian: apt-get install python3-venv)," \
			"or name it: make venv PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making $(VENV) with $$("$$python" --version)"; "$$python" -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-uv.lock
	@touch $@

$(VENV)/.demo: $(VENV)/.uv requirements.lock pyproject.toml
	@$(UV) pip install --require-hashes -r requirements.lock
	@$(INSTALL_PROJECT)
	@touch $@

$(VENV)/.installed: $(VENV)/.uv requirements-dev.lock pyproject.toml
	@$(UV) pip sync --require-hashes requirements-dev.lock
	@$(INSTALL_PROJECT)
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.installed requirements-bench.lock
	@$(UV) pip install --require-hashes -r requirements-bench.lock
	@touch $@

$(VENV)/.docs: $(VENV)/.installed requirements-docs.lock
	@$(UV) pip install --require-hashes -r requirements-docs.lock
	@touch $@

demo: $(VENV)/.demo  ## run examples/*.yaml with the memory store and show what ran and what is next; Ctrl-C ends it
	@$(BIN)/scheduledjob run -f examples/*.yaml

test: venv  ## run the tests, two at a time; REQUIRE_ALL=1 fails what it would skip, ARGS go to pytest
	@REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/pytest -n 2 --dist worksteal --ignore=tests/cluster --ignore=tests/e2e $(ARGS)

test-python: venv  ## run the tests on another version of Python, in a container of PYTHON_IMAGE; ARGS go to pytest
	@$(BIN)/python -m tools.other_python --image "$(PYTHON_IMAGE)" -- $(ARGS)

test-cluster: venv  ## run the tests that need a real Kubernetes; the first time builds one, in some minutes
	@$(BIN)/python -m tests.cluster.harness build || true
	@REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/pytest -n 2 --dist loadgroup tests/cluster $(ARGS)

image: venv  ## build the image with docker or buildah, and write it to a file for a node
	@$(BIN)/python -m image.build --image "$(IMAGE)" --base "$(BASE_IMAGE)"

image-report: venv  ## scan the image of `make image`, and measure how it starts on a node (root)
	@$(BIN)/python -m image.report

release: venv  ## what is published of the tag of this commit, into dist/: packages, chart, install.yaml, image
	@$(BIN)/python -m image.release

e2e: venv  ## build the image, install it with the chart on a node, upgrade, roll back and uninstall (root)
	@$(BIN)/python -m image.build
	@$(BIN)/python -m tests.cluster.harness build || true
	@REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/pytest tests/e2e $(ARGS)

check: lint types contracts  ## lint, types and contracts

lint: venv  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: venv  ## mypy, strict
	@$(BIN)/mypy

contracts: venv  ## import-linter: which layer may import which
	@$(BIN)/lint-imports

crds: venv  ## write crds/ again after a change to the models
	@$(BIN)/python -m scheduledjob.manifests.crd crds/scheduledjobs.scheduledjobs.dev.yaml
	@cp crds/scheduledjobs.scheduledjobs.dev.yaml charts/scheduledjob-operator/files/crd.yaml

chart: venv  ## write the chart's README again after a change to its values
	@$(BIN)/python -m charts.readme charts/scheduledjob-operator

install-yaml: venv  ## write install.yaml, the chart for those without Helm, again
	@$(BIN)/python -m charts.install_yaml install.yaml

docs: venv  ## write the pages and pictures of docs/ again that are made from the code
	@$(BIN)/python -m scheduledjob.kube.settings.settings_page docs/operator-settings.md
	@$(BIN)/python -m scheduledjob.web.metrics docs/metrics.md
	@$(BIN)/python -m docs.tools.crd_page docs/crd-reference.md
	@$(BIN)/python -m docs.tools.cli_page docs/cli-reference.md
	@$(BIN)/python -m docs.tools.pictures docs/pictures

terminal: venv  ## draw the terminal of README again, from a run of `make demo`
	@$(BIN)/python -m docs.tools.terminal docs/pictures/terminal.svg

site: $(VENV)/.docs  ## build the documentation as a site into build/site, strictly, without network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

simulate: venv  ## run SEEDS=2000 simulated histories of the engine, faults and all
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

bench: $(VENV)/.bench  ## measure against the bars and against pgqueuer; ARGS choose what
	@$(BIN)/python -m bench $(ARGS)

bench-cluster: venv  ## measure the operator on a real control plane, on two cores; the first time builds one
	@$(BIN)/python -m tests.cluster.harness build
	@$(BIN)/python -m bench.cluster $(ARGS)

lock: venv  ## write the lock files again after a change to pyproject.toml; UPGRADE=--upgrade for newer versions
	@$(LOCK) pyproject.toml requirements-build.in --extra dev -o requirements-dev.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock -o requirements.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock --extra all -o requirements-image.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock --extra bench -o requirements-bench.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock --extra docs -o requirements-docs.lock
	@printf '%s\n' hatchling hatch-vcs editables | $(LOCK) - -c requirements-dev.lock -o requirements-wheel.lock
	@echo uv | $(LOCK) - -c requirements-dev.lock -o requirements-uv.lock

cluster: venv  ## start a Kubernetes control plane and print the line that sets KUBECONFIG
	@$(BIN)/python -m tests.cluster.harness up

node: venv  ## start its node too, so that Pods run (root, Debian's containerd), and say how an image gets there
	@$(BIN)/python -m tests.cluster.harness node

cluster-down: venv  ## end what `make cluster` and `make node` started
	@$(BIN)/python -m tests.cluster.harness down

clean:  ## remove .venv/ and everything else that can be made again
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
