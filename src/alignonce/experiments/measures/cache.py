"""What is measured already: one small file for each run and group, so that nothing is measured twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignonce.experiments.data.data_facts import with_present_names
from alignonce.experiments.facts import Fact
from alignonce.experiments.files import write_atomically
from alignonce.experiments.measures.groups import Group
from alignonce.experiments.measures.plan import AnalysisPlan
from alignonce.experiments.measures.subjects import Subject
from alignonce.experiments.setting import Setting

# Raised whenever what a group measures changes, so that older numbers do not pass for it.
VERSION = 1


@dataclass(frozen=True)
class CachedStep:
    """The file of one run and group."""

    path: Path
    settings: dict[str, Any]

    @classmethod
    def of(cls, out: Path, subject: Subject, group: Group, plan: AnalysisPlan) -> CachedStep:
        """Name the file and list all that its numbers depend on.

        Args:
            out: the folder of the analysis.
            subject: the run.
            group: what is measured.
            plan: how.

        Returns:
            The part, whether or not it is measured.
        """
        others = {"reference": subject.reference, "start": subject.start}
        used = {
            name: other.fingerprint if (other := others[name]) is not None else None for name in group.others
        }
        chosen = plan.model_dump(mode="json", include={"seed", *group.fields})
        config = subject.record.config
        at = "" if subject.step is None else f"-step{subject.step:06}"
        name = f"{config.rule.replace(':', '-')}-seed{config.seed}{at}-{group.name}.json"
        return cls(
            out / "parts" / name,
            {
                "version": VERSION,
                "network": subject.fingerprint,
                "data": subject.record.summary.data.model_dump(mode="json", exclude={"source"}),
                "images": plan.images_for(group.name),
                **chosen,
                **used,
            },
        )

    def read(self) -> list[Fact] | None:
        """Read the numbers.

        Returns:
            None if they were not measured with these very settings.
        """
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            settings = content["settings"]
            if settings | {"data": with_present_names(settings["data"])} != self.settings:
                return None
            return [
                Fact(
                    measure=measure,
                    item=item,
                    setting=Setting.parse(setting),
                    images=images,
                    value=float(value),
                )
                for measure, item, setting, images, value in content["rows"]
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # No such file, or somebody else's: what it might hold is measured again.
            return None

    def write(self, facts: Sequence[Fact]) -> None:
        """Write the numbers, as text, which JSON has for NaN and infinity, too.

        Args:
            facts: the numbers.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = ([f.measure, f.item, str(f.setting), f.images, repr(float(f.value))] for f in facts)
        lines = ",\n".join(map(json.dumps, rows))
        head = json.dumps(self.settings, indent=1)
        write_atomically(self.path, f'{{"settings": {head},\n"rows": [\n{lines}\n]}}\n')
