import csv
import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from alignonce.diagnostics import compare_gradients, leading_eigenvalues, random_plane, surface
from alignonce.experiments.facts import Fact, Facts
from alignonce.experiments.measures.example_sets import ExampleSets
from alignonce.experiments.measures.groups import GROUPS
from alignonce.experiments.measures.plan import GROUP_NAMES, AnalysisPlan
from alignonce.experiments.measures.run import FIGURES, analyse, failure_lines
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.measures.summary import corruption_summaries, masking_lines, summary_table
from alignonce.experiments.runs.folder import RunFolder
from alignonce.experiments.setting import Setting
from alignonce.experiments.training.loop import as_pixels, train
from alignonce.robustness import adversarial_evaluation, corruption_accuracy
from helpers.small_runs import made_data, made_images, save_small_run, small_config

SMALL = {
    "images": 24, "products": 6, "eigenvalues": 2, "density_runs": 1, "points": 3, "severities": (1, 5),
    "repeats": 1, "eps": (8,), "attacks": ("fgsm", "pgd"), "steps": 2, "queries": 5, "device": "cpu",
}  # fmt: skip


def small_plan(**changes) -> AnalysisPlan:
    return AnalysisPlan(**(SMALL | changes))


def small_analysis(runs, out, *, known=GROUPS, figures=True, **changes):
    return analyse([runs], small_plan(**changes), out, lambda run: made_data(), known=known, figures=figures)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for rule in ("fa", "bp", "soft:0.5"):
        save_small_run(folder / rule.replace(":", "-"), rule=rule, epochs=1)
    return folder


@pytest.fixture(scope="module")
def analysed(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("analysis")
    before = contents(runs)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    result = small_analysis(runs, out)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]  # noqa: NPY002
    assert contents(runs) == before
    return out, result


@pytest.fixture
def on_training(runs):
    """The network of the run of random feedback, and the training images that it is measured on."""
    some = made_images().limited(24)
    model = RunFolder(runs / "fa").load_model()
    return model, (as_pixels(some.train_images), some.train_labels)


@pytest.fixture
def on_test(runs):
    some = made_images().limited(24)
    return RunFolder(runs / "fa").load_model(), as_pixels(some.test_images), some.test_labels


def test_table_has_every_run_and_group_and_reads_back(analysed):
    out, result = analysed
    assert not result.failures
    assert not result.interrupted
    pairs = {(row.run, row.group) for row in result.table}
    assert pairs == {(run, group) for run in ("bp", "fa", "soft-0.5") for group in GROUP_NAMES}
    with (out / "analysis.csv").open(newline="") as file:
        assert tuple(next(csv.reader(file))) == Fact._fields
    assert list(map(str, Facts.read_csv(out / "analysis.csv"))) == list(map(str, result.table))
    assert max(row.images for row in result.table.pick(group="curvature")) == 24


def test_rules_come_in_the_order_of_the_known_rules(analysed):
    assert analysed[1].table.distinct("rule") == ["bp", "fa", "soft:0.5"]


def test_gradient_angles_are_those_of_the_diagnostics(analysed, on_training):
    found = compare_gradients(*on_training, F.cross_entropy)
    rows = analysed[1].table.pick(run="fa", measure="gradient.weight.angle_deg")
    expected = {layer: agreement.angle_deg for layer, agreement in found.weight.items()}
    assert {row.item: row.value for row in rows} == pytest.approx(expected)


def test_eigenvalues_and_plane_are_those_of_the_diagnostics(analysed, on_training):
    model, batch = on_training
    table = analysed[1].table.pick(run="fa")
    found = leading_eigenvalues(model, [batch], F.cross_entropy, 2, steps=6)
    assert table.pick(measure="eigenvalue").values == pytest.approx(found.values, rel=1e-4)
    plane = surface(model, random_plane(model), [batch], F.cross_entropy, points=3)
    assert table.pick(measure="plane_loss").values == pytest.approx(plane.loss.flatten().tolist(), rel=1e-5)


