# SPDX-License-Identifier: CC-BY-4.0 (text)
# SPDX-License-Identifier: MIT (code)
r"""
02 Replace the jump by a ramp
=============================

*What do you put where the derivative of the jump should be?*

**You need** lessons 00 and 01, and the chain rule. **Time** 35 minutes. **Next**: lesson 03, the same over time.

In lesson 01 the loss was a staircase, with the slope 0. We learnt all the same, because we put "some negative
number" in the place of that 0. Here you turn this into a method, the *surrogate gradient*, and see what it is, and
what it is not.
"""

# %%
import os
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("MINISNN_FAST"))
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"

# %%
# The smallest task with a jump
# -----------------------------
#
# We leave time out. A neuron sees one number :math:`x`, and fires if it reaches the threshold. There are 400 such
# numbers, drawn once at random and all positive, and the neuron should fire for 20 % of them:
#
# .. math:: s_i = H(x_i - \theta), \qquad r = \frac{1}{400}\sum_i s_i, \qquad L = (r - 0.2)^2
#
# :math:`H` is the *step function*: :math:`H(z) = 1` for :math:`z \ge 0`, else 0. The chain rule says
#
# .. math:: \frac{dL}{d\theta} = 2\,(r - 0.2)\; \frac{1}{400} \sum_i H'(x_i - \theta) \cdot (-1)
#
# and there we are stuck: :math:`H'(z) = 0` wherever it exists. (The -1 is the derivative of :math:`x_i - \theta`
# with respect to :math:`\theta`. Keep it in mind: raising a threshold *lowers* what the step sees.)

x = np.random.default_rng(3).gamma(2.0, 0.5, 400)
TARGET = 0.2


def hard(z):
    return (z >= 0) * 1.0


# %%
# A ramp
# ------
#
# Take a curve that looks like the step from afar, and has a slope everywhere. There are many; this is the one that
# minisnn uses unless told otherwise, made of an arctangent:
#
# .. math:: \mathit{smooth}(z) = \frac12 + \frac1\pi \arctan\Bigl(\frac{\pi}{2} k z\Bigr), \qquad
#           \mathit{slope}(z) = \mathit{smooth}'(z) = \frac{k/2}{1 + (\pi k z/2)^2}
#
# :math:`k` is the *steepness*. For large :math:`k` the curve looks more like the step. **Write down what you
# expect** of the slope then: how high is it at 0, and how large at a distance of 1?


def smooth(z, k):
    return 0.5 + np.arctan(np.pi / 2 * k * z) / np.pi


def slope(z, k):
    return 0.5 * k / (1 + (np.pi / 2 * k * z) ** 2)


z = np.linspace(-2, 2, 801)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for k, color in ((1, BLUE), (2, GREEN), (8, ORANGE)):
    left.plot(z, smooth(z, k), color=color, label=f"k = {k}")
    right.plot(z, slope(z, k), color=color, label=f"k = {k}")
left.plot(z, hard(z), color="0.3", linestyle="--", label="the step")
left.set(xlabel="z = membrane - threshold", title="smooth")
right.set(xlabel="z = membrane - threshold", title="slope")
for panel in (left, right):
    panel.grid(alpha=0.25)
    panel.legend()
plt.show()

for k in (1, 2, 8):
    print(f"k = {k}: slope {slope(0, k):.2f} at the threshold, {slope(1.0, k):.4f} at a distance of 1")
assert [slope(0, k) for k in (1, 2, 8)] == [0.5, 1.0, 4.0]
assert slope(1.0, 8) < slope(1.0, 2) < slope(1.0, 1)

# %%
# Expect 0.5, 1 and 4 at the threshold, that is k/2. At a distance of 1 it is the other way round: the steepest ramp
# has the least. A steep ramp only sees what is close to the threshold.
#
# The naive try: use the ramp everywhere
# --------------------------------------
#
# Replace :math:`H` by *smooth*. Everything has a derivative now, and gradient descent must work. Then put the step
# back in, for we want spikes. **Write down what you expect** of the rate then. (As in the formula above, ``d_theta``
# stands for :math:`dL/d\theta`: the gradient of theta. We shall write ``d_`` and a name for every gradient.)

updates = 300 if FAST else 1500


def descend(forward, k, theta=0.3, eta=1.0):
    """Gradient descent on theta.  `forward` makes the spikes; backward we always use the slope."""
    way = [theta]
    for _ in range(updates):
        r = forward(x - theta, k).mean()
        d_theta = 2 * (r - TARGET) * np.mean(-slope(x - theta, k))
        theta = theta - eta * d_theta
        way.append(theta)
    return np.array(way)


