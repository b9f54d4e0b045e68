"""The Python code of README and docs runs as it stands, given the names that a reader brings."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alignonce

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("cheaper-than-backprop", "measuring", "other-tools", "rules")),
]
# docs/scaling.md needs several processes (tests/distributed); docs/transformers.md shows lines of a loop.


class MyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class MyLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.t() + self.bias


class MyNorm(nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt() * self.weight


class MyConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def brought(page: str) -> dict[str, Any]:
    """What a reader of a page has at hand."""
    x, y = torch.rand(16, 1, 4, 4), torch.arange(16) % 4
    model, rule = MyModel().eval(), alignonce.SoftAlignment()
    if page == "docs/measuring.md":
        alignonce.set_learning_rule(model, rule)
    return {name: getattr(alignonce, name) for name in alignonce.__all__} | {
        "nn": nn, "torch": torch, "MyModel": MyModel, "MyLinear": MyLinear, "MyNorm": MyNorm,
        "MyConv": MyConv, "model": model, "backpropagation_model": MyModel().eval(), "rule": rule,
        "x": x, "y": y, "batch": x, "batches": [(x, y)], "loss_fn": F.cross_entropy,
        "loss": Tensor.sum if page == "docs/other-tools.md" else F.cross_entropy,
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)
    assert blocks
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = brought(page)
        for block in blocks:
            exec(compile(block, page, "exec"), names)
