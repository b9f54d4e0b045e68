"""Data sets from a hub, or in a hub's own format in a local folder, through the datasets library."""

import importlib
import re
import tempfile
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignonce.experiments.data.image_data import (
    DataUnavailable,
    ImageData,
    from_arrays,
    stack_images,
    stratified_split,
)
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.data.storage import keep_files, load_npz, write_npz

_PROBE_SECONDS = 5.0


def load_from_hub(dataset_id: str, source: DataSource) -> ImageData:
    """Load a labelled image data set from a hub, and keep it as one .npz file in the cache.

    Args:
        dataset_id: "owner/name", or "owner/name/configuration" where the hub's data set has several.
        source: A copy is kept in its folder's subfolder hub and wins next time; delete it to fetch anew. If
            a hub may not be asked, only the kept copy is used.

    Returns:
        The data.

    Raises:
        ValueError: The id is malformed, or the data set is not one of labelled images.
        DataUnavailable: There is no kept copy, and the hub cannot be reached or may not be asked.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+){1,2}", dataset_id):
        raise ValueError(
            f'name must be "hub:owner/name" or "hub:owner/name/configuration", got "hub:{dataset_id}"'
        )
    kept = source.folder / "hub" / f"{dataset_id.replace('/', '--')}.npz"
    if kept.is_file():
        return load_npz(kept, dataset_id, f"{kept}, a kept copy of the hub's data set {dataset_id}")
    if not source.hub:
        raise DataUnavailable(f"the hub's data set {dataset_id} is not in the cache ({kept}), and hub=False")
    owner, name, *configuration = dataset_id.split("/")
    try:
        data = fetch_from_hub(f"{owner}/{name}", configuration[0] if configuration else None)
    except DataUnavailable as error:
        raise DataUnavailable(f"the hub's data set {dataset_id} is unavailable: {error}") from error
    keep_files({kept: lambda file: write_npz(file, data)})
    return replace(data, name=dataset_id)


def load_hub_folder(folder: Path, name: str, source: str) -> ImageData:
    """Load a folder in a hub's own format: what `datasets.load_dataset` opens, or `save_to_disk` wrote.

    Args:
        folder: The folder.
        name: The data's name.
        source: What the data's `source` shall say, before the names of the splits used.

    Returns:
        The data.

    Raises:
        ValueError: The folder does not open, or does not hold labelled images.
        DataUnavailable: The datasets library is not installed.
    """
    datasets = import_datasets()
    saved = any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))
    # Everything is copied into memory, so the library's own copy on disk need not outlive the call.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        try:
            if saved:
                dataset = datasets.load_from_disk(str(folder))
            else:
                dataset = datasets.load_dataset(str(folder), cache_dir=temporary)
        except Exception as error:  # the library's errors have many classes, which change with its versions
            raise ValueError(f"{source}: the datasets library cannot open it: {message_of(error)}") from error
        return _from_hub_dataset(dataset, name, source)


def fetch_from_hub(dataset_id: str, configuration: str | None) -> ImageData:
    """Fetch a labelled image data set from a hub.

    Args:
        dataset_id: "owner/name".
        configuration: Which of the data set's configurations, if it has several.

    Returns:
        The data.

    Raises:
        ValueError: The data set is not one of labelled images.
        DataUnavailable: The hub cannot be reached or lacks the data set, or the datasets library is missing.
    """
    dataset = open_on_hub(dataset_id, configuration)
    shown = dataset_id if configuration is None else f"{dataset_id} ({configuration})"
    return _from_hub_dataset(dataset, dataset_id, f"the hub's data set {shown}")


def open_on_hub(dataset_id: str, configuration: str | None, *, streaming: bool = False) -> Any:
    """Open a data set on a hub.

    Args:
        dataset_id: "owner/name".
        configuration: Which of the data set's configurations, if it has several.
        streaming: Whether rows are fetched one after the other as they are asked for.

    Returns:
        The library's data set, or its splits by name.

    Raises:
        DataUnavailable: The hub cannot be reached or lacks the data set, or the datasets library is missing.
    """
    datasets = import_datasets()
    hub = importlib.import_module("huggingface_hub")
    # Without a network, the library alone retries for half a minute; one small request fails at once.
    # When the user has set the library offline (HF_HUB_OFFLINE), its own cache may still hold the data.
    try:
        if not hub.constants.HF_HUB_OFFLINE:
            hub.HfApi().dataset_info(dataset_id, timeout=_PROBE_SECONDS)
        return datasets.load_dataset(dataset_id, configuration, streaming=streaming)
    except Exception as error:  # network, HTTP and library errors, whose classes change with its versions
        raise DataUnavailable(message_of(error)) from error


def import_datasets() -> Any:
    """Import the datasets library.

    Returns:
        The module.

    Raises:
        DataUnavailable: It is not installed.
    """
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataUnavailable(
            f"the datasets library is missing ({error}); pip install 'alignonce[hub]'"
        ) from error


def message_of(error: Exception) -> str:
    """Return what an error of the library says.

    Args:
        error: The error.

    Returns:
        One line, of bounded length.
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _from_hub_dataset(dataset: Any, name: str, source: str) -> ImageData:
    splits = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    train_name = "train" if "train" in splits or len(splits) != 1 else next(iter(splits))
    if train_name not in splits:
        raise ValueError(f"{source}: there must be a split named train, got {', '.join(splits) or 'none'}")
    test_name = next(
        (s for s in ("test", "validation", "valid", "val") if s in splits and s != train_name), None
    )
    used = [splits[part] for part in (train_name, test_name) if part is not None]
    image_column, label_column = _columns(used[0].features, source)
    for split in used[1:]:
        if dict(split.features) != dict(used[0].features):
            raise ValueError(f"{source}: the splits {train_name} and {test_name} must have the same columns")
    pictures = (
        (f"{source}: {part}[{index}]", row[image_column])
        for part, split in zip((train_name, test_name), used, strict=False)
        for index, row in enumerate(split.select_columns([image_column]))
    )
    try:
        images = stack_images(pictures)
    except OSError as error:  # PIL's, for a damaged picture
        raise ValueError(f"{source}: an image cannot be decoded: {error}") from error
    values = list(chain.from_iterable(split[label_column][:] for split in used))
    labels, classes = _label_numbers(values, used[0].features[label_column], source)
    left = [name for name in splits if name not in (train_name, test_name)]
    unused = f"; not used: {', '.join(left)}" if left else ""
    if test_name is not None:
        count = len(used[0])
        train, test = np.arange(count), np.arange(count, len(images))
        source = f"{source} (splits {train_name} and {test_name}{unused})"
    else:
        train, test = stratified_split(labels)
        source = f"{source} (split {train_name}, divided 80/20{unused})"
    return from_arrays(name, source, (images[train], labels[train]), (images[test], labels[test]), classes)


def _columns(features: Any, source: str) -> tuple[str, str]:
    """Choose the image column and the label column by their types, then by their names."""
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if len(images) != 1:
        raise ValueError(f"{source}: there must be one column of images, got columns {dict(features)}")
    labels = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    if len(labels) != 1:
        usual = ("label", "labels", "fine_label")
        labels = [name for name in usual if name in features][:1]
    if not labels:
        raise ValueError(f"{source}: there must be one column of class labels, got columns {dict(features)}")
    return images[0], labels[0]


def _label_numbers(
    values: list[Any], feature: Any, source: str
) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    if all(isinstance(value, str) for value in values):
        classes, numbers = np.unique(np.asarray(values), return_inverse=True)
        return numbers.astype(np.int64), tuple(classes.tolist())
    if not all(isinstance(value, int) for value in values):
        raise ValueError(f"{source}: every image must have a label, a whole number or a string")
    names = getattr(feature, "names", None)
    return np.asarray(values, dtype=np.int64), None if names is None else tuple(names)
