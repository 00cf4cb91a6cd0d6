# SPDX-License-Identifier: MIT
# SPDX-FileComment: the text of this lesson is CC BY 4.0, its code MIT.
"""
06 The threshold learns: a gain, not a bias
===========================================

If every neuron may learn its own threshold, what has it gained that weights and a bias could not give it? (A *bias*
is a constant that a neuron adds to its input. It can be learnt, like a weight.)

*You need*: lessons 00 to 05 (the LIF neuron, surrogate gradients, hard and soft reset).
*Reading time*: 35 minutes. *Running time*: a few seconds, so there is no need of a faster mode.

In lesson 01 you turned a threshold by hand; since lesson 03 there is a gradient for it. Here you ask what the knob
does. The answer is one line of algebra, holds exactly, and has a consequence for learning that is easy to miss.
"""

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"


def run(x, theta, decay=0.5, reset="hard", bias=0.0):
    """LIF neurons over time. x [T, N] -> spikes, u (membrane before the reset), both [T, N]."""
    v, spikes, u = np.zeros(x.shape[1:]), np.zeros(x.shape), np.zeros(x.shape)
    for t in range(len(x)):
        u[t] = decay * v + x[t] + bias
        spikes[t] = u[t] >= theta
        v = u[t] - spikes[t] * (u[t] if reset == "hard" else theta)
    return spikes, u


# %%
# The naive idea: a threshold is a bias with a minus sign
# -------------------------------------------------------
# The neuron fires where :math:`u[t] \ge \theta`, that is where :math:`u[t] - \theta \ge 0`. So :math:`-\theta` stands
# where a bias stands in an ordinary network. Take a neuron with threshold 1.5. By this reasoning a neuron with
# threshold 1 and a constant current of -0.5 is the same neuron.
#
# Without memory it is. Set ``decay = 0``: then :math:`u[t] = x[t]`, and moving 0.5 from one side of the comparison to
# the other changes nothing. You try both, with and without memory, on the same 2,000 random input currents.

rng = np.random.default_rng(0)
x = rng.normal(0.6, 0.8, (2000, 1))


def differing(a, b):
    """Number of steps in which two spike trains differ."""
    return int((a != b).sum())


for decay in (0.0, 0.5, 0.9):
    with_threshold, _ = run(x, 1.5, decay)
    with_bias, _ = run(x, 1.0, decay, bias=-0.5)
    print(f"decay {decay}: {differing(with_threshold, with_bias):4} of 2000 spikes differ")
    assert (differing(with_threshold, with_bias) == 0) == (decay == 0)

# %%
# With memory the idea fails. The bias comes in at every step and *piles up* in the membrane: after many steps without a
# spike a bias :math:`b` has added
# :math:`b + \mathit{decay}\,b + \mathit{decay}^2 b + \dots = b / (1 - \mathit{decay})`. The threshold is only compared,
# and adds nothing. Perhaps the bias was just too large? Try them all, from -1.5 to 0.5, and keep the best one.

biases = np.linspace(-1.5, 0.5, 401)
for decay in (0.5, 0.9):
    with_threshold, _ = run(x, 1.5, decay)
    with_biases, _ = run(np.broadcast_to(x, (2000, 401)), 1.0, decay, bias=biases)  # 401 neurons, a bias each
    errors = (with_biases != with_threshold).sum(axis=0)
    best = int(np.argmin(errors))
    print(f"decay {decay}: the best bias is {biases[best]:.3f}, and {errors[best]} spikes still differ")
    assert errors[best] > 50

# %%
# So what is it?
# --------------
# Multiply the input current and the threshold by the same number :math:`c > 0`. Claim: **the spikes stay as they are,
# and the membrane is multiplied by c.** Go through one step, with primes for the new neuron, and suppose that
# :math:`v'[t-1] = c\,v[t-1]`:
#
# .. math::
#    u'[t] &= \mathit{decay}\; c\,v[t-1] + c\,x[t] = c\,u[t] \\
#    s'[t] &= 1 \text{ where } c\,u[t] \ge c\,\theta, \text{ that is where } u[t] \ge \theta: \quad s'[t] = s[t] \\
#    v'[t] &= c\,u[t] - s[t]\; c\,u[t] = c\,v[t] \quad\text{(hard)} \qquad
#    v'[t] = c\,u[t] - s[t]\; c\,\theta = c\,v[t] \quad\text{(soft)}
#
# The claim holds after the step if it held before it. It holds at the start, because :math:`v = 0` there. That is the
# proof, for both resets.
#
# The input current of neuron :math:`n` is :math:`x_n = \sum_i w_{in}\, \text{in}_i`, where :math:`\text{in}_i` are the
# spikes that come in and :math:`w_{in}` the weights. To scale the current is to scale the weights. So what a neuron
# does depends only on
#
# .. math:: \frac{w_{1n}}{\theta_n},\; \frac{w_{2n}}{\theta_n},\; \dots
#
# The factor :math:`1/\theta_n` multiplies all its weights at once: **a gain**. (The equations of the neuron are those
# of :doc:`/derivations/lif`.)
#
# Write down what you expect: the left panel shows how often a neuron fires for a constant current, once with
# :math:`\theta = 1`. How does the curve change for :math:`\theta = 2`? How for a bias of -1? Which of the two is a
# shift and which a stretch?

