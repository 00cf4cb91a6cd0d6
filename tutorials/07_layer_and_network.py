# SPDX-License-Identifier: MIT
# SPDX-FileComment: the text of this lesson is CC BY 4.0, its code MIT.
"""
07 From one neuron to a layer to a network
==========================================

How does the gradient of one neuron become the training of a whole network?

*You need*: lessons 03 (backpropagation through time), 04 (how to check it) and 05 (the reset in the gradient).
*Reading time*: 45 minutes. *Running time*: under 20 seconds.

Nothing new has to be derived for the neuron. Three things are added: an axis for many neurons, an axis for many samples
that are run at once (a *batch*), and weights between layers. In about 60 lines of NumPy you have a network that learns.
The engine is not imported until the last cell; there it has to agree with *you*.
"""

import os
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("MINISNN_FAST"))
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"

# %%
# A task that one layer cannot do
# -------------------------------
# Images of 8 x 8 pixels show a line: level, upright, falling or rising. It may lie anywhere; what leaves the image on
# one side comes in on the other. Half of the images are negatives: a white line on black. There is noise. The network
# is to name the kind of line.
#
# The network sees spikes: a pixel of darkness :math:`p` (0 white, 1 black) fires with probability :math:`p` at each of
# :math:`T = 6` time steps, drawn anew each time (*rate coding*).

T, KINDS = 6, ("level", "upright", "falling", "rising")


def lines(n, rng):
    """n images [n, 64] with values in [0, 1], and their kinds [n]."""
    kinds, offset, i = rng.integers(0, 4, n), rng.integers(0, 8, n)[:, None], np.arange(8)
    level, running = offset + 0 * i, 0 * offset + i  # [n, 8]: eight times the same row; row 0, 1, ... 7
    row = np.choose(kinds[:, None], [level, running, running, running])
    column = np.choose(kinds[:, None], [running, level, running + offset, offset - running])
    images = np.full((n, 8, 8), 0.05)
    images[np.arange(n)[:, None], row % 8, column % 8] = 0.9
    negative = rng.integers(0, 2, n) == 1
    images[negative] = 1 - images[negative]
    return np.clip(images + rng.normal(0, 0.05, images.shape), 0, 1).reshape(n, 64), kinds


def encode(images, rng):
    """[B, 64] -> spikes [T, B, 64]."""
    return (rng.random((T, *images.shape)) < images).astype(float)


rng = np.random.default_rng(0)
images, kinds = lines(800 if FAST else 2000, rng)
new_images, new_kinds = lines(400, rng)

figure, axes = plt.subplots(1, 4, figsize=(8, 2.3), layout="constrained")
for kind, panel in enumerate(axes):
    panel.imshow(images[np.argmax(kinds == kind)].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    panel.set(title=KINDS[kind], xticks=[], yticks=[])
plt.show()

# %%
# A layer is a neuron with two more axes
# --------------------------------------
# Every array gets the axes ``[T, B, N]``: time first, then the sample of the batch, then the neuron of the layer. The
# loop over time stays a loop, because step :math:`t` needs step :math:`t - 1`. Samples and neurons do not need each
# other: NumPy does them all at once. Compare with lesson 03; only the shapes and one ``sum`` are new.
#
# The sum: each neuron has *one* threshold, which acts in every sample. In a chain rule a value that is used in many
# places collects the gradient of each place. So :math:`d_\theta` is summed over time **and** over the batch. (The
# adjoint of sharing is a sum. You will see this sentence again in a moment.)


def psi(z, k=2.0):
    """Slope of the surrogate: a choice, put where the jump has no useful derivative."""
    return 0.5 * k / (1 + (0.5 * np.pi * k * z) ** 2)


def step(z):
    """A spike where z = u - theta is not negative."""
    return (z >= 0).astype(float)


def lif_forward(x, theta, decay=0.5, fire=step):
    """Currents x [T, B, N], theta [N] -> spikes, u, both [T, B, N]."""
    v, spikes, u = np.zeros(x.shape[1:]), np.empty_like(x), np.empty_like(x)
    for t in range(len(x)):
        u[t] = decay * v + x[t]
        spikes[t] = fire(u[t] - theta)
        v = u[t] - spikes[t] * u[t]
    return spikes, u


def lif_backward(d_spikes, spikes, u, theta, decay=0.5):
    """Gradient of the spikes [T, B, N] -> gradients of x [T, B, N] and theta [N]."""
    d_x, d_v, d_theta = np.empty_like(u), np.zeros(u.shape[1:]), np.zeros_like(theta)
    for t in reversed(range(len(u))):
        g = (d_spikes[t] - u[t] * d_v) * psi(u[t] - theta)
        d_x[t] = d_v - spikes[t] * d_v + g
        d_theta -= g.sum(axis=0)
        d_v = decay * d_x[t]
    return d_x, d_theta


# %%
# Weights
# -------
# Synapses are a matrix :math:`W` of shape ``[I, N]``: the weight from input :math:`i` to neuron :math:`n`. With
# :math:`\text{in}` for the spikes that come in, the input current is
#
# .. math:: x[t, b, n] = \sum_i \text{in}[t, b, i]\; W[i, n]
#
# Every factor hands its share back. The weight is used at each step and in each sample, so its gradient is a sum over
# both; an input spike is used by each neuron, so its gradient is a sum over neurons:
#
# .. math::
#    d_W[i, n] = \sum_{t, b} \text{in}[t, b, i]\; d_x[t, b, n] \qquad
#    d_{\text{in}}[t, b, i] = \sum_n d_x[t, b, n]\; W[i, n]
#
# ``np.einsum`` writes this letter by letter. As matrix products it is faster: join time and batch to one axis.


def weights_backward(d_x, inputs, w):
    rows_in, rows_d = inputs.reshape(-1, w.shape[0]), d_x.reshape(-1, w.shape[1])
    return rows_in.T @ rows_d, d_x @ w.T  # d_W, d_in


some_in, some_d, some_w = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4, 2)), rng.normal(size=(3, 2))
d_w, d_in = weights_backward(some_d, some_in, some_w)
assert np.allclose(d_w, np.einsum("tbi,tbn->in", some_in, some_d), rtol=0, atol=1e-12)
assert np.allclose(d_in, np.einsum("tbn,in->tbi", some_d, some_w), rtol=0, atol=1e-12)

