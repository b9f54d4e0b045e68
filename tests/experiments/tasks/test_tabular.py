import pytest
import torch

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.tables import KNOWN_TABLES, load_table
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.tasks.tabular import Tabular
from alignonce.experiments.training.loop import train


@pytest.mark.parametrize("name", KNOWN_TABLES)
def test_rows_are_divided_once_and_for_all(name):
    data, again = load_table(name), load_table(name)
    assert torch.equal(data.test_inputs, again.test_inputs)
    rows = torch.cat([data.train_inputs, data.test_inputs])
    assert len(rows.unique(dim=0)) == len(rows)
    assert len(data.test_inputs) == pytest.approx(len(rows) / 5, abs=3)


def test_regression_target_is_standardised_on_training_rows():
    targets = load_table("diabetes").train_targets
    assert float(targets.mean()) == pytest.approx(0, abs=1e-5)
    assert float(targets.var(correction=0)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rule", ["bp", "soft:0.5"])
def test_regression_explains_variance(tmp_path, rule):
    task, config = Tabular(load_table("diabetes")), RunConfig(task="tabular", rule=rule, epochs=20)
    result = train(config, task)
    assert result.metrics.last("test_r2") > 0.25
    rest = 1 - result.metrics.last("test_r2")
    variance = float(task.data.test_targets.var(correction=0))
    assert rest * variance == pytest.approx(result.metrics.last("test_loss"), rel=1e-4)
    folder = RunFolder(tmp_path)
    folder.save(config, task, result)
    rows, _ = task.batch(torch.arange(3))
    assert torch.equal(folder.load_model()(rows), result.model(rows))


@pytest.mark.parametrize("name", ["wine", "breast-cancer"])
def test_classes_are_learnt(name):
    config = RunConfig(task="tabular", data=name, rule="fa", epochs=20)
    result = train(config, Tabular(load_table(name)))
    assert result.metrics.last("test_accuracy") > 0.85


def test_unknown_table_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"diabetes or breast-cancer or wine.*got 'iris'"):
        load_table("iris")