currents = np.linspace(0, 2.5, 501)
constant = np.broadcast_to(currents, (400, 501))


def rates(theta, bias=0.0):
    return run(constant, theta, decay=0.9, bias=bias)[0].mean(axis=0)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(currents, rates(1.0), color=GREY, label="threshold 1")
left.plot(currents, rates(2.0), color=BLUE, label="threshold 2: stretched")
left.plot(currents, rates(1.0, bias=-1.0), color=ORANGE, linestyle="--", label="threshold 1, bias -1: shifted")
left.set(xlabel="constant input current", ylabel="spikes per step", title="How often it fires")
left.legend(loc="lower right", fontsize="small")

seen = slice(0, 25)
spikes, u = run(x, 1.0)
spikes_3, u_3 = run(3 * x, 3.0)
time = np.arange(1, 26)
for membrane, fired, theta, color in ((u, spikes, 1, BLUE), (u_3, spikes_3, 3, ORANGE)):
    right.plot(time, membrane[seen, 0], color=color, label=f"u, threshold {theta}")
    right.axhline(theta, color=color, linestyle=":")
    at = fired[seen, 0] > 0
    right.plot(time[at], membrane[seen, 0][at], "*", color=color, markersize=10)
right.set(xlabel="time step", ylabel="membrane before the reset", title="Both times 3: same spikes (*)")
right.legend(loc="lower left", fontsize="small")
for panel in (left, right):
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# The curve for threshold 2 at current :math:`I` is the curve for threshold 1 at :math:`I/2`: stretched to the right
# about the origin. The bias shifts. A factor that is a power of two changes no digit of a binary number, so there we
# may ask for equality to the last bit; for others a comparison that is an exact tie could go the other way by rounding.
# (Here none does.)

assert np.array_equal(run(constant, 2.0, decay=0.9)[0], run(constant / 2, 1.0, decay=0.9)[0])
for reset in ("hard", "soft"):
    for c in (0.25, 3.0, 8.0):
        spikes, u = run(x, 1.0, reset=reset)
        scaled_spikes, scaled_u = run(c * x, c * 1.0, reset=reset)
        ratio = np.abs(scaled_u / u / c - 1).max()
        print(f"{reset} reset, c = {c}: {differing(spikes, scaled_spikes)} spikes differ; u'/u is c up to {ratio:.0e}")
        assert differing(spikes, scaled_spikes) == 0 and ratio < 1e-9
        assert c == 3.0 or np.array_equal(scaled_u, c * u)

# %%
# Where it holds, and where it does not
# -------------------------------------
# The proof used two things: the charge must turn :math:`(c\,v, c\,x)` into :math:`c\,u`, and the reset likewise. You
# can test any neuron of the library for it: ``ms.Spiking`` is a layer of neurons with the charge and the reset that you
# name. With the reset ``none`` a spike leaves the membrane as it is.

import minisnn as ms

currents_in = rng.normal(0.5, 0.9, (100, 20, 8))  # [T, B, N]: 100 steps, 20 samples, 8 neurons
differ = {}
print(f"{'spikes that differ, of 16000':30}" + "".join(f"{name:>8}" for name in ("hard", "soft", "none")))
for name, neuron in ms.neurons.NEURONS.items():
    for reset in ("hard", "soft", "none"):
        found = []
        for c in (1.0, 4.0):
            extra = {p: 0.5 for p in neuron.params}
            layer = ms.Spiking(8, neuron=neuron, reset=ms.resets.RESETS[reset], threshold=c, dtype="float64", **extra)
            with np.errstate(over="ignore", invalid="ignore"):  # quadratic without a reset runs away
                found.append(layer.forward(c * currents_in)[0])
        differ[name, reset] = differing(*found)
    print(f"{name:30}" + "".join(f"{differ[name, reset]:8}" for reset in ("hard", "soft", "none")))

assert all((count > 0) == (name == "quadratic") for (name, _), count in differ.items())

