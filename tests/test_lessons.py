"""Every lesson runs from its first line to its last assert, in fast mode, without a window, and leaves no file behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))


@pytest.mark.lesson
@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])
def test_every_figure_is_shown(lesson):
    """The site shows them by itself; who runs the script sees nothing otherwise."""
    text = lesson.read_text(encoding="utf-8")
    made = re.findall(r"^(?:[^#\s].* = plt\.subplots|ms\.plot\.)", text, re.MULTILINE)
    assert made and text.count("\nplt.show()\n") == len(made)


@pytest.mark.lesson
@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])
def test_lesson_runs(lesson, tmp_path):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "MINISNN_FAST": "1", "MPLBACKEND": "Agg", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run([sys.executable, str(lesson)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, f"{lesson.name}\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    assert not list(tmp_path.iterdir()), f"{lesson.name} left files in the current folder"
