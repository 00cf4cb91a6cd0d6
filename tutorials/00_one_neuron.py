# SPDX-License-Identifier: CC-BY-4.0 (text)
# SPDX-License-Identifier: MIT (code)
"""
00 One neuron by hand
=====================

*What does a spiking neuron do with a current?*

**You need** NumPy and school algebra; nothing about neurons. **Time** 30 minutes. **Next**: lesson 01, where the
neuron learns.

Work through this page cell by cell, as a notebook or in an editor that runs ``# %%`` cells. Retype the short
functions instead of copying them. Where the page says *write down what you expect*, do it before you look: a wrong
guess is what you learn from.

You will build the neuron in seven lines, find out at which rate it fires, and see what its leak is good for.
"""

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("MINISNN_FAST"))  # set when the tests run this page; you can ignore it
if FAST:
    os.environ.setdefault("MINISNN_BACKEND", "numpy")  # nothing to compile
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"  # told apart by colour-blind eyes too

# %%
# Four rules
# ----------
#
# Time runs in steps :math:`t = 1, 2, 3, \dots` The neuron holds one number, the *membrane potential*: how full it
# is. In each step
#
# 1. it keeps a part of what it had. The part is called ``decay`` and lies between 0 (forgets everything) and 1
#    (forgets nothing);
# 2. it adds the *input current* :math:`x[t]`, one number for each step;
# 3. if it has reached the *threshold* :math:`\theta` (theta), it fires: it sends out a *spike*, the number 1.
#    Otherwise it sends 0;
# 4. if it fired, it is emptied. This is the *reset*.
#
# The membrane has one name before the reset, :math:`u`, and another after it, :math:`v`. The spike is :math:`s`:
#
# .. math::
#
#    u[t] &= \mathit{decay}\; v[t-1] + x[t] \\
#    s[t] &= 1 \text{ if } u[t] \ge \theta, \text{ else } 0 \\
#    v[t] &= u[t] - s[t]\, u[t]
#
# and :math:`v[0] = 0`. This is the *leaky integrate-and-fire* neuron, LIF for short: it integrates (sums up) its
# input, it leaks, it fires. The *leak* is the part that is lost in a step, :math:`1 - \mathit{decay}`.
# :doc:`/derivations/lif` has the same three lines.
#
# **With a pencil.** Take decay 0.5, theta 1, and a constant current of 0.6. Write down u, s and v for the first
# four steps.
#
# The same with a machine:


def run(x, decay, theta):
    """Run one neuron over the currents x[0], x[1], ...; return u and s, one value for each step."""
    u, s, v = np.zeros(len(x)), np.zeros(len(x)), 0.0
    for t in range(len(x)):
        u[t] = decay * v + x[t]
        s[t] = u[t] >= theta
        v = u[t] - s[t] * u[t]
    return u, s


u, s = run(np.full(4, 0.6), decay=0.5, theta=1.0)
print("u", u)
print("s", s)

# %%
# Expect u = 0.6, 0.9, 1.05, 0.6, to rounding, and a single spike, in the third step. In the fourth step the neuron
# starts again from nothing. (Python counts from 0, so the third step is ``u[2]``.)

np.testing.assert_allclose(u, [0.6, 0.9, 1.05, 0.6], atol=1e-12)
np.testing.assert_array_equal(s, [0, 0, 1, 0])

# %%
# Three currents
# --------------
#
# **Write down what you expect**: the same neuron, 20 steps, with currents 0.45, 0.6 and 0.9. How often does it fire?


def show_run(panel, x, decay, theta, color=BLUE):
    """Draw the membrane: up with the charge, straight down with the reset, a star at each spike."""
    u, s = run(x, decay, theta)
    time = np.arange(1, len(x) + 1)
    # two points for each step, (t, u) and below it (t, v), since v = u - s * u
    panel.plot(np.repeat(time, 2), np.stack([u, u - s * u], axis=1).ravel(), color=color, label="membrane")
    panel.plot(time[s == 1], u[s == 1], "*", color=ORANGE, markersize=11, label="spike")
    panel.axhline(theta, color=ORANGE, linestyle="--", label="threshold")
    panel.grid(alpha=0.25)
    return int(s.sum())


counts = {}
figure, panels = plt.subplots(3, 1, figsize=(7, 5.6), sharex=True, sharey=True, layout="constrained")
for panel, current in zip(panels, (0.45, 0.6, 0.9), strict=True):
    counts[current] = show_run(panel, np.full(20, current), decay=0.5, theta=1.0)
    panel.set(ylabel="membrane", title=f"current {current}: {counts[current]} spikes")
panels[2].set(xlabel="time step", ylim=(0, 1.6), xticks=range(0, 21, 2))
figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