def test_accuracies_under_corruption_and_attack_are_those_of_the_robustness_package(analysed, on_test, runs):
    table = analysed[1].table.pick(run="fa", measure="accuracy")
    report = corruption_accuracy(*on_test, severities=(1, 5))
    rows = [row for row in table.pick(group="corruptions") if row.item != "none"]
    assert [(r.item, r.setting.number("severity"), r.value) for r in rows] == [
        (r.corruption, r.severity, r.accuracy) for r in report.rows
    ]
    source = RunFolder(runs / "bp").load_model()
    attacked = adversarial_evaluation(*on_test, eps=8 / 255, source=source, steps=2, queries=5)
    rows = [row for row in table.pick(group="adversarial") if row.item != "none"]
    assert [(r.item, r.setting.get("route"), r.value) for r in rows] == [
        (r.attack, r.route.replace(" ", "-"), r.accuracy) for r in attacked.rows
    ]
    findings = analysed[1].table.pick(run="fa", measure="masking")
    assert [row.setting.remark for row in findings if row.value] == list(attacked.findings)


def test_corruptions_are_compared_with_backpropagation(analysed, on_test, runs):
    images = on_test[1:]
    reports = [
        corruption_accuracy(RunFolder(runs / run).load_model(), *images, severities=(1, 5))
        for run in ("fa", "bp")
    ]
    relative = reports[0].relative_to(reports[1])
    table = analysed[1].table.pick(item="", group="corruptions")
    assert table.pick(run="fa", measure="mean_accuracy").values == [reports[0].mean_accuracy]
    assert table.pick(run="fa", measure="mce").values == pytest.approx([relative.mce], nan_ok=True)
    assert not table.pick(run="bp", measure="mce").values


def test_ratio_to_a_reference_without_added_errors_is_nan():
    def rows(run, clean, corrupted):
        head = Fact(run=run, rule=run, group="corruptions", measure="accuracy", images=10)
        return [
            head._replace(item="none", setting=Setting.of(severity=0), value=clean),
            *(
                head._replace(item="jpeg", setting=Setting.of(severity=i), value=value)
                for i, value in enumerate(corrupted, start=1)
            ),
        ]

    # Sums of these differ from 0 by rounding alone.
    table = Facts([*rows("bp", 0.7, [0.8, 0.6]), *rows("fa", 0.5, [0.4, 0.3])])
    config = SimpleNamespace(rule="fa", seed=0)
    subject = Subject("fa", SimpleNamespace(config=config), None, SimpleNamespace(name="bp"))
    found = {row.measure: row.value for row in corruption_summaries(table, subject) if not row.item}
    assert np.isnan(found["relative_mce"])
    assert found["mce"] == pytest.approx(1.3 / 0.6)


def test_lines_begin_at_backpropagation(analysed):
    table = analysed[1].table
    for run in ("fa", "soft-0.5"):
        rows = table.pick(run=run, measure="line_loss")
        assert rows.distinct("item") == ["bp"]
        # A line's start is the centre of the plane of the run where it starts.
        centre = table.pick(run="bp", measure="plane_loss", setting=Setting.of(x=0, y=0)).values
        assert rows.values[:1] == pytest.approx(centre, rel=1e-5)
    assert not len(table.pick(run="bp", measure="line_loss"))


def test_every_figure_is_there_and_not_blank(analysed):
    out, result = analysed
    names = {file.name for file in result.files}
    for name in FIGURES:
        assert {f"{name}.png", f"{name}.pdf"} <= names
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(out / f"{name}.png") as image:
            assert image.width == 1440
            colors = image.convert("RGB").reduce(4).getcolors(maxcolors=1 << 20)
        assert len(colors) > 50, name


