# SPDX-License-Identifier: CC-BY-4.0 (text)
# SPDX-License-Identifier: MIT (code)
r"""
03 Backpropagation through time for one neuron
==============================================

*Which of the inputs, and how long ago, made the neuron fire, or not?*

**You need** lessons 00 to 02, the chain rule, a sheet of paper. **Time** 45 minutes. **Next**: lesson 04, how to
know that it is right.

In lesson 02 there was no time. Now there is: the membrane carries something from step to step, and so what came in
early has a part in what goes out late. You will do three steps with a pencil, every number on this page, and then
write the twelve lines that do the same.
"""

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("MINISNN_FAST"))
if FAST:
    os.environ.setdefault("MINISNN_BACKEND", "numpy")  # nothing to compile
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"


def forward(x, theta, decay):
    """The neuron of lesson 00.  Returns u, s, and the membrane `before` each step, which we shall need."""
    u, s, before, v = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x)), 0.0
    for t in range(len(x)):
        before[t] = v
        u[t] = decay * v + x[t]
        s[t] = u[t] >= theta
        v = u[t] - s[t] * u[t]
    return u, s, before


# %%
# The naive try: look at each step alone
# --------------------------------------
#
# Lesson 02 gave a gradient for a single step: error times slope. Why not use it in every step, and forget about time?
#
# Here is a task. At step 1 there is a *cue*: a pulse with a weight :math:`w`. At step 3 there is a *go*: a pulse of
# 0.6. The neuron should fire at step 3. The threshold is 1 and the decay 0.9, so 0.6 alone is not enough: the
# neuron must remember the cue. The loss is :math:`L = \frac12 (s[3] - 1)^2`, and its derivative with respect to the
# spike is :math:`s[3] - 1`.
#
# In a single step :math:`s = H(u - \theta)` and :math:`u = \dots + w \cdot \text{cue}`. So the gradient of
# :math:`w` is error · slope · cue, summed over the steps, with the slope of lesson 02. **Write down what you
# expect** of :math:`w` after 50 updates.


def atan_slope(z, k=2.0):
    return 0.5 * k / (1 + (np.pi / 2 * k * z) ** 2)


cue, go = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.6])
w = 0.1
for _ in range(50):
    u, s, _before = forward(w * cue + go, theta=1.0, decay=0.9)
    error = np.array([0.0, 0.0, s[2] - 1])  # only the third step is judged
    w = w - 0.5 * np.sum(error * atan_slope(u - 1.0) * cue)
print(f"w = {w}, spike at step 3: {s[2]:.0f}")
assert w == 0.1 and s[2] == 0

