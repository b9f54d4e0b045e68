"""Curvature, sharpness and landscape of the loss around the solution, always by exact gradients."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn import functional as F

from alignonce.diagnostics import (
    curvature_trace,
    interpolate,
    leading_eigenvalues,
    random_plane,
    sharpness,
    spectral_density,
    surface,
)
from alignonce.experiments.facts import Fact
from alignonce.experiments.measures.example_sets import in_parts
from alignonce.experiments.measures.plan import AnalysisPlan, Step
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import Setting

_DENSITY_POINTS = 400


def curvature_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure the Hessian's leading eigenvalues, trace and spectral density, and both kinds of sharpness.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps.
    """
    model = subject.model
    batch = subject.examples.train(plan.images_for("curvature"))
    batches, images = in_parts(batch), len(batch[1])
    products = Setting.of(products=plan.products)

    def eigenvalues() -> Iterator[Fact]:
        found = leading_eigenvalues(
            model, batches, F.cross_entropy, plan.eigenvalues, steps=max(plan.products, plan.eigenvalues),
            seed=plan.seed,
        )  # fmt: skip
        for rank, (value, converged) in enumerate(zip(found.values, found.converged, strict=True), start=1):
            setting = Setting.of(rank=rank, products=plan.products)
            yield Fact(measure="eigenvalue", setting=setting, images=images, value=value)
            yield Fact(measure="eigenvalue_converged", setting=setting, images=images, value=float(converged))

    def trace() -> Iterator[Fact]:
        found = curvature_trace(model, batches, F.cross_entropy, products=plan.products, seed=plan.seed)
        yield Fact(measure="trace", setting=products, images=images, value=found.value)
        yield Fact(
            measure="trace_standard_error", setting=products, images=images, value=found.standard_error
        )

    def density() -> Iterator[Fact]:
        found = spectral_density(
            model, batches, F.cross_entropy, runs=plan.density_runs, steps=plan.products,
            points=_DENSITY_POINTS, seed=plan.seed,
        )  # fmt: skip
        yield Fact(measure="density_sigma", setting=products, images=images, value=found.sigma)
        for at, value in zip(found.grid.tolist(), found.density.tolist(), strict=True):
            yield Fact(measure="density", setting=Setting.of(eigenvalue=at), images=images, value=value)

    def sharp() -> Iterator[Fact]:
        for name, radius in (("sharpness", plan.radius), ("adaptive_sharpness", plan.adaptive_radius)):
            adaptive = name != "sharpness"
            found = sharpness(model, batches, F.cross_entropy, radius, adaptive=adaptive, seed=plan.seed)
            yield Fact(measure=name, setting=Setting.of(radius=radius), images=images, value=found.value)

    return [
        Step("eigenvalues", eigenvalues),
        Step("trace", trace),
        Step("spectral density", density),
        Step("sharpness", sharp),
    ]


def landscape_steps(subject: Subject, plan: AnalysisPlan) -> list[Step]:
    """Measure the loss on a random filter-normalised plane, and on the line from another rule's solution.

    All runs of a seed have the same random directions, before each filter is given the norm of its weights.
    BatchNorm, if there is any, uses each batch's own statistics: the stored ones belong to the solution only.

    Args:
        subject: the run.
        plan: the settings.

    Returns:
        The steps.
    """
    model, start = subject.model, subject.start
    batch = subject.examples.train(plan.images_for("landscape"))
    batches, images = in_parts(batch), len(batch[1])

    def plane() -> Iterator[Fact]:
        found = surface(
            model, random_plane(model, plan.seed), batches, F.cross_entropy, points=plan.points,
            batch_statistics=subject.has_batch_norm,
        )  # fmt: skip
        for j, y in enumerate(found.y.tolist()):
            for i, x in enumerate(found.x.tolist()):
                setting = Setting.of(x=x, y=y)
                yield Fact(
                    measure="plane_loss", setting=setting, images=images, value=float(found.loss[j, i])
                )
                yield Fact(
                    measure="plane_accuracy",
                    setting=setting,
                    images=images,
                    value=float(found.accuracy[j, i]),
                )

    def line() -> Iterator[Fact]:
        assert start is not None  # the step is not taken without one
        found = interpolate(
            model, start.model, model, batches, F.cross_entropy, points=plan.points,
            batch_statistics=subject.has_batch_norm,
        )  # fmt: skip
        rule = start.record.config.rule
        yield Fact(measure="line_barrier", item=rule, images=images, value=found.barrier)
        for alpha, loss, accuracy in zip(found.alpha, found.loss, found.accuracy, strict=True):
            setting = Setting.of(alpha=float(alpha))
            yield Fact(measure="line_loss", item=rule, setting=setting, images=images, value=float(loss))
            yield Fact(
                measure="line_accuracy", item=rule, setting=setting, images=images, value=float(accuracy)
            )

    return [Step("plane", plane)] + ([Step("line", line)] if start is not None else [])
