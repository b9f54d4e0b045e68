"""Image data on disk: .npz files, and files kept in the cache."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from alignonce.experiments.data.image_data import ImageData, from_arrays
from alignonce.experiments.files import write_atomically


def load_npz(path: Path, name: str, source: str) -> ImageData:
    """Load the four arrays of a labelled image data set from an .npz file.

    Args:
        path: A file with train_images, train_labels, test_images, test_labels (or x_train, y_train,
            x_test, y_test) and, if wanted, classes (strings). Nothing pickled is loaded.
        name: The data's name.
        source: What the data's `source` shall say.

    Returns:
        The data.

    Raises:
        ValueError: The file is damaged, lacks an array, or an array is of another type or shape.
    """
    groups = (
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    )
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array, not an .npz archive")
            keys = next((keys for keys in groups if set(keys) <= set(file.files)), None)
            if keys is None:
                raise ValueError(
                    f"must hold {' or '.join(map(', '.join, groups))}; holds {', '.join(file.files)}"
                )
            arrays = [file[key] for key in keys]
            classes = tuple(str(c) for c in file["classes"].tolist()) if "classes" in file.files else None
    except Exception as error:  # zipfile, zlib and NumPy's header parser each have their own
        raise ValueError(f"{path}: not a readable .npz file of labelled images: {error}") from error
    return from_arrays(name, source, (arrays[0], arrays[1]), (arrays[2], arrays[3]), classes)


def write_npz(path: Path, data: ImageData) -> None:
    """Write data as the .npz file that `load_npz` reads.

    Args:
        path: The file.
        data: The data.
    """
    np.savez(
        path,
        train_images=data.train_images.numpy(),
        train_labels=data.train_labels.numpy(),
        test_images=data.test_images.numpy(),
        test_labels=data.test_labels.numpy(),
        classes=np.asarray(data.classes),
    )


def keep_files(files: Mapping[Path, bytes | Callable[[Path], None]]) -> bool:
    """Write files into the cache, each atomically; a cache that cannot be written to is only a warning.

    Args:
        files: For each path, its content, or a function that writes the content to a path.

    Returns:
        Whether all were written.
    """
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
    except OSError as error:
        warnings.warn(
            f"the data could not be kept in the cache, and will be fetched again: {error}", stacklevel=2
        )
        return False
    return True
