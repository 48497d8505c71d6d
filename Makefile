# Each target sets up .venv first if it must.
SHELL := /bin/sh
PYTHON ?= python3
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
READY := .venv/.ready
# Two files of tests at once, begun in the order that tests/conftest.py gives.
PYTEST := python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
UV := .venv/bin/python tools/run_uv.py

.DEFAULT_GOAL := help
.PHONY: help setup doctor demo test test-slow test-all repro ui report serve faults bench lint \
	audit-deps plots-page format lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install the locked environment into .venv

$(READY): requirements.lock pyproject.toml
	@echo "Installing the locked environment into .venv (about 6 GB; once)."
	@test -d .venv || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/^    # via/p' requirements.lock | .venv/bin/python -m pip install --quiet \
	  --disable-pip-version-check --no-cache-dir --require-hashes -r /dev/stdin
	@$(UV) pip install --python .venv --require-hashes -r requirements.lock
	@$(UV) pip install --python .venv --no-deps --no-build-isolation -e .
	@touch $(READY)

doctor: ## what is missing on this machine, before or after setup
	PYTHONPATH=src $(firstword $(wildcard .venv/bin/python) $(PYTHON)) -m cxr.doctor

demo: $(READY) ## the whole pipeline on synthetic X-rays in .demo/, no network, some minutes
	cxr demo

repro: $(READY) ## run what has changed of the real pipeline (dvc repro), and tell what that was
	cxr repro

ui: $(READY) ## browse all runs in MLflow; DEMO=1 for the demo's, PORT=5000
	cxr ui $(if $(DEMO),--demo) --port $(or $(PORT),5000)

report: $(READY) ## every result on one page, reports/index.html; DEMO=1 for the demo's
	cxr report $(if $(DEMO),--demo)

serve: $(READY) ## answer HTTP requests with the champion; DEMO=1 for the demo's, PORT=5001
	cxr serve $(if $(DEMO),--demo) --port $(or $(PORT),5001)

test: $(READY) ## the fast tests
	$(PYTEST)

test-slow: $(READY) ## the slow tests: the pipeline, the README's commands, a browser
	$(PYTEST) -m slow

test-all: test test-slow ## all tests

faults: $(READY) ## kill stages, break stores and disks: what is lost (half an hour); ARGS=--help
	PYTHONPATH=src:tests python -m faults $(ARGS)

bench: $(READY) ## how fast the heavy parts are, as ratios to what one would write first; QUICK=1
	python -m bench $(if $(QUICK),--quick)

plots-page: $(READY) ## make .dvc/plots/page.html anew, with the locked Vega in it
	python .dvc/plots/page.py

lint: $(READY) ## ruff, mypy and bandit
	ruff check .
	ruff format --check .
	mypy
	bandit --quiet --configfile pyproject.toml --recursive src stages bench

audit-deps: $(READY) ## known vulnerabilities of what requirements.lock names (needs a network)
	$(UV) tool run pip-audit --disable-pip --require-hashes -r requirements.lock

format: $(READY) ## format the code
	ruff check --fix .
	ruff format .

lock: $(READY) ## resolve pyproject.toml into requirements.lock anew (needs a network)
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --all-extras --no-header \
	  pyproject.toml -o requirements.lock

clean: ## remove .venv and the demo; results stay
	rm -rf .venv .demo
