"""Claims about the solutions that rules end in: flatness, gradient flow, generalisation."""

from __future__ import annotations

from typing import Literal

from alignonce.experiments.claims.numbers import Quantity
from alignonce.experiments.claims.questions import Claim, Question, compared
from alignonce.experiments.setting import Setting

NAMES = {"fa": "random feedback", "bp": "backpropagation"}


def _smaller(
    name: str,
    section: str,
    sentence: str,
    measured: str,
    what: str,
    quantity: Quantity,
    kind: Literal["difference", "ratio"],
    unit: str = "",
    baselines: tuple[str, ...] = ("fa", "bp"),
) -> list[Question]:
    """The claim that a quantity is smaller than each baseline's; a difference of shares is in points."""
    unit, factor = ("points", 100.0) if unit == "points" else (unit, 1.0)
    how = "divided by" if kind == "ratio" else "less"
    return [
        compared(
            Claim(
                f"{name}-below-{baseline}", section, sentence.format(NAMES[baseline]),
                f"{measured} Of the rule, {how} that of {NAMES[baseline]}.", f"{kind} of {what}",
                1.0 if kind == "ratio" else 0.0, unit, "below", kind, baseline,
            ),
            quantity, factor=factor,
        )
        for baseline in baselines
    ]  # fmt: skip


_GAP_TRAP = "A network that learns little has little to lose: read it beside the accuracy."

SOLUTION_QUESTIONS = (
    *_smaller(
        "largest-eigenvalue", "Flatness",
        "“Flatter minima”: a smaller largest Hessian eigenvalue than {}.",
        "Curvature of the training loss in its steepest direction, by exact gradients.",
        "largest Hessian eigenvalues", Quantity("curvature", "eigenvalue", setting=Setting.of(rank=1)),
        "ratio",
    ),
    *_smaller(
        "hessian-trace", "Flatness", "“Flatter minima”: a smaller trace of the Hessian than {}.",
        "Curvature of the training loss summed over all directions, by exact gradients.",
        "traces of the Hessian", Quantity("curvature", "trace"), "ratio",
    ),
    *_smaller(
        "sharpness", "Flatness", "“Flatter minima”: less sharpness than {}.",
        "Rise of the training loss at the worst point that a step of fixed length reaches. It can be changed "
        "by rescaling weights alone; the adaptive form cannot.",
        "sharpness", Quantity("curvature", "sharpness"), "ratio",
    ),
    *_smaller(
        "adaptive-sharpness", "Flatness", "“Flatter minima”: less adaptive sharpness than {}.",
        "Rise of the training loss at the worst point nearby, where near is relative to the size of each "
        "weight.",
        "adaptive sharpness", Quantity("curvature", "adaptive_sharpness"), "ratio",
    ),
    *_smaller(
        "gradient-flow", "Gradient flow",
        "“Smoother gradient flow”: error norms vary less over depth than with {}.",
        "Variance over layers of the logarithm of the norm of the error that each layer sends back under its "
        "own rule: 0 if errors neither grow nor fade.",
        "log-variances", Quantity("flow", "flow.input_log_variance", setting=Setting.of(route="rule")),
        "ratio",
    ),
    *_smaller(
        "loss-barrier", "Trainability",
        "“Stable error minimization in the loss landscape”: a lower barrier to backpropagation's solution "
        "than from that of {}.",
        "How far the training loss rises on the straight line of weights from backpropagation's solution, "
        "above the straight line between the losses at its ends.",
        "loss barriers", Quantity("landscape", "line_barrier", "bp"), "difference", "nats", ("fa",),
    ),
    *_smaller(
        "accuracy-gap", "Generalisation",
        "“Better generalization”: a smaller gap between training and test accuracy than {}.",
        f"Training accuracy less test accuracy. {_GAP_TRAP}",
        "accuracy gaps", Quantity("generalisation", "accuracy_gap"), "difference", "points",
    ),
    *_smaller(
        "loss-gap", "Generalisation",
        "“Better generalization”: a smaller gap between test and training loss than {}.",
        f"Test loss less training loss. {_GAP_TRAP}",
        "loss gaps", Quantity("generalisation", "loss_gap"), "difference", "nats",
    ),
    *_smaller(
        "calibration-error", "Generalisation", "Better calibrated than {}.",
        "Expected calibration error on test images: how far confidence is from the share of right answers.",
        "calibration errors", Quantity("generalisation", "calibration_error"), "difference", "points",
    ),
)  # fmt: skip
