"""The networks that the experiments train.

All but the GPT, which takes tokens, take raw pixels in [0, 1], shape (batch, channels, height, width), and
return logits, shape (batch, classes). Normalisation is part of the network, so that whoever perturbs its
input does so in pixels.
"""

from alignonce.experiments.models.building import (
    Normalise,
    build_language_model,
    build_model,
    build_run_model,
)
from alignonce.experiments.models.gpt import GPT
from alignonce.experiments.models.lstm import RowLSTM
from alignonce.experiments.models.mlp import MLP
from alignonce.experiments.models.resnet import ResNet18, SmallResNet
from alignonce.experiments.models.vgg import VGG
from alignonce.experiments.models.vit import ViT

__all__ = [
    "GPT",
    "MLP",
    "Normalise",
    "ResNet18",
    "RowLSTM",
    "SmallResNet",
    "VGG",
    "ViT",
    "build_language_model",
    "build_model",
    "build_run_model",
]
