# make demo    track an object in each of two bundled videos
# make test    the tests (make test-all: the long ones too; test-gpu: on a GPU)
# make course  the pages of examples/, in course-output/
# make peers   OpenCV's KCF and CSRT, to compare with
# Everything is installed into .venv on the first call; PYTHON=python3.12 chooses another Python.

PYTHON ?= python3
PEERS ?=
BIN = .venv/bin

.PHONY: demo test test-all test-gpu peers course lint clean

demo: .venv/installed
	$(BIN)/python -m tracker demo

# Each of the workers uses one core: more threads than cores only get in each other's way.
TEST = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

test: .venv/installed-dev
	$(TEST) -m "not slow and not gpu"

test-all: .venv/installed-dev
	$(TEST) --run-slow -m "not gpu"

# The whole suite with tensors on the GPU; CuPy must be there: pip install -e '.[cuda12]' or '.[cuda13]'
test-gpu: .venv/installed-dev
	MINIDEEP_DEVICE=cuda $(BIN)/python -m pytest --run-slow

# OpenCV's KCF and CSRT are only in its contrib wheel: it goes into .peers, in the version installed.
peers: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .peers \
	  opencv-contrib-python-headless==$$($(BIN)/python -c "import importlib.metadata as m; print(m.version('opencv-python-headless'))")

course: .venv/installed-dev
	$(BIN)/python -m examples build

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(if $(PEERS),$(BIN)/python -m pip install --quiet --disable-pip-version-check $(foreach peer,$(PEERS),'$(peer)'))
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache demo-output course-output .peers kernels/cuda/__pycache__