# %%
# Only ``quadratic`` differs. Its charge has the term :math:`v\,(v - 1)`: there the number 1 is a fixed scale of the
# membrane, and a threshold is measured against it. The other charges are sums of terms that hold one of :math:`v`,
# :math:`x` and the synaptic current of ``current_lif``, each to the first power.
#
# Two more things break the proof: a **bias** (scale it too, or it stays behind), and an **initial state** that is not
# zero (likewise). A threshold of zero or below does not break it, but such a neuron fires without any input.
#
# What it means for learning
# --------------------------
# If only :math:`w/\theta` counts, then everything that weights *and* thresholds can do, weights alone can do. Learning
# thresholds adds no network that was not there before. What it changes is **the way there**:
#
# * One step of :math:`\theta_n` changes the effective weights :math:`w_{in}/\theta_n` of a neuron *all at once and by
#   the same factor*. Learning the weights changes each one for itself.
# * A gain that learns is a familiar trick: weight normalisation splits a weight vector into a direction and a length.
#   This is a choice, not a theorem: it may help, and it may not. Lesson 08 measures one case.
# * With the weights frozen (*threshold learning*, TL, in lesson 08), a gain is all that is left. It can turn a neuron
#   up or down, even off. It can never change the sign of a connection.
#
# The surrogate gradient does not know
# ------------------------------------
# Now the consequence that is easy to miss. A loss on spikes does not change along :math:`(c\,w, c\,\theta)`. For its
# derivative that gives an equation. With :math:`d_w` and :math:`d_\theta` for the gradients of the loss with respect to
# :math:`w` and :math:`\theta`, the change along this direction is
#
# .. math:: \sum_i w_i\, d_{w_i} + \theta\, d_\theta
#
# and it should be 0. Does the *surrogate* gradient keep this? Walk backward through time as in lesson 03, with
# :math:`e[t]` for all that reaches :math:`u[t]` (in lesson 03 this is ``d_x[t]``), :math:`d_v[t]` for the gradient of
# :math:`v[t]`, and :math:`g[t] = d_s \cdot \psi(u[t] - \theta)`, where :math:`\psi` (psi) is a short name for the
# surrogate's slope. For the hard reset :math:`e[t] = g[t] + (1 - s[t])\, d_v[t]`,
# :math:`d_v[t-1] = \mathit{decay}\; e[t]` and :math:`d_\theta = -\sum_t g[t]`. The weights collect
# :math:`\sum_i w_i d_{w_i} = \sum_t e[t]\, x[t]`. Put in :math:`x[t] = u[t] - \mathit{decay}\; v[t-1]`:
#
# .. math::
#    \sum_t e[t]\, x[t] = \sum_t \bigl( e[t]\, u[t] - d_v[t]\, v[t] \bigr) = \sum_t g[t]\, u[t]
#
# The first equals sign: :math:`\mathit{decay}\; e[t]\, v[t-1]` is :math:`d_v[t-1]\, v[t-1]`, and the sum of these over
# time may start one step later, because :math:`v[0] = 0` and :math:`d_v = 0` after the last step. The second: the terms
# with :math:`(1 - s)` cancel, because :math:`v = (1 - s)\,u`. Together with the threshold's part:
#
# .. math:: \sum_i w_i\, d_{w_i} + \theta\, d_\theta = \sum_t g[t]\,\bigl(u[t] - \theta\bigr)
#
# The soft reset gives the same line; do it on paper. The right side is in general **not** zero: a surrogate has a
# width, and :math:`\psi(u - \theta)` is not zero where :math:`u \ne \theta`. A slope that is infinitely narrow would
# give 0. The surrogate gradient thinks that scaling changes the spikes. It is a choice, and here is one of the places
# where it shows.
#
# Write down what you expect: both sides of the last equation, for the hard and the soft reset: equal to how many
# digits?


def psi(z, k=2.0):
    """The arctangent's slope (lesson 02), z = u - theta."""
    return 0.5 * k / (1 + (0.5 * np.pi * k * z) ** 2)


def gradients(inputs, w, theta, d_spikes, decay=0.5, reset="hard", k=2.0):
    """Surrogate gradients of w and theta, and g [T], by hand. inputs [T, I], w [I], d_spikes [T]."""
    spikes, u = (a[:, 0] for a in run((inputs @ w)[:, None], theta, decay, reset))
    e, g, d_v, d_theta = np.zeros(len(u)), np.zeros(len(u)), 0.0, 0.0
    for t in reversed(range(len(u))):
        d_s = -u[t] * d_v if reset == "hard" else -theta * d_v
        g[t] = (d_s + d_spikes[t]) * psi(u[t] - theta, k)
        e[t] = g[t] + ((1 - spikes[t]) * d_v if reset == "hard" else d_v)
        d_theta += -g[t] - (0.0 if reset == "hard" else spikes[t] * d_v)
        d_v = decay * e[t]
    return inputs.T @ e, d_theta, g, u