# %%
# It has not moved. The error is in step 3, the cue in step 1, and in each step one of the two is 0. Step by step
# there is nothing to learn; what joins them is the membrane. We have to follow it.
#
# The graph in time
# -----------------
#
# Write down the three lines of the neuron for every step and draw an arrow from each number to those that are made
# of it::
#
#       x[1]              x[2]              x[3]
#        |                 |                 |
#        v                 v                 v
#       u[1] ---> v[1] -> u[2] ---> v[2] -> u[3]
#        |         ^       |         ^       |
#        v         |       v         |       v
#       s[1] ------+      s[2] ------+      s[3]
#        |                 |                 |
#        +-----------------+--> loss <-------+
#
# The arrow from v to the next u carries the factor decay; the others add, compare or empty.
#
# The chain rule on such a graph: the derivative of the loss with respect to a number is the **sum over the arrows
# that leave it**, of (derivative at the arrow's head) times (derivative along the arrow). The heads lie later in
# time. So start at the end and walk back. This is all of *backpropagation through time*.
#
# We write :math:`d_a` for the derivative of the loss with respect to :math:`a`. Now every arrow, one after the other:
#
# .. math::
#
#    v = u - s u: \qquad & d_u \text{ gets } (1 - s)\, d_v, \qquad d_s \text{ gets } -u\, d_v \\
#    s = H(u - \theta): \qquad & g = d_s \cdot \mathit{slope}(u - \theta), \qquad d_u \text{ gets } g,
#                                \qquad d_\theta \text{ gets } -g \\
#    u = \mathit{decay}\, v' + x: \qquad & d_{v'} = \mathit{decay}\; d_u, \qquad d_x = d_u,
#                                \qquad d_{\mathit{decay}} \text{ gets } v'\, d_u
#
# Here :math:`v'` is the membrane before the step (``before`` in the code; the dash is not a derivative). "Gets"
# means: add to what is there already. A spike has two arrows: to the loss, and to its own reset. So :math:`d_s` is a
# sum of two. :math:`g` is what comes through the spike to :math:`u - \theta`. Only the factor *slope* is a choice;
# the rest is the chain rule. :doc:`/derivations/lif` goes through it with numbered equations.
#
# On paper
# --------
#
# Decay 0.5, theta 0.8, and x = 0.6, 0.9, 0.3. For a pencil we take a slope that needs no arctangent, a *triangle*:
#
# .. math:: \mathit{slope}(z) = k \max(0,\, 1 - k|z|), \qquad k = 0.5 .
#
# **Forward**, from left to right. Do it yourself first; cover the columns.
#
# ======  ====  =====  ====  ===  ====  =========  ======
# t       x     v'     u     s    v     u - theta  slope
# ======  ====  =====  ====  ===  ====  =========  ======
# 1       0.6   0      0.6   0    0.6   -0.2       0.45
# 2       0.9   0.6    1.2   1    0     0.4        0.40
# 3       0.3   0      0.3   0    0.3   -0.5       0.375
# ======  ====  =====  ====  ===  ====  =========  ======
#
# The neuron fired once. We wanted two spikes: :math:`L = \frac12 (s[1] + s[2] + s[3] - 2)^2`. Its derivative with
# respect to each spike is 1 - 2 = -1: "one more, please".
#
# **Backward**, from the last step to the first. After step 3 nothing comes, so :math:`d_v = 0` there. In each row:
# first the reset, then the spike, then the charge; the last column is the :math:`d_v` for the row below.
#
# ===  =======  ========================  ==========================  =========================  ====================
# t    d_v      d_s = -1 - u d_v          g = d_s · slope             d_x = d_u = (1-s) d_v + g  d_v' = decay · d_u
# ===  =======  ========================  ==========================  =========================  ====================
# 3    0        -1                        -0.375                      0 - 0.375 = -0.375         -0.1875
# 2    -0.1875  -1 + 1.2·0.1875 = -0.775  -0.31                       0 - 0.31 = -0.31           -0.155
# 1    -0.155   -1 + 0.6·0.155 = -0.907   -0.40815                    -0.155 - 0.40815 =         -0.281575
#                                                                     -0.56315
# ===  =======  ========================  ==========================  =========================  ====================
#
# And the two that collect over all steps:
#
# .. math::
#
#    d_\theta &= -(g[1] + g[2] + g[3]) = 0.40815 + 0.31 + 0.375 = 1.09315 \\
#    d_{\mathit{decay}} &= \textstyle\sum v'\, d_u = 0.6 \cdot (-0.31) = -0.186
#
# Read it: the gradient of theta is positive, so descent *lowers* theta, and there will be more spikes. All the
# inputs have a negative gradient: descent would make them larger. The first one has the largest, for two reasons:
# u[1] is the nearest to the threshold, so its slope is the largest, and x[1] acts twice: on its own step and,
# through the membrane, on the next.
#
# In twelve lines
# ---------------
#
# The loop has three parts: the three lines of the chain rule above, in the same order.


def backward(d_spikes, u, s, before, theta, decay, slope):
    """Walk back in time.  d_spikes[t] is the derivative of the loss with respect to the spike of step t."""
    d_x, d_v, d_theta, d_decay = np.zeros(len(u)), 0.0, 0.0, 0.0
    for t in reversed(range(len(u))):
        d_u = d_v - s[t] * d_v  # reset
        d_s = d_spikes[t] - u[t] * d_v
        g = d_s * slope(u[t] - theta)  # spike
        d_theta = d_theta - g
        d_x[t] = d_u + g  # charge
        d_decay = d_decay + before[t] * d_x[t]
        d_v = decay * d_x[t]
    return d_x, d_theta, d_decay


def triangle_slope(z, k=0.5):
    return k * np.maximum(0, 1 - k * np.abs(z))


theta, decay = 0.8, 0.5
u, s, before = forward(np.array([0.6, 0.9, 0.3]), theta, decay)
d_spikes = np.full(3, s.sum() - 2)
d_x, d_theta, d_decay = backward(d_spikes, u, s, before, theta, decay, triangle_slope)
print("d_x    ", d_x)
print("d_theta", round(d_theta, 12))
print("d_decay", round(d_decay, 12))

