"""Independent random streams from the one seed of a run."""

import hashlib


def derived_seed(seed: int, purpose: str) -> int:
    """Return the seed of one purpose's own random stream.

    Two generators with the same seed draw the same numbers. Were the forward weights and the feedback weights
    both drawn with a run's seed, random feedback would start out aligned with the weights it must not know.

    Args:
        seed: the seed of the run.
        purpose: what the stream is for, such as `"weights"`, `"batches"` or `"feedback"`.

    Returns:
        A seed in [0, 2**63), the same on every machine and in every version of Python.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
