# SPDX-License-Identifier: CC-BY-4.0 (text)
# SPDX-License-Identifier: MIT (code)
r"""
04 Is it right?
===============

*How do you know that a gradient is right, when every test you know says that it should be 0?*

**You need** lessons 00 to 03. **Time** 45 minutes. **Next**: lesson 05, the reset in the gradient.

A wrong gradient often still learns, only worse. You will not see it in the loss. So check it before you use it. For
ordinary networks there is a simple test, the difference quotient. For spiking networks it fails. Here you build
three tests that do not. At the end a ready-made checker says which term is missing, as a formula.
"""

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("MINISNN_FAST"))
if FAST:
    os.environ.setdefault("MINISNN_BACKEND", "numpy")  # nothing to compile
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"

# %%
# What we have
# ------------
#
# The neuron of lesson 03 and its twelve lines back, with two small openings. ``forward`` is told how to ``fire``
# (``fire`` gets the time step and u - theta), so that we can try something else than the step. ``backward`` takes
# what ``forward`` returned as one thing, ``run``, and also the gradient of the last membrane, ``d_last``. Nothing
# else is new.


def forward(x, theta, decay, fire):
    u, s, before, v = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x)), 0.0
    for t in range(len(x)):
        before[t] = v
        u[t] = decay * v + x[t]
        s[t] = fire(t, u[t] - theta)
        v = u[t] - s[t] * u[t]
    return u, s, before, v


def backward(d_spikes, d_last, run, theta, decay, slope):
    u, s, before, _ = run
    d_x, d_v, d_theta, d_decay = np.zeros(len(u)), d_last, 0.0, 0.0
    for t in reversed(range(len(u))):
        d_u = d_v - s[t] * d_v
        d_s = d_spikes[t] - u[t] * d_v
        g = d_s * slope(u[t] - theta)
        d_theta = d_theta - g
        d_x[t] = d_u + g
        d_decay = d_decay + before[t] * d_x[t]
        d_v = decay * d_x[t]
    return {"x": d_x, "theta": d_theta, "decay": d_decay}


def smooth(z, k):
    return 0.5 + np.arctan(np.pi / 2 * k * z) / np.pi


def slope(z, k):
    return 0.5 * k / (1 + (np.pi / 2 * k * z) ** 2)


def step(t, z):
    return z >= 0


# %%
# A problem to test on: ten steps, random currents, and a loss that weighs every spike with a random number
# :math:`c_t`, :math:`L = \sum_t c_t\, s[t]`. Then the gradient of the spikes is simply c.

rng = np.random.default_rng(1)
T, K, THETA, DECAY = 10, 1.3, 0.9, 0.7
x, c = rng.uniform(0, 1, T), rng.normal(size=T)


def loss(theta, fire=step):
    return np.sum(c * forward(x, theta, DECAY, fire)[1])


base = forward(x, THETA, DECAY, step)
mine = backward(c, 0.0, base, THETA, DECAY, lambda z: slope(z, K))
print("spikes ", base[1].astype(int))
print("d_theta", mine["theta"])
assert 0 < base[1].sum() < T

# %%
# The naive try: the difference quotient
# --------------------------------------
#
# **Write down what you expect**: the quotient of this loss with respect to theta.

h = 1e-5
plain = (loss(THETA + h) - loss(THETA - h)) / (2 * h)
print(f"backward {mine['theta']:.6f}, difference quotient {plain}")
assert plain == 0 and abs(mine["theta"]) > 0.1

# %%
# Exactly 0, against a number which is not 0 at all. If you believe the quotient, your derivation is wrong. You know
# better from lesson 01: the quotient is right, about the real loss, and your gradient was never meant to be the
# derivative of the real loss. It is a *surrogate* gradient.
#
# But then what should it be compared with? **With a network whose ordinary derivative it is.** There are three.
#
# Twin 1: the smooth twin
# -----------------------
#
# Let the neuron fire with the curve ``smooth`` instead of the step. The spikes are then numbers between 0 and 1,
# and everything has a derivative. Do not change one letter of ``backward``: it takes ``s`` and ``u`` from the run
# that it is given, and its slope is now the *true* derivative of what fired. So the number is another one than above:
# other spikes, another run. What is tested are the lines.


