"""Where data come from: one value, made once by whoever starts the work, and handed to all that load."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSource:
    """Where data come from.

    Attributes:
        cache: The folder where fetched data are kept; None is the default one.
        hub: Whether a hub may be asked over the network.
        or_digits: Whether scikit-learn's digits may stand in for Fashion-MNIST where that is unavailable.
    """

    cache: Path | None = None
    hub: bool = True
    or_digits: bool = False

    @property
    def folder(self) -> Path:
        """The folder where fetched data are kept."""
        return default_cache() if self.cache is None else Path(self.cache)


def default_cache() -> Path:
    """Name the folder where fetched data are kept unless another is asked for.

    Returns:
        $ALIGNONCE_DATA, or else ~/.cache/alignonce.
    """
    return Path(os.environ.get("ALIGNONCE_DATA") or "~/.cache/alignonce").expanduser()
