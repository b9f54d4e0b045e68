from alignonce.experiments.runs.scores import ACCURACY, SCORES, final_score, score_of
from helpers.small_runs import save_small_run


def test_score_of_a_saved_run_is_that_of_its_task(tmp_path):
    run = save_small_run(tmp_path, epochs=1)
    assert score_of(run) is ACCURACY
    assert final_score(run.config, run.summary) == (ACCURACY, 100 * run.summary.test_accuracy)


def test_mean_is_written_with_its_deviation():
    assert ACCURACY.text([0.5, None, 0.52]) == "51.0% ± 1.4"
    assert ACCURACY.text([0.5]) == "50.00%"
    assert SCORES[1].text([2.5, 2.7]) == "2.600 ± 0.141"
    assert ACCURACY.text([None]) == "-"
