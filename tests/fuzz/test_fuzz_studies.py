"""Study files of any content: a study that can be run, or one clear error; no hang, no flood of memory."""

import copy
import subprocess
import sys
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from monsters import SMALL
from targets import run

from alignonce.experiments.studies.study import shipped_studies

HERE = Path(__file__).parent
SHIPPED = {name: path.read_text(encoding="utf-8") for name, path in shipped_studies().items()}
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**9, 2**63, "x" * 300, ".", "..", "nan", "bp", "images"])
    | st.dates()
    | st.binary(max_size=5)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["name", "parts", "train", "depth"]), inner)
    ),
    max_leaves=12,
)


def places(content):
    """Each container in a structure, with each of its keys."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from places(content[key])


@st.composite
def changed_studies(draw):
    """A good study with some keys deleted, doubled, renamed, or given another value."""
    text = draw(st.sampled_from([SMALL, *SHIPPED.values()]))
    # Without shared parts, and with parts few enough to be quick.
    content = copy.deepcopy(yaml.safe_load(text))
    content["parts"] = content["parts"][:2]
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(content))
        if not found:
            break
        holder, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(["delete", "replace", "double", "rename", "wrap"])):
            case "delete":
                del holder[key]
            case "replace":
                holder[key] = draw(anything)
            case "double":
                if isinstance(holder, list):
                    holder.insert(key, holder[key])
                else:
                    holder[draw(st.text(max_size=5))] = holder[key]
            case "rename":
                if isinstance(holder, dict):
                    holder[draw(st.sampled_from(["seeds", "train", "vary", "measure", "device"]))] = (
                        holder.pop(key)
                    )
            case "wrap":
                holder[key] = draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
    return yaml.safe_dump(content, allow_unicode=True)


@st.composite
def changed_lines(draw):
    """The text of a good study with some of its lines deleted, doubled, indented, or moved."""
    lines = draw(st.sampled_from([SMALL, SHIPPED["language"]])).splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        lines[at : at + 1] = draw(
            st.sampled_from(
                [[], [lines[at]] * 2, [f"  {lines[at]}"], [lines[at].lstrip()], ["&a " + lines[at]]]
            )
        ) or [""]
    return "\n".join(lines)


@settings(max_examples=200)
@given(st.text(max_size=200) | anything.map(yaml.safe_dump) | changed_studies() | changed_lines())
def test_any_study_file_is_a_study_or_one_clear_error(text):
    run("study", text.encode("utf-8", "surrogatepass"))


def test_monstrous_studies_are_refused_in_little_time_and_memory():
    done = subprocess.run(
        [sys.executable, str(HERE / "monsters.py")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-1500:])
