# One command for each thing a user or a developer does; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3.11
VENV ?= .venv
ARGS ?=
GRIDS ?= tuning main rivals ablation parts momentum averaging fibecfed fibecfed-parts
ALGORITHM ?= fedpeptao
# A round of FibecFed's does more: so many take as long as FedPepTAO's twenty.
DEMO_fibecfed = --run-config rounds=13
BIN = $(VENV)/bin

.PHONY: help demo docker-demo ceiling compare test test-deployment test-fast check format clean python venv-demo venv-dev

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "make %-15s %s\n", $$1, $$2 }'
	@echo
	@echo "Settings:  make demo ARGS=\"--run-config 'rounds=3'\""
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) ALGORITHM=$(ALGORITHM) GRIDS=\"$(GRIDS)\""

demo: venv-demo ## run FedPepTAO on the embedded data with the packaged model (ALGORITHM=fibecfed: that; ARGS: of fedpeptao run)
	@exec $(BIN)/fedpeptao run . $(if $(filter-out fedpeptao,$(ALGORITHM)),--run-config methods/$(ALGORITHM).toml $(DEMO_$(ALGORITHM))) $(ARGS)

docker-demo: ## the same with a server and three nodes in containers, TLS and keys (variables: docker/demo.sh)
	@exec docker/demo.sh

ceiling: venv-demo ## train centrally with as many optimiser steps, at a rate that suits that (ARGS: of fedpeptao ceiling)
	@exec $(BIN)/fedpeptao ceiling --run-config 'learning-rate=0.01' $(ARGS)

compare: venv-demo ## run the grids of docs/RESULTS.md and make its tables (GRIDS; ARGS: of fedpeptao compare)
	@failed=0; for grid in $(GRIDS); do $(BIN)/fedpeptao compare results/compare/$$grid.yaml $(ARGS) || failed=1; done; exit $$failed

test: venv-dev ## all tests but those of test-deployment (ARGS: of pytest)
	@exec $(BIN)/python -m pytest $(ARGS)

test-deployment: venv-dev ## faults of real processes and lines, with TLS and keys: twenty minutes (ARGS: of pytest)
	@exec $(BIN)/python -m pytest -m machines $(ARGS) tests/test_deployment.py tests/test_machine_faults.py

test-fast: venv-dev ## the tests that start neither Ray nor servers and take no minutes (ARGS: of pytest)
	@exec $(BIN)/python -m pytest -m "not slow" $(ARGS)

check: venv-dev ## lint, format and type checks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: venv-dev ## format the code, mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove .venv, caches and build output (run folders stay)
	@rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two environments; the second holds the first. Nothing is installed while pyproject.toml's requirements and
# constraints.txt are the ones installed last (a stamp file in the environment remembers them).
venv-demo venv-dev: venv-%: python
	@$(PYTHON) .ci/install.py $(VENV) $*

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) does not run here, or is older than 3.11: install Python 3.11," \
		     "or name one with make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
