"""Studies small enough for a test."""

from alignonce.experiments.studies.study import Study

TRAIN = {"data": "digits", "model": "mlp", "depth": 2, "width": 16, "epochs": 1, "device": "cpu"}


def made_study(**changes) -> Study:
    values = {
        "name": "made",
        "title": "A made study",
        "seeds": (0, 1),
        "parts": (made_part(),),
    }
    return Study(**(values | changes))


def made_part(**changes) -> dict:
    return {"name": "main", "title": "Small", "rules": ("bp", "fa"), "train": TRAIN} | changes
