from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.config.task_specs import TASK_SPECS
from alignonce.experiments.runs.scores import SCORES
from alignonce.experiments.tasks import TASKS


def test_configurations_and_tasks_know_the_same_names():
    assert list(TASKS) == list(TASK_SPECS)


def test_defaults_of_each_task_are_a_valid_run():
    for name, spec in TASK_SPECS.items():
        assert RunConfig(task=name).model in spec.models


def test_scores_are_those_of_all_tasks_each_once():
    assert [score.metric for score in SCORES] == ["test_accuracy", "test_bits_per_byte", "test_r2"]
