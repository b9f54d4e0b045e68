from alignonce.experiments.measures.plan import AnalysisPlan
from alignonce.experiments.measures.run import analyse
from helpers.small_runs import made_data, save_small_run


def test_what_was_measured_under_older_names_is_not_measured_again(tmp_path):
    save_small_run(tmp_path / "run", epochs=1)
    plan = AnalysisPlan(measures=("generalisation",), images=20, device="cpu")

    def measured():
        return analyse([tmp_path / "run"], plan, tmp_path / "out", lambda run: made_data(), figures=False)

    assert measured().skipped == 0
    (file,) = (tmp_path / "out" / "parts").iterdir()
    text = file.read_text()
    assert '"train_examples"' in text
    for new, old in (("train_examples", "train_images"), ("outputs", "num_classes")):
        text = text.replace(f'"{new}"', f'"{old}"')
    file.write_text(text)
    assert measured().skipped == 1
