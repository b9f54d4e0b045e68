"""Models whose measures are known, and helpers of the tests."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignonce import LearningRule, set_learning_rule


class Quadratic(nn.Module):
    """Returns its only parameter w for each sample, so that the loss is a function of w alone."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), -1)


class QuadraticLoss:
    """½ wᵀA w, whose Hessian is A."""

    def __init__(self, a: Tensor) -> None:
        self.a = a

    def __call__(self, output: Tensor, targets: object) -> Tensor:
        return 0.5 * torch.einsum("ni,ij,nj->n", output, self.a, output).mean()


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A float64 matrix of these eigenvalues and random eigenvectors."""
    noise = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator(seed), dtype=torch.float64)
    basis = torch.linalg.qr(noise).Q
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Float64, with parameters that do not depend on the global random state."""
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 10
            noise = torch.randn(parameter.shape, generator=generator(seed), dtype=torch.float64)
            parameter.copy_(noise / fan_in**0.5)
            seed += 1
    return model


def mlp(inputs: int = 5, width: int = 7, classes: int = 3) -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes)))


def cnn() -> nn.Module:
    """Convolution, BatchNorm, in-place ReLU, dropout, a residual block: what real models are made of."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    return seeded(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            Block(),
            nn.Conv2d(4, 4, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )


def labelled(*shape: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch for classification."""
    return randn(*shape, seed=seed), torch.randint(classes, shape[:1], generator=generator(seed + 1))


def twin(model: nn.Module, rule: LearningRule) -> nn.Module:
    """A copy of a plain model, with a learning rule."""
    converted = copy.deepcopy(model)
    set_learning_rule(converted, rule)
    return converted


def half_squared_error(output: Tensor, targets: Tensor) -> Tensor:
    """Its gradient with respect to the output is (output − targets) / n."""
    return 0.5 * (output - targets).square().sum(dim=-1).mean()


cross_entropy = F.cross_entropy
