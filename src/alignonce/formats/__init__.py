"""Feedback formats: how a feedback weight that never changes is stored and multiplied.

Since B is fixed, it can be compressed once, when the learning rule is set, which backpropagation cannot do:
its W changes at each step. Of a step's three products (forward, gradient of W, error carried back) the third
becomes cheap.
"""

from alignonce.formats.base import FeedbackFormat
from alignonce.formats.dense import Dense
from alignonce.formats.float8 import FP8
from alignonce.formats.integers import Int4, Int8, Sign
from alignonce.formats.low_rank import LowRank
from alignonce.formats.sparse import SemiStructured, Sparse

__all__ = ["FP8", "Dense", "FeedbackFormat", "Int4", "Int8", "LowRank", "SemiStructured", "Sign", "Sparse"]
