"""Giving a model a learning rule: what is converted, and the conversion itself."""

from alignonce.conversion.convert import set_learning_rule
from alignonce.conversion.eligibility import Where

__all__ = ["Where", "set_learning_rule"]
