"""Labelled images for the runs: one function, whatever the source."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alignonce.experiments.data.fashion_mnist import load_fashion_mnist
from alignonce.experiments.data.hub import load_from_hub, load_hub_folder
from alignonce.experiments.data.image_data import (
    DataUnavailable,
    ImageData,
    from_arrays,
    stack_images,
    stratified_split,
)
from alignonce.experiments.data.known import KNOWN_DATA, KnownData
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.data.storage import load_npz

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DataUnavailable", "ImageData", "load_data"]

_VALIDATION = ("val", "valid", "validation")
PARTS = ("train", "test", *_VALIDATION)
"""What the parts of a folder of images may be called."""
_NEAR_MISSES = {"training": "train", "trn": "train", "testing": "test", "tests": "test", "dev": "val"}

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


def load_data(
    name: str = "fashion-mnist", source: DataSource | None = None, *, limit: int | None = None
) -> ImageData:
    """Load labelled images into memory.

    Args:
        name: "fashion-mnist"; "digits" (scikit-learn's, 8x8, divided 80/20); "svhn", "cifar10", "cifar100",
            "stl10" or "tiny-imagenet", from a folder of this name in the cache, in the hub's format or of
            images, or else from a hub; the path of an .npz file;
            the path of a folder of images (train/<class>/ and test/<class>/, or <class>/, divided 80/20;
            without test/, val/, valid/ or validation/ is the test set, and beside test/ it is kept apart),
            or of a folder that the datasets library opens or wrote; or "hub:owner/name", a data set on a hub.
        source: Where fetched data are kept, whether a hub may be asked, and whether the digits may stand in
            for Fashion-MNIST; None is `DataSource()`.
        limit: Keep only the first `limit` training and test examples of a seeded, class-balanced selection.

    Returns:
        The data; `source` says where they came from, and of digits in Fashion-MNIST's place, why.

    Raises:
        ValueError: The name is unknown, the limit is below 1, or what the name leads to is not usable.
        DataUnavailable: The data, or the library that reads them, cannot be had; says why.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit must be a whole number of at least 1, or None for all, got {limit!r}")
    data = _load_whole(name, DataSource() if source is None else source)
    return data if limit is None else data.limited(limit)


def _load_whole(name: str, source: DataSource) -> ImageData:
    if name == "fashion-mnist":
        return _load_fashion_mnist_or_digits(source)
    if name == "digits":
        return _load_digits()
    if name.startswith("hub:"):
        return load_from_hub(name.removeprefix("hub:"), source)
    if name in KNOWN_DATA:
        return _load_known(KNOWN_DATA[name], source)
    path = Path(name).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return load_npz(path, path.stem, f"the file {path}")
    if name and path.is_dir():  # an empty name would be the working directory
        return _load_folder(path, path.resolve().name)
    raise ValueError(
        f'name must be {", ".join(KNOWN_DATA)}, "hub:owner/name", or the path of an existing .npz file '
        f"or folder; got {name!r}, which is none of them"
    )


def _load_fashion_mnist_or_digits(source: DataSource) -> ImageData:
    try:
        return load_fashion_mnist(source)
    except DataUnavailable as error:
        if not source.or_digits:
            raise
        digits = _load_digits()
        return replace(digits, source=f"{digits.source} INSTEAD of Fashion-MNIST. {error}")


def _load_known(known: KnownData, source: DataSource) -> ImageData:
    """Load a data set of the hub by its short name: from a folder of this name in the cache, or the hub."""
    hub_id = known.hub_id or ""
    owner, repository, *configuration = hub_id.split("/")
    folder = source.folder / known.name
    if folder.is_dir():
        # In the hub's repositories, a configuration's files lie in a folder of its name.
        within = folder.joinpath(*configuration)
        return _load_folder(within if within.is_dir() else folder, known.name)
    try:
        return replace(load_from_hub(hub_id, source), name=known.name)
    except DataUnavailable as error:
        raise DataUnavailable(
            f"{known.name}: there is no folder {folder}, and {error}. Where a hub is in reach, "
            f"`hf download {owner}/{repository} --repo-type dataset --local-dir {known.name}` makes that "
            "folder; copy it to its place here"
        ) from error


def _load_folder(folder: Path, name: str) -> ImageData:
    if _is_image_folder(folder):
        return _load_image_folder(folder, name)
    return load_hub_folder(folder, name, f"the folder {folder}")


def _load_digits() -> ImageData:
    try:
        sklearn_datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise DataUnavailable(
            f"the digits are scikit-learn's, which is missing ({error}); pip install 'alignonce[experiments]'"
        ) from error
    digits = sklearn_datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
    train, test = stratified_split(digits.target)
    return from_arrays(
        "digits",
        "scikit-learn's 8x8 digits",
        (images[train], digits.target[train]),
        (images[test], digits.target[test]),
    )


def _is_image_folder(folder: Path) -> bool:
    # A metadata file holds the labels in the hub's own layout, where folders do not name classes.
    if any(folder.glob("metadata.*")) or any(folder.glob("*/metadata.*")):
        return False
    return _holds_classes(folder) or any(
        _holds_classes(path) for path in _folders_in(folder) if _part_meant(path.name) is not None
    )


def _holds_classes(folder: Path) -> bool:
    return any(_images_in(path) for path in _folders_in(folder))


def _part_meant(name: str) -> str | None:
    """The part of the data that a folder's name stands for, as it is to be written; None if it is no part."""
    name = name.lower()
    return name if name in PARTS else _NEAR_MISSES.get(name)


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )


