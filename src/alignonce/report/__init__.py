"""The report of a study: one HTML page, figures, tables and Markdown."""

from alignonce.report.content import ReportContent
from alignonce.report.markdown import results_markdown
from alignonce.report.page import report_page
from alignonce.report.writing import write_report

__all__ = ["ReportContent", "report_page", "results_markdown", "write_report"]
