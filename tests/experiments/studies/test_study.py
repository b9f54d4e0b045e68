import json

import pytest
from pydantic import ValidationError

from alignonce.experiments.studies.study import load_study, shipped_studies, study_schema
from helpers.small_studies import TRAIN, made_part, made_study

VARIED = {name: value for name, value in TRAIN.items() if name != "depth"}


def test_runs_are_all_combinations_seed_by_seed():
    part = made_part(train=VARIED, vary={"depth": (1, 2), "learning_rate": (0.1, 0.01)})
    study = made_study(parts=(part,))
    assert [cell.name for cell in study.cells()] == [
        "depth=1 learning_rate=0.1",
        "depth=1 learning_rate=0.01",
        "depth=2 learning_rate=0.1",
        "depth=2 learning_rate=0.01",
    ]
    runs = [run for cell, run in study.runs() if cell.name == "depth=2 learning_rate=0.01"]
    assert [(run.seed, run.rule) for run in runs] == [(0, "bp"), (0, "fa"), (1, "bp"), (1, "fa")]
    assert all((run.depth, run.learning_rate, run.width) == (2, 0.01, 16) for run in runs)


def test_cells_have_folders_of_their_own():
    part = made_part(train=VARIED, vary={"depth": (1, 2)})
    study = made_study(parts=(part, made_part(name="other")))
    assert [str(cell.folder) for cell in study.cells()] == ["main/depth=1", "main/depth=2", "other/runs"]


def test_seeds_of_a_part_win():
    study = made_study(parts=(made_part(seeds=(7,)), made_part(name="other")))
    assert [cell.config.seeds for cell in study.cells()] == [(7,), (0, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ("bp", "sofd")}, "unknown learning rule 'sofd'"),
        ({"train": {"dept": 3}}, "unknown settings dept; known are .*depth"),
        ({"vary": {"depth": (1, 2)}}, "depth cannot be both in train and in vary"),
        ({"vary": {"epochs": ()}, "train": {}}, "epochs must have at least one value"),
        ({"vary": {"data": ("a/b",)}, "train": {}}, "must not contain blanks"),
        ({"train": {"epochs": 0}}, "greater than or equal to 1"),
        ({"name": "Has Blanks"}, "should match pattern"),
        ({"rules": ()}, "at least 1 item"),
        ({"measure": {"measures": ["curvatur"]}}, "curvature"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_a_wrong_part_is_refused_with_the_reason(changes, message):
    with pytest.raises(ValidationError, match=message):
        made_study(parts=(made_part(**changes),))


def test_parts_of_one_name_are_refused():
    with pytest.raises(ValidationError, match="different names, got main main"):
        made_study(parts=(made_part(), made_part()))


def test_a_file_says_what_json_says(tmp_path):
    study = made_study()
    (tmp_path / "a.yaml").write_text(json.dumps(study.model_dump(mode="json")))
    assert load_study(tmp_path / "a.yaml") == study


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("name: a\ntitle: b", "parts: Field required"),
        (
            "name: a\ntitle: b\nparts: [{name: p, title: t, rules: [xx]}]",
            r"parts\.0\.rules: unknown learning",
        ),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_study(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match="neither a file nor a shipped study"):
        load_study("quikc")


@pytest.mark.parametrize("name", list(shipped_studies()))
def test_shipped_studies_are_sound_and_have_seeds_enough(name):
    study = load_study(name)
    assert study.name == name
    seeds = [len(cell.config.seeds) for cell in study.cells()]
    # A grid that finds out what to look at has one; what it finds is then in the part of the contenders.
    assert max(seeds) >= 3 if name == "language-recipe" else min(seeds) >= 3


def test_schema_knows_every_setting_of_a_study():
    schema = json.loads(study_schema())
    assert set(schema["properties"]) == {"name", "title", "seeds", "parts"}
    assert {"name", "title", "rules", "seeds", "train", "vary", "measure"} == set(
        schema["$defs"]["Part"]["properties"]
    )
