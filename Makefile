# The commands of a developer. `make venv` creates .venv/ from the locked versions; the other targets do that first.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 2000
# Arguments for pytest or for the benchmarks, as in `make test ARGS="tests/stores -k claim"`.
ARGS ?=
# The image's name and base. Empty base: that of the Dockerfile if docker answers, otherwise one made from Debian's
# packages.
IMAGE ?=
BASE_IMAGE ?=
# The image for `make test-python`. Empty: python:3.13-slim if docker answers, otherwise Debian trixie.
PYTHON_IMAGE ?=
# 1: a test whose server is missing fails instead of being skipped.
REQUIRE_ALL ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
UV := $(BIN)/python tools/uv.py
INSTALL_PROJECT := $(UV) pip install --quiet --no-deps --reinstall-package scheduledjob \
	--build-constraints requirements-wheel.lock --editable .
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(UPGRADE)

.PHONY: help venv demo test test-python test-cluster e2e image image-report release lint types contracts check crds chart install-yaml docs site terminal simulate mutants chaos bench bench-cluster lock cluster node cluster-down \
	clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed  ## create .venv/ from requirements-dev.lock, with the project in editable mode

# Each file marks a completed step. The first step installs only uv, which installs the rest.
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
		echo "creating $(VENV) with $$("$$python" --version)"; "$$python" -m venv --clear $(VENV); \
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

demo: $(VENV)/.demo  ## run examples/*.yaml with the memory store and show what ran and what is next; press Ctrl-C to stop
	@$(BIN)/scheduledjob run -f examples/*.yaml

test: venv  ## run the tests, two at a time; with REQUIRE_ALL=1 skipped tests fail; ARGS go to pytest
	@REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/pytest -n 2 --dist worksteal --ignore=tests/cluster --ignore=tests/e2e $(ARGS)

test-python: venv  ## run the tests on another version of Python, in a container of PYTHON_IMAGE; ARGS go to pytest
	@$(BIN)/python -m tools.other_python --image "$(PYTHON_IMAGE)" -- $(ARGS)

test-cluster: venv  ## run the tests that need a real Kubernetes; the first time, it is built, which takes some minutes
	@$(BIN)/python -m tests.cluster.harness build || true
	@REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/pytest -n 2 --dist loadgroup tests/cluster $(ARGS)

image: venv  ## build the image with docker or buildah, and write it to a file for a node
	@$(BIN)/python -m image.build --image "$(IMAGE)" --base "$(BASE_IMAGE)"

image-report: venv  ## scan the image of `make image`, and measure its start on a node (root)
	@$(BIN)/python -m image.report

release: venv  ## write what is published for the tag of this commit to dist/: packages, chart, install.yaml, image
	@$(BIN)/python -m image.release

e2e: venv  ## build the image, install it with the chart on a node, upgrade, roll back and uninstall (root)
	@$(BIN)/python -m image.build
	@$(BIN)/python -m tests.cluster.harness build || true
	@REQUIRE_ALL=$(REQUIRE_ALL) $(BIN)/pytest tests/e2e $(ARGS)

check: lint types contracts  ## run lint, types and contracts

lint: venv  ## check rules and format with ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: venv  ## check types with mypy --strict
	@$(BIN)/mypy

contracts: venv  ## check with import-linter which layer imports which
	@$(BIN)/lint-imports

crds: venv  ## generate crds/, after a change of the models
	@$(BIN)/python -m scheduledjob.manifests.crd crds/scheduledjobs.scheduledjobs.dev.yaml
	@cp crds/scheduledjobs.scheduledjobs.dev.yaml charts/scheduledjob-operator/files/crd.yaml

chart: venv  ## generate the chart's README, after a change of its values
	@$(BIN)/python -m charts.readme charts/scheduledjob-operator

install-yaml: venv  ## generate install.yaml, the chart for installing without Helm
	@$(BIN)/python -m charts.install_yaml install.yaml

docs: venv  ## generate the pages and pictures of docs/ that come from the code
	@$(BIN)/python -m scheduledjob.kube.settings.settings_page docs/operator-settings.md
	@$(BIN)/python -m scheduledjob.web.metrics docs/metrics.md
	@$(BIN)/python -m docs.tools.crd_page docs/crd-reference.md
	@$(BIN)/python -m docs.tools.cli_page docs/cli-reference.md
	@$(BIN)/python -m docs.tools.pictures docs/pictures

terminal: venv  ## draw the terminal in README from a run of `make demo`
	@$(BIN)/python -m docs.tools.terminal docs/pictures/terminal.svg

site: $(VENV)/.docs  ## build the documentation as a site in build/site; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

simulate: venv  ## run SEEDS=2000 simulated histories of the engine, with faults
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

mutants: venv  ## change the program in random places, and report changes that no test notices; ARGS select some
	@$(BIN)/python tools/mutants.py $(ARGS)

MINUTES = 60
chaos: venv  ## break three replicas and Postgres for MINUTES=60, and check what became of every run; ARGS as --seed 7
	@$(BIN)/python -m bench.chaos --minutes $(MINUTES) $(ARGS)

bench: $(VENV)/.bench  ## run the benchmarks, with pgqueuer for comparison; ARGS select some
	@$(BIN)/python -m bench $(ARGS)

bench-cluster: venv  ## run the benchmarks of the operator on a real control plane; the first time, it is built
	@$(BIN)/python -m tests.cluster.harness build
	@$(BIN)/python -m bench.cluster $(ARGS)

lock: venv  ## update the lock files after a change of pyproject.toml; UPGRADE=--upgrade for newer versions
	@$(LOCK) pyproject.toml requirements-build.in --extra dev -o requirements-dev.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock -o requirements.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock --extra all -o requirements-image.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock --extra bench -o requirements-bench.lock
	@$(LOCK) pyproject.toml -c requirements-dev.lock --extra docs -o requirements-docs.lock
	@printf '%s\n' hatchling hatch-vcs editables | $(LOCK) - -c requirements-dev.lock -o requirements-wheel.lock
	@echo uv | $(LOCK) - -c requirements-dev.lock -o requirements-uv.lock

cluster: venv  ## start a Kubernetes control plane and print the line that sets KUBECONFIG
	@$(BIN)/python -m tests.cluster.harness up

node: venv  ## also start a node that runs Pods (root, Debian's containerd), and print how to load an image
	@$(BIN)/python -m tests.cluster.harness node

cluster-down: venv  ## stop what `make cluster` and `make node` started
	@$(BIN)/python -m tests.cluster.harness down

clean:  ## remove .venv/ and everything else that is generated
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
