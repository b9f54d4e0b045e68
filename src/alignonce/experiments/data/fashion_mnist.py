"""Fashion-MNIST, from where its files are known to lie, or from a hub."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from alignonce.experiments.data.hub import fetch_from_hub
from alignonce.experiments.data.idx import read_idx, to_idx_gz
from alignonce.experiments.data.image_data import DataUnavailable, ImageData, from_arrays
from alignonce.experiments.data.source import DataSource, default_cache
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


def load_fashion_mnist(source: DataSource) -> ImageData:
    """Load Fashion-MNIST from the first place that has it.

    The places, in order: the cache folder; the default one; the files of Debian's package
    dataset-fashion-mnist; a hub. A place whose files are broken is passed over, with a warning.

    Args:
        source: The files are sought in its folder's subfolder fashion-mnist, and kept there if a hub gave
            them.

    Returns:
        The data; `source` says which place gave them.

    Raises:
        DataUnavailable: No place has it; the message says why for each, and what to do.
    """
    folder = source.folder / "fashion-mnist"
    folders = dict.fromkeys((folder, default_cache() / "fashion-mnist"))
    places = {f"the cache folder {cached}": cached for cached in folders}
    places[f"Debian's package {DEBIAN_PACKAGE} ({DEBIAN_FOLDER})"] = DEBIAN_FOLDER
    attempts: dict[str, Callable[[], ImageData]] = {
        label: partial(_read_idx_folder, place, label) for label, place in places.items()
    }
    attempts[f"the hub's data set {FASHION_HUB_ID}"] = partial(_fashion_mnist_from_hub, folder, source.hub)
    failures = []
    for label, attempt in attempts.items():
        try:
            return attempt()
        except (OSError, ValueError, DataUnavailable) as error:
            failures.append(f"{label}: {error}")
            if isinstance(error, ValueError):  # it is there, but broken: someone should know
                warnings.warn(f"Fashion-MNIST: passed over {label}: {error}", stacklevel=3)
    allow = "" if source.hub else ", or allow the hub (--hub)"
    raise DataUnavailable(
        "Fashion-MNIST is not on this machine:\n  - "
        + "\n  - ".join(failures)
        + f"\nGet it with `make data` or `apt-get install {DEBIAN_PACKAGE}`{allow}; "
        "or name other data (--data FOLDER, or --data digits)"
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