K = 2.0
soft_way = descend(smooth, K)
theta = soft_way[-1]
ramp_rate, step_rate = smooth(x - theta, K).mean(), hard(x - theta).mean()
print(f"theta {theta:.3f}: rate {ramp_rate:.3f} with the ramp, {step_rate:.3f} with the step")
assert abs(ramp_rate - TARGET) < 1e-3 and abs(step_rate - 0.125) <= 0.01

# %%
# Expect 0.200 with the ramp and 0.125 with the step (± 0.01). It solved another task than yours. With the ramp a
# number below the threshold still counts as a little spike, and there are many of those; with the step it counts as
# none. We trained one network and used another.
#
# The surrogate gradient: the step forward, the slope backward
# -------------------------------------------------------------
#
# So keep the step where the network *runs*. Use the ramp in one place only: where the chain rule asks for
# :math:`H'`. In the code above that means to hand over ``hard`` for the forward run. The last line, with the slope,
# stays as it is.


def hard_forward(z, k):
    return hard(z)


surrogate_way = descend(hard_forward, K)
theta = surrogate_way[-1]
print(f"theta {theta:.3f}: rate with the step {hard(x - theta).mean():.3f}")
assert abs(hard(x - theta).mean() - TARGET) <= 0.0026  # one spike in 400

figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
axes.plot([hard(x - q).mean() for q in soft_way], color=ORANGE, label="trained with the ramp, run with the step")
axes.plot([hard(x - q).mean() for q in surrogate_way], color=BLUE, label="surrogate gradient")
axes.axhline(TARGET, color="0.5", linestyle=":", label="target")
axes.set(xlabel="update", ylabel="firing rate with the step", title="When it is used", xlim=(0, 100))
axes.grid(alpha=0.25)
axes.legend()
plt.show()

# %%
# Expect 0.200 ± 0.003. The neuron that was trained is the neuron that is used.
#
# **Say it once, loudly.** You have not *derived* the slope. Nobody has. You *defined* it:
#
# .. math:: \text{``} H'(z) \text{''} := \mathit{slope}(z) .
#
# This is a choice, not a theorem. (It is equation :eq:`lif.6` in :doc:`/derivations/lif`, where the slope is called
# :math:`\psi`; everything else there is derived from the equations before it.) Everything around it, the chain rule
# through time, weights and resets, is derived and can be right or wrong. This one factor is chosen, and can be
# useful or not.
#
# What it is not
# --------------
#
# **Not the derivative of the network that runs.** That is 0, as lesson 01 has shown. **Not the derivative of the
# network with the ramp** either: the factor 2 (r - 0.2) in front is made of real spikes. Look at all three over
# theta:

grid = np.linspace(0.3, 3.0, 271)
z = x - grid[:, None]  # one row for each theta
error = {"step": hard(z).mean(axis=1) - TARGET, "ramp": smooth(z, K).mean(axis=1) - TARGET}
d_r = -slope(z, K).mean(axis=1)

figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5.6), sharex=True, layout="constrained")
top.plot(grid, error["step"] ** 2, color=BLUE, label="step")
top.plot(grid, error["ramp"] ** 2, color=ORANGE, label="ramp")
top.set(ylabel="loss", title="Two losses", ylim=(0, 0.08))
bottom.plot(grid, 0 * grid, color=GREEN, label="derivative of the step's loss: 0")
bottom.plot(grid, 2 * error["ramp"] * d_r, color=ORANGE, label="derivative of the ramp's loss")
bottom.plot(grid, 2 * error["step"] * d_r, color=BLUE, label="surrogate gradient")
bottom.set(xlabel="theta", ylabel="d_theta", title="Three gradients", ylim=(-0.3, 0.1))
for panel in (top, bottom):
    panel.grid(alpha=0.25)
    panel.legend()
plt.show()

best = {name: grid[np.abs(e).argmin()] for name, e in error.items()}
print(f"the loss is smallest at theta {best['step']:.2f} with the step, {best['ramp']:.2f} with the ramp")
assert best["ramp"] - best["step"] > 0.2

# %%
# The surrogate gradient changes its sign where the *step's* loss is smallest, because that factor is honest. That
# is the good news.
#
# **Not the gradient of anything.** Is there perhaps a third loss, hidden, whose derivative it is? With two knobs
# one can ask. If a gradient belongs to a loss without jumps, then walking round a closed loop and adding up gradient
# times step must give 0: you are back at the same height. (Think of a mountain. With cliffs, as in lesson 01, the sum
# tells nothing.) Give the neuron a weight :math:`w`, so that
# it sees :math:`w x_i - \theta`, and walk round a rectangle:


