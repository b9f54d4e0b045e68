"""Settings of all tests."""

import os
import signal

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


@pytest.fixture
def fresh_compiler() -> None:
    """No compiled code of earlier tests."""
    torch.compiler.reset()


# Ctrl-C is part of what is tested; whoever starts the tests in the background has it ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
