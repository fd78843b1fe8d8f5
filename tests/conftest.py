"""Options of the whole suite. `--run-slow` runs what takes minutes and gives Hypothesis 100 examples
instead of 15; the examples are the same in every run."""

import os

import hypothesis
import pytest

# Before Numba is loaded: what runs in parallel is tested on a machine with one core too.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))

COMMON = dict(deadline=None, derandomize=True, database=None,
              suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.register_profile("default", max_examples=15, **COMMON)
hypothesis.settings.register_profile("thorough", max_examples=100, **COMMON)


@pytest.fixture
def kernels_setting(monkeypatch):
    """A function that sets MINIDEEP_KERNELS, as if this process had been started with it."""
    from kernels.ladder import ENVIRONMENT, environment

    def start_with(setting):
        monkeypatch.setenv(ENVIRONMENT, setting)
        environment.cache_clear()

    yield start_with
    environment.cache_clear()


@pytest.fixture
def on_the_cpu():
    """For what is about NumPy's arrays: tensors are made there, whatever MINIDEEP_DEVICE says."""
    import minideep

    with minideep.device("cpu"):
        yield


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")


def pytest_configure(config):
    slow = config.getoption("--run-slow")
    hypothesis.settings.load_profile("thorough" if slow else "default")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--run-slow"):
        skip = pytest.mark.skip(reason="slow; runs with --run-slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
