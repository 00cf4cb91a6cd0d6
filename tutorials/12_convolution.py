# SPDX-License-Identifier: MIT
# SPDX-FileComment: the text of this lesson is CC BY 4.0, its code MIT.
"""
12 Convolution: the published network
=====================================

What is inside the network that the authors of threshold learning published, and how does it learn when it is silent?

*You need*: lessons 07 (layers and weights), 08 (SL, TL, STL; ``ms.fit``) and 09 (dead networks).
*Reading time*: 45 minutes. *Running time*: under a minute.

Three layers are new: a convolution, a maximum of spikes, and a normalisation. None of them has a memory: each treats
every time step by itself, so backpropagation through time stays what it was. You write two of the three, then build
the network they were made for, see that it says nothing at all, and watch it wake up. (A fourth layer, *dropout*, takes
one sentence when its turn comes.)
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: matrices this small need one thread

import matplotlib.pyplot as plt
import numpy as np

import minisnn as ms

FAST = bool(os.environ.get("MINISNN_FAST"))
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"

train, validation = ms.data.digits("train", flat=False), ms.data.digits("validation", flat=False)
print(f"images are [n, channels, height, width]: {train[0].shape}")
assert train[0].shape == (1257, 1, 8, 8)

# %%
# A window that slides
# --------------------
# So far an image was a row of 64 numbers. A neuron of the first layer saw all pixels at once, and nothing told it which
# of them are neighbours. A *convolution* has a small window of weights, say 3 x 3. It is laid on every place of the
# image; at each place the weights and the pixels under them are multiplied and added up. With several *channels* (an
# image of colours has three, a layer may have any number) there is one window for each pair of output channel :math:`o`
# and input channel :math:`c`:
#
# .. math:: y_{o, i, j} = \sum_{c, p, q} W_{o c p q}\; x_{c,\; i + p,\; j + q}
#
# Here :math:`(i, j)` is the place in the output and :math:`(p, q)` the place in the window, both counted from 0. A
# border of zeros around the image (*padding*) keeps its size; :math:`x` in the formula has it already. In code the loop
# runs over the 9 places *in the window*, which are few. For each of them all places of the image are done at once.


def shifted(height, width, p, q):
    """The part of the padded image that lies under window place (p, q)."""
    return ..., slice(p, p + height), slice(q, q + width)


def conv_forward(x, W):
    """x [T, B, C, height, width], W [O, C, k, k] with k odd -> [T, B, O, height, width]."""
    k = W.shape[-1]
    padded = np.pad(x, [(0, 0)] * 3 + [(k // 2, k // 2)] * 2)
    y = 0
    for p, q in np.ndindex(k, k):
        y = y + np.einsum("oc,tbchw->tbohw", W[:, :, p, q], padded[shifted(*x.shape[-2:], p, q)])
    return y


# %%
# Is this a new kind of layer? Feed it images with a single bright pixel, one image for each of 64 pixels. The 64
# outputs are the rows of a matrix: the weights of a *linear* layer with the same result. Write down what you expect:
# how many of the 64 x 64 weights are not zero, and how many different numbers are among these?

rng = np.random.default_rng(0)
window = rng.normal(size=(1, 1, 3, 3))
matrix = conv_forward(np.eye(64).reshape(1, 64, 1, 8, 8), window).reshape(64, 64)

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
limit = np.abs(matrix).max()
picture = axes.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit)
axes.set(xlabel="output place", ylabel="input pixel", title="A 3 x 3 window as a matrix of 64 x 64 weights")
figure.colorbar(picture, label="weight")
plt.show()

used = matrix[matrix != 0]
print(f"{matrix.size} weights, {used.size} of them not zero, {np.unique(used).size} different numbers")
assert (used.size, np.unique(used).size) == (484, 9)
image = rng.normal(size=(2, 5, 1, 8, 8))
assert np.allclose(image.reshape(2, 5, 64) @ matrix, conv_forward(image, window).reshape(2, 5, 64))

# %%
# Nine numbers, of course. And 484? Along one axis each of 8 places sees 3 pixels, but the first and the last see one
# border zero: 3 x 8 - 2 = 22 pairs. Two axes: 22 x 22 = 484.
#
# So it is a linear layer with most weights zero and the others *shared*. That settles the gradient. You know it from
# lesson 07: the adjoint of sharing is a sum. Each weight collects what reaches it at every place, in every image, at
# every step. And a pixel collects from each window that covers it. With :math:`t` for the step, :math:`b` for the
# sample, and :math:`d` for the gradient of the loss with respect to a quantity, as before:
#
# .. math:: d_{W_{o c p q}} = \sum_{t, b, i, j} d_{y_{o, i, j}}\; x_{c,\; i + p,\; j + q}
#    \qquad d_{x_{c,\; i + p,\; j + q}} \mathrel{+}= \sum_o W_{o c p q}\; d_{y_{o, i, j}}
#
# These are (conv.2) and (conv.3) with (conv.4) of :doc:`/derivations/conv`. The code is the forward, line by line:
# where it read, the backward adds.


def conv_backward(d_y, x, W):
    """-> d_x, d_W, of the shapes of x and W."""
    k = W.shape[-1]
    height, width = x.shape[-2:]
    padded = np.pad(x, [(0, 0)] * 3 + [(k // 2, k // 2)] * 2)
    d_padded, d_W = np.zeros_like(padded), np.empty_like(W)
    for p, q in np.ndindex(k, k):
        part = shifted(height, width, p, q)
        d_W[:, :, p, q] = np.einsum("tbohw,tbchw->oc", d_y, padded[part])
        d_padded[part] += np.einsum("oc,tbohw->tbchw", W[:, :, p, q], d_y)
    return d_padded[shifted(height, width, k // 2, k // 2)], d_W  # what fell on the border is no input


x, W = rng.normal(size=(2, 3, 2, 6, 5)), rng.normal(size=(4, 2, 3, 3))
layer = ms.Conv2d(2, 4, 3, padding=1, weight=W, dtype="float64")
y, cache = layer.forward(x)
d_y = rng.normal(size=y.shape)
d_x, grads = layer.backward(d_y, cache)
yours = (conv_forward(x, W), *conv_backward(d_y, x, W))
errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(yours, (y, d_x, grads["weight"]), strict=True)]
print("your convolution against the engine's, relative error of y, d_x, d_W:", *(f"{e:.0e}" for e in errors))
assert max(errors) < 1e-12

# %%
# The largest of four spikes
# --------------------------
# After the neurons each 2 x 2 window of spikes becomes one value, its largest (*max pooling*). Spikes are 0 or 1, so
# this is a logical *or*: "somewhere here a neuron fired". Four values in, one out, and the next layer has less to do.
#
# Its gradient looks easy: the value at the maximum gets everything, the others get nothing. But which one is the
# maximum of 0, 0, 0, 0? Write down what a central difference with :math:`h = 0.1` will say for each of the four, and
# what the four should add up to. (If all four rise by :math:`h`, so does the maximum.)

silent_window = np.zeros(4)
central = [(max(silent_window + 0.1 * e) - max(silent_window - 0.1 * e)) / 0.2 for e in np.eye(4)]
together = (max(silent_window + 0.1) - max(silent_window - 0.1)) / 0.2
print(f"one by one: {np.round(central, 3)}, sum {sum(central):.2f}; all four together: {together:.2f}")
assert np.allclose(central, 0.5) and np.isclose(together, 1)

# %%
# The naive try fails: each gets a half, and four halves are not 1. A raise counts and a fall does not, so at a *tie*
# there is no derivative. Somebody has to choose, as with the surrogate. The published network takes the first of the
# equal ones, row by row: in a silent window the upper left neuron. The engine does the same (:doc:`/derivations/pool`).

pool = ms.MaxPool2d(2)
for name, spikes in {"silent": [[0, 0], [0, 0]], "one spike": [[0, 0], [1, 0]], "two": [[0, 1], [1, 0]]}.items():
    y, cache = pool.forward(np.array(spikes, np.uint8).reshape(1, 1, 1, 2, 2))
    d_x, _ = pool.backward(np.ones((1, 1, 1, 1, 1), np.float32), cache)
    print(f"{name:9} {spikes}: maximum {y.item()}, its gradient goes to {d_x.astype(int).reshape(2, 2).tolist()}")
    assert d_x.sum() == 1 and (name != "silent" or d_x[0, 0, 0, 0, 0] == 1)

# %%
# Read the three lines once more. An upper left neuron hears from the pooling in every silent window: whether a spike
# there would have helped or harmed (the gradient has either sign). A neuron at one of the other three places hears from
# the pooling *only at steps at which it fires*. You will find this choice again in the thresholds.
#
# Normalisation, step by step
# ---------------------------
# Between the convolution and its neurons each channel is brought to mean 0 and variance 1 (*batch normalisation*). Mean
# :math:`\mu` and variance :math:`\sigma^2` are taken over the :math:`n` values that a channel has **at one time step**:
# all images of the batch, all places. Each step has statistics of its own. That is the published network's way; others
# take all steps together.
#
# .. math:: \hat{x}_m = \frac{x_m - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad y_m = \gamma\, \hat{x}_m + \beta
#
# :math:`m` counts the values, :math:`\epsilon = 10^{-5}` avoids a division by 0, and :math:`\gamma` (1 at first) and
# :math:`\beta` (0 at first) learn, one of each for a channel. Leave them out for now. (After training a network has to
# work on a single image. Then the layer takes running averages of :math:`\mu` and :math:`\sigma^2`, collected in
# training, as constants.)

OVER = (1, 3, 4)  # batch, height, width of [T, B, C, H, W]: not time


def norm_forward(x, epsilon=1e-5):
    """-> x_hat of the shape of x, and iota = 1 / sqrt(variance + epsilon), one for each step and channel."""
    centred = x - x.mean(OVER, keepdims=True)
    iota = 1 / np.sqrt((centred**2).mean(OVER, keepdims=True) + epsilon)
    return iota * centred, iota


# %%
# The naive gradient: :math:`\hat{x}` is :math:`x`, less something, times :math:`\iota = 1/\sqrt{\sigma^2 + \epsilon}`.
# So hand the gradient back times :math:`\iota`. Nothing here is a jump, and a difference quotient is a fair judge. As
# loss take the sum of :math:`\hat{x}` times random numbers, ``d_hat``: these are then its gradient with respect to
# :math:`\hat{x}`. The quotient is taken along a random direction.

x, direction, d_hat = rng.normal(1, 2, (3, 3, 4, 2, 5, 5))
x_hat, iota = norm_forward(x)
h = 1e-5
difference = ((norm_forward(x + h * direction)[0] - norm_forward(x - h * direction)[0]) * d_hat).sum() / (2 * h)
naive = (iota * d_hat * direction).sum()
print(f"difference quotient {difference:.6f}, naive {naive:.6f}")
assert abs(naive - difference) > 0.01 * abs(difference)

# %%
# Every value also moves the mean and the variance, and with them all the others. Two more terms (derived in
# :doc:`/derivations/norm`; a bar is a mean over the same :math:`n` values):
#
# .. math:: d_{x_m} = \iota \left( d_{\hat{x}_m} - \overline{d_{\hat{x}}} - \hat{x}_m\, \overline{d_{\hat{x}}\, \hat{x}}
#    \right)


def norm_backward(d_hat, x_hat, iota):
    through_mean = d_hat.mean(OVER, keepdims=True)
    through_variance = x_hat * (d_hat * x_hat).mean(OVER, keepdims=True)
    return iota * (d_hat - through_mean - through_variance)


d_x = norm_backward(d_hat, x_hat, iota)
engine = ms.BatchNorm2d(2, dtype="float64")
d_engine, _ = engine.backward(d_hat, engine.forward(x, train=True)[1])
print(f"difference quotient {difference:.6f}, yours {(d_x * direction).sum():.6f}")
print(f"in each step and channel d_x adds up to 0: largest sum {np.abs(d_x.sum(OVER)).max():.0e}")
assert abs((d_x * direction).sum() - difference) < 1e-6 * abs(difference)
assert np.allclose(d_x, d_engine, rtol=1e-10) and np.abs(d_x.sum(OVER)).max() < 1e-10

# %%
# Two things follow. The sum is 0, so a bias before the normalisation would get no gradient: these convolutions have
# none. And, seen in the forward, the size of the weights is divided out. Multiply all weights by 8: how many spikes of
# the neurons behind the normalisation change? (Lesson 06: without it, this is the same as thresholds of an eighth.)

spikes_in = ms.encode.Bernoulli(4)(train[0][:50], np.random.default_rng(0))
fired = []
for factor in (1, 8):
    front = ms.Network(
        conv=ms.Conv2d(1, 8, 5, padding=2, rng=np.random.default_rng(0)), norm=ms.BatchNorm2d(8), lif=ms.LIF((8, 8, 8))
    )
    front.params("conv.weight")["conv.weight"][...] *= factor
    fired.append(front.forward(spikes_in, train=True)[0])
changed = (fired[0] != fired[1]).mean()
print(f"rate {fired[0].mean():.1%}; weights times 8: {changed:.3%} of the spikes are others")
assert changed < 1e-3 and 0.05 < fired[0].mean() < 0.4

# %%
# Almost none (those few come from :math:`\epsilon`: with ``eps=64e-5`` beside the larger weights it is exactly none).
# Behind a normalisation, as long as :math:`\gamma` is 1 and :math:`\beta` is 0, a threshold is measured in standard
# deviations of the current. How large the weights are says nothing about how rare spikes are.
#
# The published network
# ---------------------
# H. Sun, W. Cai and others published a program for MNIST (handwritten digits, 28 x 28) with their paper. It has two
# blocks of convolution, normalisation, neurons and pooling, then two layers as you know them, with *dropout* before
# each: in training every input is set to 0 with probability 1/2, drawn anew at each step, and the others are doubled.
# The last layer has 100 neurons, and ten vote for each digit (lesson 08).
# All neurons are those of lesson 05 with decay 0.5, hard reset, reset kept in the gradient. **Every neuron has its own
# threshold**, at each place of each channel.
#
# Write down what you expect: what share of all parameters are thresholds?

net = ms.models.stl_mnist()
sizes = {name: array.size for name, array in net.params(ms.STL).items()}
for name, size in sizes.items():
    print(f"{name:16} {size:>10,}  {list(net.params(ms.STL)[name].shape)}")
thresholds = sum(size for name, size in sizes.items() if name.endswith("threshold"))
print(f"{sum(sizes.values()):,} parameters, {thresholds:,} of them thresholds: {thresholds / sum(sizes.values()):.2%}")
assert sum(sizes.values()) == 13_590_756 and thresholds == 127_588
assert thresholds == 128 * 28 * 28 + 128 * 14 * 14 + 2048 + 100
assert sizes["fc1.weight"] == 128 * 7 * 7 * 2048 == 12_845_056

# %%
# Not quite one in a hundred. Nearly all parameters are weights of one matrix, ``fc1``. Nearly all *thresholds* are in
# the convolutions: sharing saves weights, and thresholds are not shared. (``print(net)`` counts 127,588 more. Every
# neuron of the engine has a decay as well. STL does not hand it to the optimizer, so it stays at 0.5.)
#
# Silence
# -------
# The thresholds start at 2.0, with noise of standard deviation 0.0001. MNIST is not part of this package, so take the
# bundled digits, each pixel three times as large, with a border: 28 x 28. Write down what you expect for the rate of
# each of the four layers of neurons, and for the loss.

large = np.pad(train[0][: 2 if FAST else 8].repeat(3, axis=2).repeat(3, axis=3), [(0, 0)] * 2 + [(2, 2)] * 2)
labels = train[1][: len(large)]
rng = np.random.default_rng(0)
x = ms.encode.Bernoulli(4)(large, rng)
scores, caches = net.forward(x, train=True, rng=rng)
loss, d_scores = ms.losses.mse(scores, labels)
for name in ("lif1", "lif2", "lif3", "lif4"):
    cache = caches[name]
    print(f"{name}: rate {cache.spikes.mean():7.3%}, largest membrane {cache.u.max():5.2f}, threshold 2.00")
print(f"loss {loss:.7f}")
assert not caches["lif4"].spikes.any() and caches["lif3"].spikes.mean() < 1e-3
assert all(0.02 < caches[name].spikes.mean() < 0.1 for name in ("lif1", "lif2"))
assert abs(loss - 0.1) < 1e-7

# %%
# The convolutions fire at a few per cent. That is the normalisation: two standard deviations are rare, and not very
# rare. The last two layers are silent, and no normalisation stands before these. How large are their currents? You can
# predict it. A weight of ``fc1`` is drawn evenly between :math:`-1/\sqrt{n}` and :math:`1/\sqrt{n}`, with :math:`n`
# = 128 x 7 x 7 = 6272 inputs, so its mean is 0 and its variance :math:`1/(3n)`. An input is 2 (dropout doubles it) with
# probability :math:`p/2`, where :math:`p` is the rate after the pooling, and else 0: its mean square is :math:`2p`. The
# current is a sum of :math:`n` products with weights drawn independently: variances add up, and its own is
#
# .. math:: n \cdot \frac{1}{3n} \cdot 2p = \frac{2p}{3}
#
# however wide the layer is. At the first step the membrane is the current.

p = ms.MaxPool2d(2).forward(caches["lif2"].spikes[:1])[0].mean()
predicted, measured = np.sqrt(2 * p / 3), caches["lif3"].u[0].std()
print(f"p = {p:.3f}: current of lif3 predicted {predicted:.3f}, measured {measured:.3f} (standard deviation)")
print(f"the threshold is {2 / measured:.1f} standard deviations away; "
      f"at the last step, of the membrane: {2 / caches['lif3'].u[-1].std():.1f}")  # fmt: skip
assert abs(predicted / measured - 1) < 0.1 and 2 / measured > 4

# %%
# Later steps add to what the membrane has kept, and the threshold comes nearer, but stays out of reach for nearly all.
#
# And if ``lif3`` says nothing, the current of ``lif4`` is 0. All ten scores are 0, the target is one 1 and nine 0, and
# the mean of ten squares is **exactly 0.1**, whatever the image: the number of lesson 09. A single spike in ``lif3``
# would not change it. How many would have to fire at the same step, if each had the largest weight there can be?

largest = 2 / np.sqrt(2048)  # a weight's largest size, doubled by dropout
print(f"at most {largest:.3f} a spike: at least {int(np.ceil(2 / largest))} of 2,048 neurons at once")
assert 2 * np.abs(net["fc2"].weight).max() <= largest * (1 + 1e-6) and int(np.ceil(2 / largest)) == 46

# %%
# The gradient of a silent network
# --------------------------------
# The loss is the same for every image. What is left to go back? The surrogate's slope, far out:
#
# .. math:: \psi(u - \theta) = \frac{k/2}{1 + (\pi k (u - \theta) / 2)^2}, \qquad k = 2,\; u = 0,\; \theta = 2:
#    \quad \psi = \frac{1}{1 + 4 \pi^2}
#
# A fortieth of its peak, and not 0: the arctangent has *tails*. This is a choice. A surrogate without tails, such as
# the triangle, which ends at a distance of 1, would look just as sensible. Write down what you expect of it here.

tail = ms.surrogates.atan_slope(-2.0, 2.0)
print(f"slope at a silent output neuron: atan {tail:.4f}, triangle {ms.surrogates.triangle(1.0).slope(-2.0, 1.0):.4f}")
assert abs(tail - 1 / (1 + 4 * np.pi**2)) < 1e-12 and abs(ms.surrogates.atan_slope(0.0, 2.0) / tail - 40) < 1

_, grads = net.backward(d_scores, caches, wrt=ms.STL, input_grad=False)
for name, d in grads.items():
    print(f"{name:16} largest gradient {np.abs(d).max():.0e}   > 0: {(d > 0).mean():6.1%}   < 0: {(d < 0).mean():6.1%}")
assert (grads["lif4.threshold"] >= 0).all() and (grads["lif4.threshold"] > 0).any()
assert grads["conv1.weight"].any() and np.abs(grads["fc2.weight"]).max() < 1e-3

# %%
# Two lines tell the story. ``fc2.weight`` gets (almost) nothing: a weight learns from the spikes that come in, and none
# come in. ``lif4.threshold`` has **no negative gradient at all**. For the nine wrong digits the score 0 is right, and
# their neurons hear nothing. For the right digit it is too small. So an output neuron either hears "fire more" or hears
# nothing. (Exactly 0 are the neurons whose digit is not in this batch, which is small.) The network cannot learn digits
# yet. First it learns to speak.
#
# Waking up
# ---------
# A small version: 8 channels in place of 128, images of 8 x 8. You train it step by step with the published optimizer:
# Adam, rate 0.001, with a very small pull of all parameters towards 0 (1e-6 times the parameter is added to its
# gradient). Adam divides a gradient by its own size, so that even a tiny one moves a parameter by about the rate. (What
# does that make of a *very small* pull, where the gradient is 0? Look at the thresholds under the triangle.) The
# triangle first, then the arctangent, with each of the three rules. Write down what you expect: what does the waking,
# falling thresholds or weights?

ENCODER = ms.encode.Bernoulli(4)
LR, STEPS = (3e-3, 32) if FAST else (1e-3, 100)


def wake(rule, steps=STEPS, **options):
    """Loss, rate of lif4, largest membrane of lif3 and mean threshold of lif4, at each step."""
    rng = np.random.default_rng(0)
    net = ms.models.stl_mnist(8, shape=(1, 8, 8), **options)
    optimizer = ms.models.stl_mnist_optimizer(net, rule, lr=LR)
    rows = []
    for _ in range(steps):
        pick = rng.choice(len(train[0]), 50, replace=False)
        scores, caches = net.forward(ENCODER(train[0][pick], rng), train=True, rng=rng)
        loss, d_scores = ms.losses.mse(scores, train[1][pick])
        rows.append((loss, caches["lif4"].spikes.mean(), caches["lif3"].u.max(), net["lif4"].threshold.mean()))
        grads = net.backward(d_scores, caches, wrt=rule, input_grad=False)[1]
        optimizer.step(grads)
        net.commit(caches)  # the running mean and variance, for use after training
    return np.array(rows), grads


stuck, grads = wake(ms.STL, 10, surrogate=ms.surrogates.triangle(1.0))
not_zero = sum(int(d.any()) for d in grads.values())
pulled = (2 - stuck[-1, 3]) / 9 / LR  # nine updates before the last row
print(f"triangle: loss {stuck[-1, 0]:.4f}; gradients not zero: {not_zero} of {len(grads)}")
print(f"and yet the thresholds of lif4 fall by {pulled:.2f} times the rate, each step")
assert 0.9 < pulled < 1.05
assert np.allclose(stuck[:, 0], 0.1) and not any(d.any() for d in grads.values())

woken = {rule: wake(getattr(ms, rule))[0] for rule in ("STL", "SL", "TL")}
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
titles = ("Loss", "Output spikes (rate of lif4, %)", "Largest membrane of lif3")
for (rule, rows), color in zip(woken.items(), (ORANGE, BLUE, GREEN), strict=True):
    for panel, column, factor in zip(axes, (0, 1, 2), (1, 100, 1), strict=True):
        panel.plot(1 + np.arange(STEPS), factor * rows[:, column], color=color, label=rule)
for panel, title in zip(axes, titles, strict=True):
    panel.set(xlabel="step", title=title)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
axes[2].axhline(2, color=GREY, linestyle=":", label="threshold at first")
axes[0].legend(loc="lower left")
axes[2].legend(handles=axes[2].lines[-1:], loc="upper left")
plt.show()

for rule, rows in woken.items():
    first = np.argmax(rows[:, 1] > 0) + 1 if rows[:, 1].any() else None
    print(f"{rule:3} first output spike at step {first or '-'}; mean threshold of lif4 at the end {rows[-1, 3]:.3f}")
fall = (2 - woken["STL"][10, 3]) / 10
print(f"STL: in the first ten steps these thresholds fall by {fall / LR:.2f} times the rate, each step")
assert woken["STL"][-1, 1] > 0.01 and woken["SL"][-1, 1] > 0.01 and not woken["TL"][:, 1].any()
assert (woken["STL"][:10, 0] == woken["STL"][0, 0]).all() and 0.8 < fall / LR < 1.1
assert abs(np.argmax(woken["STL"][:, 1] > 0) - np.argmax(woken["SL"][:, 1] > 0)) <= 10
assert woken["STL"][:, 0].max() > 0.1005, "the loss rises first"

# %%
# With the triangle not one gradient is different from 0. (In this small version single neurons of ``lif3`` do fire at
# times, too few to wake ``lif4``.) The thresholds fall all the same: where the gradient is 0 the pull is alone, Adam
# divides it by its own size, and it moves them by the full rate. It pulls the weights as well, towards 0. So this is no
# way out: in a run of 600 steps, made beside this lesson, the triangle stayed silent, and at the end the membranes of
# ``lif3`` were 0.
#
# With the tails the network wakes up, and the loss *rises* for a moment. The first spikes hardly depend on the digit. A
# score :math:`s` that a digit gets whatever the image changes the loss by :math:`(s^2 - 0.2\, s)/10` on average (it is
# right for one image in ten): above 0.2 it harms. Then the network can begin to tell them apart.
#
# What wakes it? Thresholds alone (TL) do not, in this time: they fall by about one rate a step, and :math:`2 - 0.1` is
# still far from a current of 0. Weights alone (SL) do: a current is a sum over many inputs, the small steps of all
# their weights add up in it, and the membranes of ``lif3`` climb (right). STL speaks at about the same step as SL. So
# in this small version, with this seed, it is not the thresholds that end the silence. Nor is it the pull: without it
# (``ms.Adam(net, rule, lr=LR)``, try it) STL and SL speak a little earlier, and TL does not in 100 steps.
#
# What the thresholds do
# ----------------------
# Now a start that is not silent, threshold 1.0, and a network small enough for several runs: ``ms.models.conv_net``
# makes others of the kind. (No constraint holds the thresholds, as in the published code.) Remember the choice at ties:
# the first neuron of a silent window gets the gradient. Does it leave a trace? To know, you need a *control*: the same
# pooling, in which the **last** of equal values counts. Turn the image round, pool, turn it back. The forward is the
# same to the last bit.


class LastMaxPool2d(ms.MaxPool2d):
    """The same maximum; of equal values the last has the gradient."""

    def forward(self, x, **options):
        y, cache = super().forward(x[..., ::-1, ::-1], **options)
        return y[..., ::-1, ::-1], cache

    def backward(self, d_y, cache, **options):
        d_x, grads = super().backward(d_y[..., ::-1, ::-1], cache, **options)
        return d_x[..., ::-1, ::-1], grads


def run(pool, seed):
    net = ms.models.conv_net(
        (1, 8, 8), (8, 8), (256,), 10, rng=np.random.default_rng(seed), threshold=1.0, spread=1e-4
    )  # fmt: skip
    net = ms.Network(**{**net.layers, "pool1": pool(2), "pool2": pool(2)})
    optimizer = ms.models.stl_mnist_optimizer(net, lr=6e-3 if FAST else 3e-3)
    history = ms.fit(
        net, optimizer, train, epochs=3 if FAST else 10, batch=50, encoder=ENCODER, seed=seed,
        validation=validation, progress=False,
    )  # fmt: skip
    return net, history


some = (np.random.default_rng(0).random((2, 3, 4, 8, 8)) < 0.2).astype(np.uint8)
assert np.array_equal(ms.MaxPool2d(2).forward(some)[0], LastMaxPool2d(2).forward(some)[0]), "the same forward"

# %%
# Write down what you expect: for which of the four places in a window of ``lif2`` will the mean threshold differ from
# the others? Up or down? (Who hears of silence?)

seeds = range(2)
POOLS = {"first": ms.MaxPool2d, "last": LastMaxPool2d}
runs = {name: [run(pool, seed) for seed in seeds] for name, pool in POOLS.items()}
print(runs["first"][0][1])

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
maps = {name: np.mean([net["lif2"].threshold.mean(axis=0) for net, _ in pairs], axis=0) for name, pairs in runs.items()}
low, high = min(m.min() for m in maps.values()), max(m.max() for m in maps.values())
for panel, (name, values) in zip(axes, maps.items(), strict=True):
    picture = panel.imshow(values, cmap="cividis", vmin=low, vmax=high)
    panel.set(title=f"At a tie the {name} gets the gradient", xticks=range(4), yticks=range(4))
    for edge in (-0.5, 1.5, 3.5):  # the windows of the pooling
        panel.axhline(edge, color="white", linewidth=3)
        panel.axvline(edge, color="white", linewidth=3)
figure.colorbar(picture, ax=axes, label="threshold of lif2, mean over channels")
plt.show()

lower_right_above = {name: [] for name in runs}
for name, pairs in runs.items():
    for seed, (net, history) in zip(seeds, pairs, strict=True):
        theta = net["lif2"].threshold.astype(float)
        by_place = np.array([[theta[:, i::2, j::2].mean() for j in (0, 1)] for i in (0, 1)])
        accuracy = history.column("validation_accuracy")[-1]
        shown = by_place.round(3).tolist()
        print(f"tie to the {name:5} seed {seed}: thresholds by place {shown}, validation {accuracy:.1%}")
        lower_right_above[name].append(by_place[1, 1] - by_place[0, 0])
        assert FAST or by_place.argmin() == (0 if name == "first" else 3)
        assert FAST or by_place.min() < np.sort(by_place.ravel())[1] - 0.05
        assert accuracy > (0.5 if FAST else 0.8)
for name, values in lower_right_above.items():
    print(f"tie to the {name:5} lower right minus upper left, mean over seeds: {np.mean(values):+.3f}")
assert np.mean(lower_right_above["first"]) - np.mean(lower_right_above["last"]) > (0.04 if FAST else 0.2)

# %%
# The neuron that hears of silence ends with the lower threshold. Give the ties to the last neuron, and the low
# threshold moves to the lower right. That is a cause and not a guess, since nothing else was changed (two seeds, on
# average over a layer: single windows differ, as the map shows).
#
# *Why* low and not high? "It was told to fire" comes to mind. It is not the whole story. In two runs beside this lesson
# the threshold gradient of ``lif2`` was split by windows. In silent ones the upper left was first told to *raise* its
# threshold, and only later to lower it. In windows with a spike it was told to lower it, while the three others were
# told to raise theirs (all on average). So the direction is observed here, and not explained.
#
# So the thresholds that you see after training are not only what the task asks for. Part of it is a convention about
# ties. A histogram alone would not have told you.

net, _ = runs["first"][0]
before = {name: np.ones_like(theta) for name, theta in net.params("*.threshold").items()}
ms.plot.thresholds({n: before[n] for n in ("lif1.threshold", "lif2.threshold")},
                   {n: net.params()[n] for n in ("lif1.threshold", "lif2.threshold")})  # fmt: skip
plt.show()
for name, theta in net.params("*.threshold").items():
    print(f"{name}: from {theta.min():.2f} to {theta.max():.2f}, mean {theta.mean():.2f}, spread {theta.std():.3f}")
    assert theta.min() > 0
spread = {name: net[name].threshold.std() for name in ("lif1", "lif4")}
assert spread["lif1"] > 2 * spread["lif4"]

# %%
# All started within 0.001 of 1. They spread out more in the convolutions than in the last layer. An explanation which
# fits: places of a channel share their weights, so the threshold is the only thing in which one place can differ from
# another. In ``fc2`` each neuron has weights of its own, and its threshold is one gain among many numbers (lesson 06).
#
# What is known, and what is not
# ------------------------------
# **Known**: the authors' published program for MNIST. Layers, sizes, coding, neuron, surrogate, starting values and
# optimizer of ``ms.models.stl_mnist`` are taken from it. The tests of this engine compare a small version with numbers
# from a run of that program: all spikes equal, all gradients to rounding. Known too is the paper's abstract, which says
# that learning both is better than learning one of the two. The program changed after its first release, in which the
# normalisation was prepared and never called; the engine follows its last state.
#
# **Not known** to those who wrote this lesson: the paper's full text. So its tables, its tests with noise, its energy
# numbers, its "joint decision framework", its networks for other data; which state of the program gave its results; and
# whether :math:`\gamma` and :math:`\beta` learn under TL (here they do not: TL is thresholds alone). None of it is
# reproduced or claimed here.
#
# **Not shown** by this lesson: that STL is better than SL (lesson 08 tells what that would take), or that what you saw
# on images of 8 x 8 and 8 channels holds for 28 x 28 and 128.
#
# What you should take with you
# -----------------------------
# A convolution is a linear layer that shares, and the adjoint of sharing is a sum. A tie is a choice, and it leaves
# traces. A loss of exactly 0.1 is a sign of silence; what ended it here are the tails of a curve that you chose.
#
# Try this
# --------
# 1. ``ms.AvgPool2d(2)`` in place of both poolings: who hears of silence now? Predict the map of ``lif2``, then look.
#    *(Equation (pool.4).)*
# 2. In ``wake``, ``threshold=1.0``. When does each rule speak for the first time? Do thresholds alone manage it now?
#    *(How many standard deviations away is the threshold of* ``lif3`` *?)*
# 3. Set ``k`` of the arctangent to 8 in ``wake``. Compute the slope at the silent output neuron first: which power of
#    :math:`k` does it follow, far out? Does Adam care? Does ``ms.SGD``?
