"""Copy the results of studies into the documents, so that no number there is typed.

    python docs/publish.py runs/quick                                  # README.md and docs/results.md
    python docs/publish.py --page docs/transformers.md runs/language runs/language-recipe

The README's table stands between two comments; docs/results.md is written anew, its figures go to
docs/images/results/. A page has two comments for each study, which name it; the first study is the one whose
backpropagation all are compared with.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from alignonce.experiments.files import write_atomically
from alignonce.experiments.report import results_markdown
from alignonce.experiments.report.content import ReportContent, gather
from alignonce.experiments.report.markdown import escaped, findings_markdown
from alignonce.experiments.report.score_table import score_table
from alignonce.experiments.report.words import environment_words
from alignonce.experiments.studies.folder import StudyFolder

DOCS = Path(__file__).parent
BEGIN, END = "<!-- made by docs/publish.py: begin -->", "<!-- made by docs/publish.py: end -->"


def publish(study: Path, readme: Path = DOCS.parent / "README.md", docs: Path = DOCS) -> None:
    """Write what a study found into the documents.

    Args:
        study: the folder of the study, with its report.
        readme: the README, which holds the two comments.
        docs: the folder of docs/results.md.

    Raises:
        FileNotFoundError: the study has no report.
        ValueError: the README has no place for the table.
    """
    figures = study / "report" / "figures"
    if not figures.is_dir():
        raise FileNotFoundError(f"{figures} is missing: alignonce report {study} comes first")
    content = gather(StudyFolder(study).snapshot())
    text = results_markdown(content, "images/results")
    images = docs / "images" / "results"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for name in re.findall(r"\(images/results/([\w.-]+)\)", text):
        shutil.copyfile(figures / name, images / name)
    write_atomically(docs / "results.md", text)

    # The README shows the paper's own rules; the rest is in docs/results.md.
    main = [f for f in content.findings if not f.cell and f.rule.split(":")[0] in ("fa", "soft")]
    shown = [plot for plot in content.plots() if plot.name in ("accuracy", "depth")]
    pictures = [f"![{escaped(plot.title)}](docs/images/results/{plot.name}.png)" for plot in shown]
    _replace(readme, BEGIN, END, [findings_markdown(main), *pictures, "", _made_with(content)])


def publish_scores(studies: Sequence[Path], page: Path) -> None:
    """Write the scores of studies into a page.

    Args:
        studies: the folders; all are compared with the backpropagation of the first.
        page: holds two comments for each study.

    Raises:
        ValueError: the page has no place for one of them.
    """
    contents = [gather(StudyFolder(study).snapshot()) for study in studies]
    for content in contents:
        table = score_table(content, None if content is contents[0] else contents[0])
        begin, end = (
            mark.replace("publish.py", f"publish.py from {content.study.name}") for mark in (BEGIN, END)
        )
        verdicts = findings_markdown([f for f in content.findings if f.claim.startswith("bits-")])
        _replace(page, begin, end, [*table, "", *([verdicts] if verdicts else []), _made_with(content)])


def _made_with(content: ReportContent) -> str:
    return f"*{'; '.join(f'{name}: {escaped(value)}' for name, value in environment_words(content))}.*"


def _replace(page: Path, begin: str, end: str, lines: Sequence[str]) -> None:
    old = page.read_text(encoding="utf-8")
    if not (begin in old and end in old):
        raise ValueError(f"{page} must hold the comments {begin} and {end}")
    text = "\n".join(lines)
    before, after = old.split(begin)[0], old.split(end)[1]
    write_atomically(page, f"{before}{begin}\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies; one without --page")
    parser.add_argument("--page", type=Path, help="write the scores of the studies into this page")
    arguments = parser.parse_args()
    if arguments.page:
        publish_scores(arguments.studies, arguments.page)
    elif len(arguments.studies) == 1:
        publish(arguments.studies[0])
    else:
        parser.error("several studies go into a --page")
