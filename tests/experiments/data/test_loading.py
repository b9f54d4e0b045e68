"""Every source of labelled images, their order, and how bad input is refused. None of it needs a network."""

import gzip
import random
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from alignonce.experiments.data import (
    DataSource,
    DataUnavailable,
    ImageData,
    fashion_mnist,
    load_data,
)
from alignonce.experiments.data import __main__ as program
from alignonce.experiments.data import hub as hub_module
from alignonce.experiments.data.image_data import stratified_split

TRAIN, TEST = 30, 20
IDX_FILES = {
    "train-images-idx3-ubyte": (TRAIN, 28, 28),
    "train-labels-idx1-ubyte": (TRAIN,),
    "t10k-images-idx3-ubyte": (TEST, 28, 28),
    "t10k-labels-idx1-ubyte": (TEST,),
}


def write_fashion_mnist(folder, *, pixel=7, compressed=True, **changed):
    """A small Fashion-MNIST of one grey value; `changed` replaces a file's array by name (- as _)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in IDX_FILES.items():
        array = np.full(shape, pixel) if len(shape) == 3 else np.arange(shape[0]) % 10
        array = np.asarray(changed.get(name.replace("-", "_"), array), dtype=np.uint8)
        content = (
            bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        )
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch, tmp_path):
    """No Debian package, no hub, an empty cache; a test gives back what it is about."""

    def refused(*args):
        raise DataUnavailable("the hub is out of reach")

    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian")
    monkeypatch.setattr(fashion_mnist, "fetch_from_hub", refused)
    monkeypatch.setattr(hub_module, "fetch_from_hub", refused)
    monkeypatch.setenv("ALIGNONCE_DATA", str(tmp_path / "cache"))


# --- the data themselves


def test_digits_are_scaled_split_by_class_and_the_same_every_time():
    data = load_data("digits")
    assert data.name == "digits"
    assert data.image_shape == (1, 8, 8)
    assert len(data.train_images) + len(data.test_images) == 1797
    assert len(data.test_images) / 1797 == pytest.approx(0.2, abs=0.005)
    assert data.classes == tuple("0123456789")
    assert data.train_images.dtype == torch.uint8
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    for label in range(10):
        in_train, in_test = (data.train_labels == label).sum(), (data.test_labels == label).sum()
        assert in_test / (in_train + in_test) == pytest.approx(0.2, abs=0.01)
    assert torch.equal(load_data("digits").test_images, data.test_images)


def test_mean_and_std_are_those_of_the_training_pixels():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (9, 3, 4, 5), dtype=np.uint8))
    labels = torch.zeros(9, dtype=torch.int64)
    data = ImageData("x", "a test", images, labels, images[:2] // 2, labels[:2], ("a",))
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    assert data.num_classes == 1


GREY = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((GREY.float(), LABELS), (GREY, LABELS), "train_images must be uint8"),
        ((GREY[:, 0], LABELS), (GREY, LABELS), r"\(N, C, H, W\).*got torch.uint8 of shape \(4, 2, 2\)"),
        ((GREY, LABELS), (GREY[:0], LABELS[:0]), "test_images.*no size 0"),
        ((GREY, LABELS.int()), (GREY, LABELS), "train_labels must be int64"),
        ((GREY, LABELS), (GREY, LABELS[:3]), "test must have one label per image, got 4 images, 3 labels"),
        ((GREY, LABELS + 1), (GREY, LABELS), r"train_labels must be in 0\.\.1 \(2 classes\), got 2"),
        ((GREY, LABELS), (GREY, LABELS - 1), r"test_labels must be in 0\.\.1 \(2 classes\), got -1"),
        ((GREY, LABELS), (GREY.repeat(1, 3, 1, 1), LABELS), r"one shape.*\(1, 2, 2\) and \(3, 2, 2\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(train, test, message):
    with pytest.raises(ValueError, match=message):
        ImageData("x", "a test", *train, *test, ("a", "b"))


@pytest.mark.parametrize("limit", [1, 7, 10, 25, 300])
def test_limit_is_balanced_and_a_prefix_of_larger_limits(limit):
    data, larger = load_data("digits", limit=limit), load_data("digits", limit=2 * limit)
    assert len(data.train_labels) == len(data.test_labels) == limit
    for labels in (data.train_labels, data.test_labels):
        counts = torch.bincount(labels, minlength=10)
        assert counts.max() - counts.min() <= 1
    assert torch.equal(larger.train_images[:limit], data.train_images)
    assert torch.equal(load_data("digits", limit=limit).test_images, data.test_images)


def test_limit_above_the_size_keeps_everything():
    assert len(load_data("digits", limit=10**6).train_images) == len(load_data("digits").train_images)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3"])
def test_bad_limit_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1"):
        load_data("digits", limit=limit)


def test_global_random_state_is_untouched():
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    load_data("digits", limit=20)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert random.getstate() == python_state


def test_split_parts_are_disjoint_and_complete():
    labels = np.repeat([0, 1, 2], [2, 10, 33])
    train, test = stratified_split(labels)
    assert sorted([*train, *test]) == list(range(45))
    assert np.bincount(labels[test]).tolist() == [1, 2, 7]


def test_class_of_one_example_cannot_be_split():
    with pytest.raises(ValueError, match=r"at least 2 examples.*class 1 has 1"):
        stratified_split(np.array([0, 0, 1]))


@pytest.mark.parametrize("name", ["mnist", "", "no/such/folder", "missing.npz"])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r'digits, fashion-mnist, .*"hub:owner/name".*got ') as caught:
        load_data(name)
    assert repr(name) in str(caught.value)


# --- Fashion-MNIST: the order of its sources


@pytest.mark.parametrize("compressed", [True, False])
def test_cache_is_read_plain_or_compressed(tmp_path, compressed):
    write_fashion_mnist(tmp_path / "mine" / "fashion-mnist", compressed=compressed)
    data = load_data(source=DataSource(tmp_path / "mine"))
    assert data.image_shape == (1, 28, 28)
    assert data.classes[9] == "Ankle boot"
    assert data.train_labels[:11].tolist() == [*range(10), 0]
    assert "cache folder" in data.source
    assert str(tmp_path / "mine") in data.source


def test_cache_wins_over_debian_and_debian_over_the_rest(tmp_path, monkeypatch):
    debian, cache = tmp_path / "debian", tmp_path / "cache" / "fashion-mnist"
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", debian)
    write_fashion_mnist(debian, pixel=1)
    data = load_data()
    assert data.train_images.unique().tolist() == [1]
    assert data.source == f"Debian's package dataset-fashion-mnist ({debian})"
    assert not cache.exists()
    write_fashion_mnist(cache, pixel=2)
    assert load_data().train_images.unique().tolist() == [2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels_idx1_ubyte": np.arange(29) % 10}, "30 images, 29 labels"),
        (
            {"t10k_labels_idx1_ubyte": np.full(20, 10)},
            r"test_labels must be in 0\.\.9 \(10 classes\), got 10",
        ),
        ({"t10k_images_idx3_ubyte": np.zeros((20, 27, 28))}, r"one shape.*\(1, 28, 28\) and \(1, 27, 28\)"),
    ],
)
def test_broken_cache_is_passed_over_with_a_warning(tmp_path, monkeypatch, changed, message):
    write_fashion_mnist(tmp_path / "cache" / "fashion-mnist", **changed)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    write_fashion_mnist(tmp_path / "debian")
    with pytest.warns(UserWarning, match=f"passed over the cache folder.*{message}"):
        data = load_data()
    assert data.source.startswith("Debian's package")


def test_no_source_gives_one_error_that_lists_each_with_its_reason(tmp_path):
    write_fashion_mnist(tmp_path / "cache" / "fashion-mnist")
    (tmp_path / "cache" / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataUnavailable) as caught:
        load_data()
    cache, debian, hub, _ = str(caught.value).split("\n")[1:]
    assert "cache folder" in cache
    assert "lacks t10k-labels-idx1-ubyte" in cache
    assert "no-debian): there is no such folder" in debian
    assert "the hub is out of reach" in hub


def test_hub_false_asks_no_hub():
    with pytest.raises(DataUnavailable, match="not asked, because of hub=False"):
        load_data(source=DataSource(hub=False))


def test_digits_stand_in_and_say_so():
    data = load_data(source=DataSource(or_digits=True), limit=10)
    assert data.name == "digits"
    assert data.source.startswith("scikit-learn's 8x8 digits INSTEAD of Fashion-MNIST")
    assert "the hub is out of reach" in data.source
    assert len(data.train_images) == 10


def test_fallback_is_not_taken_when_fashion_mnist_is_there_or_another_name_fails(tmp_path):
    with pytest.raises(DataUnavailable):
        load_data("hub:owner/name", DataSource(or_digits=True))
    write_fashion_mnist(tmp_path / "cache" / "fashion-mnist")
    assert load_data(source=DataSource(or_digits=True)).name == "fashion-mnist"


def test_default_cache_is_looked_into_beside_another(tmp_path):
    write_fashion_mnist(tmp_path / "cache" / "fashion-mnist")
    source = load_data(source=DataSource(tmp_path / "mine")).source
    assert source == f"the cache folder {tmp_path / 'cache' / 'fashion-mnist'}"


def test_error_says_how_to_get_the_data():
    with pytest.raises(DataUnavailable) as caught:
        load_data(source=DataSource(hub=False))
    *_, advice = str(caught.value).split("\n")
    assert "`make data`" in advice
    assert "`apt-get install dataset-fashion-mnist`" in advice
    assert "--hub" in advice
    assert "--data FOLDER" in advice


# --- .npz files


def npz_arrays(shape=(4, 5), count=8, **changed):
    arrays = {
        "train_images": np.arange(count * int(np.prod(shape)), dtype=np.uint8).reshape(count, *shape),
        "train_labels": np.arange(count) % 3,
        "test_images": np.zeros((3, *shape), dtype=np.uint8),
        "test_labels": np.arange(3),
    }
    return {**arrays, **changed}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((4, 5), (1, 4, 5)), ((4, 5, 3), (3, 4, 5)), ((3, 4, 5), (3, 4, 5)), ((4, 5, 1), (1, 4, 5))],
)
def test_npz_is_read_in_every_layout(tmp_path, stored, expected):
    arrays = npz_arrays(stored)
    np.savez(tmp_path / "small.npz", **arrays)
    data = load_data(str(tmp_path / "small.npz"))
    assert data.name == "small"
    assert data.image_shape == expected
    assert data.classes == ("0", "1", "2")
    images = arrays["train_images"]
    if stored[-1] == 3 or stored[-1] == 1:
        images = np.moveaxis(images, -1, 1)
    assert np.array_equal(data.train_images.numpy(), images.reshape(8, *expected))
    assert data.train_images.is_contiguous()


def test_npz_with_keras_names_and_label_columns_is_read(tmp_path):
    arrays = npz_arrays()
    np.savez_compressed(
        tmp_path / "k.npz",
        x_train=arrays["train_images"],
        y_train=arrays["train_labels"][:, None].astype(np.uint8),
        x_test=arrays["test_images"],
        y_test=arrays["test_labels"],
        classes=np.array(["cat", "dog", "owl"]),
    )
    data = load_data(str(tmp_path / "k.npz"))
    assert data.train_labels.tolist() == arrays["train_labels"].tolist()
    assert data.classes == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": np.zeros((8, 4, 5))}, "train_images must be uint8.*float64"),
        ({"train_images": np.zeros((8, 20), np.uint8)}, r"must be \(N, H, W\).*got shape \(8, 20\)"),
        ({"train_images": np.zeros((8, 3, 5, 3), np.uint8)}, "on one side only"),
        ({"train_images": np.zeros((8, 2, 5, 5), np.uint8)}, "C 1 or 3"),
        ({"train_labels": np.zeros(8)}, "train_labels must be whole numbers"),
        ({"train_labels": np.zeros((8, 3), int)}, r"shape \(N,\), got int64 of shape \(8, 3\)"),
        ({"train_labels": np.full(8, 2**40)}, "K at most the number of training images"),
        ({"test_labels": -np.arange(3)}, "got -2"),
        ({"train_labels": np.array([{}] * 8)}, "not a readable .npz file.*allow_pickle"),
    ],
)
def test_npz_with_a_wrong_array_is_refused(tmp_path, changed, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **npz_arrays(**changed))
    with pytest.raises(ValueError, match=message) as caught:
        load_data(str(path))
    assert str(path) in str(caught.value)


def test_npz_without_the_arrays_says_which_are_needed(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold train_images, .* or x_train, .*; holds a"):
        load_data(str(tmp_path / "other.npz"))


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 broken", b"\x80\x04.", b"npy"])
def test_damaged_npz_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    if content == b"npy":
        with (tmp_path / "bad.npz").open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"bad\.npz: not a readable \.npz file"):
        load_data(str(tmp_path / "bad.npz"))


# --- folders of images


def write_image(path, value=0, size=(6, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(Image.new(mode, (1, 1)).getbands())).save(
        path
    )


def test_folder_with_train_and_test_is_read(tmp_path):
    root = tmp_path / "pets"
    for index, (name, part) in enumerate([("cat", "train"), ("dog", "train"), ("dog", "test")]):
        for copy in range(2):
            write_image(root / part / name / f"{copy}.png", value=10 * index + copy)
    (root / "train" / "cat" / "notes.txt").touch()
    data = load_data(str(root))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.image_shape == (1, 4, 6)
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    assert data.test_labels.tolist() == [1, 1]
    assert str(root) in data.source


def test_folder_without_parts_is_split_by_class(tmp_path):
    for name in ("a", "b"):
        for copy in range(10):
            write_image(tmp_path / name / f"{copy}.png")
    data = load_data(str(tmp_path))
    assert torch.bincount(data.train_labels).tolist() == [8, 8]
    assert torch.bincount(data.test_labels).tolist() == [2, 2]
    assert "80/20" in data.source


@pytest.mark.parametrize(
    ("folders", "tested_on", "said"),
    [
        (["train", "test"], "test", ", tested on test/"),
        (["train", "val"], "val", ", tested on val/"),
        (["train", "valid"], "valid", ", tested on valid/"),
        (["train", "validation"], "validation", ", tested on validation/"),
        (["train", "val", "test"], "test", ", tested on test/, val/ kept apart"),
        (
            ["train", "validation", "val", "test"],
            "test",
            ", tested on test/, val/ and validation/ kept apart",
        ),
        (["train", "val", "more", "raw"], "val", ", tested on val/, not used: more/, raw/"),
        (["train"], "train", ", train/ divided 80/20"),
        (["train", "more"], "train", ", train/ divided 80/20, not used: more/"),
    ],
)
def test_parts_of_a_folder_are_what_they_are_called_and_the_source_says_which_were_used(
    tmp_path, folders, tested_on, said
):
    for value, part in enumerate(folders):
        for copy in range(2):
            write_image(tmp_path / part / "a" / f"{copy}.png", value=value)
    data = load_data(str(tmp_path))
    assert data.train_images.unique().tolist() == [folders.index("train")]
    assert data.test_images.unique().tolist() == [folders.index(tested_on)]
    assert data.source == f"the folder {tmp_path}{said}"


def test_images_beside_the_parts_are_counted(tmp_path):
    for file in ("train/a/0.png", "val/a/0.png", "0.png", "1.png"):
        write_image(tmp_path / file)
    assert load_data(str(tmp_path)).source.endswith("not used: 2 images beside train/")


def test_classes_may_be_called_like_parts(tmp_path):
    for name in ("valid", "training"):
        for copy in range(2):
            write_image(tmp_path / name / f"{copy}.png")
    assert load_data(str(tmp_path)).classes == ("training", "valid")


def test_greyscale_images_become_rgb_beside_rgb_images(tmp_path):
    write_image(tmp_path / "train/a/0.png", value=50)
    write_image(tmp_path / "train/b/0.png", value=60, mode="RGB")
    write_image(tmp_path / "test/a/0.jpg", value=70)
    data = load_data(str(tmp_path))
    assert data.image_shape == (3, 4, 6)
    assert data.train_images[0].unique().tolist() == [50]
    assert data.train_images[1].unique().tolist() == [60]


def test_image_of_another_size_is_named_with_both_sizes(tmp_path):
    write_image(tmp_path / "train/a/0.png")
    write_image(tmp_path / "test/a/odd.png", size=(5, 4))
    with pytest.raises(
        ValueError, match=r"odd\.png is 5x4 pixels, but .*0\.png is 6x4: all images must have one size"
    ):
        load_data(str(tmp_path))


def test_transparent_and_broken_images_are_named(tmp_path):
    write_image(tmp_path / "train/a/0.png", mode="RGBA")
    with pytest.raises(ValueError, match=r"0\.png must be 8-bit greyscale or RGB.*got mode RGBA"):
        load_data(str(tmp_path))
    (tmp_path / "train/a/0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ValueError, match=r"0\.png: not a readable image"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/0.png", "test/b/0.png"], "b: not a class of the training images, which are a"),
        (["a/0.png", "test/b/0.png"], "a test folder but no train folder"),
        (["train/a/0.png", "train/0.png"], r"0\.png: an image must lie in its class's folder"),
        (["train/0.png", "val/a/0.png"], "train: there must be one folder of images per class, got none"),
        (["a/0.png", "val/a/0.png"], "a val folder but no train folder"),
        (["test/a/0.png"], "a test folder but no train folder"),
        (["validation/a/0.png"], "a validation folder but no train folder"),
        (["Train/a/0.png"], "got Train: rename it to train"),
        (["training/a/0.png", "test/a/0.png"], "got training: rename it to train"),
        (["train/a/0.png", "Val/a/0.png"], "got Val: rename it to val"),
        (["train/a/0.png", "tests/a/0.png"], "got tests: rename it to test"),
        (["train/a/0.png", "dev/a/0.png"], "got dev: rename it to val"),
        (["train/a/0.png", "val/a/0.png", "valid/a/0.png"], "val and valid could each be the test images"),
        (["train/a/0.png", "val/0.png"], r"0\.png: an image must lie in its class's folder"),
        (["a/0.png", "b/readme.txt"], "b: the class has no images"),
        (["a/0.png"], "at least 2 examples"),
    ],
)
def test_folder_out_of_order_is_refused(tmp_path, files, message):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        if file.endswith("png"):
            write_image(tmp_path / file)
        else:
            (tmp_path / file).touch()
    with pytest.raises(ValueError, match=message):
        load_data(str(tmp_path))


# --- a hub's own format, and a hub


@pytest.fixture
def datasets(tmp_path):
    return pytest.importorskip("datasets")


def hub_split(datasets, count, *, size=(6, 4), labels=None, label_type=None, **extra):
    return datasets.Dataset.from_dict(
        {
            "picture": [Image.new("L", size, index) for index in range(count)],
            "label": [index % 2 for index in range(count)] if labels is None else labels,
            **{name: [0] * count for name in extra},
        },
        features=datasets.Features(
            {
                "picture": datasets.Image(),
                "label": label_type or datasets.ClassLabel(names=["cat", "dog"]),
                **extra,
            }
        ),
    )


def test_parquet_folder_is_read(tmp_path, datasets):
    folder = tmp_path / "pets"
    (folder / "data").mkdir(parents=True)
    for part, count in (("train", 6), ("test", 4)):
        hub_split(datasets, count).to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    data = load_data(str(folder))
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.image_shape == (1, 4, 6)
    assert data.train_images[:, 0, 0, 0].tolist() == list(range(6))
    assert data.test_labels.tolist() == [0, 1, 0, 1]
    assert data.source == f"the folder {folder} (splits train and test)"


def test_saved_dataset_dict_is_read_with_validation_as_test(tmp_path, datasets):
    parts = datasets.DatasetDict({"train": hub_split(datasets, 6), "validation": hub_split(datasets, 2)})
    parts.save_to_disk(tmp_path / "saved")
    data = load_data(str(tmp_path / "saved"))
    assert (len(data.train_images), len(data.test_images)) == (6, 2)
    assert "splits train and validation" in data.source


def test_saved_single_dataset_is_split(tmp_path, datasets):
    hub_split(datasets, 20).save_to_disk(tmp_path / "saved")
    data = load_data(str(tmp_path / "saved"))
    assert torch.bincount(data.test_labels).tolist() == [2, 2]
    assert "80/20" in data.source


def test_images_with_a_metadata_file_are_read_as_the_hub_does(tmp_path, datasets):
    for part in ("train", "test"):
        for index in range(2):
            write_image(tmp_path / part / f"{index}.png")
        lines = [
            f'{{"file_name": "{index}.png", "label": "{name}"}}' for index, name in enumerate(("owl", "ant"))
        ]
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(lines))
    data = load_data(str(tmp_path))
    assert data.classes == ("ant", "owl")
    assert data.train_labels.tolist() == [1, 0]


def test_plain_number_labels_are_named_by_number(tmp_path, datasets):
    hub_split(datasets, 20, label_type=datasets.Value("int64")).save_to_disk(tmp_path / "saved")
    assert load_data(str(tmp_path / "saved")).classes == ("0", "1")


def test_unusable_columns_are_listed(tmp_path, datasets):
    split = hub_split(datasets, 4)
    for name, broken, message in (
        ("no-image", split.remove_columns("picture"), "one column of images, got columns .*label"),
        ("no-label", split.remove_columns("label"), "one column of class labels, got columns .*picture"),
        ("null", hub_split(datasets, 4, labels=[0, None, 1, 0]), "every image must have a label"),
        ("size", datasets.concatenate_datasets([split, hub_split(datasets, 1, size=(9, 9))]), "one size"),
    ):
        broken.save_to_disk(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            load_data(str(tmp_path / name))


def test_unlabelled_test_split_is_refused(tmp_path, datasets):
    parts = {"train": hub_split(datasets, 4), "test": hub_split(datasets, 2, labels=[-1, -1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"test_labels must be in 0\.\.1 .* got -1"):
        load_data(str(tmp_path / "saved"))


def test_splits_without_a_train_split_are_listed(tmp_path, datasets):
    parts = {"first": hub_split(datasets, 4), "second": hub_split(datasets, 4)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="a split named train, got first, second"):
        load_data(str(tmp_path / "saved"))


def test_folder_of_nothing_useful_is_named(tmp_path, datasets):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the folder .*empty: the datasets library cannot open it"):
        load_data(str(tmp_path / "empty"))


@pytest.fixture
def hub(tmp_path, datasets, monkeypatch):
    """A hub that has what the test saves under tmp_path/hub, and counts what it is asked."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.undo()  # the real fetch_from_hub
    monkeypatch.setenv("ALIGNONCE_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no-debian")
    asked = []

    def load_dataset(name, configuration, streaming):
        asked.append((name, configuration))
        return datasets.load_from_disk(tmp_path / "hub" / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_hub_data_set_is_kept_and_then_needs_no_hub(tmp_path, datasets, hub):
    parts = {"train": hub_split(datasets, 6), "test": hub_split(datasets, 2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hub" / "owner" / "pets")
    first = load_data("hub:owner/pets/small")
    assert first.name == "owner/pets/small"
    assert first.source == "the hub's data set owner/pets (small) (splits train and test)"
    again = load_data("hub:owner/pets/small", DataSource(hub=False))
    assert hub == [("owner/pets", "small")]
    assert again.classes == first.classes == ("cat", "dog")
    assert torch.equal(again.train_images, first.train_images)
    assert "a kept copy of the hub's data set" in again.source


def test_fashion_mnist_from_the_hub_is_kept_as_idx_files(tmp_path, datasets, hub):
    names = datasets.ClassLabel(names=list(fashion_mnist.FASHION_CLASSES))
    parts = {
        part: hub_split(datasets, 20, size=(28, 28), labels=[i % 10 for i in range(20)], label_type=names)
        for part in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hub" / fashion_mnist.FASHION_HUB_ID)
    first = load_data()
    assert first.name == "fashion-mnist"
    assert "the hub's data set zalando-datasets/fashion_mnist" in first.source
    again = load_data(source=DataSource(hub=False))
    assert "cache folder" in again.source
    assert torch.equal(again.train_images, first.train_images)
    assert torch.equal(again.test_labels, first.test_labels)


def test_cache_that_cannot_be_written_is_only_a_warning(tmp_path, datasets, hub):
    parts = {"train": hub_split(datasets, 6), "test": hub_split(datasets, 2)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "hub" / "owner" / "pets")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept in the cache"):
        data = load_data("hub:owner/pets/small")
    assert data.name == "owner/pets/small"


def test_hub_out_of_reach_is_told_after_one_request(monkeypatch, hub):
    def unreachable(self, name, timeout):
        assert timeout <= 10
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(DataUnavailable, match="owner/name is unavailable: ConnectionError: no route to host"):
        load_data("hub:owner/name")
    assert hub == []


def test_missing_datasets_library_is_told_with_its_remedy(monkeypatch, hub):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataUnavailable, match=r"pip install 'alignonce\[hub\]'"):
        load_data("hub:owner/name")


def test_hub_false_needs_a_kept_copy():
    with pytest.raises(DataUnavailable, match=r"owner/name is not in the cache .*hub=False"):
        load_data("hub:owner/name", DataSource(hub=False))


@pytest.mark.parametrize("name", ["hub:", "hub:name", "hub:../../../etc/passwd", "hub:a/b/c/d", "hub:a b/c"])
def test_malformed_hub_id_is_refused(name):
    with pytest.raises(ValueError, match='name must be "hub:owner/name"'):
        load_data(name)


# --- the module as a program


def test_program_prints_the_source(tmp_path, capsys):
    write_fashion_mnist(tmp_path / "cache" / "fashion-mnist")
    assert program.main([]) == 0
    out = capsys.readouterr().out
    assert "fashion-mnist: the cache folder" in out
    assert "30 training and 20 test images of shape (1, 28, 28), 10 classes" in out


def test_program_tells_of_the_fallback_and_of_errors(capsys):
    assert program.main([]) == 0
    assert "INSTEAD of Fashion-MNIST" in capsys.readouterr().out
    assert program.main(["mnist"]) == 1
    assert "error: name must be" in capsys.readouterr().err
