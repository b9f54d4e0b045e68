"""Tables of numbers for the runs: scikit-learn's bundled data sets, which need no download."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignonce.experiments.data.image_data import DataUnavailable, stratified_split

_LOADERS = {"diabetes": "load_diabetes", "breast-cancer": "load_breast_cancer", "wine": "load_wine"}
_REGRESSION = frozenset({"diabetes"})
KNOWN_TABLES = tuple(_LOADERS)
_TEST_PART = 5


@dataclass(frozen=True, eq=False)
class TableData:
    """Rows of numbers and what is to be predicted from them.

    Inputs are float32, (rows, columns). Targets are int64 classes, (rows,), or for a regression float32 of
    mean 0 and variance 1 over the training rows, (rows,).
    """

    name: str
    source: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: tuple[str, ...]
    """Empty for a regression."""


def load_table(name: str, *, limit: int | None = None) -> TableData:
    """Load a table.

    Args:
        name: "diabetes" (regression: the disease's progress), "breast-cancer" or "wine" (classes).
        limit: keep only the first so many training and test rows.

    Returns:
        The data, four fifths of the rows for training.

    Raises:
        ValueError: the name is unknown.
        DataUnavailable: scikit-learn is missing.
    """
    if name not in _LOADERS:
        raise ValueError(f"data must be {' or '.join(KNOWN_TABLES)} with task tabular, got {name!r}")
    try:
        load: Callable[[], Any] = getattr(importlib.import_module("sklearn.datasets"), _LOADERS[name])
    except ImportError as error:
        raise DataUnavailable(
            f"the tables are scikit-learn's, which is missing ({error}); pip install 'alignonce[experiments]'"
        ) from error
    bunch = load()
    inputs = torch.from_numpy(np.asarray(bunch.data, dtype=np.float32))
    if name in _REGRESSION:
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).numpy()
        test, train = np.split(order, [len(order) // _TEST_PART])
        values = torch.from_numpy(np.asarray(bunch.target, dtype=np.float32))
        targets = (values - values[train].mean()) / values[train].std(correction=0)
        classes: tuple[str, ...] = ()
    else:
        train, test = stratified_split(bunch.target)
        targets, classes = (
            torch.from_numpy(bunch.target.astype(np.int64)),
            tuple(map(str, bunch.target_names)),
        )
    train, test = train[:limit], test[:limit]
    return TableData(
        name, f"scikit-learn's {name} data",
        inputs[train], targets[train], inputs[test], targets[test], classes,
    )  # fmt: skip
