"""A strict stand-in for CuPy on a machine without a card: arrays that NumPy holds, and that are as hard to mix up as CuPy's.

What it is for: layers, networks and ``fit`` run the code that they run on a GPU, and an array that would leave the device unasked
raises, as with CuPy.  The numbers are NumPy's own, so that results can be compared bit for bit.

Where CuPy differs, and what therefore is *not* shown by a test with it:

- sums, products of matrices, exp and arctan of a card are rounded in their own way; random numbers are others (Philox);
- the card computes while Python goes on, and its memory ends;
- CuPy has functions and options that are missing here, and the other way round: every function, method and option that is used
  here is written down (``CALLS``), and ``test_xp.py -m cudatext`` looks each up in the real CuPy;
- an index that is out of bounds raises here and wraps around there (losses look at labels before they use them);
- ``broadcast_to`` is read-only here and not there, so that a write into it raises here alone.
"""

import contextlib
import functools
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from minisnn import kernels
from minisnn.kernels import Base
from minisnn.kernels.cuda import CudaKernel
from minisnn.kernels.reference import ReferenceKernel

#: ``(kind, name, number of positional arguments, names of the others)`` of everything that was called.
CALLS = set()

#: Methods that do what NumPy's do.  Not here: what CuPy has in another form (``get``), or not at all (``setflags``).
METHODS = ("all any argmax argmin astype copy dot flatten max mean min ravel repeat reshape squeeze std sum swapaxes take "
           "transpose var view").split()  # fmt: skip
OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
COMPARISONS = "lt le gt ge eq ne".split()


class Flags:
    """CuPy's flags know nothing of ``writeable``: there are no read-only arrays."""

    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray:
    """An array "on the device".  `CALLS` notes what is done with it."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, held):
        assert type(held) is np.ndarray
        self._held = held

    # -- no way out but this one

    def get(self):
        return self._held.copy()

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
                        "explicitly.")  # fmt: skip

    # -- single numbers may come back: CuPy waits for the card then

    def item(self):
        return self._held.item()

    def _single(self, kind):
        if self._held.size != 1:
            raise TypeError("only length-1 arrays can be converted to Python scalars")
        return kind(self._held.reshape(()))

    def __bool__(self):
        return self._single(bool)

    def __float__(self):
        return self._single(float)

    def __int__(self):
        return self._single(int)

    def __index__(self):
        raise TypeError("only integer scalar arrays can be converted to a scalar index")

    def __format__(self, text):
        if text:
            raise TypeError("unsupported format string passed to cupy.ndarray.__format__")
        return str(self._held)

    # -- what it is

    shape, dtype, ndim, size, nbytes, itemsize, strides = (
        property(lambda self, name=name: getattr(self._held, name))
        for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides")
    )
    T, real = (property(lambda self, name=name: ndarray(getattr(self._held, name))) for name in ("T", "real"))

    @property
    def flags(self):
        return Flags(self._held.flags)

    def __len__(self):
        return len(self._held)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"fake_cupy.{self._held!r}"

    # -- NumPy's own functions, called on these arrays

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__":
            return NotImplemented
        out = options.pop("out", ())
        note("function", ufunc.__name__, len(inputs), options)
        if out:
            options["out"] = tuple(inside(a) for a in out)
        return outside(ufunc(*map(inside, inputs), **options))

    def __array_function__(self, function, kinds, args, options):
        if not all(issubclass(kind, ndarray) for kind in kinds):
            raise TypeError(f"Unsupported type {kinds}")
        name = ".".join([*function.__module__.split(".")[1:], function.__name__])
        if name == "asarray":  # the one function that takes what is not on the device: np.asarray(a, like=...)
            return asarray(*args, **options)
        if "device" in options:  # np.full(..., like=a) and np.ones hand it on
            raise TypeError(f"{name}() got an unexpected keyword argument 'device'")
        note("function", name, len(args), options)
        return outside(function(*inside(args), **inside(options)))

    def __getitem__(self, index):
        return outside(self._held[inside(index)])

    def __setitem__(self, index, value):
        self._held[inside(index)] = inside(value)


def note(kind, name, n, options=()):
    CALLS.add((kind, name, n, tuple(sorted(options))))


def inside(value):
    """What NumPy is to see of an argument.  CuPy takes numbers of NumPy, and no arrays."""
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {np.ndarray}")
    if isinstance(value, dict):
        return {k: inside(v) for k, v in value.items()}
    return type(value)(map(inside, value)) if type(value) in (list, tuple) else value


def outside(value):
    """A result on the device: of one number too, where NumPy would give the number itself."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    return tuple(map(outside, value)) if isinstance(value, tuple) else value