print(counts)
assert counts == {0.45: 0, 0.6: 6, 0.9: 10}

# %%
# With 0.45 it never fires, however long you wait. The membrane approaches a level at which it loses as much in a
# step as it gains: :math:`u = \mathit{decay}\, u + x`, so :math:`u = x / (1 - \mathit{decay}) = 0.9`, and that is
# below the threshold.
#
# The rate of firing
# ------------------
#
# The share of steps with a spike is the *firing rate*, a number between 0 and 1. How does it depend on the current?
#
# **The naive answer.** "A spike costs one threshold. So a current :math:`x` pays for a spike every
# :math:`\theta / x` steps, and the rate is :math:`x / \theta`." Write down what you expect: where is this line
# right, where is it wrong? Then run it.

steps = 400 if FAST else 4000
currents = np.linspace(0, 1.2, 121)


def firing_rate(current, decay, theta=1.0):
    return run(np.full(steps, current), decay, theta)[1].mean()


measured = {decay: np.array([firing_rate(x, decay) for x in currents]) for decay in (0.5, 0.9)}
naive = np.minimum(currents / 1.0, 1)

figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
axes.plot(currents, naive, color="0.5", linestyle="--", label="naive: current / threshold")
axes.plot(currents, measured[0.9], color=GREEN, drawstyle="steps-mid", label="measured, decay 0.9")
axes.plot(currents, measured[0.5], color=BLUE, drawstyle="steps-mid", label="measured, decay 0.5")
axes.set(xlabel="current", ylabel="firing rate (spikes per step)", title="Rate against current: the f-I curve")
axes.grid(alpha=0.25)
axes.legend()
plt.show()

at = np.argmin(np.abs(currents - 0.4))
print(f"current 0.4: naive {naive[at]:.3f}, decay 0.9 {measured[0.9][at]:.3f}, decay 0.5 {measured[0.5][at]:.3f}")

# %%
# The line is right at 0, and from a current of 1 on, where every step has a spike. In between both neurons stay below
# it. At a current of 0.4 the naive answer is 0.4; the neuron with decay 0.9 has 0.333 (expect ± 0.003) and the one with
# decay 0.5 is silent. The naive answer forgot two things:
#
# - the leak: what is paid in slowly leaks away, so below some current there is no spike at all;
# - the reset: it empties the membrane. What was above the threshold is lost. And time comes in whole steps. So with a
#   constant current there is a spike in every n-th step, and the rate can only be 1, 1/2, 1/3, ..., or 0: the curve
#   is a staircase.

between = (currents > 0) & (currents < 1 - 1e-9)
assert all(np.all(rates[between] < naive[between]) and np.all(rates[currents >= 1] == 1) for rates in measured.values())
assert naive[at] == currents[at] and abs(naive[at] - 0.4) < 1e-9
assert abs(measured[0.9][at] - 1 / 3) < 3e-3 and measured[0.5][at] == 0

# %%
# The right answer in three lines
# -------------------------------
#
# Put a constant current :math:`x` into an empty neuron. As long as it does not fire,
#
# .. math::
#
#    u[1] &= x, \qquad u[2] = x\,(1 + \mathit{decay}), \qquad \dots \\
#    u[n] &= x\,(1 + \mathit{decay} + \dots + \mathit{decay}^{\,n-1})
#          = x\, \frac{1 - \mathit{decay}^{\,n}}{1 - \mathit{decay}} .
#
# The first spike comes at the smallest :math:`n` with :math:`u[n] \ge \theta`. Then the neuron is empty, and the
# story repeats: the rate is :math:`1/n`. No such :math:`n` exists when even the limit stays below the threshold,
# that is for
#
# .. math:: x < (1 - \mathit{decay})\, \theta .


def formula(current, decay, theta=1.0):
    """1/n for the smallest n at which the sum reaches the threshold; 0 if there is none within the steps we ran."""
    n = np.arange(1, steps + 1)
    reached = current * (1 - decay**n) / (1 - decay) >= theta
    return 1 / n[reached][0] if reached.any() else 0.0


for decay, rates in measured.items():
    predicted = np.array([formula(x, decay) for x in currents])
    off_the_edge = np.abs(currents - (1 - decay)) > 1e-3  # exactly at the edge rounding decides; see "Try this"
    worst = np.abs(predicted - rates)[off_the_edge].max()
    lowest = currents[rates > 0].min()
    print(f"decay {decay}: first spikes at a current of about {lowest:.2f}; formula off by {worst:.4f} at most")
    assert worst <= 1 / steps  # the run may end in the middle of a period: at most one spike is missing
    assert abs(lowest - (1 - decay)) < 0.011

