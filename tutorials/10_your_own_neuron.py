# SPDX-License-Identifier: MIT
# SPDX-FileComment: the text of this lesson is CC BY 4.0, its code MIT.
"""
10 Your own neuron: derive, check, train
========================================

How do you add a neuron that nobody has derived for you, and how do you know that you derived it right?

*You need*: lessons 03 (backpropagation through time), 04 (twins and differences) and 08 (training).
*Reading time*: 45 minutes. *Running time*: under 30 seconds.

In all lessons so far a spike added the same amount to the membrane, whatever the membrane was. In a real synapse it
opens a channel, and the current through the channel depends on the membrane: it pulls the membrane toward a certain
value, weakly when that is near. You derive this neuron, let a checker find your mistake, and train it on every
backend you have (a *backend* is a program that runs the loop over time: NumPy, or code compiled by Numba).
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: matrices this small need one thread

import matplotlib.pyplot as plt
import numpy as np

import minisnn as ms

FAST = bool(os.environ.get("MINISNN_FAST"))
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"

# %%
# The step forward
# ----------------
# Call the value toward which the input pulls :math:`\rho`, the *reversal potential* (in code ``reversal``). With
# :math:`v` for the membrane carried from the step before and :math:`x` for the input,
#
# .. math:: u = \mathit{decay}\; v + x\,(\rho - v)
#
# At :math:`v = 0` this is the old neuron with the input scaled by :math:`\rho`. Near :math:`v = \rho` the input does
# nothing. This is a choice of mine for this lesson: one of many ways to write such a synapse in one step.
#
# Write down what you expect: a constant input of 0.3, no threshold in reach. The old neuron and the new one with
# :math:`\rho = 1` start alike. Where does each of them end? (Set :math:`u = v` and solve.)


def synapse_charge(v, x, decay, reversal):
    return decay * v + x * (reversal - v)


strengths = (0.3, 0.8)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
ends = {}
for panel, x in ((left, strengths[0]), (right, strengths[1])):
    old, new = [0.0], [0.0]
    for _ in range(15):
        old.append(0.9 * old[-1] + x)
        new.append(synapse_charge(new[-1], x, 0.9, 1.0))
    ends[x] = new[-1]
    panel.plot(old, ".-", color=GREY, label="LIF")
    panel.plot(new, ".-", color=BLUE, label="new neuron, reversal 1")
    panel.axhline(1, color=ORANGE, linestyle=":", label="reversal potential")
    panel.set(title=f"constant input {x}, decay 0.9", xlabel="time step", ylim=(0, 4))
    panel.grid(alpha=0.25)
left.set_ylabel("membrane")
left.legend(fontsize="small")
plt.show()

for x, end in ends.items():
    expected = x / (1 - 0.9 + x)
    print(f"input {x}: ends at {end:.4f}; from u = v: {expected:.4f}")
    assert abs(end - expected) < 0.01
assert np.allclose([0.3 / (1 - 0.9), 0.8 / (1 - 0.9)], [3, 8])

# %%
# The LIF neuron runs toward :math:`x / (1 - \mathit{decay})`, here 3 and 8, far above the drawing. The new one stays
# below 1, for every input from 0 to 1. (A larger input overshoots: from :math:`v = 0` a single step takes it to
# :math:`x \rho`. For so strong a pull one step of time is too coarse.)
#
# The step backward: first try
# ----------------------------
# ``ms.Neuron`` wants two functions. ``charge(v, x, decay, reversal)`` you have.
# ``charge_adjoint(d_u, v, x, decay, reversal)`` gets :math:`d_u`, the gradient of the loss with respect to :math:`u`,
# and the values that the forward had. It returns the gradients of the forward's arguments **in the forward's order**:
# :math:`d_v, d_x, d_{\mathit{decay}}, d_\rho`. Nothing else: the spike, the surrogate, the reset, the sums over time
# and batch belong to the loop, and are the same for every neuron.
#
# Each of the four is :math:`d_u` times a derivative of :math:`u`. Here is a first try, written down quickly from the
# LIF neuron. One of the four results is wrong. Find it before you go on: the next cell tells.


def hasty_adjoint(d_u, v, x, decay, reversal):
    return decay * d_u, (reversal - v) * d_u, v * d_u, x * d_u


hasty = ms.Neuron(synapse_charge, hasty_adjoint, params=("decay", "reversal"))

# %%
# Would you see a mistake in the training? Perhaps not. The checker does. First it takes each function for itself, at
# random numbers: is what it returns for :math:`d_u = 1` the derivative? Then it runs the loop, forward and back, on
# random problems, and compares every gradient with derivatives of the smooth twin, of the tangent twin, and of the real
# network with slope 0 (lesson 04).
#
# Write down what you expect before you run it. In the part of the functions, which rows will be wrong? And in each of
# the three twins: the gradients of the input, of the first membrane (``d_v[0]``), of the threshold, decay and reversal?

report = ms.checks.check_adjoint(hasty, ms.resets.hard, ms.surrogates.atan(1.3))
print(report)
assert not report.ok

# %%
# Each row shows the entry that is furthest off: where it is, what you returned, what is true, and the error, relative
# to the largest entry (``1e+00``: as large as that entry; the lines ``error:`` say it exactly). Read the table from the
# top.
#
# *One step* has a row for each result of your two functions, and of the reset and the surrogate. ``du/dv`` alone is
# wrong there. That is the answer: the mistake is in the first result of the charge's adjoint, in :math:`d_v`.
#
# *The twins* show what it does in time. :math:`d_v` is carried back, so it spoils what is collected at *earlier* steps:
# every row. (One is right by default: with slope 0 a threshold has no gradient under a hard reset.) A mistake in
# :math:`d_\rho` would spoil one row of each twin and leave the others right.
#
# *Which term* comes last. The checker tried products of the arguments until one of them made up the difference: yours
# minus true is ``x*d_u``. So you returned :math:`x\, d_u` too much.
#
# The step backward, term by term
# -------------------------------
# :math:`v` appears twice in :math:`u = \mathit{decay}\; v + x\,\rho - x\,v`. So
#
# .. math::
#    d_v = (\mathit{decay} - x)\, d_u \qquad
#    d_x = (\rho - v)\, d_u \qquad
#    d_{\mathit{decay}} = v\, d_u \qquad
#    d_\rho = x\, d_u
#
# The hasty version forgot the :math:`-x`, the term that makes this neuron what it is. (Compare :doc:`/derivations/lif`,
# and :doc:`/derivations/current_lif` for a neuron with two states.)


def synapse_adjoint(d_u, v, x, decay, reversal):
    return (decay - x) * d_u, (reversal - v) * d_u, v * d_u, x * d_u  # d_v, d_x, d_decay, d_reversal


mine = ms.Neuron(synapse_charge, synapse_adjoint, params=("decay", "reversal"))
report = ms.checks.check_adjoint(mine, ms.resets.hard, ms.surrogates.atan(1.3)).raise_if_wrong()
print(report)

# %%
# Value to expect: every error at rounding, below 1e-12. ``raise_if_wrong()`` stops the program otherwise; use it in a
# test.
#
# The note says more than the rows. Read ``J`` as the derivative of the whole loop, from all that goes in to all that
# comes out: ``J e`` is how the output moves when the input moves by ``e``. Your backward is right if for any ``d`` from
# above :math:`\langle d, J e\rangle = \langle J' d, e\rangle`, where ``J' d`` is what it returns and
# :math:`\langle\,,\rangle` multiplies entry by entry and sums. Your neuron is made of + - * alone, so both sides can be
# computed in fractions, without rounding, and compared with ``==``. That was done at random fractions, for up to 5
# steps and every way to place spikes in them (2 + 4 + 8 + 16 + 32 = 62), with any number in the place of the slope. A
# formula that is wrong would pass only by a chance that is next to none.
#
# The spike, the surrogate and the reset are independent of the neuron, so every combination has to be right. Five
# resets, six surrogates:

count = 0
resets = list(ms.resets.RESETS.values())[: 2 if FAST else None]
surrogates = list(ms.surrogates.SURROGATES.values())[: 2 if FAST else None]
for reset in resets:
    for surrogate in surrogates:
        ms.checks.check_adjoint(mine, reset, surrogate(1.3), draws=1, backend="numpy").raise_if_wrong()
        count += 1
print(f"{count} combinations right")
assert count == len(resets) * len(surrogates)

# %%
# What your functions may contain
# -------------------------------
# When ``ms.Neuron`` is made, it calls each function once on symbols and records the arithmetic: ``+ - * /``, comparisons,
# and a few functions such as ``np.exp`` and ``np.maximum``. Every backend runs that record. A helper function or a loop over
# constants is recorded step by step. A branch on a value cannot be recorded, and the error says so:


def forked_charge(v, x, decay, reversal):
    if v > reversal:
        return decay * v
    return decay * v + x * (reversal - v)


try:
    ms.Neuron(forked_charge, synapse_adjoint, params=("decay", "reversal"))
    refused = False
except ms.FormulaError as error:
    refused = True
    print(f"FormulaError: {error}")
assert refused

# %%
# One source, every backend
# -------------------------
# Which backends are here? Any that cannot be used says why.

from minisnn.kernels import BACKENDS, backend_problem

backends = [name for name in BACKENDS if backend_problem(name) is None]
for name in BACKENDS:
    print(f"{name}: {backend_problem(name) or 'available'}")
assert "numpy" in backends

# %%
# On each: the adjoint is checked on that backend's own code; then the same input has to give the same spikes and the
# same membranes, **bit for bit**, because your neuron is arithmetic alone.

currents = np.random.default_rng(0).normal(0.3, 0.6, (50, 20, 30))
results = {}
for name in backends:
    ms.checks.check_adjoint(mine, ms.resets.hard, ms.surrogates.atan(1.3), backend=name).raise_if_wrong()
    layer = ms.Spiking(30, neuron=mine, threshold=0.6, decay=0.7, reversal=1.5, dtype="float64", backend=name)
    spikes, cache = layer.forward(currents)
    results[name] = spikes, cache.u
    print(f"{name}: adjoint right; {spikes.mean():.1%} of the steps have a spike")
    assert 0.05 < spikes.mean() < 0.95
assert all(np.array_equal(a, b) for found in results.values() for a, b in zip(found, results["numpy"], strict=True))

# %%
# Train it
# --------
# ``ms.Spiking`` takes the neuron, and its parameters by their names. A parameter is learnt if you hand it to the
# optimizer: here weights, thresholds, and the 64 reversal potentials of the first layer. (``ms.STDL`` stands for
# weights, thresholds and all parameters of neurons.)
#
# The input of the hidden layer is a weighted sum and can be negative: a negative :math:`x` pushes the membrane *away*
# from :math:`\rho`. For a channel this is nonsense; for a network on digits it is a choice that works or does not.
# Write down what you expect: will :math:`\rho`, which starts at 1.5, grow or shrink? It scales the input like the gain
# of lesson 06.

train, validation = ms.data.digits("train"), ms.data.digits("validation")
if FAST:
    train = train[0][:400], train[1][:400]
epochs = 4 if FAST else 8


def make(backend):
    rng = np.random.default_rng(0)
    return ms.Network(
        fc1=ms.Linear(64, 64, rng=rng),
        mine1=ms.Spiking(64, neuron=mine, decay=0.5, reversal=1.5, threshold=0.7, backend=backend),
        fc2=ms.Linear(64, 50, rng=rng),
        lif2=ms.LIF(50, threshold=0.7, backend=backend),
        vote=ms.PopulationVote(10),
    )


curves, nets = {}, {}
for name in backends:
    nets[name] = net = make(name)
    optimizer = ms.Adam(net, ["*.weight", "*.threshold", "mine1.reversal"], lr=1e-2)
    history = ms.fit(
        net,
        optimizer,
        train,
        epochs=epochs,
        batch=32,
        encoder=ms.encode.Bernoulli(8),
        validation=validation,
        progress=False,
    )
    curves[name] = history.column("validation_accuracy")
    print(f"{name}: validation accuracy " + " ".join(f"{a:.1%}" for a in curves[name]))
    assert curves[name][-1] > (0.7 if FAST else 0.88)

net = nets["numpy"]
reversal = net["mine1"].params["reversal"]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=False):
    color = BLUE if style == "-" else ORANGE
    left.plot(np.arange(1, epochs + 1), 100 * np.array(curve), style, color=color, label=name)
left.set(xlabel="epoch", ylabel="validation accuracy (%)", title="One source, every backend", ylim=(0, 100))
left.legend()
right.hist(reversal, 16, color=BLUE)
right.axvline(1.5, color=GREY, linestyle="--", label="at the start")
right.set(xlabel="reversal potential", ylabel="neurons", title="After training")
right.legend(loc="upper left")
for panel in (left, right):
    panel.grid(alpha=0.25)
    panel.set_axisbelow(True)
plt.show()

grew = (reversal > 1.5).mean()
print(f"reversal: {reversal.min():.2f} to {reversal.max():.2f}, mean {reversal.mean():.2f}; {grew:.0%} grew")
assert grew > 0.5 and np.ptp(reversal) > 0.05
spread = max(abs(curves[name][-1] - curves["numpy"][-1]) for name in backends)
assert spread < 0.05, "backends may differ by rounding in sums (float32), not more"

# %%
# Most of them grew: the layer turned its gain up. (*That* it helps the accuracy is not shown. For that you would need
# lesson 08.)
#
# One thing remains: the gradient of the *whole network*, your layer inside, on each backend. All numbers of a parameter
# are moved at once along a random direction, as in lesson 04, through the three twins, in double precision.

x = ms.encode.bernoulli(validation[0][:6], steps=8, rng=np.random.default_rng(1))
for name in backends:
    report = ms.checks.check_grads(nets[name].astype("float64"), x, validation[1][:6], ms.losses.mse)
    print(f"{name}: {len(report.rows)} gradients compared, {'all right' if report.ok else 'some wrong'}")
    report.raise_if_wrong()

# %%
# What you should take with you
# -----------------------------
# A neuron is two functions. You derive one step; the loop does the rest; the checker says whether you did.
#
# Try this
# --------
# 1. Give the neuron a second input-free pull: :math:`u = \mathit{decay}\; v + x(\rho - v) + \lambda (1 - v)\,v`, with a
#    parameter :math:`\lambda`. Derive, check, train. *(How often does v appear now?)*
# 2. Plant a mistake on purpose: swap the last two results of ``synapse_adjoint``. Which rows of each part are wrong,
#    and why are all the others right? Write it down first. *(Which of the four results is carried back in time?)* Then
#    read what the checker says about the term.
# 3. Give it a second state, a synaptic current that decays by itself, as in ``ms.neurons.current_lif``:
#    ``state=("v", "i")``. The adjoint then gets two gradients of states and returns six values. *(Which variable is
#    used twice?)*
