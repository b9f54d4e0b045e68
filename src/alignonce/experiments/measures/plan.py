"""What to measure of saved runs, and on how much: the settings of an analysis.

The default sizes are such that six runs of the default network take a few minutes on two cores.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from alignonce.experiments.facts import Fact

GroupName = Literal[
    "alignment", "flow", "curvature", "landscape", "generalisation", "corruptions", "weights", "adversarial"
]
GradientAttack = Literal["fgsm", "pgd", "apgd"]
GROUP_NAMES: tuple[GroupName, ...] = get_args(GroupName)

DEFAULT_IMAGES: dict[GroupName, int] = {
    "alignment": 512,
    "flow": 512,
    "curvature": 256,
    "landscape": 256,
    "generalisation": 10_000,
    "corruptions": 500,
    "weights": 1000,
    "adversarial": 200,
}
"""Images of each group: of training images for the first four, of test images for the rest, both once for
generalisation."""

CHECKPOINT_IMAGES, CHECKPOINT_PRODUCTS = 128, 20


class AnalysisPlan(BaseModel):
    """What to measure, on how many images and how thoroughly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measures: tuple[GroupName, ...] = Field(
        GROUP_NAMES, min_length=1, description="Groups of measurements to take."
    )
    images: int | None = Field(
        None,
        ge=2,
        description="Images to measure each group on. None: "
        + ", ".join(f"{name} {number}" for name, number in DEFAULT_IMAGES.items())
        + ".",
    )
    checkpoints: bool = Field(
        False,
        description="Also measure alignment, flow and curvature at each checkpoint of the runs, and draw "
        "the paths of training.",
    )
    seed: int = Field(0, ge=0, description="Seed of random vectors, planes, corruptions and attacks.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device. auto: the GPU if there is one."
    )
    eigenvalues: int = Field(5, ge=1, description="curvature: leading eigenvalues to find.")
    products: int = Field(
        40,
        ge=6,
        description="curvature: Hessian-vector products for eigenvalues, trace and each density run.",
    )
    density_runs: int = Field(2, ge=1, description="curvature: random starts of the spectral density.")
    radius: float = Field(0.05, gt=0, allow_inf_nan=False, description="curvature: radius of sharpness.")
    adaptive_radius: float = Field(
        0.5, gt=0, allow_inf_nan=False, description="curvature: radius of adaptive sharpness."
    )
    points: int = Field(21, ge=3, description="landscape: points on a line, and on each side of the plane.")
    severities: tuple[int, ...] = Field(
        (1, 2, 3, 4, 5), min_length=1, description="corruptions: severities, from 1 to 5."
    )
    repeats: int = Field(3, ge=1, description="weights: random draws of each perturbation.")
    eps: tuple[float, ...] = Field(
        (2, 4, 8, 16), min_length=1, description="adversarial: L-inf radii, in 255ths of the pixel range."
    )
    attacks: tuple[GradientAttack, ...] = Field(
        ("fgsm", "pgd"), min_length=1, description="adversarial: gradient attacks; Square is always run too."
    )
    steps: int = Field(20, ge=1, description="adversarial: gradient steps per attack.")
    queries: int = Field(300, ge=1, description="adversarial: forward passes of Square per image.")

    @field_validator("measures")
    @classmethod
    def _measures_in_order(cls, names: tuple[GroupName, ...]) -> tuple[GroupName, ...]:
        return tuple(name for name in GROUP_NAMES if name in names)

    @field_validator("attacks")
    @classmethod
    def _attacks_in_order(cls, names: tuple[GradientAttack, ...]) -> tuple[GradientAttack, ...]:
        return tuple(name for name in get_args(GradientAttack) if name in names)

    @field_validator("severities")
    @classmethod
    def _known_severities(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not set(values) <= {1, 2, 3, 4, 5}:
            raise ValueError(f"severities must be in 1 to 5, got {' '.join(map(str, values))}")
        return tuple(sorted(set(values)))

    @field_validator("eps")
    @classmethod
    def _positive_radii(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value <= 255 for value in values):
            raise ValueError(f"eps must be above 0 and at most 255, got {' '.join(map(str, values))}")
        return tuple(sorted(set(values)))

    def at_checkpoints(self) -> Self:
        """Make the plan for checkpoints, of which there are many: on fewer images, with fewer products.

        Returns:
            The smaller plan.
        """
        images = CHECKPOINT_IMAGES if self.images is None else min(self.images, CHECKPOINT_IMAGES)
        products = min(self.products, CHECKPOINT_PRODUCTS)
        return self.model_copy(update={"images": images, "products": products, "eigenvalues": 1})

    def images_for(self, group: GroupName) -> int:
        """Say on how many images a group is measured, if there are so many.

        Args:
            group: its name.

        Returns:
            The number.
        """
        return DEFAULT_IMAGES[group] if self.images is None else self.images


class Step(NamedTuple):
    """`take` measures; `title` is shown meanwhile."""

    title: str
    take: Callable[[], Iterable[Fact]]
