"""Memory ceilings at the published sizes, by a process that may take only so much of the card."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "bench_pipeline.py"


@pytest.mark.gpu  # ceilings are of a CUDA device
@pytest.mark.slow
def test_an_image_becomes_a_mesh_within_the_ceilings():
    cases = ["1024_cascade:auto:8", "1024_cascade:low:5"]
    command = [sys.executable, str(BENCH), "--runs", "1", "--cases", *cases]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("kept") == 3
