"""The networks that the experiments train.

All take raw pixels in [0, 1], shape (batch, channels, height, width), and return logits, shape
(batch, classes). Normalisation is part of the network, so that whoever perturbs its input does so in pixels.
"""

from alignonce.experiments.models.building import build_model, build_run_model
from alignonce.experiments.models.mlp import MLP
from alignonce.experiments.models.normalise import Normalise
from alignonce.experiments.models.small_resnet import SmallResNet

__all__ = ["MLP", "Normalise", "SmallResNet", "build_model", "build_run_model"]
