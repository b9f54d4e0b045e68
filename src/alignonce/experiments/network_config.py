"""The part of a configuration that says which network."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Init = Literal["he", "glorot"]
HiddenNorm = Literal["none", "layer", "batch"]
# Depth and width mean different things in the two networks, so each has defaults of its own.
DEFAULT_SIZE = {"mlp": (10, 256), "resnet": (1, 24)}


class NetworkConfig(BaseModel):
    """Which network, and how its forward weights begin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["mlp", "resnet"] = Field(
        "mlp", description="Network: a ReLU multilayer perceptron, or a small residual CNN with BatchNorm."
    )
    depth: int | None = Field(
        None, ge=1, le=1000, description="mlp: hidden layers (10). resnet: blocks in each of 3 stages (1)."
    )
    width: int | None = Field(
        None, ge=1, le=65536, description="mlp: units in a hidden layer (256). resnet: first channels (24)."
    )
    init: Init = Field(
        "he", description="Initial forward weights: He (Kaiming normal, fan-in) or Glorot (Xavier normal)."
    )
    shortcuts: bool = Field(
        False,
        description="mlp: residual connections, x + relu(norm(linear(x))), around each hidden layer but the "
        "first. The norm's initial scale, or else the initial weights, are divided by depth.",
    )
    hidden_norm: HiddenNorm = Field("none", description="mlp: normalisation in hidden layers.")
    norms: Literal["exact", "fixed"] = Field(
        "exact",
        description="How errors pass the scale of norm layers: exact, as in backpropagation; fixed, "
        "through its initial value, so that it is not transported either.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_size(cls, values: Any) -> Any:
        """Write the defaults of depth and width out, so that a saved configuration says all."""
        if not isinstance(values, dict) or values.get("model", "mlp") not in DEFAULT_SIZE:
            return values
        depth, width = DEFAULT_SIZE[values.get("model", "mlp")]
        filled = dict(values)
        if filled.get("depth") is None:
            filled["depth"] = depth
        if filled.get("width") is None:
            filled["width"] = width
        return filled

    @model_validator(mode="after")
    def _options_of_the_model(self) -> Self:
        if self.model != "mlp":
            for option, off in (("shortcuts", False), ("hidden_norm", "none")):
                if getattr(self, option) != off:
                    raise ValueError(f"{option} is an option of the mlp only; leave it out with {self.model}")
        if self.shortcuts and self.depth == 1:
            raise ValueError(
                "shortcuts need a depth of at least 2: there is none around the first hidden layer"
            )
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Depth and width, as numbers."""
        depth, width = DEFAULT_SIZE[self.model]
        return self.depth or depth, self.width or width

    @property
    def has_norms(self) -> bool:
        """Whether the network has norm layers."""
        return self.model != "mlp" or self.hidden_norm != "none"
