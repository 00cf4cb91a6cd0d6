# SPDX-License-Identifier: CC-BY-4.0 (text)
# SPDX-License-Identifier: MIT (code)
r"""
01 Learning by turning one knob
===============================

*Can a neuron find the threshold at which it fires as often as you want?*

**You need** lesson 00, and what a derivative is. **Time** 30 minutes. **Next**: lesson 02, where the jump becomes a
ramp.

Learning means: turn a knob until a number that measures the error gets small. Here there is one knob, the threshold
:math:`\theta`. You will turn it the way every textbook does, down the slope of the error. It does not move at all,
and the reason is the reason why this whole course exists.
"""

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("MINISNN_FAST"))
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"

# %%
# A task
# ------
#
# One neuron, 200 steps, an input current that is drawn once and then stays the same. The neuron is that of lesson
# 00: ``u = decay * v + x``, a spike where ``u >= theta``, then empty. This time ``theta`` may be an array. Then the
# lines below run one neuron for each threshold, all on the same input.

rng = np.random.default_rng(1)
x = rng.uniform(0, 0.6, 200)


def rate(theta, x=x, decay=0.9):
    """Firing rate: spikes per step, for each threshold in theta."""
    v = count = np.zeros(np.shape(theta))
    for current in x:
        u = decay * v + current
        s = u >= theta
        count = count + s
        v = u - s * u
    return count / len(x)


TARGET = 0.2


def loss(theta):
    """How far off the rate is. The square makes it positive, and small errors very small."""
    return (rate(theta) - TARGET) ** 2


print(f"theta 0.5: rate {rate(0.5):.3f}, loss {loss(0.5):.4f}")
print(f"theta 2.0: rate {rate(2.0):.3f}, loss {loss(2.0):.4f}")
assert rate(0.5) > TARGET > rate(2.0)

# %%
# At 0.5 it fires too often, at 2.0 too seldom. Somewhere between the two lies the threshold we want.
#
# The naive try: walk down the slope
# ----------------------------------
#
# The derivative of the loss says in which direction it grows. So step the other way, again and again:
#
# .. math:: \theta \leftarrow \theta - \eta\, \frac{dL}{d\theta}
#
# where :math:`L` is the loss and :math:`\eta` (eta) the size of the steps, the *learning rate*. This is *gradient
# descent*. We do not know the derivative, but we can measure it. The *difference quotient* turns the knob a little,
# by :math:`h`, both ways:
#
# .. math:: \frac{dL}{d\theta} \approx \frac{L(\theta + h) - L(\theta - h)}{2h}
#
# **Write down what you expect**: theta after 100 steps from 0.5, with eta = 0.5.


def quotient(f, at, h):
    return (f(at + h) - f(at - h)) / (2 * h)


theta = 0.5
for _ in range(100):
    theta = theta - 0.5 * quotient(loss, theta, h=1e-6)
print(f"theta after 100 steps: {theta}")
assert theta == 0.5

# %%
# Exactly 0.5. It has not moved, not even in the last digit: the quotient is exactly 0 there, 100 times. Is 0.5 an
# unlucky place? Try a thousand thresholds at random.

many = np.random.default_rng(2).uniform(0.3, 2.5, 200 if FAST else 1000)
zero = quotient(loss, many, h=1e-6) == 0
print(f"quotient exactly 0 at {zero.sum()} of {zero.size} thresholds")
assert zero.mean() > 0.99

# %%
# Expect all, or all but one or two. We find no slope anywhere. But the loss at 0.5 and the loss at 2.0 do differ!
# How does it get from one to the other?
#
# Look at the loss through a magnifying glass
# -------------------------------------------
#
# **Write down what you expect** to see if you draw the loss over theta, then a tenth of that range, then a hundredth.

figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for panel, (low, high) in zip(panels, ((0.3, 2.5), (0.9, 1.12), (1.0, 1.022)), strict=True):
    grid = np.linspace(low, high, 2001)
    panel.plot(grid, loss(grid), color=BLUE, linewidth=1.2)
    panel.set(xlabel="theta", title=f"{low} to {high}")
    panel.grid(alpha=0.25)
    panel.locator_params(axis="x", nbins=4)
panels[0].set(ylabel="loss")
plt.show()

levels = np.unique(rate(np.linspace(0.3, 2.5, 20001)))
print(f"between theta 0.3 and 2.5 the rate takes {levels.size} different values")
assert 50 < levels.size < 200

# %%
# A staircase. Expect fewer than 200 levels: in 200 steps there can be 0, 1, ... or 200 spikes, and the loss can
# have no other values than these give. On a stair the derivative is 0. At the edge of one the loss jumps, and there
# is no derivative.
#
# Why? Theta enters the neuron in one place only, the comparison ``u >= theta``. Turn theta by less than the
# distance between theta and the nearest membrane value u[t]: no comparison changes its answer, so no spike changes,
# so nothing changes. **The derivative of the real loss is 0 almost everywhere**: everywhere but at the edges of the
# stairs. That is not a flaw of our measurement. It is the right answer to the wrong question.
#
# How far is the nearest edge? Look at all 200 comparisons at theta = 0.5:


def membrane(theta, decay=0.9):
    v, values = 0.0, []
    for current in x:
        u = decay * v + current
        values.append(u)
        v = 0.0 if u >= theta else u
    return np.array(values)