# %%
# Network, loss
# -------------
# Layers follow each other: spikes of one are the input of the next. Backward, the list is walked in the other
# direction. The last layer has one neuron for each kind of line; its *firing rate*, the mean of its spikes over time,
# is the score :math:`r`. The loss is the mean squared error to :math:`y`, which is 1 for the right kind and 0 for the
# others:
#
# .. math:: L = \frac{1}{B\,C} \sum_{b, c} (r[b, c] - y[b, c])^2, \qquad r = \frac{1}{T} \sum_t s[t], \qquad
#    d_r = \frac{2\,(r - y)}{B\,C}, \qquad d_{\text{spikes}}[t] = \frac{d_r}{T}
#
# where :math:`C = 4` is the number of kinds and :math:`B` the number of samples in the batch. The division by the batch
# size stands in the loss, so nothing divides again later.


def make_net(sizes, rng):
    """A list of layers, each a dict of its weights and thresholds."""
    return [
        {"w": rng.normal(0, 1.0 / np.sqrt(n_in), (n_in, n_out)), "theta": np.full(n_out, 0.5)}
        for n_in, n_out in pairwise(sizes)
    ]


def forward(net, inputs, fire=step):
    """Input spikes [T, B, I] -> rates [B, C], and what the way back needs."""
    caches = []
    for layer in net:
        spikes, u = lif_forward(inputs @ layer["w"], layer["theta"], fire=fire)
        caches.append((inputs, spikes, u))
        inputs = spikes
    return inputs.mean(axis=0), caches


def mse(rates, kinds):
    difference = rates - np.eye(rates.shape[1])[kinds]
    return (difference**2).mean(), 2 * difference / difference.size


def backward(net, d_rates, caches):
    """Gradients, in the shape of the net."""
    grads = []
    d_spikes = np.broadcast_to(d_rates / T, caches[-1][1].shape)
    for layer, (inputs, spikes, u) in zip(reversed(net), reversed(caches), strict=True):
        d_x, d_theta = lif_backward(d_spikes, spikes, u, layer["theta"])
        d_w, d_spikes = weights_backward(d_x, inputs, layer["w"])
        grads.insert(0, {"w": d_w, "theta": d_theta})
    return grads


# %%
# Is it right?
# ------------
# Lesson 04 once more. In the *smooth twin* the jump is replaced by the smooth curve whose slope is :math:`\psi`;
# there the same backward code is an ordinary derivative. All parameters move together along a random direction. Value
# to expect: a difference below 1e-7, relative to the lengths of gradient and direction (the difference quotient limits
# it, not you).


def smooth(z, k=2.0):
    return 0.5 + np.arctan(0.5 * np.pi * k * z) / np.pi


net = make_net((64, 20, 4), rng)
x = encode(images[:10], rng)
rates, caches = forward(net, x, fire=smooth)
grads = backward(net, mse(rates, kinds[:10])[1], caches)
direction = [{name: rng.normal(size=p.shape) for name, p in layer.items()} for layer in net]


