"""The script for a GPU, which is run at its small size where there is none."""

import os
import subprocess
import sys
from pathlib import Path


def test_gpu_script_measures_every_format_and_runs_together_at_small_size() -> None:
    script = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
    done = subprocess.run(
        [sys.executable, script, "--small", "--backend", "aot_eager"],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # pytest-xdist fills the cores
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for work in ("MLP", "ViT blocks"):
        for name in ("Dense()", "LowRank(1/8)", "LowRank(1/16)", "Int8()", "FP8()"):
            assert f"| {work} | {name} |" in done.stdout
    assert "| digits, MLP 2x32, batch 32 | feedback |" in done.stdout