def smooth_fire(t, z):
    return smooth(z, K)


smooth_run = forward(x, THETA, DECAY, smooth_fire)
analytic = backward(c, 0.0, smooth_run, THETA, DECAY, lambda z: slope(z, K))["theta"]
numeric = (loss(THETA + h, smooth_fire) - loss(THETA - h, smooth_fire)) / (2 * h)
print(f"smooth twin: backward {analytic:.10f}, difference quotient {numeric:.10f}")
assert abs(analytic - numeric) < 1e-8

# %%
# Expect agreement to 8 digits after the point or more. *How* small should the difference be? That depends on h.
#
# The V-curve
# -----------
#
# **Write down what you expect**: the error of the quotient over h, from 0.1 down to 1e-13. The smaller the better?

hs = 10.0 ** np.arange(-1, -13.5, -0.25)
quotients = np.array([(loss(THETA + h, smooth_fire) - loss(THETA - h, smooth_fire)) / (2 * h) for h in hs])
errors = np.abs(quotients - analytic)
best = hs[errors.argmin()]

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.loglog(hs, np.maximum(errors, 1e-16), "o-", markersize=3, color=BLUE, label="error of the quotient")
large = hs[hs > 1e-4]
axes.loglog(large, errors[0] * (large / hs[0]) ** 2, color=ORANGE, linestyle="--", label="grows like h²")
small = hs[hs < 1e-6]
axes.loglog(small, 2e-16 / small, color=GREEN, linestyle="--", label="grows like 1/h")
axes.set(xlabel="h", ylabel="error", title="Neither large nor small")
axes.grid(alpha=0.25)
axes.legend()
plt.show()

print(f"smallest error {errors.min():.0e} at h = {best:.0e}; at 1e-1 {errors[0]:.0e}, at 1e-13 {errors[-1]:.0e}")
assert 1e-7 < best < 1e-3 and errors.min() < 1e-9
assert errors[0] > 1e3 * errors.min() and errors[-1] > 1e3 * errors.min()

# %%
# A V. On the right the quotient is not yet the derivative: by Taylor's formula it is off by a number times
# :math:`h^2`. On the left the computer has only 16 digits: the two losses agree in nearly all of them, what is left
# after subtracting is noise, and you divide it by h. Expect the best h between 1e-6 and 1e-4. Even there some digits
# are lost.
#
# You can do better without guessing: take several h, and combine them so that the :math:`h^2` cancels, then the
# :math:`h^4`. That is *Richardson extrapolation*. It also tells you how sure it is. The function to hand over takes
# h (how far the knob is turned) and returns two things: the value, and for functions with corners on which side of
# them it is (here None).

import minisnn as ms

extrapolated = ms.checks.richardson(lambda h: (loss(THETA + h, smooth_fire), None))
print(f"off by {abs(extrapolated.value - analytic):.0e}; its own estimate {extrapolated.error:.0e}")
assert abs(extrapolated.value - analytic) < max(1e-10, 10 * extrapolated.error)

# %%
# Expect 1e-12 or so, without having chosen an h.
#
# Twin 2: the tangent twin
# ------------------------
#
# The smooth twin checks every line of ``backward``, but with spikes between 0 and 1. You will train with real ones.
# Run the real neuron once and write down its membrane :math:`u_0` and its spikes :math:`s_0`. Now replace the step,
# in each time step, by a *straight line* through the point where the real neuron was, with the surrogate's slope
# there:
#
# .. math:: s[t] = s_0[t] + \mathit{slope}(u_0[t] - \theta_0) \cdot \bigl[(u[t] - \theta) - (u_0[t] - \theta_0)\bigr]
#
# As long as nothing is turned, the bracket is 0: this network does exactly what the real one does. When you turn
# something a little, it follows the slope instead of staying on its stair. Its ordinary derivative *is* the
# surrogate gradient at real spikes.

u0, s0 = base[0], base[1]


def tangent_fire(t, z):
    return s0[t] + slope(u0[t] - THETA, K) * (z - (u0[t] - THETA))


