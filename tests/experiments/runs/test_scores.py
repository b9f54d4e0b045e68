import pytest

from alignonce.experiments.runs.scores import ACCURACY, SCORES, score_of
from alignonce.experiments.training.metrics import Measurement, Metrics


@pytest.mark.parametrize("score", SCORES)
def test_score_is_chosen_by_what_was_measured(score):
    assert score_of(Metrics([Measurement(0, 0.0, score.metric, "", 0.5)])) is score


def test_mean_is_written_with_its_deviation():
    assert ACCURACY.text([0.5, None, 0.52]) == "51.0% ± 1.4"
    assert ACCURACY.text([0.5]) == "50.00%"
    assert SCORES[1].text([2.5, 2.7]) == "2.600 ± 0.141"
    assert ACCURACY.text([None]) == "-"
