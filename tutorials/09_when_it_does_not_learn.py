# SPDX-License-Identifier: MIT
# SPDX-FileComment: the text of this lesson is CC BY 4.0, its code MIT.
"""
09 When it does not learn: dead, saturated, exploding
=====================================================

The loss does not move. What do you look at first?

*You need*: lessons 06 (same spikes, other gradient) and 08 (training with ``ms.fit``).
*Reading time*: 40 minutes. *Running time*: about 10 seconds, so there is no need of a faster mode.

An ordinary network that is set up badly often learns a little. A spiking network that is set up badly does nothing at
all, and says so with a loss that stands still. You break a healthy network in four ways. Three leave their own
trace in the *health* of the layers, which ``ms.fit`` reports with every epoch; the fourth stops the training.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: matrices this small need one thread

import warnings

import matplotlib.pyplot as plt
import numpy as np

import minisnn as ms

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"

images, labels = ms.data.digits("train")
data, validation = (images[:600], labels[:600]), ms.data.digits("validation")
encoder = ms.encode.Bernoulli(8)


def make(threshold=1.0, scale=1.0, surrogate=None):
    """The network of lesson 08. `scale` multiplies the initial weights."""
    rng = np.random.default_rng(0)
    net = ms.Network(
        fc1=ms.Linear(64, 64, rng=rng),
        lif1=ms.LIF(64, threshold=threshold, surrogate=surrogate),
        fc2=ms.Linear(64, 50, rng=rng),
        lif2=ms.LIF(50, threshold=threshold, surrogate=surrogate),
        vote=ms.PopulationVote(10),
    )
    for weight in net.params("*.weight").values():
        weight *= scale  # params are the live arrays: this changes the network
    return net


def fit(net, lr=2e-3):
    optimizer = ms.Adam(net, ms.STL, lr=lr)
    return ms.fit(net, optimizer, data, epochs=8, batch=64, encoder=encoder, validation=validation, progress=False)


# %%
# The health table
# ----------------
# First a healthy run. ``print(history)`` shows, for each epoch: the loss, the accuracy in training and on validation,
# and for each spiking layer three numbers: **rate**, spikes per neuron and step; **silent**, the share of neurons that
# never fired in the whole epoch; **theta**, the mean threshold.

healthy = fit(make())
print(healthy)
assert healthy.column("validation_accuracy")[-1] > 0.7

# %%
# The history holds more. ``always_firing`` is the share of neurons that fired at *every* step of the epoch, and
# ``gradient_norm`` the length of the threshold gradient, averaged over batches. A small table of your own:


def health(title, history, epoch=0):
    """Print the health of each layer after an epoch, and return it."""
    row = history.epochs[epoch]
    print(f"{title}: loss {row['train_loss']:.4f}")
    for name, h in row["layers"].items():
        print(
            f"   {name}: rate {h['firing_rate']:6.1%}  silent {h['silent']:6.1%}  "
            f"always firing {h['always_firing']:6.1%}  |d_theta| {h['gradient_norm']:.1e}"
        )
    return row


start = health("healthy, first epoch", healthy)
health("healthy, last epoch", healthy, -1)

# %%
# A caution from the first line: in the first epoch the whole output layer of a *healthy* network is silent. One number
# on one day is not a diagnosis. Look for numbers near 0 % or 100 % *that stay there*.
#
# Dead: ``threshold=8``
# ---------------------
# Somebody read that a threshold of 8 is fine in another program, where currents are larger. Write down what you expect:
# which value does the loss take, exactly, when no output neuron ever fires? (Ten classes; the mean squared error to a
# vector that has one 1 and nine 0.) And the accuracy? (Of ten equal scores the first counts: digit 0.) What do ``rate``
# and ``silent`` say?

dead = fit(make(threshold=8.0))
print(dead)
row = health("threshold 8", dead, -1)
assert abs(row["train_loss"] - 0.1) < 1e-6, "all scores are 0: one error of 1 in ten"
assert all(h["silent"] == 1 for h in row["layers"].values())

# %%
# The naive cure is a larger learning rate. You multiply it by five. You also try another surrogate, the triangle, whose
# slope is 0 beyond a distance of 1 from the threshold (the arctangent's has long tails).

impatient = fit(make(threshold=8.0), lr=1e-2)
triangle = fit(make(threshold=8.0, surrogate=ms.surrogates.triangle(1.0)), lr=1e-2)
for title, history in (("healthy", healthy), ("8, rate x 5", impatient), ("8, triangle", triangle)):
    print(f"{title:12} validation " + " ".join(f"{a:4.0%}" for a in history.column("validation_accuracy")))
norm = {
    name: history.column("gradient_norm", "lif1")[0]
    for name, history in (("healthy", healthy), ("8", dead), ("8, triangle", triangle))
}
print("first epoch, lif1, |d_theta|: " + ", ".join(f"{name} {value:.0e}" for name, value in norm.items()))
assert norm["8"] < norm["healthy"] / 1000 and norm["8, triangle"] == 0
assert impatient.column("silent", "lif2")[:2] == [1, 1], "still dead after two epochs at five times the rate"
assert triangle.column("train_loss")[-1] == triangle.column("train_loss")[0], "and with the triangle for ever"

# %%
# The gradient is there, more than a thousand times smaller. Adam divides it by its own size and moves each weight by
# about the learning rate all the same, in a direction that comes from the far tail of the surrogate. So the network
# wakes up, late. With the triangle the gradient is exactly 0 and nothing ever moves. Why? Look where the membranes are,
# and where the slope is.

x = encoder(data[0][:200], np.random.default_rng(0))
_, caches = make(threshold=8.0).forward(x)
u = caches["lif1"].u
print(f"largest membrane in 200 images: {u.max():.2f}; threshold 8")
assert u.max() < 4

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.hist(u.ravel(), 80, color=BLUE, alpha=0.8, density=True, label="membranes of the first layer")
line = np.linspace(-3, 10, 500)
for theta, color in ((1.0, GREEN), (8.0, ORANGE)):
    axes.plot(line, ms.surrogates.atan_slope(line - theta, 2.0), color=color, label=f"arctangent, threshold {theta:g}")
    axes.axvline(theta, color=color, linestyle=":")
axes.plot(line, ms.surrogates.triangle_slope(line - 8.0, 1.0), "--", color=GREY, label="triangle, threshold 8")
axes.set(xlabel="membrane", ylabel="density; slope", title="A gradient flows where blue lies under a slope")
axes.set_ylim(0, 1.6)
axes.legend()
plt.show()

# %%
# **Cure.** Lesson 06: the threshold is a gain. 8 in place of 1 is all weights divided by 8. Bring the threshold to the
# size of the membranes, as in the healthy network; or the membranes to the size of the threshold, with weights eight
# times as large. Both have the same spikes. Write down what you expect: do both learn alike?

scaled = fit(make(threshold=8.0, scale=8.0))
first_spikes = [make(c, c).forward(x)[1]["lif1"].spikes for c in (1.0, 8.0)]
assert np.array_equal(*first_spikes), "a power of two: the same spikes to the last one"
for title, history in (("threshold 1", healthy), ("threshold 8, weights x 8", scaled)):
    health(f"{title}, last epoch", history, -1)
    print(f"   validation accuracy: {', '.join(f'{a:.0%}' for a in history.column('validation_accuracy'))}")
assert scaled.column("validation_accuracy")[-1] < healthy.column("validation_accuracy")[-1] - 0.2
assert scaled.column("gradient_norm", "lif1")[0] < 0.1 * norm["healthy"]

# %%
# Same spikes, and it hardly learns. Lesson 06 named two reasons: the optimizer's steps are absolute, so a step of 0.002
# is an eighth of what it was, against weights eight times as large; and the surrogate, at the same :math:`k`, is an
# eighth as wide against the threshold. Which one is it? Undo them one at a time: the rate times 8, then :math:`k / 8`,
# then both. Write down what you expect.

wide = ms.surrogates.atan(2.0 / 8)
undone = {
    "rate x 8": fit(make(threshold=8.0, scale=8.0), lr=8 * 2e-3),
    "k / 8": fit(make(threshold=8.0, scale=8.0, surrogate=wide)),
    "both": fit(make(threshold=8.0, scale=8.0, surrogate=wide), lr=8 * 2e-3),
}
for title, history in undone.items():
    print(f"{title:9} validation " + " ".join(f"{a:4.0%}" for a in history.column("validation_accuracy")))
reached = {title: history.column("validation_accuracy")[-1] for title, history in undone.items()}
assert reached["rate x 8"] > 0.7 and reached["both"] > 0.7 and reached["k / 8"] < 0.5

# %%
# Here it was the steps: the rate alone repairs most of it, the surrogate alone nothing. Expect 80 to 95 % for "rate x
# 8" and "both", and under 50 % for "k / 8". With both undone the network is the healthy one in other units. The simpler
# cure is a threshold near the membranes: then the usual rates and the usual :math:`k` fit.
#
# Saturated: everything fires
# ---------------------------
# Now the other end: all weights positive, and large. Write down what you expect for the loss. (All scores are 1.)

net = make(scale=20.0)
for weight in net.params("*.weight").values():
    np.abs(weight, out=weight)
saturated = fit(net)
row = health("all weights positive, x 20", saturated)
row = health("the same, last epoch", saturated, -1)
assert abs(row["train_loss"] - 0.9) < 1e-3
assert all(h["firing_rate"] > 0.99 for h in row["layers"].values())

# %%
# The membranes lie far *above* the thresholds, the slope is as small as far below, and the loss is 0.9: nine errors of
# 1 in ten. A neuron that always fires tells as little as one that never does. Is a threshold of 20 the cure? Or the
# weights divided by 20, all of them still positive?

for threshold, scale in ((20.0, 20.0), (1.0, 1.0)):
    net = make(threshold, scale)
    for weight in net.params("*.weight").values():
        np.abs(weight, out=weight)
    history = fit(net)
    health(f"all positive, threshold {threshold:g}, weights x {scale:g}, last epoch", history, -1)
    print(f"   validation accuracy: {history.column('validation_accuracy')[-1]:.0%}")
    assert history.column("validation_accuracy")[-1] < 0.3

# %%
# Neither, in these eight epochs. One reason may be that with positive weights alone all neurons see
# much the same: how much ink there is.
# **Cure:** smaller weights *of both signs*, as in the healthy network, so that the membranes lie around the threshold
# and differ.
#
# Too fast: the learning rate
# ---------------------------
# The healthy network again, with a learning rate of 1.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fast = fit(make(), lr=1.0)
print(fast)
for warning in caught:
    print("warning:", warning.message)
assert any("threshold must be > 0" in str(w.message) for w in caught)
assert fast.column("validation_accuracy")[-1] < 0.5

# %%
# It looks dead or half dead at the end, but the *first* epoch gives it away: thresholds that started at 1 are below 0
# after a few steps, and the engine says so. (``theta`` in the table is the *mean*; in lif1 it hides a smallest one of
# about -3.) A neuron whose threshold is not above 0 fires without input. Why then is lif2 silent? The weights ran away
# as well: what comes in is even more negative. **Cure:** a smaller rate; then, if thresholds still cross 0, a bound
# (``constraint=ms.thresholds.LowerBound(0.05)``, as in lesson 08).
#
# Exploding: a gradient that grows on its way back
# ------------------------------------------------
# For the last case look at one neuron with a long memory. Its gradient goes back in time by (equation (lif.12) of
# :doc:`/derivations/lif`)
#
# .. math:: e[t] = \psi\, d_{\text{spikes}}[t] + \mathit{decay}\,\bigl[(1 - s[t]) - u[t]\,\psi\bigr]\; e[t+1]
#
# Here :math:`e[t]` is the gradient of the input current at step :math:`t` (``d_x[t]`` in lesson 03), and :math:`\psi`
# the slope at :math:`u[t] - \theta`. Suppose the neuron fires at every step, with
# a membrane just above its threshold. Then :math:`s = 1`, :math:`u \approx \theta`, :math:`\psi \approx k/2`, and going
# back one step multiplies the gradient by
#
# .. math:: -\mathit{decay}\;\theta\; k/2
#
# Write down the number for ``decay = 0.95``, :math:`\theta = 3`, :math:`k = 1.5`, and what 59 steps back make of it. In
# a *detached* reset the term :math:`u\,\psi` is missing (lesson 05). What is the factor then?

theta, decay, k, steps = 3.0, 0.95, 1.5, 60
curve = ms.surrogates.atan(k)
factor = decay * theta * k / 2
current = np.full((steps, 1, 1), theta + 1e-4)
d_spikes = np.zeros((steps, 1, 1))
d_spikes[-1] = 1.0  # a loss on the last spike alone
sizes = {}
for name in ("hard", "hard_detached"):
    reset = ms.resets.RESETS[name]
    layer = ms.LIF(1, decay=decay, threshold=theta, reset=reset, surrogate=curve, dtype="float64")
    spikes, cache = layer.forward(current)
    assert spikes.all()
    sizes[name] = np.abs(layer.backward(d_spikes, cache)[0].ravel())

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
time = np.arange(1, steps + 1)
predicted = k / 2 * factor ** (steps - time)  # k / 2: the slope at the last spike
axes.semilogy(time, predicted, color=GREY, label=f"predicted: k/2 times {factor:.2f} to the number of steps back")
axes.semilogy(time, sizes["hard"], ".", color=ORANGE, label="hard reset")
axes.semilogy(time[-1:], sizes["hard_detached"][-1:], "o", color=BLUE, label="detached: 0 before the last step")
axes.set(xlabel="time step", ylabel="size of the current's gradient", title="A loss on the last spike")
axes.legend()
axes.grid(alpha=0.25)
plt.show()

measured = (sizes["hard"][0] / sizes["hard"][-1]) ** (1 / (steps - 1))
print(f"factor a step: {measured:.3f} measured, {factor:.3f} predicted; over {steps - 1} steps: {sizes['hard'][0]:.1e}")
assert abs(measured - factor) < 0.01 and sizes["hard"][0] > 1e15
assert (sizes["hard_detached"][:-1] == 0).all()

# %%
# In single precision numbers end at about :math:`3 \cdot 10^{38}`. With 200 steps the gradient is no longer a number.
# The engine looks at every gradient before the optimizer uses it, and stops *before* the parameters are spoilt. A small
# network in which each pixel that is on drives its own neuron just above the threshold:

on = (data[0][:64] > 0.5).astype(np.float32)


def driven(reset):
    return ms.Network(
        fc1=ms.Linear(64, 64, weight=np.eye(64) * (theta + 1e-4)),
        lif1=ms.LIF(64, decay=decay, threshold=theta, reset=reset, surrogate=curve),
        fc2=ms.Linear(64, 10, rng=np.random.default_rng(0)),
        out=ms.MembraneReadout(10),  # ten leaky neurons that never fire; the score is the last membrane
    )


def try_to_fit(net):
    optimizer = ms.SGD(net, ms.SL, lr=1e-3)
    steady = ms.encode.Constant(200)  # the pixels themselves, in each of 200 steps
    return ms.fit(net, optimizer, (on, data[1][:64]), epochs=1, encoder=steady, validation=0, progress=False)


net = driven(ms.resets.hard)
weights_before = net["fc1"].params["weight"].copy()
message = None
with np.errstate(over="ignore", invalid="ignore"):
    try:
        try_to_fit(net)
    except ms.TrainingStopped as error:
        message = str(error)
print(message)
assert message is not None and np.array_equal(net["fc1"].params["weight"], weights_before)

calm = try_to_fit(driven(ms.resets.hard_detached))
print(f"detached: loss {calm.column('train_loss')[0]:.3f}, a number")
assert np.isfinite(calm.column("train_loss")).all()

# %%
# **Cure**, in this order: is so long a time needed (fewer steps, or ``truncate=`` in ``ms.fit``, which cuts the way
# back)? A smaller decay, or a threshold for which :math:`\mathit{decay}\;\theta\,k/2 < 1`? A detached reset?
# ``clip_norm=`` in the optimizer shortens a gradient that is large, and helps nothing against one that is not a number.
# A detached reset is no repair of a mistake: both gradients are choices (lesson 05), and this is a reason to prefer
# one.
#
# The table as a program
# ----------------------
# Three of the four cases, and the healthy one. You can write down how you read them; then the assert holds you to it.


def diagnose(history):
    layers = [h for row in history.epochs for h in row["layers"].values()]
    last = list(history.epochs[-1]["layers"].values())
    if min(h["threshold_min"] for h in layers) <= 0:
        return "a threshold crossed 0: learning rate too high, or a bound is missing"
    if any(h["silent"] > 0.9 for h in last):
        return "dead: membranes far below the thresholds; lower these, or raise the weights"
    if any(h["always_firing"] > 0.9 for h in last):
        return "saturated: membranes far above the thresholds; smaller weights of both signs"
    return "nothing that this table shows"


cases = {"healthy": healthy, "threshold 8": dead, "positive x 20": saturated, "rate 1": fast}
found = {name: diagnose(history) for name, history in cases.items()}
for name, words in found.items():
    print(f"{name:14} {words}")
assert [words.split(":")[0] for words in found.values()] == [
    "nothing that this table shows", "dead", "saturated", "a threshold crossed 0",
]  # fmt: skip

# %%
# What you should take with you
# -----------------------------
# A loss of exactly 0.1 or 0.9 (ten classes, mean squared error) is silence or saturation, not a hard problem. Look at
# rates before you look at gradients, and at gradients before you turn the learning rate.
#
# Try this
# --------
# 1. ``make(threshold=3.0)``: dead, or only slow? Give it 20 epochs and watch which layer wakes up first. *(Which
#    layer's membranes are nearer to their thresholds?)*
# 2. Wake the dead network with a penalty on neurons that fire in less than 5 % of the steps:
#    ``penalties={"lif1": ms.losses.Silence(0.05, 10.0)}`` in ``ms.fit``. Look at ``history.column("silent", "lif1")``,
#    with the arctangent and with the triangle. Does the network learn already? *(A penalty's gradient goes through the
#    same slope. What about lif2?)*
# 3. In the exploding neuron, raise the current by 1. Why does the gradient no longer explode? *(Put the new*
#    :math:`u` *into* :math:`\psi`.*)*