np.testing.assert_array_equal(forward(x, THETA, DECAY, tangent_fire)[1], s0)
numeric = ms.checks.richardson(lambda h: (loss(THETA + h, tangent_fire), None)).value
print(f"tangent twin: backward {mine['theta']:.10f}, differences {numeric:.10f}")
assert abs(mine["theta"] - numeric) < 1e-9

# %%
# That is the number which the plain quotient called 0.
#
# Twin 3: the real neuron with slope 0
# ------------------------------------
#
# There is one thing about the real neuron that does have a useful derivative: its membrane, as long as no spike
# changes. So take a loss on the last membrane, :math:`L = v[T]`, and set the slope to 0 in ``backward``. What is
# left are all the paths that do not go through a spike. Here the plain quotient on the real neuron is the right
# test. We turn decay, since theta reaches the membrane through spikes only.


def last_membrane(decay):
    return forward(x, THETA, decay, step)[3]


silent_slope = backward(np.zeros(T), 1.0, base, THETA, DECAY, lambda z: 0.0)["decay"]
numeric = ms.checks.richardson(lambda h: (last_membrane(DECAY + h), None), step=1e-4).value  # too small to flip a spike
print(f"slope 0: backward {silent_slope:.10f}, differences {numeric:.10f}")
assert abs(silent_slope - numeric) < 1e-8 and abs(silent_slope) > 0.01

# %%
# Which twin sees which mistake?
# ------------------------------
#
# A test is worth something only if it fails when it should. So make mistakes, on purpose. **Write down what you
# expect** for each of the three, and for each twin:
#
# - *no mask*: ``d_u = d_v`` (as if a spike left the membrane alone);
# - *no reset path*: ``d_s = d_spikes[t]`` (as if the spike had no part in the reset);
# - *wrong slope*: the factor k/2 is missing in the slope.


def wrong_backward(mistake, d_spikes, d_last, run, theta, decay, slope):
    u, s, before, _ = run
    d_v, d_theta, d_decay = d_last, 0.0, 0.0
    for t in reversed(range(len(u))):
        d_u = d_v if mistake == "no mask" else d_v - s[t] * d_v
        d_s = d_spikes[t] if mistake == "no reset path" else d_spikes[t] - u[t] * d_v
        g = d_s * slope(u[t] - theta)
        d_theta = d_theta - g
        d_decay = d_decay + before[t] * (d_u + g)
        d_v = decay * (d_u + g)
    return {"theta": d_theta, "decay": d_decay}


def verdicts(mistake, k=K):
    """For each twin: does the gradient of decay equal the differences?"""

    def my_slope(z):
        return slope(z, k) / (0.5 * k) if mistake == "wrong slope" else slope(z, k)

    def curve(t, z):
        return smooth(z, k)

    def tangent(t, z):
        return s0[t] + my_slope(u0[t] - THETA) * (z - (u0[t] - THETA))

    def agree(fire, backward_slope, d_spikes, d_last):
        def value(h):
            _, s, _, v = forward(x, THETA, DECAY + h, fire)
            return np.sum(d_spikes * s) + d_last * v, None

        run = forward(x, THETA, DECAY, fire)
        found = wrong_backward(mistake, d_spikes, d_last, run, THETA, DECAY, backward_slope)["decay"]
        return bool(abs(found - ms.checks.richardson(value, step=1e-4).value) < 1e-7)

    return {
        "smooth": agree(curve, my_slope, c, 1.0),
        "tangent": agree(tangent, my_slope, c, 1.0),
        "slope 0": agree(step, lambda z: 0.0, 0 * c, 1.0),
    }


table = {m: verdicts(m) for m in ("none", "no mask", "no reset path", "wrong slope")}
print(f"{'mistake':<16}" + "".join(f"{twin:>10}" for twin in table["none"]))
for mistake, row in table.items():
    print(f"{mistake:<16}" + "".join(f"{'ok' if ok else 'WRONG':>10}" for ok in row.values()))
assert list(table["none"].values()) == [True, True, True]
assert list(table["no mask"].values()) == [False, False, False]
assert list(table["no reset path"].values()) == [False, False, True]
assert list(table["wrong slope"].values()) == [False, True, True]

