"""Bad files: each is refused by a clear error, or read as what it is; none crashes, hangs or eats memory."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monsters import SMALL
from targets import TARGETS, run, saved_run

from alignonce.experiments.config.run import RunConfig
from alignonce.experiments.data.idx import to_idx_gz

HERE = Path(__file__).parent
SECONDS = os.environ.get("ALIGNONCE_FUZZ_SECONDS", "3")
SEED = ["-seed=1"] if settings().derandomize else []
# Mutations of good files get further than noise does.
GOOD = {
    "idx": gzip.decompress(to_idx_gz(np.arange(12, dtype=np.uint8).reshape(3, 4))),
    "config": RunConfig().model_dump_json().encode(),
    "comparison": b'{"rules": ["bp", "soft:0.5"], "seeds": [0, 1], "format": "low-rank:1/8"}',
    "study": SMALL.encode(),
    "saved_study": json.dumps(yaml.safe_load(SMALL)).encode(),
    "summary": saved_run()["summary.json"],
    "failures": b'{"main: bp, seed 0": "no reason"}',
    "metrics": b"step,epoch,metric,layer,value\n1,0.5,loss,,nan\n",
    "identity": b'{"format": 1, "run": {"config": {}}}',
    "network": b"\0\x10abc",
    "predictions": b"\0\x10abc",
    "point": b"\0\0\5abc",
}


@st.composite
def mutations(draw, good):
    """A good file with a piece of it replaced by anything, of any length."""
    start = draw(st.integers(0, len(good)))
    stop = draw(st.integers(start, len(good)))
    return good[:start] + draw(st.binary(max_size=20)) + good[stop:]


@pytest.mark.parametrize("name", TARGETS)
def test_bad_files_are_refused_clearly(name):
    @given(st.one_of(st.binary(max_size=100), mutations(GOOD[name])))
    @example(GOOD[name])
    @example(b"")
    @example(b"[" * 100_000)
    @example(b"\xff\xfe\0")
    @example(b'{"epochs": 1' + b"0" * 5000 + b"}")
    @example(b"\0N ")
    @example(b"\3!\x0c")
    def check(content):
        run(name, content)

    check()


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.parametrize("name", ["idx", "config", "point", "study"])
def test_fuzzing_guided_by_coverage_finds_nothing(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, SECONDS, *SEED],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60 + 3 * int(SECONDS),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stat::number_of_executed_units" in done.stderr
