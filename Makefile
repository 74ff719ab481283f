# Each target does all of its own set-up; Python 3.10 or later and make are enough.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
MINUTES ?= 10
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo demo-django test lint bench soak clean

help:
	@echo "make demo         hold a focus group with ten personas, then again from the cache alone"
	@echo "make demo-django  chat on a Django site, without a model (ARGS=--check looks by itself)"
	@echo "make test         run the tests"
	@echo "make lint         check style, formatting and types"
	@echo "make bench        measure the speed and print it as ratios"
	@echo "make soak         kill focus groups at random and look what is lost (MINUTES=$(MINUTES))"
	@echo "make clean        remove everything that these made"

demo: $(VENV)/.ready
	@$(RUN) examples/demo.py $(ARGS)

demo-django: $(VENV)/.ready
	@$(RUN) examples/django_site/run_demo.py $(ARGS)

test: $(VENV)/.ready
	@$(RUN) -m pytest -n 2 --dist worksteal

lint: $(VENV)/.ready-lint
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

bench: $(VENV)/.ready
	@$(RUN) -m benchmarks

soak: $(VENV)/.ready
	@$(RUN) -m pytest -m soak
	@$(RUN) -m benchmarks.soak --minutes $(MINUTES)

clean:
	@rm -rf $(VENV) .wheel-venv .demo build dist *.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are touched last: an installation that was broken off is done again.
$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "tinytroupe needs Python 3.10 or later; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: setup.cfg pyproject.toml | $(RUN)
	@$(PIP) --editable '.[test]'
	@touch $@

$(VENV)/.ready-lint: $(VENV)/.ready
	@$(PIP) --editable '.[lint]'
	@touch $@
