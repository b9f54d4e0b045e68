import pytest
from PIL import Image

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.studies.estimate import DataShape, shape_of
from alignonce.experiments.studies.jobs import Source
from alignonce.experiments.studies.study import load_study


def test_known_data_sets_need_not_be_on_the_machine(tmp_path):
    nothing = Source(cache=tmp_path, hub=False)
    shape = shape_of(RunConfig(data="tiny-imagenet"), nothing)
    assert shape == DataShape(100_000, 10_000, (3, 64, 64), 200)


def test_other_data_are_looked_at(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        (tmp_path / part / "cat").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (6, 4)).save(tmp_path / part / "cat" / f"{i}.png")
    assert shape_of(RunConfig(data=str(tmp_path)), Source(hub=False)) == DataShape(3, 2, (3, 4, 6), 1)


def test_every_run_of_the_papers_study_has_data_of_known_size(tmp_path):
    cells = load_study("paper").cells()
    shapes = [shape_of(cell.config.runs()[0], Source(cache=tmp_path, hub=False)) for cell in cells]
    assert {cell.config.data for cell in cells} == {"svhn", "cifar10", "cifar100", "stl10", "tiny-imagenet"}
    assert {cell.config.model for cell in cells} == {"mlp", "vgg", "resnet18", "vit"}
    assert max(shape.num_classes for shape in shapes) == 200


def test_unknown_data_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="hub=False"):
        shape_of(RunConfig(data="hub:owner/name"), Source(cache=tmp_path, hub=False))
