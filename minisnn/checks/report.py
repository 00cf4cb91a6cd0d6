"""The report: one row for each gradient compared, a verdict, and a table that says why."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["GradientError", "Report", "Row"]


class GradientError(AssertionError):
    """A gradient is not the derivative it should be; the message is the report's table."""


@dataclass(frozen=True)
class Row:
    """One comparison: the gradient of `name` on one twin.

    ``analytic`` and ``numeric`` are the two values where they differ most (for a directional comparison, the only two);
    ``error`` is the relative error and ``tolerance`` what was allowed, ``origin`` saying why that much.
    """

    twin: str
    name: str
    shape: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    tolerance: float
    origin: str
    ok: bool


@dataclass
class Report:
    """The outcome of a check: ``.ok``, ``.rows``, ``.raise_if_wrong()``, and a table when printed."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is something to judge and every row is right."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def add_worst(self, rows: list[Row]) -> None:
        """Add the worst of `rows` for each gradient of each twin."""
        worst: dict[tuple[str, str], Row] = {}
        for row in rows:
            known = worst.setdefault((row.twin, row.name), row)
            if (not row.ok, row.error) > (not known.ok, known.error) or row.error != row.error:
                worst[row.twin, row.name] = row
        self.rows += worst.values()

    def raise_if_wrong(self) -> Report:
        """The report itself if every gradient is right; else :class:`GradientError` with the table."""
        if not self.ok:
            raise GradientError(f"\n{self}")
        return self

    def __repr__(self) -> str:
        name = max([len(r.name) for r in self.rows] + [8])
        lines = [
            self.title,
            f"  {'twin':<9} {'gradient':<{name}} {'analytic':>13} {'numeric':>13} {'error':>8} {'allowed':>8}",
        ]
        for r in self.rows:
            verdict = "ok" if r.ok else "WRONG" if r.error > r.tolerance else "UNDECIDED"
            lines.append(
                f"  {r.twin:<9} {r.name:<{name}} {r.analytic:13.6e} {r.numeric:13.6e} {r.error:8.0e} {r.tolerance:8.0e}"
                f"  {verdict}"
            )
        lines += [f"  error: {origin}" for origin in dict.fromkeys(r.origin for r in self.rows)]
        lines += [f"  note: {note}" for note in self.notes]
        right = sum(r.ok for r in self.rows)
        return "\n".join([*lines, f"  {right} of {len(self.rows)} gradients right"])
