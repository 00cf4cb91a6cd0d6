"""Every lesson runs in its fast mode: its asserts hold, no window opens, nothing is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))

pytestmark = pytest.mark.lesson


@pytest.mark.parametrize("path", LESSONS, ids=[path.name for path in LESSONS])
def test_lesson_runs_and_leaves_nothing_behind(path, tmp_path):
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fast = {"MINISNN_FAST": "1", "MPLBACKEND": "Agg", "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, path], cwd=tmp_path, env={**os.environ, **fast}, capture_output=True, text=True)
    assert run.returncode == 0, f"{path.name}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    assert not list(tmp_path.iterdir()), f"{path.name} left files behind"
