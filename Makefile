# All that is needed is make and Python 3.11+ (`make PYTHON=python3.12 test` picks another one).
# The first target that needs it builds the environment `.venv`.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slow lint venv clean

demo: $(INSTALLED)
	$(BIN)/namm run configs/burgers.yaml --scale demo

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements/ci-constraints.txt requirements/install.sh
	@$(PYTHON) -c 'import sys; sys.exit("namm needs Python 3.11 or newer, got " \
		+ sys.version.split()[0] + ": name one with PYTHON=.") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	sh requirements/install.sh $(BIN)/python
	touch $@

# Data and runs are kept: they are dear.
clean:
	rm -rf .venv build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