def test_headlines_and_verdicts_name_every_rule(analysed):
    table = analysed[1].table
    assert summary_table(table).row_count == 3
    assert [line.split(":")[0] for line in masking_lines(table)] == ["bp", "fa", "soft-0.5"]


def counted_groups(fail=()):
    """The groups, and a list of what is measured; some of (rule, group) fail."""
    taken = []

    def counting(name, steps):
        def counted(subject, plan):
            taken.append((subject.name, name))
            if (subject.name, name) in fail:
                raise RuntimeError("went\nwrong")
            return steps(subject, plan)

        return counted

    return {n: replace(g, steps=counting(n, g.steps)) for n, g in GROUPS.items()}, taken


FAST = ("flow", "generalisation")


def undrawn_analysis(runs, out, **changes):
    """Figures take longer than what these tests are about."""
    return small_analysis(runs, out, figures=False, **changes)


def test_second_analysis_measures_nothing_again(runs, tmp_path):
    first = undrawn_analysis(runs, tmp_path, measures=FAST)
    known, taken = counted_groups()
    no_data = lambda run: pytest.fail("read data in vain")  # noqa: E731
    second = analyse([runs], small_plan(measures=FAST), tmp_path, no_data, figures=False, known=known)
    assert not taken
    assert second.skipped == second.parts == 6
    assert list(second.table) == list(first.table)


def test_other_settings_are_measured_again_and_only_where_they_matter(runs, tmp_path):
    undrawn_analysis(runs, tmp_path, measures=("generalisation", "weights"))
    known, taken = counted_groups()
    undrawn_analysis(runs, tmp_path, known=known, measures=("generalisation", "weights"), repeats=2)
    assert taken == [(run, "weights") for run in ("bp", "fa", "soft-0.5")]