inputs = (rng.random((50, 6)) < 0.4).astype(float)
w = rng.normal(0.4, 0.4, 6)
d_spikes = rng.normal(size=50)  # what a loss sends back: any numbers will do

for reset in ("hard", "soft"):
    d_w, d_theta, g, u = gradients(inputs, w, 0.9, d_spikes, reset=reset)
    along, predicted = w @ d_w + 0.9 * d_theta, (g * (u - 0.9)).sum()
    size = np.linalg.norm(np.append(w, 0.9)) * np.linalg.norm(np.append(d_w, d_theta))
    print(f"{reset}: w.d_w + theta d_theta = {along:+.6f}, sum g (u - theta) = {predicted:+.6f}")
    assert abs(along - predicted) < 1e-12 * size, "the identity holds to rounding"
    assert abs(along) > 1e-3 * size, "... and the surrogate gradient does see a change"

# %%
# Same spikes, other gradient
# ---------------------------
# One more turn. Scale :math:`w` and :math:`\theta` by :math:`c`: same spikes. The surrogate sees
# :math:`c\,(u - \theta)`, so it acts as one that is :math:`c` times as narrow. Where a neuron starts on the ray
# :math:`(c\,w, c\,\theta)` makes no difference to what it computes and a large one to how it learns.
#
# To compare like with like, look at :math:`\theta\, d_\theta`. Divided by 100 it is how much the loss changes, says the
# surrogate, when the threshold grows by one per cent. For a derivative of the network it would not depend on :math:`c`.
# Write down what you expect for small and for large :math:`c`.

scales = np.geomspace(1 / 64, 256, 57)
figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
relative = {}
for reset, color in (("hard", BLUE), ("soft", ORANGE)):
    fired = [run((inputs @ w)[:, None] * c, 0.9 * c, reset=reset)[0] for c in (1 / 64, 1.0, 256.0)]
    assert differing(fired[0], fired[1]) == differing(fired[2], fired[1]) == 0
    relative[reset] = [abs(0.9 * c * gradients(inputs, c * w, 0.9 * c, np.ones(50), reset=reset)[1]) for c in scales]
    axes.loglog(scales, relative[reset], color=color, label=f"{reset} reset")
axes.set(xlabel="scale c of weights and threshold (the spikes are the same)", ylabel=r"$|\theta\, d_\theta|$",
         title="The surrogate's width is measured against the threshold")  # fmt: skip
axes.legend()
axes.grid(alpha=0.25)
plt.show()

ratio = max(relative["soft"]) / min(relative["soft"])
print(f"soft reset: largest over smallest |theta d_theta| on the ray: {ratio:.1f}")
for curve in relative.values():
    assert max(curve) > 4 * curve[0] and max(curve) > 4 * curve[-1]  # a hill: both ends are low

# %%
# A hill: both ends are low. The tops lie at different places, since the two resets send back different gradients. On
# the left the surrogate is so wide, against the threshold, that it hardly tells near from far. On the right it is so
# narrow that only steps close to the threshold pass anything on. Besides, an optimizer's steps are absolute: at
# :math:`c = 8` a step of 0.01 changes the gain by an eighth of the per cent that it changes at :math:`c = 1`. A network
# whose thresholds are large, against the surrogate's width (about :math:`1/k`) and against the learning rate, fires as
# before and may learn slowly. Keep this in mind for lesson 09, where ``threshold=8`` looks harmless.
#
# What you should take with you
# -----------------------------
# A threshold is a gain on its neuron's weights; the two are one thing for what a network computes, and two for how it
# learns.
#
# Try this
# --------
# 1. Give the neuron in ``run`` a bias of 0.3 and scale current and threshold by 8, but not the bias. How many of the
#    2,000 spikes differ? Which third quantity must be scaled? *(Look at the first line of the proof.)*
# 2. Replace :math:`\psi(u - \theta)` by :math:`\psi((u - \theta)/\theta)/\theta`, in ``gradients``. Plot the last
#    figure again. What becomes of the curves, and why? *(How wide is this surrogate?)*
# 3. In lesson 01 you found a threshold for a target rate. Keep the threshold of that neuron at 1. By which factor must
#    its *current* be multiplied for the same rate? *(No search is needed.)*