def _parts_of(folder: Path) -> tuple[Path, Path | None, str]:
    """The folders of training and of test images (None: to be divided), and what is to be said of it."""
    folders = {path.name: path for path in _folders_in(folder)}
    for name, path in folders.items():
        part = _part_meant(name)
        if part not in (None, name) and not _images_in(path) and _holds_classes(path):
            raise ValueError(
                f"{path}: the parts of a folder of images are called {', '.join(PARTS)}, "
                f"got {name}: rename it to {part}, or move it elsewhere"
            )
    if "train" not in folders:
        # A class may be called valid: its folder holds images, and that of a part holds folders.
        for name in PARTS:
            if name in folders and (name == "test" or _holds_classes(folders[name])):
                raise ValueError(
                    f"{folder}: there is a {name} folder but no train folder; give both or neither"
                )
        return folder, None, ", divided 80/20"
    held_out = [name for name in ("test", *_VALIDATION) if name in folders]
    if len(held_out) > 1 and "test" not in held_out:
        raise ValueError(
            f"{folder}: {' and '.join(held_out)} could each be the test images; call one of them test"
        )
    left = [f"{name}/" for name in folders if name != "train" and name not in held_out]
    if loose := len(_images_in(folder)):
        left.append(f"{loose} images beside train/")
    said = f", tested on {held_out[0]}/" if held_out else ", train/ divided 80/20"
    if held_out[1:]:
        said += f", {' and '.join(f'{name}/' for name in held_out[1:])} kept apart"
    if left:
        said += f", not used: {', '.join(left)}"
    return folders["train"], folders[held_out[0]] if held_out else None, said


def _load_image_folder(folder: Path, name: str) -> ImageData:
    train_root, test_root, said = _parts_of(folder)
    classes = tuple(path.name for path in _folders_in(train_root))
    if not classes:
        raise ValueError(f"{train_root}: there must be one folder of images per class, got none")
    train_files = _labelled_files(train_root, classes)
    test_files = [] if test_root is None else _labelled_files(test_root, classes)
    files = train_files + test_files
    try:
        images = stack_images(_opened([path for path, _ in files]))
    except ImportError as error:
        raise DataUnavailable(
            f"images are read with Pillow, which is missing ({error}); pip install 'alignonce[experiments]'"
        ) from error
    labels = np.array([label for _, label in files], dtype=np.int64)
    if test_root is None:
        train, test = stratified_split(labels)
    else:
        train, test = np.arange(len(train_files)), np.arange(len(train_files), len(files))
    source = f"the folder {folder}{said}"
    return from_arrays(name, source, (images[train], labels[train]), (images[test], labels[test]), classes)


def _labelled_files(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    if loose := _images_in(root):
        raise ValueError(
            f"{loose[0]}: an image must lie in its class's folder, as in {root}/<class>/{loose[0].name}"
        )
    files = []
    for folder in _folders_in(root):
        if folder.name not in classes:
            raise ValueError(f"{folder}: not a class of the training images, which are {', '.join(classes)}")
        images = _images_in(folder)
        if not images:
            raise ValueError(f"{folder}: the class has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        files += [(path, classes.index(folder.name)) for path in images]
    return files


def _opened(paths: list[Path]) -> Iterator[tuple[str, "Image.Image"]]:
    pil = importlib.import_module("PIL.Image")
    for path in paths:
        try:
            with pil.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            raise ValueError(f"{path}: not a readable image: {error}") from error
        yield str(path), image