# %%
# Expect 0.50 and 0.10 (within one grid step, 0.01). The current must be larger than the leak times the threshold, or
# the neuron never fires. Remember the staircase: in lesson 01 it will be in our way.
#
# What the leak is good for: memory
# ---------------------------------
#
# A leak looks like a defect. It is the neuron's memory: input from :math:`n` steps ago still counts, but only
# :math:`\mathit{decay}^{\,n}` of it. So the neuron can tell whether two things happened *close together*.
#
# Give it two pulses of 0.7, each too weak alone, ``gap`` steps apart (gap 1: one right after the other). **Write
# down what you expect**: for decay 0.5 and 0.9, up to which gap does the neuron fire?


def two_pulses(gap):
    x = np.zeros(gap + 3)
    x[1] = x[1 + gap] = 0.7
    return x


gaps = np.arange(1, 15)
farthest = {}
figure, panels = plt.subplots(2, 2, figsize=(9, 5), sharey=True, layout="constrained")
for row, decay in zip(panels, (0.5, 0.9), strict=True):
    fires = [run(two_pulses(gap), decay, 1.0)[1].sum() for gap in gaps]
    farthest[decay] = int(gaps[np.array(fires) == 1].max())
    for panel, gap in zip(row, (farthest[decay], farthest[decay] + 1), strict=True):
        show_run(panel, two_pulses(gap), decay, 1.0)
        panel.set(title=f"decay {decay}, gap {gap}", xlabel="time step", ylim=(0, 1.25), xticks=range(2, gap + 4, 2))
    row[0].set(ylabel="membrane")
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

print("largest gap that still makes it fire:", farthest)
assert farthest == {0.5: 1, 0.9: 8}

# %%
# Expect 1 and 8, exactly. By hand: the neuron fires if :math:`0.7\, \mathit{decay}^{\,\mathit{gap}} + 0.7 \ge 1`,
# that is if :math:`\mathit{decay}^{\,\mathit{gap}} \ge 3/7`. For 0.5 that holds up to a gap of 1; for 0.9 up to 8,
# for :math:`0.9^8 = 0.430` and :math:`3/7 = 0.429`.
#
# Textbooks write the leak as a time constant :math:`\tau` (tau): after tau steps a share of :math:`1/e = 0.37` is
# left. It is the same thing, :math:`\mathit{decay} = e^{-1/\tau}`:

for decay in (0.5, 0.9):
    print(f"decay {decay}: tau = {-1 / np.log(decay):.2f} steps")
assert round(0.9**8, 3) == 0.430 and round(3 / 7, 3) == 0.429
assert abs(np.exp(-1 / 9.49) - 0.9) < 1e-3 and abs(np.exp(-1 / 1.44) - 0.5) < 1e-3

# %%
# The same neuron in minisnn
# --------------------------
#
# A layer holds many neurons and runs them on many samples at once. Its input has three axes, time first:
# ``[T, B, N]`` for T steps, B samples, N neurons. ``forward`` returns the spikes, and a *cache*: what a later step
# back will need. There you can also look at the membrane. Does it do what your seven lines do?

import minisnn as ms

rng = np.random.default_rng(0)
x = rng.uniform(0, 1, (50, 1, 3))  # 50 steps, one sample, three neurons
layer = ms.LIF(3, decay=0.9, threshold=1.0, dtype="float64")
spikes, cache = layer.forward(x)
for n in range(3):
    u, s = run(x[:, 0, n], decay=0.9, theta=1.0)
    np.testing.assert_array_equal(spikes[:, 0, n], s)
    np.testing.assert_array_equal(cache.u[:, 0, n], u)
print(layer)
print("spikes of the three neurons in 50 steps:", spikes.sum(axis=(0, 1)))

# %%
# To the last bit: ``assert_array_equal`` allows no difference. The layer prints its equations. You know all of
# them; ``atan_slope, k=2`` is the subject of lesson 02, and the last word says who runs the time loop (lesson 11).
#
# Try this
# --------
#
# 1. *On the edge.* Run decay 0.5, theta 1 and a current of exactly 0.5 for 100 steps. On paper it never fires. It
#    does once. When? (Print ``1 - u``, and think of how many binary digits a number has.)
# 2. *Another reset.* Replace the last line of ``run`` by ``v = u[t] - s[t] * theta``: a spike takes one threshold
#    away instead of everything. Draw the f-I curve again with decay 0.9. Where have the steps gone, and which part
#    of the naive answer is now repaired?
# 3. *Twice as much of everything.* Multiply the current and the threshold by 2. What happens to the spikes, and
#    why? (Look at the four rules. Lesson 06 is about this.)
