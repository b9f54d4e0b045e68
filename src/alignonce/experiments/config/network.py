"""The part of a configuration that says which network."""

from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from alignonce.experiments.config.format_specs import KNOWN_FORMATS, canonical_format

ModelName = Literal["mlp", "resnet", "vgg", "resnet18", "vit", "lstm", "gpt"]
Init = Literal["he", "glorot", "lecun", "small"]
HiddenNorm = Literal["none", "layer", "batch"]
FORMAT_HELP = ", ".join(f"{kind.usage} ({kind.title})" for kind in KNOWN_FORMATS.values())


class _Defaults(NamedTuple):
    """Depth and width mean something else in each network, so each has defaults of its own."""

    depth: int
    width: int
    init: Init = "he"
    depths: tuple[int, ...] = ()
    """The depths that there are; none if any will do."""
    head_width: int = 0
    """Numbers for each attention head; 0 for a network without."""


_DEFAULTS: dict[str, _Defaults] = {
    "mlp": _Defaults(10, 256),
    "resnet": _Defaults(1, 24),
    "vgg": _Defaults(11, 64, depths=(11, 13, 16, 19)),
    "resnet18": _Defaults(18, 64, depths=(18,)),
    # As in the code of Dosovitskiy et al. 2021, arXiv 2010.11929; He's weights would make attention peaked.
    "vit": _Defaults(6, 192, "glorot", head_width=64),
    "lstm": _Defaults(1, 128, "glorot"),
    "gpt": _Defaults(4, 128, "lecun", head_width=32),
}
# Of each option of some networks only: the networks, and the value that means "not used".
_OPTIONS: dict[str, tuple[tuple[ModelName, ...], Any]] = {
    "shortcuts": (("mlp",), False),
    "hidden_norm": (("mlp",), "none"),
    "heads": (("vit", "gpt"), None),
    "context": (("gpt",), 128),
    "vocabulary": (("gpt",), 256),
}


class NetworkConfig(BaseModel):
    """Which network, and how its forward weights begin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelName = Field(
        "mlp",
        description="Network: a ReLU multilayer perceptron (mlp); a small residual CNN with BatchNorm "
        "(resnet); VGG with BatchNorm; ResNet-18; a vision transformer with patches of 4x4 pixels (vit); an "
        "LSTM that reads an image row by row; a GPT, for text.",
    )
    depth: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Depth, with its default. mlp: hidden layers (10); resnet: blocks in each of 3 stages "
        "(1); vgg: 11, 13, 16 or 19 (11); resnet18: 18; vit, gpt: blocks (6, 4); lstm: layers (1).",
    )
    width: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="Width, with its default. mlp: units in a hidden layer (256); resnet, vgg, resnet18: "
        "channels of the first stage (24, 64, 64); vit, gpt: size of the embedding (192, 128); lstm: units "
        "in a layer (128).",
    )
    init: Init | None = Field(
        None,
        description="Initial forward weights, all normal: He (variance 2 / fan-in), Glorot (2 / (fan-in + "
        "fan-out)), LeCun (1 / fan-in), or small (standard deviation 0.02, as in GPT-2). None: glorot for "
        "vit and lstm, lecun for gpt, he for the others.",
    )
    shortcuts: bool = Field(
        False,
        description="mlp: residual connections, x + relu(norm(linear(x))), around each hidden layer but the "
        "first. The norm's initial scale is divided by the depth; without norms, the initial weights are.",
    )
    hidden_norm: HiddenNorm = Field("none", description="mlp: normalisation in hidden layers.")
    heads: int | None = Field(
        None,
        ge=1,
        description="vit, gpt: attention heads; they must divide the width. None: width / 64 (vit) or / 32.",
    )
    context: int = Field(128, ge=1, le=2**20, description="gpt: length of the context, in tokens.")
    vocabulary: int = Field(
        256,
        ge=256,
        le=2**20,
        description="gpt: size of the vocabulary. 256: bytes; more: byte pairs learnt from the text.",
    )
    norms: Literal["exact", "fixed"] = Field(
        "exact",
        description="What norm layers multiply the error by, going back: exact, their scale, as in "
        "backpropagation; fixed, its initial value, so that the scale is not transported either.",
    )

    format: str = Field(
        "dense",
        description="How fixed feedback weights are stored (other rules keep theirs dense). "
        f"One of: {FORMAT_HELP}.",
    )
    where: tuple[str, ...] = Field(
        (),
        description="Names or globs of the layers that learn by the rule, such as 'head' or '*.attention.*'; "
        "the others learn by backpropagation. By default all.",
    )

    @field_validator("format")
    @classmethod
    def _known_format(cls, spec: str) -> str:
        return canonical_format(spec)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Write the defaults that depend on the network out, so that a saved configuration says all."""
        if not isinstance(values, dict):
            return values
        model = values.get("model", "mlp")
        if not isinstance(model, str) or model not in _DEFAULTS:
            return values
        default = _DEFAULTS[model]
        defaults: dict[str, Any] = {"depth": default.depth, "width": default.width, "init": default.init}
        if default.head_width:
            given = values.get("width")
            defaults["heads"] = max(
                1, (given if isinstance(given, int) else default.width) // default.head_width
            )
        return values | {name: value for name, value in defaults.items() if values.get(name) is None}

    @model_validator(mode="after")
    def _options_of_the_model(self) -> Self:
        for option, (models, unused) in _OPTIONS.items():
            if self.model not in models and getattr(self, option) != unused:
                only = " and ".join(models)
                raise ValueError(f"{option} is for {only} only; leave it out with {self.model}")
        depths = _DEFAULTS[self.model].depths
        if depths and self.depth not in depths:
            raise ValueError(
                f"depth of {self.model} must be {' or '.join(map(str, depths))}, got {self.depth}"
            )
        if self.shortcuts and self.depth == 1:
            raise ValueError("depth must be at least 2 with shortcuts: the first hidden layer has none")
        if self.heads is not None and self.size[1] % self.heads:
            raise ValueError(f"heads must divide the width {self.width}, got {self.heads}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Depth and width, as numbers."""
        defaults = _DEFAULTS[self.model]
        return self.depth or defaults.depth, self.width or defaults.width

    @property
    def size_words(self) -> str:
        """Depth and width in words, as they are meant in this network, such as "10 hidden layers of 256"."""
        depth, width = self.size
        counts: dict[str, tuple[int, str]] = {
            "mlp": (depth, "hidden layer"),
            "resnet": (3 * depth, "residual block"),
            "vgg": (depth - 3, "convolution"),  # the paper's layers are counted with three linear ones
            "resnet18": (8, "residual block"),
            "lstm": (depth, "layer"),
        }
        count, unit = counts.get(self.model, (depth, "block"))
        widest = {"resnet": 4, "vgg": 8, "resnet18": 8}.get(self.model)
        of_width = f"{width} to {widest * width} channels" if widest else f"{width}"
        return f"{count} {unit}{'' if count == 1 else 's'} of {of_width}"

    @property
    def first_weights(self) -> Init:
        """How forward weights begin."""
        return self.init or _DEFAULTS[self.model].init

    @property
    def has_norms(self) -> bool:
        """Whether the network has norm layers."""
        return self.model != "mlp" or self.hidden_norm != "none"
