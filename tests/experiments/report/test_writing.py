import csv
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alignonce.experiments.report import write_report
from helpers.made_report import NASTY, made_content

FIGURES = (
    "verdicts",
    "accuracy",
    "depth",
    "learning",
    "alignment",
    "flow",
    "curvature",
    "generalisation",
    "robustness",
    "weights",
    "claim-flatter",
)


@pytest.fixture(scope="module")
def content():
    return made_content()


@pytest.fixture(scope="module")
def written(tmp_path_factory, content):
    out, told = tmp_path_factory.mktemp("report"), []
    files = write_report(content, out, lambda done, total: told.append((done, total)))
    pictures = len(list(out.glob("figures/*.png")))
    assert told == [(done, pictures) for done in range(1, pictures + 1)]
    return out, files


def test_listed_files_are_those_written(written):
    out, files = written
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_written_as_png_and_pdf(written, name):
    out, _ = written
    assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(out / "figures" / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert 1200 < pixels.shape[1] < 2600
    assert (pixels < 128).mean() > 0.002


def test_numbers_are_all_facts_and_read_back_exactly(written, content):
    out, _ = written
    table = pq.read_table(out / "numbers.parquet").to_pylist()
    with (out / "numbers.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    facts = list(content.facts)
    assert len(table) == len(lines) == len(facts)
    for fact, row, line in zip(facts, table, lines, strict=True):
        for values in (row, line):
            found = ["" if values[name] is None else str(values[name]) for name in fact._fields[:-1]]
            assert found == ["" if value is None else str(value) for value in fact[:-1]]
            value = float(values["value"])
            assert value == fact.value or (math.isnan(value) and math.isnan(fact.value))


def test_verdicts_are_all_findings_and_alike_in_both_files(written, content):
    out, _ = written
    table = pq.read_table(out / "verdicts.parquet").to_pylist()
    with (out / "verdicts.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [row["verdict"] for row in table] == [finding.verdict for finding in content.findings]
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in table]
    assert as_text == lines


def test_markdown_names_every_figure_that_is_there(written):
    out, _ = written
    text = (out / "results.md").read_text(encoding="utf-8")
    links = [line.rsplit("](", 1)[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(links) >= 9
    assert all((out / link).is_file() for link in links)
    assert NASTY not in text