def gradient(w, theta, forward):
    """d_w and d_theta for arrays of places: one row of z for each place, one column for each x."""
    z = w[:, None] * x - theta[:, None]
    error = 2 * (forward(z, K).mean(axis=1) - TARGET)
    return error * (slope(z, K) * x).mean(axis=1), error * -slope(z, K).mean(axis=1)


corners = np.array([(1, 1), (1.5, 1), (1.5, 2), (1, 2), (1, 1)], float)  # (w, theta)
pieces = 2000  # each side of the rectangle is cut into so many; the gradient is taken in the middle of each piece
middle = (np.arange(pieces) + 0.5)[:, None] / pieces


def round_trip(forward):
    total = 0.0
    for start, end in pairwise(corners):
        w, theta = (start + (end - start) * middle).T
        d_w, d_theta = gradient(w, theta, forward)
        d_along = d_w * (end - start)[0] + d_theta * (end - start)[1]
        total += d_along.mean()
    return total


print(f"ramp, with its own derivative: {round_trip(smooth):8.0e}")
print(f"surrogate gradient:            {round_trip(hard_forward):8.4f}")
assert abs(round_trip(smooth)) < 1e-7
assert abs(round_trip(hard_forward) - -0.0095) < 0.0005

# %%
# Expect less than 1e-7 in size, which comes from the length of the pieces, and -0.0095 (± 0.0005). So the surrogate
# gradient is not the gradient of any loss without jumps. It is a direction which has turned out to be good to go.
# Gygax and Zenke (Neural Computation 37, 2025) show this for networks, and in which sense the direction has a theory
# after all: for neurons that fire at random.
#
# What depends on your choice
# ---------------------------
#
# **Write down what you expect**: how many updates does it take to come within 0.01 of the target, for k = 0.5, 2, 8
# and 32?

needed = {}
figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
for k, color in ((0.5, PINK), (2.0, BLUE), (8.0, GREEN), (32.0, ORANGE)):
    rates = np.array([hard(x - q).mean() for q in descend(hard_forward, k)])
    needed[k] = int(np.argmax(np.abs(rates - TARGET) <= 0.01))
    axes.plot(rates, color=color, label=f"k = {k:g}")
axes.axhline(TARGET, color="0.5", linestyle=":")
axes.set(xlabel="update", ylabel="firing rate", title="The same neuron, four ramps", xlim=(0, 40))
axes.grid(alpha=0.25)
axes.legend()
plt.show()

print("updates needed:", needed)
assert list(needed.values()) == [20, 11, 8, 7]

# %%
# Expect 20, 11, 8 and 7. All arrive, but not in the same time. That is for this task and this learning rate; in
# another one the order may be another. That is what a choice means.
#
# In minisnn a surrogate is a pair of functions, ``smooth`` and ``slope``, with a steepness. It takes one minute to
# add one, and the one thing that *can* be wrong in it, that ``slope`` is not the derivative of ``smooth``, can be
# checked:

import minisnn as ms

atan = ms.surrogates.atan(2.0)
z = np.linspace(-3, 3, 601)
np.testing.assert_allclose(atan.smooth(z, 2.0), smooth(z, 2.0), rtol=1e-12)
np.testing.assert_allclose(atan.slope(z, 2.0), slope(z, 2.0), rtol=1e-12)
measured = (smooth(z + 1e-5, 2.0) - smooth(z - 1e-5, 2.0)) / 2e-5
print(atan)
print(f"slope against the difference quotient of smooth: off by {np.abs(measured - slope(z, 2.0)).max():.0e} at most")
assert np.abs(measured - slope(z, 2.0)).max() < 1e-8

# %%
# Expect 1e-09 or less. (``atan(2.0)`` has k = 2 built in; ``smooth`` and ``slope`` still take it as an argument, for
# the layer hands it over.) Here a difference quotient is the right tool: ``smooth`` has no jumps. Lesson 04 makes
# much of that.
#
# Try this
# --------
#
# 1. *A box.* Use the slope :math:`k` for :math:`|z| \le 1/(2k)` and 0 beyond, with k = 4, and start at theta = 6.
#    What happens, and what would you have to see in a training run to suspect it? (Lesson 09.)
# 2. *Scale.* Multiply ``slope`` by 3 and divide eta by 3. What changes? So what does "the peak of the surrogate is
#    1" tell you, and what does it not?
# 3. *Another target.* With the ramp everywhere, the rate with the step was too low. For which targets is it too
#    high? (Try 0.8.)
