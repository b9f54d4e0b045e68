"""How strong each corruption is at severities 1 to 5.

The kinds are those of Hendrycks & Dietterich 2019 (ImageNet-C, CIFAR-10-C) and Mu & Gilmer 2019 (MNIST-C)
that make sense for images of any size and one or three channels. Their severities are given in pixels of
one image size; here lengths are fractions of the shorter side, so that a severity means the same for 8x8
digits and for 64x64 photographs. The numbers are therefore comparable between models, not with published
tables: for those, use the published images (:mod:`alignonce.robustness.corruption_sets`).
"""

__all__ = ["CORRUPTIONS", "SEVERITIES", "SEVERITY_LEVELS"]

SEVERITIES = (1, 2, 3, 4, 5)

SEVERITY_LEVELS: dict[str, tuple[float, float, float, float, float]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, in pixel values (ImageNet-C)
    "shot_noise": (60, 25, 12, 5, 3),  # photons of a white pixel (ImageNet-C)
    "speckle_noise": (0.15, 0.20, 0.35, 0.45, 0.60),  # deviation as a share of the pixel (ImageNet-C)
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of pixels set to 0 or 1 (ImageNet-C)
    "gaussian_blur": (0.03, 0.04, 0.055, 0.07, 0.09),  # standard deviation / side
    "motion_blur": (0.08, 0.14, 0.20, 0.27, 0.35),  # length of the streak / side, beyond one pixel
    "brightness": (0.10, 0.20, 0.30, 0.40, 0.50),  # added to every pixel (ImageNet-C)
    "contrast": (0.60, 0.45, 0.30, 0.20, 0.10),  # factor on the distance from the image's mean
    "jpeg": (60, 40, 25, 15, 7),  # quality, 100 the best
    "pixelate": (0.03, 0.045, 0.075, 0.11, 0.15),  # side of a block / side, beyond one pixel
    "elastic": (0.010, 0.020, 0.032, 0.045, 0.060),  # root mean square displacement / side
    "occlusion": (0.20, 0.30, 0.40, 0.50, 0.60),  # side of a grey square, at a random centre / side
    "rotation": (6, 12, 18, 25, 35),  # degrees, either way
    "translation": (0.04, 0.08, 0.12, 0.16, 0.22),  # distance in a random direction / side
}
"""Strength of each corruption at severities 1 to 5, in the unit of the comment."""

CORRUPTIONS = tuple(SEVERITY_LEVELS)
"""The names of the corruptions."""
