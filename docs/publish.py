"""Copy the results of a study into README.md and docs/results.md, so that no number there is typed.

    python docs/publish.py runs/quick

The README's table stands between two comments; docs/results.md is written anew, its figures go to
docs/images/results/.
"""

import re
import shutil
import sys
from pathlib import Path

from alignonce.experiments.claims import findings_markdown
from alignonce.experiments.files import write_atomically
from alignonce.experiments.studies.folder import StudyFolder
from alignonce.report import results_markdown
from alignonce.report.gathering import gather
from alignonce.report.markdown import escaped
from alignonce.report.words import environment_words

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
    content = gather(StudyFolder(study))
    text = results_markdown(content, "images/results")
    images = docs / "images" / "results"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for name in re.findall(r"\(images/results/([\w.-]+)\)", text):
        shutil.copyfile(figures / name, images / name)
    write_atomically(docs / "results.md", text)

    # The README has room for the paper's own rules; the rest is in docs/results.md.
    main = [f for f in content.findings if not f.cell and f.rule.split(":")[0] in ("fa", "soft")]
    facts = "; ".join(f"{name}: {escaped(value)}" for name, value in environment_words(content))
    shown = [plot for plot in content.plots() if plot.name in ("accuracy", "depth")]
    pictures = [f"![{escaped(plot.title)}](docs/images/results/{plot.name}.png)" for plot in shown]
    table = "\n".join([findings_markdown(main), *pictures, "", f"*{facts}.*"])
    old = readme.read_text(encoding="utf-8")
    if not (BEGIN in old and END in old):
        raise ValueError(f"{readme} must hold the comments {BEGIN} and {END}")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    write_atomically(readme, f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
