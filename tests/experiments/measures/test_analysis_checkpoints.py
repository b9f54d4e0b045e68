import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from alignonce.diagnostics import compare_gradients, trajectory_plane
from alignonce.experiments.facts import Facts
from alignonce.experiments.measures.plan import AnalysisPlan
from alignonce.experiments.measures.run import analyse
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.runs.train_into import train_and_save
from alignonce.experiments.training.loop import as_pixels
from helpers.small_runs import made_data, made_images, save_small_run, small_config

PLAN = AnalysisPlan(
    checkpoints=True, measures=("alignment", "flow", "curvature"), images=24, products=6, eigenvalues=2,
    density_runs=1, points=3, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for rule in ("bp", "fa"):
        config = small_config(rule=rule, epochs=1, checkpoints=3)
        train_and_save(config, made_data(), RunFolder(folder / rule))
    return folder


@pytest.fixture(scope="module")
def analysed(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("analysis")
    return out, analyse([runs], PLAN, out, lambda run: made_data())


def test_every_checkpoint_is_measured_and_the_table_reads_back(analysed):
    out, result = analysed
    assert not result.failures
    for measure in ("eigenvalue", "trace", "gradient.total.angle_deg", "flow.input_log_variance"):
        rows = result.table.pick(measure=measure)
        steps = {(row.run, row.step) for row in rows if row.step is not None}
        assert steps == {(run, step) for run in ("bp", "fa") for step in (0, 4, 7)}, measure
    assert list(map(str, Facts.read_csv(out / "analysis.csv"))) == list(map(str, result.table))


def test_checkpoint_numbers_are_those_of_the_network_of_that_step(analysed, runs):
    some = made_images().limited(24)
    batch = as_pixels(some.train_images), some.train_labels
    found = compare_gradients(RunFolder(runs / "fa").load_model(4), batch, F.cross_entropy)
    rows = analysed[1].table.pick(run="fa", step=4, measure="gradient.total.angle_deg")
    assert rows.values == pytest.approx([found.total.angle_deg])


def test_paths_are_those_of_the_diagnostics(analysed, runs):
    states = {
        run: [RunFolder(runs / run).load_model(step).state_dict() for step in (0, 4, 7)]
        for run in ("bp", "fa")
    }
    plane = trajectory_plane(RunFolder(runs / "bp").load_model(), states)
    rows = analysed[1].table.pick(group="trajectory")
    for run, path in plane.paths.items():
        assert rows.pick(run=run, measure="path_x").values == pytest.approx(path[:, 0].tolist(), abs=1e-6)
        assert [row.step for row in rows.pick(run=run, measure="path_y")] == [0, 4, 7]
    assert len(rows.pick(measure="plane_loss")) == 9


def test_both_figures_are_there_and_not_blank(analysed):
    for name in ("training", "trajectory"):
        assert (analysed[0] / f"{name}.pdf").exists()
        with Image.open(analysed[0] / f"{name}.png") as image:
            assert len(image.convert("RGB").reduce(4).getcolors(maxcolors=1 << 20)) > 50


def test_second_analysis_measures_nothing_again(analysed, runs):
    second = analyse([runs], PLAN, analysed[0], lambda run: pytest.fail("read data in vain"))
    assert second.skipped == second.parts
    assert list(map(str, second.table)) == list(map(str, analysed[1].table))


def test_run_without_checkpoints_is_told_the_remedy(tmp_path):
    save_small_run(tmp_path / "run", rule="fa", epochs=1)
    with pytest.raises(ValueError, match="there are none of run; train with --checkpoints N"):
        analyse([tmp_path / "run"], PLAN, tmp_path / "out", lambda run: made_data())


@pytest.mark.slow
def test_random_state_is_untouched(runs, tmp_path):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    analyse([runs], PLAN.model_copy(update={"measures": ("flow",)}), tmp_path, lambda run: made_data())
    assert torch.equal(torch.get_rng_state(), before)
