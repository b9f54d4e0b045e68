"""Intervals: how often they hold the truth, and what pairing is worth."""

import numpy as np
import pytest

from alignonce.experiments.claims.bootstrap import (
    CountedImages,
    KnownImages,
    Share,
    bootstrap_interval,
    half_width,
)


def intervals(n, noisy, trials=400):
    """Seeds differ by a normal effect; each image of each seed comes out 1 or 0."""
    generator, images = np.random.default_rng(n), 200
    for _ in range(trials):
        truth = np.clip(0.6 + 0.05 * generator.normal(size=n), 0, 1)
        right = generator.random((n, images)) < truth[:, None]
        noise = None
        if noisy == "known":
            noise = KnownImages(right.astype(float))
        elif noisy == "counted":
            noise = CountedImages([[Share(1.0, float(row.mean()), images)] for row in right])
        yield bootstrap_interval(right.mean(axis=1).tolist(), noise, 400, generator)


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("noisy", ["none", "known", "counted"])
def test_an_interval_of_95_percent_holds_the_truth_about_95_times_in_100(n, noisy):
    coverage = np.mean([low <= 0.6 <= high for low, high in intervals(n, noisy)])
    assert coverage >= 0.92
    assert coverage < 0.995 or noisy != "none"


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(0)
    hard = generator.random((1, 2000))
    first = hard + 0.1 * generator.random((3, 2000)) < 0.60
    second = hard + 0.1 * generator.random((3, 2000)) < 0.62
    values = [float(v) for v in second.mean(axis=1) - first.mean(axis=1)]
    paired = KnownImages(second.astype(float) - first)
    unpaired = CountedImages(
        [
            [Share(1, float(b.mean()), 2000), Share(-1, float(a.mean()), 2000)]
            for a, b in zip(first, second, strict=True)
        ]
    )
    widths = [
        np.ptp(bootstrap_interval(values, noise, 2000, np.random.default_rng(1)))
        for noise in (paired, unpaired)
    ]
    assert widths[0] < 0.7 * widths[1]


def test_known_images_vary_as_a_share_of_images_does():
    # Both seeds alike: what is peculiar to an image does not average out over seeds.
    values = np.tile(np.repeat([1.0, 0.0], [30, 70]), (2, 1))
    chosen = np.zeros((20_000, 2), dtype=np.intp)
    drawn = KnownImages(values).draw(chosen, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 100), rel=0.03)
    assert drawn.mean() == pytest.approx(0, abs=0.001)


def test_counted_images_vary_binomially():
    noise = CountedImages([[Share(2.0, 0.3, 100)], [Share(2.0, 0.3, 100)]])
    chosen = np.tile([0, 1], (20_000, 1))
    drawn = noise.draw(chosen, np.random.default_rng(0))
    assert drawn.std() == pytest.approx(2 * np.sqrt(0.3 * 0.7 / 100 / 2), rel=0.03)


def test_one_seed_has_no_interval():
    assert np.isnan(bootstrap_interval([1.0], None, 100, np.random.default_rng(0))).all()


def test_half_width_is_students():
    # t(0.975, 2) = 4.302653
    assert half_width(2.0, 3) == pytest.approx(4.302653 * 2 / np.sqrt(3), rel=1e-6)
