"""The loop trains whatever fits the protocol."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from alignonce import SoftAlignment, set_learning_rule
from alignonce.experiments.training.loop import train
from helpers.small_runs import small_config


@dataclass(frozen=True)
class Regression:
    """Learning a random linear function of three numbers."""

    inputs: torch.Tensor
    targets: torch.Tensor

    @property
    def train_size(self):
        return len(self.inputs)

    def for_run(self, config, device):
        return Regression(self.inputs.to(device), self.targets.to(device))

    def build_model(self, config):
        generator = torch.Generator().manual_seed(config.seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
        set_learning_rule(model, SoftAlignment(0.5))
        return model

    def batch(self, examples):
        return self.inputs[examples], self.targets[examples]

    def loss(self, forward, batch):
        inputs, targets = batch
        error = forward(inputs) - targets
        return error.square().mean(), {"absolute_error": error.detach().abs().sum()}

    @torch.no_grad()
    def evaluate(self, model):
        return {"test_loss": float(F.mse_loss(model(self.inputs), self.targets))}


def test_task_without_classes_is_learnt_and_measured():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 3, generator=generator)
    task = Regression(inputs, inputs @ torch.tensor([[1.0], [-2.0], [0.5]]))
    result = train(small_config(learning_rate=0.02, epochs=30), task)
    assert result.status == "done"
    first, *_, last = result.metrics.series("test_loss")[1]
    assert last < first / 10
    assert len(result.metrics.series("train_absolute_error")[1]) == 30
    assert result.metrics.layers("cosine") == ["0", "2"]
    assert result.metrics.last("test_accuracy") is None