u = membrane(0.5)
nearest = np.abs(u - 0.5).min()
print(f"the nearest membrane value is {nearest:.5f} away from the threshold")
inside = np.linspace(0.5 - 0.99 * nearest, 0.5 + 0.99 * nearest, 101)
assert nearest > 1e-4 and np.unique(loss(inside)).size == 1  # nothing changes in there
assert np.array_equal(membrane(0.5 + 0.99 * nearest), u)

# %%
# So why not take a larger h?
# ---------------------------
#
# A larger :math:`h` steps over several stairs. From here on take the quotient of the *rate*, not of the loss: theta
# reaches the loss only through the rate, so there the trouble sits. And the rate only goes down when theta goes up,
# while the loss goes down and up again. **Write down what you expect** of the quotients for h between 0.001 and 0.3.

places = np.array([0.7, 0.9, 1.1, 1.3, 1.5])
for h in (1e-6, 1e-3, 1e-2, 1e-1, 3e-1):
    print(f"h = {h:<6g} slope of the rate:", " ".join(f"{q:7.2f}" for q in quotient(rate, places, h)))
fine, coarse = quotient(rate, places, 1e-3), quotient(rate, places, 0.3)
assert np.all(quotient(rate, places, 1e-6) == 0)
assert np.allclose(np.sort(fine), [-2.5, 0, 0, 0, 0]) and np.all(coarse < -0.1) and np.all(coarse > -0.6)

# %%
# With 0.001 you see nothing, or a cliff: expect 0 in four places and -2.5 in one (one spike of 200 lost within 2 h,
# :math:`0.005 / 0.002`). With 0.3 you see what your eye sees in the left figure, where the stairs are too fine to be
# seen: a hillside. The rate goes down everywhere, with a slope between -0.1 and -0.6. So there is useful information,
# *at a distance*.
#
# A knob can be turned without a slope
# ------------------------------------
#
# For one knob you need no derivative. You know more than the difference quotient does: *a higher threshold makes
# fewer spikes, never more*. So if the neuron fires too often, raise the threshold, else lower it:
#
# .. math:: \theta \leftarrow \theta + \eta\, (\mathit{rate} - \mathit{target})

theta, way = 0.5, [0.5]
for _ in range(60):
    theta = theta + 0.5 * (rate(theta) - TARGET)
    way.append(theta)
way = np.array(way)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(way, color=BLUE, label="with what we know")
left.plot(np.full(len(way), 0.5), color=ORANGE, linestyle="--", label="with the quotient")
left.set(xlabel="update", ylabel="theta", title="The knob")
right.plot(rate(way), color=BLUE, label="with what we know")
right.plot(np.full(len(way), rate(0.5)), color=ORANGE, linestyle="--", label="with the quotient")
right.axhline(TARGET, color="0.5", linestyle=":", label="target")
right.set(xlabel="update", ylabel="firing rate", title="What it does")
for panel in (left, right):
    panel.grid(alpha=0.25)
    panel.legend()
plt.show()

print(f"theta {theta:.3f}: rate {rate(theta):.3f}, loss {loss(theta):.6f}")
assert abs(rate(theta) - TARGET) <= 0.0051  # one spike in 200 steps
assert np.all(np.diff(rate(np.linspace(0.3, 2.5, 2001))) <= 0)  # never more

# %%
# Expect a rate of 0.200 ± 0.005; one spike more or less is 0.005.
#
# Look closely at what we did. Write the chain rule for the loss :math:`L = (r - r^*)^2`, with :math:`r` the rate
# and :math:`r^*` the target:
#
# .. math:: \frac{dL}{d\theta} = 2\,(r - r^*)\; \frac{dr}{d\theta}
#
# The first factor we computed honestly. For the second, whose true value is 0, we put in "some negative number":
# with -1/2 the formula for gradient descent is our rule. That was enough to learn. In lesson 02 this becomes a
# method: put something sensible where the derivative of the jump should be.
#
# And with ten thousand knobs?
# ----------------------------
#
# A network has a knob for each weight and each threshold, and you do not know which of them makes *which* spike.
# Trying them out is no way either. Ten positions for each knob, every combination of n knobs:

for n in (1, 2, 5, 10):
    print(f"{n:2} knobs: {10**n:>14,} runs")
seconds = 10**10 * 1e-3
print(f"ten knobs, 1 ms a run: {seconds / 86400:.0f} days")
assert round(seconds / 86400) == 116

# %%
# Expect 116 days for ten knobs. Turning one knob at a time, as the quotient does, costs two runs per knob and
# update, and you have seen what they tell: 0. What we need is one pass that gives a useful direction for *all* knobs
# at once. That is backpropagation, lesson 03. First we need something to propagate: lesson 02.
#
# Try this
# --------
#
# 1. *More steps.* Draw 20,000 currents instead of 200. The stairs get finer. Does the quotient with h = 1e-6 become
#    useful? With what h does it? (How high is one stair, and how many of them lie in h?)
# 2. *Knowing wrongly.* Change the sign in our rule for theta, or make eta 20. What happens, and how would you
#    notice in a network of a thousand neurons?
# 3. *Another knob.* Fix theta = 0.8 and learn ``decay`` instead (keep it in [0, 1]). Which sign does its "sensible
#    number" have?
