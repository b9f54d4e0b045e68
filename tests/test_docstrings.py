"""The example in the docstring of each public name does what it says."""

import doctest
import inspect

import pytest
import torch
from torch import nn

import alignonce

NAMESPACE = {name: getattr(alignonce, name) for name in alignonce.__all__} | {"nn": nn, "torch": torch}


@pytest.mark.parametrize("name", alignonce.__all__)
def test_the_example_of_a_public_name_runs(name: str) -> None:
    docstring = inspect.getdoc(NAMESPACE[name]) or ""
    example = doctest.DocTestParser().get_doctest(docstring, dict(NAMESPACE), name, None, None)
    assert example.examples, f"{name} has no example"
    runner = doctest.DocTestRunner()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        runner.run(example)
    assert not runner.failures
