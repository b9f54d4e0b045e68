"""Settings of all tests."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# What is drawn is the same each time, so that a test that passed does not fail for nothing. To look for more:
# ALIGNONCE_FUZZ_SECONDS=60 pytest tests/fuzz
EXPLORING = "ALIGNONCE_FUZZ_SECONDS" in os.environ
settings.register_profile(
    "alignonce",
    deadline=None,
    derandomize=not EXPLORING,
    max_examples=2000 if EXPLORING else 50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("alignonce")
# The tests' tensors are tiny, and pytest-xdist fills the cores.
torch.set_num_threads(1)


_SLOW_FOLDERS = {"browser", "distributed", "fuzz", "situations"}
_SLOW_FILES = {
    "test_matrix.py", "test_packaging.py", "test_benchmarks.py", "test_examples.py", "test_gathering.py",
}  # fmt: skip
# All measures of all runs, with all figures.
_SLOW_FIXTURES = {"analysed"}


def pytest_runtest_setup() -> None:
    """Have what tests draw without a seed of their own be the same each time, too."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what the inner loop leaves out: pytest -m "not slow"."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        if (
            any(item.get_closest_marker(name) for name in ("browser", "distributed", "faults"))
            or place.parts[0] in _SLOW_FOLDERS
            or place.name in _SLOW_FILES
            or _SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))
            or any(word in item.name for word in ("compil", "inductor"))
        ):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def fresh_compiler() -> None:
    """No compiled code of earlier tests."""
    torch.compiler.reset()


# Ctrl-C is part of what is tested; whoever starts the tests in the background has it ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