# %%
# Each twin sees something else. The tangent twin takes the slope as you give it, since a slope is a choice; only
# the smooth twin asks whether it belongs to the curve. *Slope 0* looks at membranes only. If it is content and the
# others are not, the mistake is on a path through a spike. If it complains, there is one on a path that
# passes no spike.
#
# Good numbers hide mistakes
# --------------------------
#
# One more time *wrong slope*, but with k = 2. **Write down what you expect.**

hidden = verdicts("wrong slope", k=2.0)
print("wrong slope, k = 2:", hidden)
assert all(hidden.values())

# %%
# All is well, it seems: for k = 2 the missing factor k/2 is 1. In the same way ``theta * d_v`` looks like ``d_v``
# for theta = 1, and with a single step or decay 0 there is no path through time. 1, 2 and 0 are the numbers that
# everybody tests with. Test with 0.9, 1.3 and 0.7.
#
# The same, ready made
# --------------------
#
# ``ms.checks.check_adjoint`` draws such numbers and compares every entry of every gradient: first of one step alone,
# then of minisnn's own time loop, on the three twins. Give it a neuron, a reset and a surrogate. Here a *soft
# reset*, ``v = u - s * theta``: a spike takes one threshold away instead of everything. The *adjoint* of a function
# is its step backward: it takes the gradient of the result and returns the gradients of the arguments, here ``d_v``
# in and ``d_u, d_s, d_theta`` out. You wrote three of them inside ``backward``: of the reset, the spike and the
# charge. We "forget" that theta also stands in the reset. **Write down what you expect**: which gradients will be
# wrong, on which twins? And the missing term, as a formula.


def forgetful(d_v, u, s, theta):
    return d_v, -theta * d_v, 0


without_a_term = ms.Reset(ms.resets.soft_reset, forgetful)
print(ms.checks.check_adjoint(ms.neurons.lif, without_a_term, ms.surrogates.atan(1.3)))

# %%
# Read it from the bottom.
#
# - *The verdict.* 15 of 19 comparisons are right, so the whole is not. (The ``note`` above it speaks of ``stop``, the
#   subject of lesson 05.)
# - *Which term.* Your third result, d_theta, is 0 and should be ``-s*d_v``. That is the missing term. (The report
#   prints the difference the other way round, yours - true. With SymPy installed the letters may stand in another
#   order.) You did not tell the checker any formula: it found these by running your function, and tried them on new
#   numbers before it printed them.
# - *The twins*, as you built them. ``yours`` and ``true`` are the entry where the two differ most, and ``worst at``
#   is its place. (Where all is right there is a dash, and the largest entry is shown.) ``error`` is relative,
#   ``allowed`` the limit, and ``d_v[0]`` the gradient of the membrane before the first step. The threshold is wrong
#   in every twin, also with slope 0, where no path goes through a spike. Nothing else is wrong. So the mistake is
#   neither in the slope nor in what is carried from step to step.
# - *One step*, without any time: each derivative of each of the three functions by itself, at three times 40 random
#   points. Here one row is wrong, ``dv/d(theta)``: yours 0, true -1, at a point with a spike.
#
# The numbers in the column ``true`` come from the *complex step*: instead of two neighbours and a difference, one run
# with an imaginary shift of 1e-30. The imaginary part of the result, divided by 1e-30, is the derivative. Nothing is
# subtracted, so the V-curve has no left arm, and an error of 1e-12 can be asked for. (The smooth and the tangent twin
# have no jumps; with slope 0 the neuron jumps, but a shift of 1e-30 flips no spike.)
#
# A table of wrong numbers tells you *that* you are wrong. The formula tells you *what to write*. But do not copy it:
# do the derivative by hand, :math:`\partial v / \partial \theta = -s`, see that it is the same, and try again:


def complete(d_v, u, s, theta):
    return d_v, -theta * d_v, -(s * d_v)


