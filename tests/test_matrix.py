"""Every cell of rule or format x layer kind x context runs, or says why it does not."""

import pytest

from helpers.matrix import CONTEXTS, FORMAT_KINDS, FORMATS, KINDS, RULES, reason_to_skip, run_cell


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_cell(rule: str, kind: str, context: str) -> None:
    reason = reason_to_skip(rule, kind, context)
    if reason is not None:
        pytest.skip(reason)
    run_cell(rule, kind, context)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", FORMAT_KINDS)
@pytest.mark.parametrize("format", FORMATS)
def test_cell_of_a_format(format: str, kind: str, context: str) -> None:
    run_cell(format, kind, context)
