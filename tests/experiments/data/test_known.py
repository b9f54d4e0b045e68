"""The data sets of the paper, as small copies in exactly the layout, columns and splits of the hub's."""

import pytest
import torch
from PIL import Image

from alignonce.experiments.data import DataSource, DataUnavailable, load_data
from alignonce.experiments.data import hub as hub_module
from alignonce.experiments.data.known import KNOWN_DATA

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ALIGNONCE_DATA", str(tmp_path))


def colour(shade: int, side: int) -> Image.Image:
    return Image.new("RGB", (side, side), (shade, 2 * shade, 3 * shade))


def write_split(file, side, count, columns, *, start=0, picture=colour):
    """Write one parquet file: an image column, and class labels 0, 1, ... in columns of so many classes."""
    (image_name, *label_names), classes = columns, [columns[name] for name in list(columns)[1:]]
    values = {image_name: [picture(start + i, side) for i in range(count)]}
    features = {image_name: datasets.Image()}
    for name, number in zip(label_names, classes, strict=True):
        values[name] = [i % number for i in range(count)]
        features[name] = datasets.ClassLabel(names=[f"{name}-{i}" for i in range(number)])
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(values, features=datasets.Features(features)).to_parquet(file)


def write_svhn(folder):
    """Two configurations, described by the README as the hub's; one has a further split."""
    for part, start in (("train", 1), ("test", 31), ("extra", 61)):
        file = folder / "cropped_digits" / f"{part}-00000-of-00001.parquet"
        write_split(file, 32, 20, {"image": None, "label": 10}, start=start)
        boxes = datasets.Dataset.from_dict(
            {"image": [colour(5, 50)], "digits": [{"bbox": [[1, 2, 3, 4]], "label": [7]}]},
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "digits": {
                        "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("int32"), length=4)),
                        "label": datasets.Sequence(datasets.ClassLabel(num_classes=10)),
                    },
                }
            ),
        )
        other = folder / "full_numbers" / f"{part}-00000-of-00001.parquet"
        other.parent.mkdir(parents=True, exist_ok=True)
        boxes.to_parquet(other)
    lines = ["---", "configs:"]
    for name in ("full_numbers", "cropped_digits"):
        lines += [f"- config_name: {name}", "  data_files:"]
        for part in ("train", "test", "extra"):
            lines += [f"  - split: {part}", f"    path: {name}/{part}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# SVHN", ""]))


def write_one_configuration(folder, name, columns, *, default=False):
    for part, count, start in (("train", 200, 0), ("test", 100, 3)):
        write_split(folder / name / f"{part}-00000-of-00001.parquet", 32, count, columns, start=start)
    lines = ["---", "configs:", f"- config_name: {name}", "  data_files:"]
    lines += [f"  - split: {part}\n    path: {name}/{part}-*" for part in ("train", "test")]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_cifar10(folder):
    write_one_configuration(folder, "plain_text", {"img": None, "label": 10})


def write_cifar100(folder):
    write_one_configuration(folder, "cifar100", {"img": None, "fine_label": 100, "coarse_label": 20})


def write_stl10(folder):
    for part, count in (("train", 20), ("test", 30), ("unlabeled", 40)):
        file = folder / "data" / f"{part}-00000-of-00001.parquet"
        write_split(file, 96, count, {"image": None, "label": 10}, start=len(part))


def mixed(shade: int, side: int) -> Image.Image:
    return Image.new("L", (side, side), shade) if shade % 5 == 4 else colour(shade, side)


def write_tiny_imagenet(folder):
    for part, count in (("train", 400), ("valid", 200)):
        file = folder / "data" / f"{part}-00000-of-00001.parquet"
        write_split(file, 64, count, {"image": None, "label": 200}, picture=lambda i, s: mixed(i % 80, s))


WRITERS = {
    "svhn": write_svhn,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "stl10": write_stl10,
    "tiny-imagenet": write_tiny_imagenet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_loads_by_its_short_name_from_a_folder_in_the_hubs_format(tmp_path, name):
    WRITERS[name](tmp_path / name)
    data = load_data(name, DataSource(hub=False))
    assert (data.name, data.image_shape) == (name, KNOWN_DATA[name].image_shape)
    assert data.num_classes == KNOWN_DATA[name].num_classes
    assert str(tmp_path / name) in data.source


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "tiny-imagenet", "svhn/cropped_digits"])
def test_each_loads_from_the_path_of_such_a_folder_too(tmp_path, name):
    short = name.split("/")[0]
    WRITERS[short](tmp_path / "elsewhere" / short)
    data = load_data(str(tmp_path / "elsewhere" / name))
    assert data.num_classes == KNOWN_DATA[short].num_classes


