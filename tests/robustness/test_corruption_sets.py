"""Published corruption sets, on small files in their layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alignonce.robustness import cifar_c, mnist_c


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two images, five severities: pixel value 10 times the severity, red channel one more."""
    severities = np.repeat(np.arange(1, 6), 2)
    images = np.broadcast_to(10 * severities[:, None, None, None], (10, 32, 32, 3)).astype(np.uint8)
    images[..., 0] += 1
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "blur.npy", images)
    np.save(tmp_path / "labels.npy", np.tile([3, 7], 5).astype(np.uint8))
    return tmp_path


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for value, name in enumerate(("identity", "stripe", "fog")):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "test_images.npy", np.full((4, 28, 28, 1), 51 * value, np.uint8))
        np.save(tmp_path / name / "test_labels.npy", np.array([0, 1, 2, 9]))
    return tmp_path


def test_cifar_severities_are_taken_from_the_stack(cifar: Path) -> None:
    sets = list(cifar_c(cifar, severities=[2, 5]))
    assert [(s.corruption, s.severity) for s in sets] == [("blur", 2), ("blur", 5), ("fog", 2), ("fog", 5)]
    assert sets[0].images.shape == (2, 3, 32, 32)
    assert sets[0].images.dtype == torch.float32
    expected = torch.tensor([21, 20, 20]) / 255
    torch.testing.assert_close(sets[0].images, expected[None, :, None, None].expand(2, 3, 32, 32))
    assert sets[3].labels.tolist() == [3, 7]


def test_cifar_labels_of_one_severity_serve_all(cifar: Path) -> None:
    np.save(cifar / "labels.npy", np.array([3, 7]))
    assert [s.labels.tolist() for s in cifar_c(cifar, corruptions=["fog"])] == [[3, 7]] * 5


def test_mnist_corruptions_are_folders_and_identity_must_be_asked_for(mnist: Path) -> None:
    sets = list(mnist_c(mnist))
    assert [(s.corruption, s.severity) for s in sets] == [("fog", 1), ("stripe", 1)]
    torch.testing.assert_close(sets[0].images, torch.full((4, 1, 28, 28), 102 / 255))
    assert sets[0].labels.tolist() == [0, 1, 2, 9]
    assert next(mnist_c(mnist, corruptions=["identity"])).images.max() == 0


def test_what_is_missing_is_named(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no corruption 'snow'; there are blur, fog"):
        next(cifar_c(cifar, corruptions=["snow"]))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        next(mnist_c(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="holds no corruptions"):
        next(mnist_c(tmp_path))
    (cifar / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*labels\.npy"):
        next(cifar_c(cifar))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((9, 32, 32, 3), np.uint8), "5 severities of equal size, got 9"),
        (np.zeros((20, 32, 32, 3), np.uint8), "20 images, labels.npy 10 labels"),
        (np.zeros((10, 32, 32, 3)), "whole numbers in 4 dimensions, got float64"),
        (np.zeros((10, 32, 32), np.uint8), "whole numbers in 4 dimensions"),
        (np.zeros((10, 3, 32, 32), np.uint8), "uint8 images of shape"),
        (np.array([{"a": 1}], dtype=object), "not a NumPy array file"),
    ],
)
def test_files_of_another_form_are_refused(cifar: Path, array: np.ndarray, message: str) -> None:
    np.save(cifar / "fog.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        list(cifar_c(cifar, corruptions=["fog"]))


def test_files_that_are_no_arrays_are_refused(cifar: Path) -> None:
    (cifar / "fog.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="not a NumPy array file"):
        list(cifar_c(cifar, corruptions=["fog"]))
    (cifar / "fog.npy").write_text("not an array")
    with pytest.raises(ValueError, match="not a NumPy array file"):
        list(cifar_c(cifar, corruptions=["fog"]))


def test_severities_are_checked(cifar: Path) -> None:
    with pytest.raises(ValueError, match="unknown severity 0"):
        next(cifar_c(cifar, severities=[0]))