def shifted_loss(h):
    moved = [{n: p + h * d[n] for n, p in layer.items()} for layer, d in zip(net, direction, strict=True)]
    return mse(forward(moved, x, fire=smooth)[0], kinds[:10])[0]


scale = np.sqrt(sum((g[n] ** 2).sum() for g in grads for n in g) * sum((d[n] ** 2).sum() for d in direction for n in d))
numeric = (shifted_loss(1e-5) - shifted_loss(-1e-5)) / 2e-5
analytic = sum((g[n] * d[n]).sum() for g, d in zip(grads, direction, strict=True) for n in g)
print(f"by hand {analytic:+.10f}, by differences {numeric:+.10f}")
assert abs(analytic - numeric) < 1e-7 * scale

# %%
# Adam
# ----
# Plain gradient descent has one step size for all parameters. But gradients can differ ten times from layer to layer,
# as those of the thresholds do here at the start (lesson 06 showed one reason). *Adam* divides each entry of the
# gradient by its own recent size. For one number :math:`p` that learns, with :math:`\bar g` and :math:`\overline{g^2}`
# for running means of the gradient and of its square, which forget at the rates :math:`\beta_1 = 0.9` and
# :math:`\beta_2 = 0.999`,
#
# .. math::
#    p \leftarrow p - \text{lr}\; \frac{\bar g / (1 - \beta_1^j)}{\sqrt{\overline{g^2} / (1 - \beta_2^j)} + 10^{-8}}
#
# Here :math:`j` counts the updates and lr is the learning rate. The divisors correct for means that started at 0. In
# the first update the fraction is 1 or -1 (but for the tiny number below): each parameter moves by lr, however small
# its gradient (unless it is 0).


class Adam:
    def __init__(self, net, lr=0.01):
        self.net, self.lr, self.updates = net, lr, 0
        self.mean = [{name: 0 * p for name, p in layer.items()} for layer in net]
        self.square = [{name: 0 * p for name, p in layer.items()} for layer in net]

    def step(self, grads):
        self.updates += 1
        for layer, mean, square, grad in zip(self.net, self.mean, self.square, grads, strict=True):
            for name in layer:
                mean[name] = 0.9 * mean[name] + 0.1 * grad[name]
                square[name] = 0.999 * square[name] + 0.001 * grad[name] ** 2
                root = np.sqrt(square[name] / (1 - 0.999**self.updates)) + 1e-8
                layer[name] -= self.lr * mean[name] / (1 - 0.9**self.updates) / root


# %%
# Training is a loop over batches: some samples, their gradient, one update. Small batches give many noisy updates;
# large ones few exact ones. An *epoch* is one pass through the data, in a new order each time.


def accuracy(net, images, kinds, seed=1):
    rates, _ = forward(net, encode(images, np.random.default_rng(seed)))
    return (rates.argmax(axis=1) == kinds).mean()


def train(sizes, epochs, seed=0, batch=50):
    rng = np.random.default_rng(seed)
    net, curve = make_net(sizes, rng), []
    optimizer = Adam(net)
    for _ in range(epochs):
        order, losses = rng.permutation(len(images)), []
        for start in range(0, len(images), batch):
            rows = order[start : start + batch]
            rates, caches = forward(net, encode(images[rows], rng))
            loss, d_rates = mse(rates, kinds[rows])
            optimizer.step(backward(net, d_rates, caches))
            losses.append(loss)
        curve.append((np.mean(losses), accuracy(net, new_images, new_kinds)))
    return net, np.array(curve)


# %%
# First the naive try: pixels straight to four output neurons. Then the same with 64 neurons in between. Write down what
# you expect, on images that were not trained on: what does guessing give, and will the first network be better than
# that?

EPOCHS = 6 if FAST else 12
one_layer, one_curve = train((64, 4), EPOCHS)
two_layers, two_curve = train((64, 64, 4), EPOCHS)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for curve, color, label in ((one_curve, ORANGE, "one layer"), (two_curve, BLUE, "two layers")):
    epoch = np.arange(1, EPOCHS + 1)
    left.plot(epoch, curve[:, 0], color=color, label=label)
    right.plot(epoch, 100 * curve[:, 1], color=color, label=label)
right.axhline(25, color=GREY, linestyle=":", label="guessing")
left.set(xlabel="epoch", ylabel="loss", title="Training", ylim=(0, None))
right.set(xlabel="epoch", ylabel="accuracy (%)", title="On new images", ylim=(0, 104))
for panel in (left, right):
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
figure.legend(*right.get_legend_handles_labels(), loc="outside right center")
plt.show()

print(f"new images: one layer {one_curve[-1, 1]:.1%}, two layers {two_curve[-1, 1]:.1%}; guessing 25 %")
assert one_curve[-1, 1] < 0.65, "one layer fails on a good part of the images"
assert two_curve[-1, 1] > 0.95

