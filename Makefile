# make demo    track an object in each of two bundled videos
# make test    the tests (make test-all: the long ones too; test-gpu: on a GPU)
# Everything is installed into .venv on the first call; PYTHON=python3.12 chooses another Python.

PYTHON ?= python3
PEERS ?=
BIN = .venv/bin

.PHONY: demo test test-all test-gpu lint clean

demo: .venv/installed
	$(BIN)/python -m tracker demo

# Each of the workers uses one core: more threads than cores only get in each other's way.
TEST = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: .venv/installed-dev
	$(TEST) -m "not slow and not gpu"

test-all: .venv/installed-dev
	$(TEST) --run-slow -m "not gpu"

test-gpu: .venv/installed-dev
	$(BIN)/python -m pytest -m gpu

lint: .venv/installed-dev
	$(BIN)/python -m ruff check --isolated --select E,F,W --ignore E402,E731,E741,F403 --line-length 106 \
	  --per-file-ignores '__init__.py:F401' kernels minideep tracker tests examples

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "minideep needs Python 3.10 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || $(PYTHON) -m virtualenv .venv || { rm -rf .venv; \
	  echo "This Python cannot make a virtual environment; on Debian and Ubuntu this mends it:"; \
	  echo "    apt-get install python3-venv"; exit 1; }

.venv/installed: .venv/bin/pip setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# PEERS="torch keras" adds the libraries that some tests compare against.
.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(foreach peer,$(PEERS),'$(peer)')
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache demo-output
