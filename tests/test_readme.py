"""The README's programs do what it prints."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_programs_run_and_print_what_stands_there(capsys):
    pytest.importorskip("numba")
    names = {}
    exec(PROGRAMS[0], names)
    printed = re.search(r"print\(.*# (\d+\.\d)%", PROGRAMS[0]).group(1)
    assert abs(100 * names["accuracy"] - float(printed)) <= 2  # another BLAS rounds sums in another order
    capsys.readouterr()
    exec(PROGRAMS[1], names)
    lines = capsys.readouterr().out.splitlines()
    block = re.search(r"```\n(adjoints of.*?)```", README, re.DOTALL).group(1)
    shown = [line for line in block.splitlines() if not line.startswith("  ...")]
    numbers = re.compile(r"\d+e-[12]\d\b|0e\+00")  # rounding errors differ from machine to machine
    assert {numbers.sub("tiny", line) for line in shown} <= {numbers.sub("tiny", line) for line in lines}