# %%
# One layer is better than guessing, and fails on a good part of the images. You can see why: an image and its negative
# differ from mid-grey by opposite amounts. Whatever weights a neuron has, an image that raises its mean input current
# comes with a negative that lowers it by as much. So a neuron that fires more for one of them fires less for the other,
# and yet both should be called "upright". Neurons in between can share the work: some wait for the black lines, some
# for the white ones, and the last layer counts both. That is one thing which a hidden layer is for.
#
# Did you see that the loss of the one layer *rises* after the fourth epoch? This is gradient descent, but along a
# surrogate gradient, and that is not the gradient of this loss (lesson 02). Where no weights are good, it need not lead
# downhill.
#
# Look at what six of the hidden neurons wait for (purple: a positive weight; orange: a negative one; the title is the
# kind for which the neuron votes most), and at what the thresholds did. They all started at 0.5.

figure, axes = plt.subplots(1, 7, figsize=(11, 2.3), layout="constrained", width_ratios=[1] * 6 + [1.7])
strongest = np.argsort(np.abs(two_layers[1]["w"]).max(axis=1))[::-1]
for panel, n in zip(axes, strongest[:6], strict=False):
    w = two_layers[0]["w"][:, n].reshape(8, 8)
    panel.imshow(w, cmap="PuOr", vmin=-np.abs(w).max(), vmax=np.abs(w).max())
    panel.set(title=f"for {KINDS[two_layers[1]['w'][n].argmax()]}", xticks=[], yticks=[])
axes[6].hist(two_layers[0]["theta"], 15, color=BLUE)
axes[6].axvline(0.5, color=GREY, linestyle="--")
axes[6].set(title="hidden thresholds", xlabel="threshold", ylabel="neurons")
plt.show()
moved = np.abs(two_layers[0]["theta"] - 0.5)
print(f"hidden thresholds moved by {moved.mean():.2f} on average")
assert moved.mean() > 0.01

# %%
# The engine has to agree
# -----------------------
# Only now do you import minisnn, and hand it your weights and thresholds. Its loops are another program; on the same
# input they have to find the same spikes, the same loss and the same gradients. Value to expect: a relative difference
# below 1e-12. (The equations of this layer, one by one: :doc:`/derivations/lif`.)

import minisnn as ms

first, second = two_layers
engine = ms.Network(
    fc1=ms.Linear(64, 64, weight=first["w"], dtype="float64"),
    lif1=ms.LIF(64, threshold=np.maximum(first["theta"], 0.01), dtype="float64"),
    fc2=ms.Linear(64, 4, weight=second["w"], dtype="float64"),
    lif2=ms.LIF(4, threshold=np.maximum(second["theta"], 0.01), dtype="float64"),
    rate=ms.Rate(dtype="float64"),  # the mean over time
)
for layer, name in zip(two_layers, ("lif1", "lif2"), strict=True):
    layer["theta"] = engine[name].threshold.copy()  # ms.LIF wants thresholds above 0; yours may have crossed it

x = encode(new_images[:50], np.random.default_rng(2))
rates, caches = forward(two_layers, x)
loss, d_rates = mse(rates, new_kinds[:50])
mine = backward(two_layers, d_rates, caches)
engine_loss, theirs = engine.loss_and_grads(x, new_kinds[:50], ms.losses.mse)

pairs = {"fc1.weight": mine[0]["w"], "lif1.threshold": mine[0]["theta"],
         "fc2.weight": mine[1]["w"], "lif2.threshold": mine[1]["theta"]}  # fmt: skip
assert abs(loss - engine_loss) < 1e-12
for name, gradient in pairs.items():
    error = np.abs(gradient - theirs[name]).max() / np.abs(theirs[name]).max()
    print(f"{name:15} largest relative difference {error:.0e}")
    assert error < 1e-12

# %%
# What you should take with you
# -----------------------------
# A layer is the neuron of lesson 03 with two more axes. What is shared in the forward direction is summed in the
# backward one.
#
# Try this
# --------
# 1. In ``lif_backward`` put ``g.mean(axis=0)`` for ``g.sum(axis=0)``. Which assert tells you? Take it out: would the
#    training curves have told you? *(Adam divides by the size of the gradient.)*
# 2. Train the rules SL (freeze every ``theta``) and TL (freeze every ``w``): skip those names in ``Adam.step``. How far
#    does a network get whose weights stay random? *(Lesson 06 says what is left to learn.)*
# 3. Give the two-layer network 8 hidden neurons in place of 64, then 200. Where is the border, and how much does
#    another ``seed`` move it?