bad = ms.checks.check_adjoint(ms.neurons.lif, without_a_term, ms.surrogates.atan(1.3))
good = ms.checks.check_adjoint(ms.neurons.lif, ms.Reset(ms.resets.soft_reset, complete), ms.surrogates.atan(1.3))
print("forgetful:", bad.ok, " complete:", good.ok)
(finding,) = bad.findings  # the part called "which term"
print(f"{finding.name}: yours {finding.yours}, true {finding.true}")
good.raise_if_wrong()  # in a test of your own, this one line
assert good.ok and not bad.ok
assert {(row.twin, row.name) for row in bad.rows if not row.ok} == {
    ("one step", "dv/d(theta)"), ("smooth", "d_threshold"), ("tangent", "d_threshold"), ("slope 0", "d_threshold"),
}  # fmt: skip
assert len(bad.rows) == 19 and finding.name == "d_theta of soft_reset" and finding.yours == "0"
for u, s, theta, d_v in rng.normal(size=(5, 4)):  # the formula is Python, too: the difference of the two adjoints
    difference = forgetful(d_v, u, s, theta)[2] - complete(d_v, u, s, theta)[2]
    np.testing.assert_allclose(eval(finding.difference, {"s": s, "d_v": d_v}), difference, rtol=1e-12)
try:
    bad.raise_if_wrong()
except ms.checks.GradientError:
    print("and raise_if_wrong stops at the forgetful one")
else:
    raise AssertionError("a wrong adjoint went through")

# %%
# A whole network
# ---------------
#
# The twins work for networks too: ``ms.checks.TWINS`` names them and says how they fire, ``ms.checks.run_twin`` runs
# one that holds on to a run you have made (as the tangent twin above held on to :math:`u_0` and :math:`s_0`).
# ``Linear`` multiplies its input by a matrix of weights; lesson 07 builds it. The weights of the layer ``fc1`` are
# the parameter ``fc1.weight``. Turn them all at once, along a random direction: then one number tests them all. The
# loss is again :math:`\sum c\, s`, with a random c for every spike.

rng = np.random.default_rng(5)
net = ms.Network(
    fc1=ms.Linear(6, 8, rng=rng),
    lif1=ms.LIF(8, threshold=0.7),
    fc2=ms.Linear(8, 4, rng=rng),
    lif2=ms.LIF(4, threshold=0.4),
).astype("float64")
x, c = rng.uniform(0, 2, (7, 3, 6)), rng.normal(size=(7, 3, 4))  # [T, B, N]
_, caches = net.forward(x)
_, grads = net.backward(c, caches)
direction = rng.normal(size=grads["fc1.weight"].shape)
analytic = np.sum(grads["fc1.weight"] * direction)

turned = net.astype("float64")  # a copy whose weights we may turn
start = net.params()["fc1.weight"].copy()


def along(h):
    turned.params()["fc1.weight"][...] = start + h * direction
    spikes, _ = ms.checks.run_twin(turned, x, caches, ms.checks.TWINS["tangent"])
    return float(np.sum(c * spikes)), None


numeric = ms.checks.richardson(along)
print(f"backward {analytic:.10f}, tangent twin {numeric.value:.10f}")
assert abs(analytic - numeric.value) <= max(1e-7 * abs(analytic), 10 * numeric.error) and abs(analytic) > 1e-3
assert caches["lif1"].spikes.any() and caches["lif2"].spikes.any()

# %%
# Equal to seven digits or more. Once your network has a loss (lesson 07), ``ms.checks.check_grads(net, x, labels,
# loss)`` does this for every parameter and every twin, and names the layer at fault.
#
# Two rules to take with you. **Use float64**: with the seven digits of float32 the V-curve ends where you want to
# begin. **Break it on purpose** before you trust a test.
#
# Try this
# --------
#
# 1. *Single precision.* Make the V-curve with ``np.float32`` numbers (x, THETA, DECAY, and the arrays in
#    ``forward``). Where is the bottom now? Could it tell a right gradient from one that is 1 % off?
# 2. *Your own mistake.* In ``wrong_backward``, use ``u[t]`` in place of ``before[t]``. Which twin sees it? Would you
#    have seen it in d_theta?
# 3. *Mistakes as formulas.* For the hard reset, ``ms.resets.hard_reset``, write one adjoint with *no mask* and one
#    with *no reset path*. Write down yours, true, and the difference, as formulas. Then give both to
#    ``check_adjoint``. For the second there is a note, too. It leads to lesson 05.
