"""The report of a study: one HTML page, figures, tables and Markdown."""

from alignonce.experiments.report.content import ReportContent
from alignonce.experiments.report.markdown import results_markdown
from alignonce.experiments.report.page import report_page
from alignonce.experiments.report.writing import write_report

__all__ = ["ReportContent", "report_page", "results_markdown", "write_report"]
