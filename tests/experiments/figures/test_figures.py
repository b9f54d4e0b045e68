import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from alignonce.experiments.config.run import DEFAULT_RULES
from alignonce.experiments.figures.comparison import comparison_figure
from alignonce.experiments.figures.style import rule_color, rule_label, save_figure
from alignonce.experiments.runs.folder import RunFolder
from helpers.small_runs import made_data, made_result, small_config


def made_runs(tmp_path, rules=DEFAULT_RULES, seeds=(0,)):
    data, runs = made_data(), []
    for seed in seeds:
        for number, rule in enumerate(rules):
            config = small_config(rule=rule, seed=seed)
            result = made_result(data, config, 0.8 + 0.02 * number + 0.005 * seed)
            runs.append(RunFolder(tmp_path / f"{rule}-{seed}".replace(":", "-")).save(config, data, result))
    return runs


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_figure_files_exist_and_are_not_blank(tmp_path, seeds):
    files = save_figure(comparison_figure(made_runs(tmp_path, seeds=seeds)), tmp_path / "figure.png")
    assert [file.suffix for file in files] == [".png", ".pdf"]
    assert files[1].read_bytes().startswith(b"%PDF")
    assert files[1].stat().st_size > 5000
    with Image.open(files[0]) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.width >= 1600
    for rule in DEFAULT_RULES:
        color = np.round(255 * np.array(to_rgb(rule_color(rule))))
        assert (np.abs(pixels - color).max(axis=1) <= 2).sum() > 100, rule


def test_figure_has_three_panels_and_labels_every_rule(tmp_path):
    figure = comparison_figure(made_runs(tmp_path))
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [rule_label(rule) for rule in DEFAULT_RULES]
    assert all(axes.get_xlabel() for axes in figure.axes)


def test_figure_draws_what_was_measured(tmp_path):
    runs = made_runs(tmp_path, rules=("bp", "fa"), seeds=(0, 1))
    curve = comparison_figure(runs).axes[1].lines[1]
    expected = [
        np.mean(values) * 100
        for values in zip(
            *(run.metrics.series("test_accuracy")[1] for run in runs if run.config.rule == "fa"), strict=True
        )
    ]
    np.testing.assert_allclose(curve.get_ydata(), expected)


def test_user_settings_of_matplotlib_are_neither_used_nor_changed(tmp_path):
    import matplotlib as mpl

    runs = made_runs(tmp_path)
    with mpl.rc_context({"font.size": 31.0}):
        figure = comparison_figure(runs)
        assert mpl.rcParams["font.size"] == 31.0
    assert figure.axes[0].xaxis.label.get_fontsize() < 12


def test_figure_of_nothing_is_refused():
    with pytest.raises(ValueError, match="runs must not be empty"):
        comparison_figure([])


def test_each_rule_has_one_colour_and_soft_alignment_darkens_with_the_cosine():
    assert rule_color("bp") == "#000000"
    assert rule_color("fa") == "#D55E00"
    brightness = [sum(to_rgb(rule_color(f"soft:{cosine}"))) for cosine in (0, 0.25, 0.5, 0.75, 1)]
    assert brightness == sorted(brightness, reverse=True)
    assert len({rule_color(rule) for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)
    assert rule_color("soft:-0.5") == rule_color("soft:0")
