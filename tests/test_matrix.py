"""Every cell of rule x layer kind x context runs, or says why it does not."""

import pytest

from matrix import CONTEXTS, KINDS, RULES, reason_to_skip, run_cell


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_cell(rule: str, kind: str, context: str) -> None:
    reason = reason_to_skip(rule, kind, context)
    if reason is not None:
        pytest.skip(reason)
    run_cell(rule, kind, context)
