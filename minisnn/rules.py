"""Learning rules, and names with wildcards: which of a network's parameters learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["SL", "STDL", "STL", "TL", "LearningRule", "Pattern", "choose"]


@dataclass(frozen=True)
class LearningRule:
    """Chooses parameters by what they are: "synapse", "threshold" or "neuron"."""

    name: str
    roles: tuple[str, ...]

    def __repr__(self) -> str:
        return f"LearningRule({self.name}: {' + '.join(self.roles)})"


#: The paper's rules, synaptic, threshold, synapse-threshold learning; STDL also learns decays.
SL = LearningRule("SL", ("synapse",))
TL = LearningRule("TL", ("threshold",))
STL = LearningRule("STL", ("synapse", "threshold"))
STDL = LearningRule("STDL", ("synapse", "threshold", "neuron"))

#: A learning rule, a name with wildcards such as ``"lif*.threshold"``, several of these names,
#: or ``None`` for all parameters.
Pattern = LearningRule | str | Iterable[str] | None


def choose(pattern: LearningRule | str | Iterable[str], roles: Mapping[str, str]) -> list[str]:
    """The names that `pattern` chooses among `roles`, each parameter's role by its name.

    Raises
    ------
    ValueError : the pattern matches no parameter; the message lists the names.
    """
    chosen = set[str]()
    for one in [pattern] if isinstance(pattern, LearningRule | str) else pattern:
        if isinstance(one, LearningRule):
            matching = {name for name, role in roles.items() if role in one.roles}
        else:
            matching = {name for name in roles if fnmatchcase(name, one)}
        if not matching:
            there_are = f"there are {', '.join(roles) or 'none'}"
            raise ValueError(f"pattern {one!r} matches no parameter; {there_are}")
        chosen |= matching
    return [name for name in roles if name in chosen]
