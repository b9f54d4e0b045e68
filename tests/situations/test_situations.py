"""Every situation ends as its table says, with every layer, rule and format that it is crossed with."""

import pytest

from situations.situation import Case, Situation
from situations.table import situations

CELLS = [
    pytest.param(row, case, id=f"{row.what}-{case}")
    for rows in situations().values()
    for row in rows
    for case in row.cases
]


@pytest.mark.parametrize(("row", "case"), CELLS)
def test_situation(row: Situation, case: Case) -> None:
    row.check(case)
