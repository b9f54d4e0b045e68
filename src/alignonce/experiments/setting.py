"""What a number was measured with, parsed once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_ENTRY = re.compile(r"(\w+)=(\S+)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?")


@dataclass(frozen=True)
class Setting:
    """What a number was measured with, such as `route=exact eps=0.0313725`.

    Numbers have six digits, in memory as on disk, so that a setting that was read equals the one written.
    """

    entries: tuple[tuple[str, float | str], ...] = ()
    remark: str = ""
    """A sentence in place of entries, such as a finding on gradient masking."""

    @classmethod
    def of(cls, **values: float | str) -> Setting:
        """Make a setting.

        Args:
            values: names and values; a text must not hold spaces.

        Returns:
            The setting.

        Raises:
            ValueError: a text holds spaces, or is empty.
        """
        for name, value in values.items():
            if isinstance(value, str) and not _ENTRY.fullmatch(f"{name}={value}"):
                raise ValueError(f"{name} must be a text without spaces, got {value!r}")
        return cls(tuple((name, _typed(value)) for name, value in values.items()))

    @staticmethod
    def parse(text: str) -> Setting:
        """Read the canonical form.

        Args:
            text: words such as `eps=0.0313725`, or a sentence.

        Returns:
            The setting.
        """
        return _parsed(text)

    def __str__(self) -> str:
        """Write the canonical form: the one on disk."""
        return self.remark or " ".join(f"{name}={_text(value)}" for name, value in self.entries)

    def get(self, name: str) -> float | str | None:
        """Look up an entry.

        Args:
            name: of the entry.

        Returns:
            Its value; None if there is no such entry.
        """
        return next((value for key, value in self.entries if key == name), None)

    def number(self, name: str) -> float:
        """Look up a number.

        Args:
            name: of the entry.

        Returns:
            Its value.

        Raises:
            KeyError: there is no such entry.
            ValueError: it is no number.
        """
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return float(value)

    def text(self, name: str) -> str:
        """Look up an entry, to be shown.

        Args:
            name: of the entry.

        Returns:
            Its value as it is on disk; "" if there is no such entry.
        """
        value = self.get(name)
        return "" if value is None else _text(value)

    def includes(self, other: Setting) -> bool:
        """Compare with a setting that says less.

        Args:
            other: the setting.

        Returns:
            Whether all its entries are among these.
        """
        return set(other.entries) <= set(self.entries)


NO_SETTING = Setting()


@lru_cache(maxsize=1 << 16)
def _parsed(text: str) -> Setting:
    found = [_ENTRY.fullmatch(word) for word in text.split(" ")] if text else []
    if not all(found):
        return Setting(remark=text)
    return Setting(tuple((match[1], _typed(match[2])) for match in found if match))


def _typed(value: float | str) -> float | str:
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return value
    return float(format(float(value), ".6g"))


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else format(value, ".6g")
