"""Study files made to take time or memory. As a program: each is refused, within limits of both."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from alignonce.experiments.studies.study import load_study

SECONDS, MEBIBYTES = 20, 300  # for one file; what PyYAML needs for the largest file allowed is some 100 MiB
SMALL = """name: a
title: b
seeds: [0, 1]
parts:
  - {name: p, title: t, rules: [bp, "soft:0.5"], train: {depth: 2}, vary: {width: [8, 16]}}
"""


def laughs() -> str:
    """A few lines that mean a billion values."""
    first = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]"
    more = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
    return "\n".join([first, *more])


def merges() -> str:
    """The same by merging, which PyYAML does while it reads."""
    more = [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 10)}]}}" for i in range(1, 12)]
    return "\n".join(["m0: &m0 {a: 1}", *more])


def numbers(count: int) -> str:
    return ", ".join(map(str, range(1, count + 1)))


MONSTERS = {
    "billion laughs": laughs(),
    "billion laughs in train": SMALL.replace("{depth: 2}", "{depth: *l8}").replace(
        "parts:", f"{laughs()}\nparts:"
    ),
    "billion laughs as depth": laughs() + "\n" + SMALL.replace("depth: 2", "depth: *l8"),
    "billion laughs as rules": laughs() + "\n" + SMALL.replace("[8, 16]", "*l8"),
    "merging": merges(),
    "an alias in itself": SMALL.replace("depth: 2", "depth: &a [*a]"),
    "a key in itself": "? &a [*a]\n: b",
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 50_000,
    "deep lines": "- " * 50_000,
    "a deep value": SMALL.replace("depth: 2", "depth: " + "[" * 300 + "]" * 300),
    "a huge number": SMALL.replace("depth: 2", "depth: " + "9" * 5000),
    "a huge seed": SMALL.replace("[0, 1]", f"[0, {10**30}]"),
    "a huge hexadecimal number": SMALL.replace("[8, 16]", "[0x" + "f" * 10_000 + "]"),
    "a huge sexagesimal number": SMALL.replace("depth: 2", "depth: " + "1:" * 400 + "1.5"),
    "no number": SMALL.replace("depth: 2", 'depth: !!int ""'),
    "no day": SMALL.replace("depth: 2", "depth: 2000-99-99"),
    "no truth": SMALL.replace("depth: 2", "depth: !!bool perhaps"),
    "a long text": "a: " + "b" * 10_000_000,
    "many widths": SMALL.replace("[8, 16]", f"[{numbers(9000)}]"),
    "many combinations": SMALL.replace("[8, 16]", f"[{numbers(3000)}], epochs: [{numbers(3000)}]"),
    "many seeds": SMALL.replace("[0, 1]", f"[{numbers(9000)}]"),
    "many wrong seeds": SMALL.replace("[0, 1]", f"[{', '.join(['x'] * 9000)}]"),
    "many wrong rules": SMALL.replace("[bp,", f"[{', '.join(['x'] * 9000)},"),
    "many parts": SMALL.replace("- {", "- &p {") + "  - *p\n" * 9000,
    "infinity": SMALL.replace("train:", "measure: {radius: .inf}, train:"),
    "half a character": SMALL.replace("width: [8, 16]", r'data: ["\ud800"]'),
    "half a character as a key": SMALL.replace("width: [8, 16]", r'"\ud800": [1]'),
    "a folder of a long name": SMALL.replace("width: [8, 16]", f"data: [{'x' * 300}]"),
    "folders of one name": SMALL.replace("width: [8, 16]", "learning_rate: [0.1, 0.10000001]"),
}


def main() -> None:
    """Read each; a process that takes more is killed, and its last line shows where."""
    for name, text in MONSTERS.items():
        used = time.process_time()
        # Of memory, Linux limits what is mapped: libraries have mapped much by now.
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEBIBYTES * 2**20, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, resource.RLIM_INFINITY))
        print(f"{name}: ", end="", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "study.yaml"
            file.write_text(text)
            try:
                load_study(file)
            except ValueError as error:
                print(f"{time.process_time() - used:.2f} s: {error}", flush=True)
                if (
                    not str(error).startswith(f"study: {file}")
                    or "\n" in str(error)
                    or len(str(error)) > 8000
                ):
                    sys.exit("not refused clearly")
            else:
                sys.exit("not refused")


if __name__ == "__main__":
    main()
