# SPDX-License-Identifier: MIT
# SPDX-FileComment: the text of this lesson is CC BY 4.0, its code MIT.
"""
11 The same loop in NumPy and Numba
===================================

Why is one of two loops with the same results many times as fast as the other?

*You need*: lesson 07 (arrays ``[T, B, N]``); Numba (``pip install numba``). Lesson 10 helps.
*Reading time*: 35 minutes. *Running time*: under 30 seconds.

The engine has each formula once, and several loops around it: one in NumPy, to be read, and one that Numba compiles.
You build both for the LIF neuron, see that they agree to the last bit, and only then look at the clock. Numbers of
seconds depend on your machine. Ratios do too, but less; the asserts in this lesson leave them much room.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: matrices this small need one thread

import time

import matplotlib.pyplot as plt
import numpy as np

try:
    import numba
except ImportError as error:
    print(f"This lesson needs Numba, which cannot be imported here: {error}. Install it with: pip install numba")
    raise SystemExit(0) from None

import minisnn as ms

FAST = bool(os.environ.get("MINISNN_FAST"))
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"

# %%
# One source
# ----------
# Two functions, a line each. Nothing in them says whether ``v`` is a number or an array. That is on purpose: a neuron's
# formula stands once, and a *backend* is only the loop around it. (Lesson 10 names the backends of the engine.)


def charge(v, x, decay):
    return decay * v + x


def reset(u, s):
    return u - s * u


# %%
# Machine 0: Python
# -----------------
# The plainest loop: time, samples, neurons, numbers one by one. Room for the results is handed in, so that the clock
# will measure the loop, and not how fast the operating system finds memory.


def python_loop(x, theta, decay, spikes, u):
    T, B, N = x.shape
    v = np.zeros((B, N))
    for t in range(T):
        for b in range(B):
            for n in range(N):
                u[t, b, n] = charge(v[b, n], x[t, b, n], decay)
                spikes[t, b, n] = u[t, b, n] >= theta[n]
                v[b, n] = reset(u[t, b, n], spikes[t, b, n])


# %%
# Machine 1: NumPy
# ----------------
# Samples and neurons do not need each other. Each line does all of them at once; only time stays a loop.


def numpy_loop(x, theta, decay, spikes, u):
    v = np.zeros(x.shape[1:])
    for t in range(len(x)):
        u[t] = charge(v, x[t], decay)
        spikes[t] = u[t] >= theta
        v = reset(u[t], spikes[t])


# %%
# Machine 2: Numba
# ----------------
# ``numba.njit`` translates a Python function to machine code, for the types of the arguments of its first call. The two
# formulas are the *same functions*, compiled. The loop is that of machine 0, with one change: sample outside, time in
# the middle. The membrane of one sample, ``v``, is a short row.

charge_c, reset_c = numba.njit(charge), numba.njit(reset)


@numba.njit
def numba_loop(x, theta, decay, spikes, u):
    T, B, N = x.shape
    v = np.zeros(N)
    for b in range(B):
        v[:] = 0.0
        for t in range(T):
            for n in range(N):
                u[t, b, n] = charge_c(v[n], x[t, b, n], decay)
                spikes[t, b, n] = u[t, b, n] >= theta[n]
                v[n] = reset_c(u[t, b, n], spikes[t, b, n])


# %%
# Right first
# -----------
# Additions and multiplications are exactly defined for floating point numbers, and each loop does the same ones in the
# same order for each neuron. So expect equality *to the last bit*, not to some tolerance. (For ``exp`` or ``tanh`` it
# would not be so: two libraries may round these differently.) The one thing to watch is a compiler that fuses
# ``decay * v + x`` into one operation with one rounding; Numba does not, unless you allow it with ``fastmath``.

rng = np.random.default_rng(0)
x = rng.normal(0.4, 0.8, (20, 20, 100))
theta = rng.uniform(0.5, 1.5, 100)


def room(x):
    """Arrays for spikes and membranes, filled once so that the memory is really there."""
    return np.full(x.shape, 9, np.uint8), np.full_like(x, np.nan)


plain, vectors, compiled = room(x), room(x), room(x)
begun = time.perf_counter()
numba_loop(x, theta, 0.5, *compiled)
first_call = time.perf_counter() - begun
python_loop(x, theta, 0.5, *plain)
numpy_loop(x, theta, 0.5, *vectors)

for name, (spikes, u) in {"NumPy": vectors, "Numba": compiled}.items():
    assert np.array_equal(spikes, plain[0]) and np.array_equal(u, plain[1])
    print(f"{name}: {spikes.size:,} spikes and membranes, bit for bit those of Python; rate {spikes.mean():.0%}")
assert 0.1 < plain[0].mean() < 0.9

# %%
# Then fast
# ---------
# Write down what you expect: how many times as fast as Python is NumPy, and Numba? Then the naive measurement: the
# first call of Numba, against NumPy.


def seconds(call, *arguments, repeat=7):
    """The best of some tries: noise on a machine only ever makes a program slower."""
    found = []
    for _ in range(repeat):
        begun = time.perf_counter()
        call(*arguments)
        found.append(time.perf_counter() - begun)
    return min(found)


took = {"Python": seconds(python_loop, x, theta, 0.5, *plain, repeat=2)}
took["NumPy"] = seconds(numpy_loop, x, theta, 0.5, *vectors)
print(f"naive: Numba's first call {first_call * 1e3:.0f} ms, NumPy {took['NumPy'] * 1e3:.3f} ms")
assert first_call > 5 * took["NumPy"], "the first call compiles"

# %%
# So Numba is slower? The first call *compiled*; every further one runs what is there. Which of the two you pay for
# depends on how often you call. Measure again.

took["Numba"] = seconds(numba_loop, x, theta, 0.5, *compiled)
for name, value in took.items():
    print(
        f"{name:7} {value * 1e3:9.3f} ms, {value / x.size * 1e9:8.2f} ns a neuron and step, "
        f"Python / this {took['Python'] / value:6.0f}"
    )
assert took["Python"] > 10 * took["NumPy"] and took["NumPy"] > 2 * took["Numba"]

# %%
# The large step is from Python to either of the two: the interpreter looks up every name, checks every type and wraps
# every number in an object, many instructions for one multiplication. NumPy pays that once for each *operation on
# arrays*; compiled code does not pay it at all.
#
# What makes it fast: calls and memory
# ------------------------------------
# Count what NumPy does in one step: a product, a sum, a copy to ``u[t]``, a comparison, a copy to ``spikes[t]``, a
# product, a difference. Seven operations. Each is a call, which costs about a microsecond or less however small the
# array is; and each is a pass over arrays ``[B, N]``, which reads one or two of them and writes one. Do these seven
# account for the time? Measure one.

one = seconds(np.multiply, x[0], 0.5, repeat=200)
print(
    f"7 operations * 20 steps * {one * 1e6:.2f} us = {7 * 20 * one * 1e3:.3f} ms; "
    f"the NumPy loop took {took['NumPy'] * 1e3:.3f} ms"
)
assert 0.1 < 7 * 20 * one / took["NumPy"] < 3

# %%
# Roughly. (Operations that mix types, as a product of bytes and floats, take longer than the one you measured.) The
# compiled loop has no calls, takes a number from memory once, does everything with it, and writes it back once.
#
# But the *order* of compiled loops counts as well. A processor keeps copies of what it used last in a small, fast
# memory, its *cache* (another thing than the cache that ``forward`` returns). Memory comes there in lines of 64 bytes,
# on most machines: 8 neighbouring float64 numbers, in ``[T, B, N]`` 8 neighbouring neurons. Here is a third order:
# neuron outside, time *inside*. It looks best of all: the membrane is one number, and no row is needed.


@numba.njit
def time_inside(x, theta, decay, spikes, u):
    T, B, N = x.shape
    for b in range(B):
        for n in range(N):
            v = 0.0
            for t in range(T):
                u[t, b, n] = charge_c(v, x[t, b, n], decay)
                spikes[t, b, n] = u[t, b, n] >= theta[n]
                v = reset_c(u[t, b, n], spikes[t, b, n])


# %%
# Write down what you expect, on an input of more than a million numbers: is ``time_inside`` faster or slower than
# ``numba_loop``? From one ``t`` to the next it jumps over ``B * N`` numbers.

large = rng.normal(0.4, 0.8, (16, 64 if FAST else 128, 1024))
theta_large = rng.uniform(0.5, 1.5, 1024)
assert large.size > 1e6
loops = {"NumPy": numpy_loop, "Numba, time inside": time_inside, "Numba, rows": numba_loop}
outputs = [room(large) for _ in loops]
for loop, out in zip(loops.values(), outputs, strict=True):
    loop(large, theta_large, 0.5, *out)
assert all(np.array_equal(a, b) for out in outputs[1:] for a, b in zip(out, outputs[0], strict=True)), "right first"

on_large = {
    name: seconds(loop, large, theta_large, 0.5, *out) for (name, loop), out in zip(loops.items(), outputs, strict=True)
}
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
nanoseconds = [value / large.size * 1e9 for value in on_large.values()]
axes.barh(list(on_large), nanoseconds, color=[GREY, ORANGE, BLUE])
for row, value in enumerate(nanoseconds):
    axes.text(value, row, f" {value:.2f}", va="center")
axes.set(xlabel="ns for one neuron and step (on the machine that built this page)", xlim=(0, 1.15 * max(nanoseconds)))
axes.spines[["top", "right"]].set_visible(False)
plt.show()

for name, value in on_large.items():
    print(f"{name:20} {value * 1e3:7.2f} ms")
for size, times, rows in (("small", took, "Numba"), ("large", on_large, "Numba, rows")):
    print(f"{size} input: NumPy takes {times['NumPy'] / times[rows]:.1f} times as long as Numba")
assert on_large["Numba, time inside"] > 1.5 * on_large["Numba, rows"]

# %%
# The loop over rows wins, for two reasons at least. It uses all 8 numbers of each memory line while the line is at
# hand. And a processor can do several *neighbouring* neurons with one instruction (SIMD); with time inside each step
# has to wait for the one before.
#
# Compare the two ratios. On a machine that does nothing else, NumPy came nearer. On large arrays the price of a call is
# spread over many numbers, and every loop waits for the same thing: ``x`` has to come from main memory, ``u`` has to go
# there. What no loop can avoid sets the limit. (Did yours not come nearer? NumPy makes its seven passes over arrays of
# a megabyte. Where other programs use the cache too, these passes go to main memory as well.)
#
# This is the rule: **innermost, what is independent and lies side by side.** Then time, so that the membranes stay in
# the nearest cache. Then samples.
#
# The engine
# ----------
# The engine does the same with more care: for any neuron, both directions, tiles that fit into the cache, several
# threads (workers that share the work). Its NumPy loop is ``minisnn/kernels/reference.py`` (the loop in
# :doc:`/derivations/lif`); you can read it in five minutes. The compiled one has to agree with it: spikes, membranes
# and the gradient of the input to the last bit, in float32. The threshold's gradient is a sum over time and samples,
# and the two add in another order; expect agreement to rounding.

layer = ms.LIF(256, threshold=theta_large[:256], backend="numpy")
x32 = rng.normal(0.4, 0.8, (20, 64, 256)).astype(np.float32)
d_spikes = rng.normal(size=x32.shape).astype(np.float32)
found, engine = {}, {}
for backend in ("numpy", "numba"):
    on = layer.using(backend)
    spikes, cache = on.forward(x32)
    d_x, grads = on.backward(d_spikes, cache)
    found[backend] = spikes, cache.u, d_x, grads["threshold"]

for name, a, b in zip(("spikes", "membranes", "d_x"), found["numpy"], found["numba"], strict=False):
    print(f"{name}: {'the same bits' if np.array_equal(a, b) else 'differ'}")
    assert np.array_equal(a, b)
a, b = found["numpy"][3], found["numba"][3]
error = np.abs(a - b).max() / np.abs(a).max()
print(f"threshold's gradient: relative difference {error:.0e}")
assert error < 1e-5


def both_directions(layer):
    _, cache = layer.forward(x32)
    layer.backward(d_spikes, cache)


threads = ms.get_threads()
ms.set_threads(1)
for backend in ("numpy", "numba"):
    engine[backend] = seconds(both_directions, layer.using(backend), repeat=5)
    print(f"engine, {backend}, one thread: forward and back {engine[backend] * 1e3:7.1f} ms")
one_thread = layer.using("numba").forward(x32)[1].u
ms.set_threads(4)
assert np.array_equal(one_thread, layer.using("numba").forward(x32)[1].u), "any number of threads: the same bits"
ms.set_threads(threads)
assert engine["numpy"] > 1.2 * engine["numba"]

# %%
# Where does the time of a whole training step go? Much of it into the products with weight matrices, which a faster
# loop over time leaves as they are. If the loop takes half of the time and becomes five times as fast, 1/2 + 1/10 of
# the time is left: the program is 1.7 times as fast, not five. Measure before you optimize: in lesson 08 it was one
# line about threads of the matrix library (the first one after ``import os``) that made a run many times shorter on
# some machines.
#
# Another machine: a GPU
# ----------------------
# A GPU has thousands of slow workers. Which loop suits it? Each neuron of each sample gets a worker of its own, a *thread*,
# with time inside it: the order that was slow above. Here it is right. Neighbouring threads are neighbouring neurons, and
# they run side by side, so that together they read whole lines of memory.
#
# The loop is written in CUDA, which is C++. The engine records what ``lif_charge`` computes, line by line, and prints the
# record as C into one text that is the same for every neuron. No GPU is needed to read it. (``v`` has a place for each
# state of a neuron; everything with ``base`` serves the twins of lesson 04.)

import inspect

from minisnn.kernels import Dynamics
from minisnn.kernels.cuda import cuda_text

text = cuda_text(Dynamics(ms.neurons.lif, ms.resets.hard, ms.surrogates.atan()), "float32")
print(inspect.getsource(ms.neurons.lif_charge))
charge, loop = text.index("__device__ inline void charge("), text.index('extern "C" __global__ void scan')
print(text[charge : text.index("__device__ inline void charge_adjoint(")])
print(text[loop : text.index('extern "C" __global__ void adjoint')])
assert "t0 = a2 * a0;" in text and "t1 = t0 + a1;" in text and "a0 >= a1" in text, "the same formula"
assert "double" not in text, "and no number in it is wider than the others"

# %%
# Find ``decay * v + x`` (``a0``, ``a1`` and ``a2`` are ``v``, ``x`` and ``decay``), and where the loop calls it, compares
# with the threshold and resets. ``lane`` is the thread's neuron, ``at`` its place
# in ``[T, B, N]``: from one step to the next it jumps over ``lanes`` = ``B * N`` numbers, as in ``time_inside``.
#
# How do you trust a program that you cannot run? The engine's tests compile this very text for the CPU and compare bits, as
# you did above. (What has and has not been tried on a real card: :doc:`/how_to/use_a_gpu`.)
#
# What you should take with you
# -----------------------------
# One source, several loops. First the same bits, then the clock, and the clock after the first call.
#
# Try this
# --------
# 1. Compile the fourth order: time outside, then samples, then neurons, with ``v`` of shape ``[B, N]``. Where do you
#    expect it between the others? When does it come close to the best? *(How large is v, how large is your processor's
#    cache?)*
# 2. Turn on ``@numba.njit(fastmath=True)`` for ``numba_loop`` *and* the two formulas. Is it faster? Are the bits the
#    same? Which of the two would you give up for the other?
# 3. Call ``numba_loop`` with ``x.astype(np.float32)`` and look at ``charge_c.nopython_signatures``. In which type is
#    ``decay * v`` computed? *(A Python number is a float64. The engine makes a copy of your formula in which every
#    number has the net's type.)*
