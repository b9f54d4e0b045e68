"""Published corruption sets on disk: CIFAR-10-C (and CIFAR-100-C) and MNIST-C, as their authors ship them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignonce.robustness.checks import check_choice
from alignonce.robustness.corruption_accuracy import CorruptedImages
from alignonce.robustness.severities import SEVERITIES

__all__ = ["cifar_c", "mnist_c"]


def cifar_c(
    folder: str | Path, *, corruptions: Sequence[str] | None = None, severities: Sequence[int] = SEVERITIES
) -> Iterator[CorruptedImages]:
    """Read CIFAR-10-C or CIFAR-100-C, one corruption and severity at a time.

    Args:
        folder: holds ``labels.npy`` and one ``<corruption>.npy`` for each corruption, uint8 of shape
            (5 N, height, width, 3): severity 1 first, N images each (10,000 in the published sets).
        corruptions: names of files without ``.npy``; all files if None, in alphabetical order.
        severities: numbers from 1 to 5.

    Yields:
        The images as float32 pixels in [0, 1], shape (N, 3, height, width), with their labels.

    Raises:
        FileNotFoundError: if the folder or a file is missing; the message lists what there is.
        ValueError: if a file does not hold what it should.

    Source: Hendrycks & Dietterich 2019, arXiv 1903.12261, https://zenodo.org/records/2535967.
    """
    folder = _folder(folder)
    for severity in severities:
        check_choice("severity", severity, SEVERITIES)
    labels = _load(folder / "labels.npy", ndim=1)
    known = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    for name in _chosen(folder, known, corruptions):
        path = folder / f"{name}.npy"
        stacked = _load(path, ndim=4)
        if len(stacked) % len(SEVERITIES):
            raise ValueError(f"{path} must hold 5 severities of equal size, got {len(stacked)} images")
        count = len(stacked) // len(SEVERITIES)
        if len(labels) not in (len(stacked), count):
            raise ValueError(f"{path} holds {len(stacked)} images, labels.npy {len(labels)} labels")
        for severity in severities:
            part = slice((severity - 1) * count, severity * count)
            targets = labels[part] if len(labels) == len(stacked) else labels
            yield CorruptedImages(name, severity, _pixels(stacked[part], path), _labels(targets))


def mnist_c(folder: str | Path, *, corruptions: Sequence[str] | None = None) -> Iterator[CorruptedImages]:
    """Read the test images of MNIST-C, one corruption at a time.

    Args:
        folder: holds a folder for each corruption, with ``test_images.npy``, uint8 of shape (N, 28, 28, 1),
            and ``test_labels.npy``.
        corruptions: names of these folders; all but ``identity`` (the clean images) if None.

    Yields:
        The images as float32 pixels in [0, 1], shape (N, 1, 28, 28), with their labels. MNIST-C has one
        severity, which is called 1.

    Raises:
        FileNotFoundError: if the folder or a file is missing; the message lists what there is.
        ValueError: if a file does not hold what it should.

    Source: Mu & Gilmer 2019, arXiv 1906.02337, https://zenodo.org/records/3239543.
    """
    folder = _folder(folder)
    known = sorted(path.parent.name for path in folder.glob("*/test_images.npy"))
    default = [name for name in known if name != "identity"]
    for name in _chosen(folder, known, default if corruptions is None else corruptions):
        path = folder / name / "test_images.npy"
        images = _load(path, ndim=4)
        labels = _load(folder / name / "test_labels.npy", ndim=1)
        if len(images) != len(labels):
            raise ValueError(f"{path} holds {len(images)} images, test_labels.npy {len(labels)} labels")
        yield CorruptedImages(name, 1, _pixels(images, path), _labels(labels))


def _folder(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    return Path(folder)


def _chosen(folder: Path, known: Sequence[str], names: Sequence[str] | None) -> Sequence[str]:
    if not known:
        raise FileNotFoundError(f"{folder} holds no corruptions")
    for name in names or ():
        if name not in known:
            raise FileNotFoundError(f"{folder} has no corruption {name!r}; there are {', '.join(known)}")
    return known if names is None else names


def _load(path: Path, ndim: int) -> npt.NDArray[Any]:
    try:
        # A map, not a copy: a file of CIFAR-10-C is 150 MB, a severity of it 30.
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a NumPy array file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is not a NumPy array file: it is an archive of arrays")
    if array.ndim != ndim or not len(array) or array.dtype.kind not in "iu":
        raise ValueError(
            f"{path} must hold whole numbers in {ndim} dimensions, got {array.dtype} {array.shape}"
        )
    return array


def _pixels(images: npt.NDArray[Any], path: Path) -> Tensor:
    if images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{path} must hold uint8 images of shape (N, height, width, 1 or 3), "
            f"got {images.dtype} {images.shape}"
        )
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous().float().div_(255)


def _labels(labels: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))