# %%
# Expect the numbers of your sheet, to 12 digits: -0.56315, -0.31, -0.375; 1.09315; -0.186.

np.testing.assert_allclose(u, [0.6, 1.2, 0.3], rtol=1e-12)
np.testing.assert_allclose(before, [0, 0.6, 0], atol=1e-12)
np.testing.assert_allclose(triangle_slope(u - theta), [0.45, 0.40, 0.375], rtol=1e-12)
np.testing.assert_allclose(d_x, [-0.56315, -0.31, -0.375], rtol=1e-12)
carried = decay * d_x  # the last column: what goes to the step before
np.testing.assert_allclose(carried, [-0.281575, -0.155, -0.1875], rtol=1e-12)
np.testing.assert_allclose(d_x - (1 - s) * np.append(carried[1:], 0), [-0.40815, -0.31, -0.375], rtol=1e-12)  # g
np.testing.assert_allclose([d_theta, d_decay], [1.09315, -0.186], rtol=1e-12)

# %%
# Does it solve the task?
# -----------------------
#
# Back to the cue and the go. The current is ``w * cue + go``, so the chain rule has one more arrow:
# :math:`d_w = \sum_t d_x[t] \cdot \text{cue}[t]`. **Write down what you expect**: how large must w be, and will it
# stop there?

w, ways = 0.1, []
for _ in range(50):
    u, s, before = forward(w * cue + go, theta=1.0, decay=0.9)
    ways.append((w, s[2]))
    d_spikes = np.array([0.0, 0.0, s[2] - 1])
    d_x, _, _ = backward(d_spikes, u, s, before, 1.0, 0.9, atan_slope)
    w = w - 0.5 * np.sum(d_x * cue)

needed = 0.4 / 0.9**2
print(f"w = {w:.3f}, spike at step 3: {s[2]:.0f}; needed {needed:.3f}")
assert s[2] == 1 and needed <= w < needed + 0.5 and round(needed, 3) == 0.494

figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
axes.plot([way for way, _ in ways], "o-", markersize=3, color=BLUE, label="w, with backpropagation through time")
axes.axhline(0.1, color=ORANGE, linestyle="--", label="w, each step alone")
axes.axhline(needed, color="0.5", linestyle=":", label="needed")
axes.set(xlabel="update", ylabel="weight of the cue", title="Learning to remember", xlim=(0, 20))
axes.grid(alpha=0.25)
axes.legend()
plt.show()

# %%
# It needs 0.494, that is 0.4/0.81: at the go 0.4 are missing, and two steps of leak leave 0.81 of w. It stops where
# the spike appears, for then the error is 0. Between the cue and the go the error has travelled back along the
# membrane.
#
# How far back does it reach?
# ---------------------------
#
# Take a silent neuron (a current of 0.02), and an error in the last of 40 steps. **Write down what you expect** of
# :math:`d_x[t]`, going back, for decay 0.5 and 0.9. Then for a larger current, 0.32: with decay 0.9 it makes the
# neuron fire in every fourth step, with decay 0.5 it stays silent.

T = 40
quiet, busy = np.full(T, 0.02), np.full(T, 0.32)  # currents
late = np.zeros(T)
late[-1] = 1.0
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained")
reach = {}
for decay, color in ((0.5, BLUE), (0.9, GREEN)):
    for panel, current, name in ((left, quiet, "silent"), (right, busy, "firing")):
        u, s, before = forward(current, 1.0, decay)
        d_x, _, _ = backward(late, u, s, before, 1.0, decay, atan_slope)
        reach[decay, name] = d_x
        back = np.abs(d_x[::-1])
        panel.semilogy(np.where(back > 0, back, np.nan), ".-", color=color, label=f"decay {decay}")
        if name == "firing" and s.any():
            fired = np.flatnonzero(s[::-1])
            panel.plot(fired, back[fired], "*", color=ORANGE, markersize=11, label="a spike here")
left.set(ylabel="size of d_x", title="silent neuron", xlabel="steps back from the end", ylim=(1e-13, 3))
right.set(title="larger current: fires with decay 0.9", xlabel="steps back from the end")
for panel in (left, right):
    panel.grid(alpha=0.25)
    panel.legend(loc="lower left")
