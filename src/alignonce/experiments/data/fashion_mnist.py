"""Fashion-MNIST, from wherever it is to be had; what had to be fetched is kept in the cache."""

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignonce.experiments.data.hub import fetch_from_hub
from alignonce.experiments.data.idx import read_idx, to_idx_gz
from alignonce.experiments.data.image_data import DataUnavailable, ImageData, from_arrays
from alignonce.experiments.data.storage import keep_files

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_HUB_ID = "zalando-datasets/fashion_mnist"
IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_APT = (
    "apt-get",
    "-o",
    "Acquire::http::Timeout=10",
    "-o",
    "Acquire::https::Timeout=10",
    "-o",
    "Acquire::Retries=1",
)


def load_fashion_mnist(cache: Path, *, hub: bool) -> ImageData:
    """Load Fashion-MNIST from the first source that has it.

    The sources, in order: the cache; the files of Debian's package dataset-fashion-mnist; that package,
    downloaded and unpacked without root; a hub. A source that is there but broken is passed over, with a
    warning.

    Args:
        cache: The cache folder; the files are sought, and kept, in its subfolder fashion-mnist.
        hub: Whether a hub may be asked.

    Returns:
        The data; `source` says which source gave them.

    Raises:
        DataUnavailable: No source works; the message says why for each.
    """
    folder = cache / "fashion-mnist"
    attempts: list[tuple[str, Callable[[], ImageData]]] = [
        (f"the cache folder {folder}", lambda: _read_idx_folder(folder, f"the cache folder {folder}")),
        (
            f"Debian's package {DEBIAN_PACKAGE} ({DEBIAN_FOLDER})",
            lambda: _read_idx_folder(DEBIAN_FOLDER, f"Debian's package {DEBIAN_PACKAGE} ({DEBIAN_FOLDER})"),
        ),
        (f"a download of Debian's package {DEBIAN_PACKAGE}", lambda: _download_debian_package(folder)),
        (f"the hub's data set {FASHION_HUB_ID}", lambda: _fashion_mnist_from_hub(folder, hub)),
    ]
    failures = []
    for label, attempt in attempts:
        try:
            return attempt()
        except (OSError, ValueError, DataUnavailable) as error:
            failures.append(f"{label}: {error}")
            if isinstance(error, ValueError):  # it is there, but broken: someone should know
                warnings.warn(f"Fashion-MNIST: passed over {label}: {error}", stacklevel=3)
    raise DataUnavailable(
        "Fashion-MNIST is not to be had; each source failed:\n  - " + "\n  - ".join(failures)
    )


def _read_idx_folder(folder: Path, source: str) -> ImageData:
    # The compressed file first: it is the one that the cache writes, so it replaces a broken plain one.
    paths = [next((p for p in (folder / f"{n}.gz", folder / n) if p.exists()), folder / n) for n in IDX_NAMES]
    missing = [path.name for path in paths if not path.exists()]
    if not folder.is_dir():
        raise FileNotFoundError("there is no such folder")
    if missing:
        raise FileNotFoundError(f"it lacks {', '.join(missing)} (plain or .gz)")
    train_images, train_labels, test_images, test_labels = (read_idx(path) for path in paths)
    return from_arrays(
        "fashion-mnist", source, (train_images, train_labels), (test_images, test_labels), FASHION_CLASSES
    )


def _download_debian_package(folder: Path) -> ImageData:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DataUnavailable(f"this machine has no {tool}")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        try:
            _run([*_APT, "download", DEBIAN_PACKAGE], work, seconds=300)
        except DataUnavailable as error:
            # Fresh containers have no package lists; fetching them needs root and is done once only.
            if "Unable to locate package" not in str(error) or os.geteuid() != 0:
                raise
            _run([*_APT, "update"], work, seconds=120)
            _run([*_APT, "download", DEBIAN_PACKAGE], work, seconds=300)
        packages = sorted(work.glob("*.deb"))
        if not packages:
            raise DataUnavailable("apt-get download left no .deb file")
        _run(["dpkg-deb", "-x", packages[0].name, "unpacked"], work, seconds=60)
        unpacked = work / "unpacked/usr/share/datasets/fashion-mnist"
        data = _read_idx_folder(unpacked, f"Debian's package {DEBIAN_PACKAGE}, downloaded, kept in {folder}")
        kept = keep_files(
            {folder / f"{name}.gz": (unpacked / f"{name}.gz").read_bytes() for name in IDX_NAMES}
        )
    return data if kept else replace(data, source=f"Debian's package {DEBIAN_PACKAGE}, downloaded, not kept")


def _run(command: list[str], folder: Path, *, seconds: float) -> None:
    """Run a command in a folder; any failure, and running too long, is a `DataUnavailable`."""
    shown = " ".join(part for part in command if part != "-o" and not part.startswith("Acquire::"))
    # A file, not a pipe: after a timeout, a grandchild that holds a pipe open would keep us waiting.
    with tempfile.TemporaryFile() as output:
        try:
            subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise DataUnavailable(f"{shown} took longer than {seconds:g} s") from error
        except (subprocess.CalledProcessError, OSError) as error:
            output.seek(0)
            said = " ".join(output.read().decode(errors="replace").split())
            raise DataUnavailable(f"{shown} failed: {said[-400:] or error}") from error


def _fashion_mnist_from_hub(folder: Path, hub: bool) -> ImageData:
    if not hub:
        raise DataUnavailable("not asked, because of hub=False")
    fetched = fetch_from_hub(FASHION_HUB_ID, None)
    if len(fetched.classes) != len(FASHION_CLASSES) or fetched.image_shape[0] != 1:
        raise ValueError(
            f"expected greyscale images of {len(FASHION_CLASSES)} classes, "
            f"got shape {fetched.image_shape} and {len(fetched.classes)} classes"
        )
    arrays = (
        fetched.train_images[:, 0],
        fetched.train_labels,
        fetched.test_images[:, 0],
        fetched.test_labels,
    )
    kept = keep_files(
        {
            folder / f"{name}.gz": to_idx_gz(array.numpy().astype(np.uint8))
            for name, array in zip(IDX_NAMES, arrays, strict=True)
        }
    )
    source = f"{fetched.source}, {f'kept in {folder}' if kept else 'not kept'}"
    return replace(fetched, name="fashion-mnist", source=source, classes=FASHION_CLASSES)
