import pytest
import torch
from PIL import Image

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.source import DataSource
from alignonce.experiments.studies.estimate import task_to_time
from alignonce.experiments.studies.study import load_study


def test_known_data_sets_need_not_be_on_the_machine(tmp_path):
    nothing = DataSource(cache=tmp_path, hub=False)
    task, facts = task_to_time(RunConfig(data="tiny-imagenet", batch_size=4), nothing)
    assert (facts.train_examples, facts.test_examples) == (100_000, 10_000)
    assert (facts.example_shape, facts.outputs) == ((3, 64, 64), 200)
    images, labels = task.batch(torch.arange(4))
    assert images.shape == (4, 3, 64, 64)
    assert len(labels) == 4


def test_other_data_are_looked_at(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        (tmp_path / part / "cat").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (6, 4)).save(tmp_path / part / "cat" / f"{i}.png")
    task, facts = task_to_time(RunConfig(data=str(tmp_path)), DataSource(hub=False))
    assert facts == task.facts
    assert (facts.train_examples, facts.test_examples) == (3, 2)
    assert (facts.example_shape, facts.outputs) == ((3, 4, 6), 1)


def test_every_run_of_the_papers_study_has_data_of_known_size(tmp_path):
    cells = load_study("paper").cells()
    shapes = [task_to_time(cell.config.runs()[0], DataSource(cache=tmp_path, hub=False)) for cell in cells]
    assert {cell.config.data for cell in cells} == {"svhn", "cifar10", "cifar100", "stl10", "tiny-imagenet"}
    assert {cell.config.model for cell in cells} == {"mlp", "vgg", "resnet18", "vit"}
    assert max(facts.outputs for _, facts in shapes) == 200


def test_unknown_data_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="hub=False"):
        task_to_time(RunConfig(data="hub:owner/name"), DataSource(cache=tmp_path, hub=False))