def _method(name):
    def method(self, *args, **options):
        note("method", name, len(args), options)
        return outside(getattr(self._held, name)(*inside(args), **inside(options)))

    return method


def _operator(name, in_place=False):
    def operate(self, other):
        found = getattr(self._held, name)(inside(other))
        return self if in_place else outside(found) if found is not NotImplemented else found

    return operate


for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name in OPERATORS:
    for _form in ("", "r"):
        setattr(ndarray, f"__{_form}{_name}__", _operator(f"__{_form}{_name}__"))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _operator(f"__i{_name}__", in_place=True))
for _name in (*COMPARISONS,):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("neg", "pos", "invert", "abs"):
    setattr(ndarray, f"__{_name}__", lambda self, name=f"__{_name}__": outside(getattr(self._held, name)()))


# -- the module


class Philox4x3210:
    """Takes a seed as CuPy's does; the numbers are others."""

    def __init__(self, seed):
        self.seed = seed


class Generator:
    """Of CuPy's generator what is used of it."""

    def __init__(self, bit_generator):
        self._rng = np.random.default_rng(bit_generator.seed)

    def random(self, size=None, dtype=np.float64):
        return outside(self._rng.random(size, dtype=dtype))


def asarray(a, dtype=None):
    """The one way in: to the device and what is there already."""
    note("function", "asarray", 1, () if dtype is None else ("dtype",))
    return (
        outside(np.asarray(a._held, dtype))
        if isinstance(a, ndarray) and dtype is not None
        else (a if isinstance(a, ndarray) else outside(np.array(a, dtype)))
    )


def _making(name):
    """A function that makes arrays: of numbers, or of what is on the device."""

    @functools.wraps(getattr(np, name))
    def make(*args, **options):
        note("function", name, len(args), options)
        return outside(getattr(np, name)(*inside(args), **inside(options)))

    return make


def module():
    """The stand-in as a module, for ``sys.modules["cupy"]``."""
    found = types.ModuleType("cupy")
    found.ndarray, found.asarray = ndarray, asarray
    for name in ("empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like", "ascontiguousarray"):
        setattr(found, name, _making(name))
    found.random = types.SimpleNamespace(Generator=Generator, Philox4x3210=Philox4x3210)
    return found


# -- a backend for it


class OnReference(CudaKernel):
    """What the kernel on a card looks at before it runs is looked at; then the reference runs."""

    def __init__(self, dynamics):
        super().__init__(dynamics)
        self.reference = ReferenceKernel(dynamics)

    def _scan(self, x, state0, theta, params, k, twin):
        self._check_place(x)
        within = twin._replace(base=twin.base and Base(*map(inside, twin.base)))
        found = self.reference._scan(*map(inside, (x, state0, theta, params)), k, within)
        return *map(outside, found[:2]), {"membranes": outside(found[2]["membranes"])}

    def _scan_adjoint(self, d_spikes, d_state_last, cache, needs):
        self._check_place(d_spikes)
        kept = {n: inside(getattr(cache, n)) for n in ("x", "spikes", "state0", "theta", "params", "membranes")}
        within = inside(d_spikes), inside(d_state_last), replace(cache, **kept), needs
        return outside(self.reference._scan_adjoint(*within))


@contextlib.contextmanager
def installed(kernel=OnReference):
    """The stand-in as ``cupy``, and `kernel` as the backend of that name."""
    backend = types.ModuleType("fake_cupy_backend")
    backend.kernel = kernel
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", module())
        patch.setitem(sys.modules, "fake_cupy_backend", backend)
        patch.setitem(kernels.BACKENDS, "cupy", ("fake_cupy_backend", ""))
        _forget()
        try:
            yield sys.modules["cupy"]
        finally:
            _forget()


def _forget():
    """Which backends there are, and the loops of all."""
    kernels._load.cache_clear()
    kernels.kernel_of.cache_clear()
