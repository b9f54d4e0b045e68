"""Direct feedback alignment, as a rule; :mod:`alignonce.direct` puts it into a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from alignonce.rules.base import LearningRule, whole_number

__all__ = ["DirectFeedback"]


@dataclass(frozen=True)
class DirectFeedback(LearningRule):
    """Direct feedback alignment: the input h of each layer receives B·e, with e the error of the output.

    e is the gradient of the loss at the output of an output layer, whatever the loss. Output layers are
    those whose output the model returns, but for norms, activations and shortcuts on the way, and those that
    no other layer builds on. Of several outputs (two heads, an auxiliary one), h receives the sum of B·e over
    those that depend on it, each with a B of its own; one that is not in the loss adds nothing. A hidden
    state that is returned is an output too, whose e includes what later layers send: ``outputs`` leaves it
    out.

    B is random, fixed, and has one row for each element of an example's output and one column for each of
    its h: B·e has about the norm of e. Where output and h share their other dimensions, B acts on each token
    of a sequence and on each pixel of an image by itself. Needs a batch to learn the shapes, which is run
    with one example more to learn which dimension is the batch's:
    ``set_learning_rule(model, DirectFeedback(), inputs=batch)``.

    Within attention and recurrent layers, which are several layers in one, the inner feedback weights are
    those of :class:`RandomFeedback`. Skip connections without weights carry the errors of the layers that
    they skip; tapping whole blocks cuts these too.

    Source: Nøkland 2016, arXiv 1609.01596, equation 6.

    Args:
        taps: ``"layers"``, or names or globs of modules (say, residual blocks) whose inputs are tapped
            instead; what is inside keeps the learning rule that it has.
        seed: with the module's name, decides B.
        outputs: ``"returned"``, or names or globs of the output layers.
        max_bytes: the most that all B may take together; more is refused before any is made.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> summary = set_learning_rule(model, DirectFeedback(), inputs=torch.randn(32, 8))
        >>> [row.shape for row in summary.rows]  # B of each tapped input: (outputs, inputs of the layer)
        [(4, 8), (4, 16)]
    """

    taps: str | Sequence[str] = "layers"
    seed: int = 0
    outputs: str | Sequence[str] = field(default="returned", repr=False)
    max_bytes: int = field(default=2**30, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_number(self.seed, "seed"))
        for name in ("taps", "outputs"):
            value = getattr(self, name)
            if not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))

    @property
    def has_layer_feedback(self) -> bool:
        """No: its matrices belong to layers' inputs."""
        return False

    @property
    def has_direct_feedback(self) -> bool:
        """Yes."""
        return True

    def _feedback(self, w: Tensor, name: str, depth: int) -> Tensor:
        raise TypeError("direct feedback belongs to a layer's input, not to a forward weight")