def test_folder_of_several_configurations_is_refused_with_their_names(tmp_path):
    write_svhn(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"cropped_digits"):
        load_data(str(tmp_path / "elsewhere"))


def test_extra_and_unlabelled_splits_are_left_out(tmp_path):
    write_svhn(tmp_path / "svhn")
    write_stl10(tmp_path / "stl10")
    svhn, stl10 = load_data("svhn", DataSource(hub=False)), load_data("stl10", DataSource(hub=False))
    assert (len(svhn.train_images), len(svhn.test_images)) == (20, 20)
    assert svhn.train_images[:, 0, 0, 0].tolist() == list(range(1, 21))
    assert svhn.test_images[:, 0, 0, 0].tolist() == list(range(31, 51))
    assert (len(stl10.train_images), len(stl10.test_images)) == (20, 30)
    assert stl10.source.endswith("(splits train and test; not used: unlabeled)")


def test_cifar100_has_its_fine_labels(tmp_path):
    write_cifar100(tmp_path / "cifar100")
    data = load_data("cifar100", DataSource(hub=False))
    assert data.classes[99] == "fine_label-99"
    assert data.train_labels.tolist() == [i % 100 for i in range(200)]


def test_validation_images_of_tiny_imagenet_are_its_test_images_and_grey_ones_become_colour(tmp_path):
    write_tiny_imagenet(tmp_path / "tiny-imagenet")
    data = load_data("tiny-imagenet", DataSource(hub=False))
    assert (len(data.train_images), len(data.test_images)) == (400, 200)
    assert "valid" in data.source
    assert data.train_images[4, :, 0, 0].tolist() == [4, 4, 4]
    assert data.train_images[5, :, 0, 0].tolist() == [5, 10, 15]


@pytest.mark.parametrize("name", WRITERS)
def test_each_loads_from_a_saved_data_set_too(tmp_path, name):
    known = KNOWN_DATA[name]
    label = datasets.ClassLabel(names=[str(i) for i in range(known.num_classes)])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    side = known.image_shape[1]
    part = datasets.Dataset.from_dict(
        {"image": [colour(1, side), colour(2, side)], "label": [0, 1]}, features=features
    )
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / name)
    assert load_data(name, DataSource(hub=False)).image_shape == known.image_shape


def test_short_name_is_asked_of_the_hub_by_its_id_and_configuration(monkeypatch, tmp_path):
    asked = []

    def fetch(dataset_id, configuration):
        asked.append((dataset_id, configuration))
        return load_data("digits", limit=20)

    monkeypatch.setattr(hub_module, "fetch_from_hub", fetch)
    assert load_data("svhn").name == "svhn"
    assert load_data("cifar10").name == "cifar10"
    assert asked == [("ufldl-stanford/svhn", "cropped_digits"), ("uoft-cs/cifar10", None)]
    assert load_data("svhn", DataSource(hub=False)).name == "svhn"  # the kept copy


def test_machine_without_a_hub_is_told_what_to_do(tmp_path, monkeypatch):
    def unreachable(*args):
        raise DataUnavailable("ConnectionError: no route to host")

    monkeypatch.setattr(hub_module, "fetch_from_hub", unreachable)
    for hub in (True, False):
        with pytest.raises(DataUnavailable) as error:
            load_data("svhn", DataSource(hub=hub))
        assert f"there is no folder {tmp_path / 'svhn'}" in str(error.value)
        assert "hf download ufldl-stanford/svhn --repo-type dataset --local-dir svhn" in str(error.value)


def test_known_sizes_are_those_of_the_data():
    data, known = load_data("digits"), KNOWN_DATA["digits"]
    assert (len(data.train_images), len(data.test_images)) == (known.train_images, known.test_images)
    assert data.image_shape == known.image_shape
    assert torch.equal(data.train_labels.unique(), torch.arange(known.num_classes))