plt.show()

silent = reach[0.9, "silent"]
factor = silent[-11] / silent[-1]
print(f"decay 0.9, silent: ten steps back a share of {factor:.3f} is left; 0.9 to the tenth is {0.9**10:.3f}")

# %%
# From step to step the gradient is multiplied by one number. Put the lines of ``backward`` into each other (equation
# :eq:`lif.12` in the derivation) and you see it:
#
# .. math:: \mathit{decay} \cdot \bigl[(1 - s) - u \cdot \mathit{slope}(u - \theta)\bigr]
#
# A silent neuron far from its threshold has :math:`s = 0` and a small second term: about ``decay`` is left. Expect
# 0.25 to 0.35 after ten steps with 0.9. With a spike the first term is gone and the second is there, with a minus
# sign: "had you not fired, you would be fuller now". Whether one should listen to that is the question of lesson
# 05.
#
# In the right figure it is not the spike where most is lost. Along one round of the firing neuron the factors are
# 0.85, 0.68, 0.24 and, at the spike, -0.90. The 0.24 belongs to the step before the spike: there u is just below the
# threshold, and the two terms nearly cancel. With decay 0.5 there is no spike at all, and still it falls faster than
# on the left: u is nearer to the threshold, and the factor is 0.36 instead of 0.50.

assert 0.25 < factor < 0.9**10 + 1e-9
ratios = silent[:-1] / silent[1:]
u, s, _ = forward(quiet, 1.0, 0.9)
np.testing.assert_allclose(ratios, (0.9 * ((1 - s) - u * atan_slope(u - 1.0)))[:-1], rtol=1e-12)
u, s, _ = forward(busy, 1.0, 0.9)
np.testing.assert_array_equal(s[-4:], [0, 0, 0, 1])
np.testing.assert_allclose(0.9 * ((1 - s) - u * atan_slope(u - 1.0))[-4:], [0.848, 0.683, 0.235, -0.901], atol=1e-3)
for current, factor in ((quiet, 0.50), (busy, 0.36)):
    u, s, _ = forward(current, 1.0, 0.5)
    assert not s.any() and round(0.5 * (1 - u[-1] * atan_slope(u[-1] - 1.0)), 2) == factor

# %%
# The same in minisnn
# -------------------
#
# A layer's ``backward`` takes the gradient of the spikes and the cache of ``forward``, and returns d_x and a
# dictionary with the gradients of its parameters. (``ms.LIF`` makes a ``ms.Spiking`` layer.) The numbers of your
# sheet, once more:

import minisnn as ms

layer = ms.Spiking(1, surrogate=ms.surrogates.triangle(0.5), threshold=0.8, decay=0.5, dtype="float64")
x = np.array([0.6, 0.9, 0.3]).reshape(3, 1, 1)  # [T, B, N]: three steps, one sample, one neuron
spikes, cache = layer.forward(x)
d_x, grads = layer.backward(np.full(x.shape, spikes.sum() - 2.0), cache)
print("d_x      ", d_x.ravel())
print("threshold", grads["threshold"], " decay", grads["decay"])
np.testing.assert_allclose(d_x.ravel(), [-0.56315, -0.31, -0.375], rtol=1e-12)
np.testing.assert_allclose([grads["threshold"][0], grads["decay"][0]], [1.09315, -0.186], rtol=1e-12)

# %%
# Equal to 12 digits. ``minisnn/kernels/reference.py`` has the same loop for any neuron, reset and surrogate; open
# it, you can read it now.
#
# Try this
# --------
#
# 1. *A longer way.* Put the go at step 9 instead of 3. What is the first update of w, compared with before? Does it
#    still learn in 50 updates? Then put it at step 10. It does not learn, and the gradient is right. Why can no w do
#    it? (Which w is needed? What does a pulse of that size do at step 1?)
# 2. *Forget a term.* Leave out ``- u[t] * d_v`` in ``backward``. Which of the numbers on your sheet change, and
#    which do not? Does the task with the cue still get solved? (So "it learns" does not show that a gradient is
#    right. Lesson 04.)
# 3. *Another loss.* Judge the membrane after the last step instead of the spikes: :math:`L = \frac12 (v[3] - 1)^2`.
#    Where does its derivative enter the loop?
