"""Network: layers one after the other, and the walk back through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .kernels import check_backend
from .kernels.contract import Array, float_dtype
from .layers.base import Layer

__all__ = ["SL", "STDL", "STL", "TL", "Caches", "Network", "Rule"]


@dataclass(frozen=True)
class Rule:
    """A learning rule: which parameters learn, chosen by what they are ("synapse", "threshold", "neuron")."""

    name: str
    roles: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Rule({self.name}: {' + '.join(self.roles)})"


#: The rules of the paper: synaptic, threshold and synapse-threshold learning; STDL also learns decays.
SL = Rule("SL", ("synapse",))
TL = Rule("TL", ("threshold",))
STL = Rule("STL", ("synapse", "threshold"))
STDL = Rule("STDL", ("synapse", "threshold", "neuron"))

#: Chooses parameters: a rule, a name with wildcards such as ``"lif*.threshold"``, several of these, ``None`` for all.
Pattern = Rule | str | Iterable[str] | None


class Caches(dict[str, Any]):
    """The layers' caches by name, e.g. ``caches["lif1"].spikes``; ``caches.state`` continues where this run ended."""

    @property
    def state(self) -> dict[str, dict[str, Array]]:
        """State after the last step of every layer that has one, for the `state` of the next ``forward``."""
        return {name: cache.state for name, cache in self.items() if hasattr(cache, "state")}


