"""Findings written down."""

from rich.console import Console

from alignonce.experiments.claims import Finding, evaluate
from alignonce.experiments.report.markdown import findings_count, findings_markdown, findings_table
from helpers.made_evidence import accuracies

EVIDENCE = accuracies({"bp": [0.9, 0.91], "fa": [0.3, 0.31], "soft:0.5": [0.9, 0.911]})


def test_markdown_has_a_row_for_each_claim_and_a_column_for_each_rule():
    lines = findings_markdown(evaluate(EVIDENCE, resamples=100)).splitlines()
    assert lines[0].startswith("| claim | where | fa | soft:0.5 |")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "✗ -60" in lines[2]


def test_markdown_of_nothing_is_empty():
    assert findings_markdown([]) == ""


def test_the_terminal_shows_a_sign_for_each_verdict():
    console = Console(width=100, record=True)
    console.print(findings_table(evaluate(EVIDENCE, resamples=100)))
    line = next(line for line in console.export_text().splitlines() if "accuracy-near-bp" in line)
    assert "✗" in line
    assert "✓" in line or "?" in line


def test_verdicts_are_counted_with_their_signs():
    findings = [
        Finding("accuracy-near-bp", "main", "", f"soft:{n}", "bp", 0.0, 0.0, 0.0, {}, verdict)
        for n, verdict in enumerate(["supported", "inconclusive", "supported"])
    ]
    assert findings_count(findings) == "2 ✓ supported, 0 ✗ not supported, 1 ? inconclusive"