def test_another_network_in_the_same_folder_is_measured_again(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    undrawn_analysis(tmp_path / "runs", tmp_path / "out", measures=FAST)
    shutil.copy(runs / "soft-0.5" / "model.safetensors", tmp_path / "runs" / "fa")
    known, taken = counted_groups()
    undrawn_analysis(tmp_path / "runs", tmp_path / "out", known=known, measures=FAST)
    assert taken == [("fa", name) for name in FAST]


def test_failing_measure_is_listed_and_the_others_go_on(runs, tmp_path):
    known, _ = counted_groups(fail={("fa", "flow")})
    result = undrawn_analysis(runs, tmp_path, known=known, measures=FAST)
    assert failure_lines(result.failures) == ["fa, flow: went wrong"]
    assert '"went wrong"' in (tmp_path / "analysis.json").read_text()
    pairs = {(row.run, row.group) for row in result.table}
    assert len(pairs) == 5
    assert ("fa", "generalisation") in pairs
    assert not undrawn_analysis(runs, tmp_path, measures=FAST).failures


def test_diverged_run_is_listed_once(runs, tmp_path):
    shutil.copytree(runs / "bp", tmp_path / "runs" / "bp")
    data, config = made_data(), small_config(rule="fa", epochs=1)
    diverged = replace(train(config, data), status="diverged")
    RunFolder(tmp_path / "runs" / "fa").save(config, data, diverged)
    result = undrawn_analysis(tmp_path / "runs", tmp_path / "out", measures=FAST)
    (line,) = failure_lines(result.failures)
    assert line.startswith("fa, flow generalisation: ")
    assert "holds no network" in line
    assert result.table.distinct("rule") == ["bp"]


def test_interruption_keeps_what_was_measured(runs, tmp_path):
    real = GROUPS["generalisation"].steps

    def interrupt(subject, plan):
        if subject.name == "fa":
            raise KeyboardInterrupt
        return real(subject, plan)

    changed = GROUPS | {"generalisation": replace(GROUPS["generalisation"], steps=interrupt)}
    result = small_analysis(runs, tmp_path, known=changed, measures=FAST)
    assert result.interrupted
    assert {(row.run, row.group) for row in result.table} == {
        ("bp", "flow"), ("bp", "generalisation"), ("fa", "flow"),
    }  # fmt: skip
    assert (tmp_path / "flow.png").exists()


@pytest.mark.slow
def test_seeds_are_averaged_and_compared_with_backpropagation_of_their_own(runs, tmp_path):
    for rule in ("bp", "fa"):
        save_small_run(tmp_path / "more" / rule, rule=rule, epochs=1, seed=1)
    paths = [runs, tmp_path / "more"]
    measures = ("curvature", "landscape", "generalisation", "corruptions")
    result = analyse(paths, small_plan(measures=measures), tmp_path / "out", lambda run: made_data())
    assert not result.failures
    assert {(r.rule, r.seed) for r in result.table.pick(measure="mce", item="")} == {
        ("fa", 0), ("fa", 1), ("soft:0.5", 0),
    }  # fmt: skip
    # Two runs are called `fa`: the table tells them apart.
    assert len(result.table.distinct("run")) == 5


@pytest.mark.slow
def test_colour_images_and_batch_norm_are_measured(tmp_path):
    data = made_data(shape=(3, 12, 10))
    config = small_config(model="resnet", depth=1, width=2, epochs=1, rule="soft:0.5")
    RunFolder(tmp_path / "run").save(config, data, train(config, data))
    measures = ("alignment", "flow", "landscape", "generalisation", "weights")
    result = analyse([tmp_path / "run"], small_plan(measures=measures), tmp_path / "out", lambda run: data)
    assert not result.failures
    assert result.table.pick(measure="ood_auroc").distinct("item") == ["digits"]


@pytest.mark.parametrize("name", ["made", "digits"])
def test_unfamiliar_images_are_digits_enlarged_or_noise_for_the_digits_themselves(name):
    data = replace(made_images(shape=(3, 12, 10)), name=name)
    found, (images, labels) = ExampleSets(lambda: data, torch.device("cpu")).unfamiliar(50, seed=0)
    assert found == {"made": "digits", "digits": "noise"}[name]
    assert images.shape == (50, 3, 12, 10)
    assert len(labels) == 50
    assert 0 <= images.min() < images.max() <= 1
    assert (images[:, 0] == images[:, 1]).all() == (found == "digits")


def test_data_other_than_the_runs_learnt_from_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="the data are not those that"):
        analyse([runs], small_plan(), tmp_path, lambda run: made_data(train_size=100))


def test_runs_of_different_kinds_are_refused(runs, tmp_path):
    save_small_run(tmp_path / "deep", rule="fa", depth=3, epochs=1)
    with pytest.raises(ValueError, match=r"differ in depth \(2 and 3\)"):
        analyse([runs / "bp", tmp_path / "deep"], small_plan(), tmp_path, lambda run: made_data())
    save_small_run(tmp_path / "again", rule="fa", epochs=1)
    with pytest.raises(ValueError, match="are both fa with seed 0"):
        analyse([runs, tmp_path / "again"], small_plan(), tmp_path, lambda run: made_data())


def test_the_folder_of_a_run_is_no_place_for_results(runs):
    with pytest.raises(ValueError, match="is the folder of a run"):
        small_analysis(runs, runs / "bp")


def test_missing_library_is_named_before_any_work(runs, tmp_path):
    missing = {"kornia", "hessian_eigenthings"}
    known = {
        name: replace(group, library=("no_such_module", group.library[1]))
        if group.library is not None and group.library[0] in missing
        else group
        for name, group in GROUPS.items()
    }
    with pytest.raises(ValueError, match=r"alignonce\[diagnostics,robustness\].*--measures alignment flow"):
        small_analysis(runs, tmp_path / "out", known=known)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"severities": (6,)}, "1 to 5"), ({"eps": (0,)}, "above 0"), ({"measures": ("who",)}, "alignment")],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small_plan(**change)
