"""A study on a Ray cluster of two nodes on this machine, one of which is killed in mid-study."""

from pathlib import Path

import numpy as np
import pytest

from alignonce.experiments.data.source import DataSource
from alignonce.experiments.studies.cluster import Cluster
from alignonce.experiments.studies.collecting import collect_facts
from alignonce.experiments.studies.execution import run_study
from alignonce.experiments.studies.folder import StudyFolder
from helpers.small_studies import TRAIN, made_part, made_study

# Ray and its workers warn of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
SOURCE = DataSource(hub=False)


@pytest.fixture
def two_nodes(monkeypatch):
    """Two nodes of one CPU each; the driver is on neither's."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # A lost node is to be noticed within seconds.
    config = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": config})
    second = nodes.add_node(num_cpus=1)
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    nodes.wait_for_nodes()
    yield nodes, second
    ray.shutdown()
    nodes.shutdown()


def numbers(folder: Path) -> dict:
    evidence = collect_facts(StudyFolder(folder).snapshot())
    return {fact[:-1]: fact.value for fact in evidence if fact.measure != "seconds"}


def test_a_study_survives_the_death_of_a_node(two_nodes, tmp_path):
    nodes, second = two_nodes
    part = made_part(
        train=TRAIN | {"epochs": 40}, rules=("bp", "fa", "soft:0.5"),
        measure={"measures": ["generalisation"], "images": 20},
    )  # fmt: skip
    study = made_study(parts=(part,))
    cluster = Cluster(tmp_path / "cluster", nodes.address)
    ends: list[str] = []

    def killing(jobs, on_start, on_end):
        def ended(job, reason):
            ends.append(job.name)
            if len(ends) == 1:
                # The other node is in the middle of its job by now, or will get one soon.
                nodes.remove_node(second, allow_graceful=False)
            on_end(job, reason)

        cluster(jobs, on_start, ended)

    result = run_study(study, StudyFolder(tmp_path / "cluster"), SOURCE, executor=killing)
    assert [state for _, state in result.states] == ["done"] * 6
    assert not result.failures
    assert len(ends) == len(set(ends)) == 8
    assert not list((tmp_path / "cluster/main/runs").glob("*-2"))

    local = run_study(study, StudyFolder(tmp_path / "local"), SOURCE, workers=2)
    assert not local.failures
    theirs, ours = numbers(tmp_path / "cluster"), numbers(tmp_path / "local")
    assert theirs.keys() == ours.keys()
    np.testing.assert_array_equal(list(theirs.values()), list(ours.values()))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:x"])
def test_an_unreachable_cluster_is_a_clear_error(address, tmp_path):
    with pytest.raises(ValueError, match="address: no Ray cluster at"):
        run_study(made_study(), StudyFolder(tmp_path), SOURCE, executor=Cluster(tmp_path, address))