class Network:
    """Layers run one after the other; keyword order is layer order, and the names appear in every table.

    ``net = ms.Network(fc1=ms.Linear(64, 128, rng=rng), lif1=ms.LIF(128), vote=ms.PopulationVote(10))``

    Raises
    ------
    ValueError : shapes or dtypes of neighbouring layers do not fit; the message names the layers.
    """

    def __init__(self, **layers: Layer) -> None:
        if not layers:
            raise ValueError("Network: needs at least one layer, e.g. Network(fc1=ms.Linear(64, 10, rng=rng))")
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Network: {name} must be a layer, got {layer!r}")
        seen: dict[int, str] = {}
        for name, layer in layers.items():
            if id(layer) in seen:
                raise ValueError(f"Network: {seen[id(layer)]} and {name} are the same layer; make one for each")
            seen[id(layer)] = name
        learning = {n: layer for n, layer in layers.items() if layer.params} or layers
        dtypes = {n: layer.dtype for n, layer in learning.items()}
        if len(set(dtypes.values())) > 1:
            raise TypeError(f"Network: one float dtype per net, got {', '.join(f'{n} {d}' for n, d in dtypes.items())}")
        self.dtype = next(iter(dtypes.values()))
        # Layers without parameters follow the net's dtype: nobody should have to say it ten times.
        self.layers = {n: layer if layer.params else layer.astype(self.dtype) for n, layer in layers.items()}
        shape = None
        for name, layer in self.layers.items():
            try:
                shape = layer.out_shape(shape)
            except ValueError as error:
                raise ValueError(f"Network: {name} does not fit the layer before it: it {error}") from None

    # -- parameters

    def params(self, pattern: Pattern = None) -> dict[str, Array]:
        """The live parameter arrays by name (``"fc1.weight"``), those that `pattern` chooses.

        Raises
        ------
        ValueError : the pattern matches nothing; the message lists the names.
        """
        everything = {f"{n}.{p}": (layer, p) for n, layer in self.layers.items() for p in layer.params}
        if pattern is None:
            chosen = list(everything)
        elif isinstance(pattern, Rule):
            chosen = [n for n, (layer, p) in everything.items() if layer.roles[p] in pattern.roles]
        else:
            patterns = [pattern] if isinstance(pattern, str) else list(pattern)
            if not patterns:
                return {}
            for one in patterns:
                if not any(fnmatchcase(n, one) for n in everything):
                    raise ValueError(f"pattern {one!r} matches no parameter; there are {', '.join(everything) or 'none'}")
            chosen = [n for n in everything if any(fnmatchcase(n, one) for one in patterns)]
        if not chosen and everything:
            raise ValueError(f"{pattern!r} matches no parameter; there are {', '.join(everything)}")
        return {n: everything[n][0].params[everything[n][1]] for n in chosen}

    # -- the run and the walk back

    def forward(
        self, x: Array, *, state: Mapping[str, Any] | None = None, train: bool = False, rng: Any = None
    ) -> tuple[Array, Caches]:
        """Run ``[T, B, ...]`` through all layers.

        Parameters
        ----------
        x : input of the net's dtype, or spikes (uint8, bool); time first.
        state : states to start from by layer, as in ``caches.state``; zero if not given.
        train, rng : handed to the layers, for those that behave otherwise in training.

        Returns
        -------
        scores : output of the last layer.   caches : :class:`Caches` for ``backward``.
        """
        state = dict(state or {})
        if unknown := set(state) - {n for n, layer in self.layers.items() if layer.spiking}:
            raise ValueError(f"Network: state names {sorted(unknown)}, which have none")
        caches = Caches()
        for name, layer in self.layers.items():
            with _naming(name):
                x, caches[name] = layer.forward(x, state=state.get(name), train=train, rng=rng)
        return x, caches

    def backward(
        self,
        d_scores: Array,
        caches: Mapping[str, Any],
        *,
        d_state: Mapping[str, Any] | None = None,
        d_inner: Mapping[str, Array] | None = None,
        wrt: Pattern = None,
        input_grad: bool = True,
    ) -> tuple[Array | None, dict[str, Any]]:
        """Gradients of a loss, given that of the scores.

        Parameters
        ----------
        d_scores : gradient of the scores.   caches : what ``forward`` returned.
        d_state : gradients of the last states by layer.
        d_inner : gradients of inner layers' outputs by layer, added to what comes from above (penalties on spikes).
        wrt : which parameters' gradients are wanted (a pattern); all if not given.
        input_grad : whether the input's gradient is wanted; if not, the walk ends at the lowest parameter wanted.

        Returns
        -------
        d_x : gradient of the input, or ``None``.
        grads : by name, ``grads["lif1.threshold"]``, in the parameters' shapes; ``grads["state"]["lif1"]`` for layers
            that were given a state.
        """
        d_state, d_inner = dict(d_state or {}), dict(d_inner or {})
        for what, names in (("d_state", d_state), ("d_inner", d_inner)):
            if unknown := set(names) - set(self.layers):
                raise ValueError(f"Network: {what} names {sorted(unknown)}, the layers are {list(self.layers)}")
        wanted = [n.rpartition(".")[::2] for n in self.params(wrt)]
        order = list(self.layers)
        lowest = 0 if input_grad else min((order.index(name) for name, _ in wanted), default=len(order))
        grads: dict[str, Any] = {}
        states: dict[str, Any] = {}
        d_x: Array | None = d_scores
        for i in reversed(range(lowest, len(order))):
            name = order[i]
            if name in d_inner:
                d_x = d_x + d_inner[name]
            with _naming(name):
                d_x, found = self.layers[name].backward(
                    d_x,
                    caches[name],
                    d_state=d_state.get(name),
                    wrt=[p for n, p in wanted if n == name],
                    input_grad=input_grad or i > lowest,
                )
            if "state" in found:
                states[name] = found.pop("state")
            grads.update({f"{name}.{p}": d for p, d in found.items()})
        if states:
            grads["state"] = states
        return (d_x if input_grad else None), {n: grads[n] for n in (*self.params(), "state") if n in grads}

    # -- the same network, otherwise

    def using(self, backend: str) -> Network:
        """The same network on another backend; both share their parameter arrays."""
        check_backend(backend)
        return self._map(lambda layer: layer.using(backend))

    def astype(self, dtype: Any) -> Network:
        """A copy of the network with parameters of another float dtype."""
        dtype = float_dtype(dtype)
        return self._map(lambda layer: layer.astype(dtype))

    def smoothed(self) -> Network:
        """The smooth twin: every spike is the surrogate's curve.  It shares its parameter arrays with this network."""
        return self._map(lambda layer: layer.smoothed())

    def _map(self, change: Callable[[Layer], Layer]) -> Network:
        return Network(**{name: change(layer) for name, layer in self.layers.items()})

    @property
    def backend(self) -> str:
        """The backend of the spiking layers; several are joined by ``+``."""
        found = {layer.backend for layer in self.layers.values() if layer.spiking}
        return "+".join(sorted(found)) or "numpy"

    def __getitem__(self, name: str) -> Layer:
        if name not in self.layers:
            raise KeyError(f"no layer {name!r}; there are {', '.join(self.layers)}")
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __repr__(self) -> str:
        width = max(map(len, self.layers))
        total = sum(p.size for p in self.params().values())
        head = f"Network, {total:,} parameters, {self.dtype}, {self.backend}; input [T, B, ...], time first"
        return "\n".join([head, *(f"  {name:<{width}}  {layer!r}" for name, layer in self.layers.items())])


class _naming:
    """Puts a layer's name in front of the errors that come out of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ValueError | TypeError) and error.args and isinstance(error.args[0], str):
            error.args = (f"{self.name}: {error.args[0]}", *error.args[1:])
