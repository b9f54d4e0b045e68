"""Singular values of layers' backward maps against dense matrices."""

import numpy as np
import pytest
from torch import Tensor, nn

from alignonce import RandomFeedback
from alignonce.diagnostics import layer_singular_values
from helpers import references
from helpers.known_models import cross_entropy, half_squared_error, labelled, mlp, randn, seeded, twin


def test_a_linear_layers_are_those_of_its_matrices() -> None:
    model = twin(mlp(), RandomFeedback())
    found = layer_singular_values(model, labelled(4, 5), cross_entropy, count=3)
    w, b = model[0].weight.detach().numpy(), model[0].feedback.numpy()
    np.testing.assert_allclose(found["0"].exact, np.linalg.svd(w, compute_uv=False)[:3])
    np.testing.assert_allclose(found["0"].feedback, np.linalg.svd(b, compute_uv=False)[:3])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolutions_are_those_of_its_dense_matrix(kind: type[nn.Module], batched: bool) -> None:
    layer = twin(seeded(kind(2, 4, 3, stride=2, padding=1, groups=2)), RandomFeedback())
    x = randn(3, 2, 5, 5) if batched else randn(2, 5, 5)
    output = layer(x).detach()
    size = output[0].numel() if batched else output.numel()
    units = np.eye(size).reshape(size, *output.shape[-3:])
    settings = {"stride": [2, 2], "dilation": [1, 1], "groups": 2}
    settings |= {"padding": [1, 1]} if kind is nn.ConvTranspose2d else {"pads": [(1, 1), (1, 1)]}
    reference = references.conv_transpose if kind is nn.ConvTranspose2d else references.conv
    found = layer_singular_values(layer, (x, output * 0), half_squared_error, count=4)["weight"]
    weight = layer.weight.detach().numpy()
    for values, matrix in ((found.exact, weight), (found.feedback, layer.feedback.numpy())):
        inputs = np.zeros((size, 2, 5, 5))
        dense = reference(inputs, weight, matrix, np.zeros(4), units, **settings).grad_inputs[0]
        expected = np.linalg.svd(dense.reshape(size, -1), compute_uv=False)[:4]
        np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_a_bilinear_layers_are_those_at_the_first_sample() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = nn.Bilinear(3, 4, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.pair(a, b)

    model = seeded(Model())
    a, b = randn(2, 3), randn(2, 4, seed=1)
    found = layer_singular_values(model, ((a, b), randn(2, 5)), half_squared_error)["pair"]
    weight = model.pair.weight.detach().numpy()
    dense = np.concatenate([weight @ b[0].numpy(), np.einsum("oij,i->oj", weight, a[0])], axis=1)
    np.testing.assert_allclose(found.exact, np.linalg.svd(dense, compute_uv=False))
    assert found.feedback == found.exact  # a plain layer


def test_count_must_be_positive() -> None:
    with pytest.raises(ValueError, match="count must be at least 1"):
        layer_singular_values(mlp(), labelled(2, 5), cross_entropy, count=0)
