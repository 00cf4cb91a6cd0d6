"""The other libraries, each used as its documentation says.

A job is a function without arguments that runs a case once and returns its results.  Each library
runs in a process of its own (`processes`), so torch and the libraries are imported late.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import minisnn as ms
from minisnn.bench.cases import DECAY, THRESHOLD, Conv, Job, Layer, Net, Step, find, net_at_trained_rates

__all__ = ["COMPARED", "PEERS", "layer_job", "make", "neurons"]

#: The peers, and the module that each needs.
PEERS = {
    "torch": "torch",
    "torch.compile": "torch",
    "snntorch": "snntorch",
    "spikingjelly": "spikingjelly",
    "norse": "norse",
}
#: Results to compare with the reference's; all of them for a peer that is not listed.  Neurons that
#: detach something or scale their input have the same spikes, and other gradients by design.
COMPARED = dict.fromkeys(("snntorch", "spikingjelly", "norse"), ("spikes", "y"))


def make(who: str, kind: str, case: str) -> Job:
    """A job of one peer; each run returns arrays by name."""
    import torch

    torch.manual_seed(0)
    jobs = {"layer": layer_job, "step": _step, "conv": _conv, "net": _net}
    return jobs[kind](who, find(kind, case))


def layer_job(who: str, case: Layer, device: str = "cpu") -> Job:
    """One layer of a peer's neurons, forward and backward, on a device of torch."""
    import torch

    x, d_y = (torch.from_numpy(a).to(device) for a in case.inputs())
    x.requires_grad_()
    run, theta = neurons(who, (case.n,), device=device)
    learns = [x] if theta is None else [x, theta]

    def job() -> dict[str, Any]:
        for leaf in learns:
            leaf.grad = None
        spikes = run(x)
        spikes.backward(d_y)
        if device != "cpu":
            torch.cuda.synchronize()  # torch returns before the card is done
        found = {"spikes": spikes.detach(), "d_x": x.grad}
        return found if theta is None else {**found, "d_threshold": theta.grad}

    return job


def neurons(who: str, shape: tuple[int, ...], threshold: Any = THRESHOLD, device: str = "cpu") -> tuple[Callable, Any]:
    """A peer's neurons as a function ``[T, B, ...] -> [T, B, ...]``, and their thresholds."""
    import torch

    start = torch.from_numpy(np.full(shape, threshold, np.float32)).to(device)
    if who in ("torch", "torch.compile"):
        return _torch(start, compiled=who == "torch.compile")
    return {"snntorch": _snntorch, "spikingjelly": _spikingjelly, "norse": _norse}[who](start)


def _torch(theta: Any, compiled: bool) -> tuple[Callable, Any]:
    import torch

    spike = _torch_spike()

    def loop(x: Any, theta: Any) -> Any:
        v, found = torch.zeros_like(x[0]), []
        for current in x:
            u = DECAY * v + current
            s = spike(u - theta)
            v = u - s * u
            found.append(s)
        return torch.stack(found)

    theta.requires_grad_()
    run = torch.compile(loop) if compiled else loop
    return lambda x: run(x, theta), theta


def _snntorch(start: Any) -> tuple[Callable, Any]:
    import snntorch
    from snntorch import surrogate

    cell = snntorch.Leaky(
        beta=DECAY,
        threshold=start,
        learn_threshold=True,
        reset_mechanism="zero",
        spike_grad=surrogate.atan(alpha=2.0),
    ).to(start.device)
    return _in_time(cell, lambda first: cell.init_leaky()), cell.threshold


def _spikingjelly(start: Any) -> tuple[Callable, Any]:
    from spikingjelly.activation_based import functional, neuron, surrogate

    lif = neuron.LIFNode(
        tau=1 / (1 - DECAY),
        decay_input=False,
        v_threshold=float(start.mean()),
        v_reset=0.0,
        detach_reset=False,
        step_mode="m",
        surrogate_function=surrogate.ATan(alpha=2.0),
    )

    def run(x: Any) -> Any:
        functional.reset_net(lif)
        return lif(x)

    return run, None


def _norse(start: Any) -> tuple[Callable, Any]:
    import torch
    from norse.torch.functional.lif_box import (
        LIFBoxFeedForwardState,
        LIFBoxParameters,
        lif_box_feed_forward_step,
    )

    # norse: v += dt * tau_mem_inv * (v_leak - v + x), so the input is scaled by 1 - decay, and
    # the threshold must be too.
    p = LIFBoxParameters(
        tau_mem_inv=torch.tensor(1000 * (1 - DECAY)).to(start.device),
        v_th=start.mean() * (1 - DECAY),
        method="super",
    )

    def step(current: Any, state: Any) -> tuple[Any, Any]:
        return lif_box_feed_forward_step(current, state, p, dt=0.001)

    return _in_time(step, lambda first: LIFBoxFeedForwardState(v=torch.zeros_like(first))), None


def _in_time(step: Callable, begin: Callable) -> Callable:
    """The time loop that users of a single-step library write themselves."""
    import torch

    def run(x: Any) -> Any:
        state, found = begin(x[0]), []
        for current in x:
            s, state = step(current, state)
            found.append(s)
        return torch.stack(found)

    return run


def _torch_spike() -> Callable:
    import torch

    class Spike(torch.autograd.Function):
        """Forward the step, backward the slope of the atan surrogate (k = 2)."""

        @staticmethod
        def forward(ctx: Any, above: Any) -> Any:
            ctx.save_for_backward(above)
            return (above >= 0).to(above.dtype)

        @staticmethod
        def backward(ctx: Any, d_s: Any) -> Any:
            (above,) = ctx.saved_tensors
            return d_s / (1 + (math.pi * above) ** 2)

    return Spike.apply


def _step(who: str, case: Step) -> Job:
    import torch

    spikes, labels, *weights = case.inputs()
    x = torch.from_numpy(spikes).float()
    wanted = torch.nn.functional.one_hot(torch.from_numpy(labels), case.classes).float()
    linear = []
    for weight in weights:
        layer = torch.nn.Linear(*weight.shape, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T.copy()))
        linear.append(layer)
    (run1, theta1), (run2, theta2) = neurons(who, (case.hidden,)), neurons(who, (case.n_out,))
    learns = [layer.weight for layer in linear] + [t for t in (theta1, theta2) if t is not None]
    adam = torch.optim.Adam(learns, lr=1e-6)

    def job() -> dict[str, Any]:
        adam.zero_grad()
        scores = run2(linear[1](run1(linear[0](x)))).mean(0).reshape(case.batch, case.classes, -1).mean(2)
        loss = torch.nn.functional.mse_loss(scores, wanted)
        loss.backward()
        adam.step()
        return {"loss": loss.detach(), "d_weight": linear[0].weight.grad.T}

    return job


def _conv(who: str, case: Conv) -> Job:
    import torch

    spikes, weight, d_y = map(torch.from_numpy, case.inputs())
    x = spikes.float().requires_grad_(case.c_in > 1)  # no gradient for the lowest layer
    weight.requires_grad_()

    def job() -> dict[str, Any]:
        x.grad = weight.grad = None
        y = torch.nn.functional.conv2d(x, weight, padding=case.k // 2)
        y.backward(d_y)
        return {
            "y": y.detach(),
            "d_weight": weight.grad,
            **({"d_x": x.grad} if case.c_in > 1 else {}),
        }

    return job


def _net(who: str, case: Net) -> Job:
    """The same network with the same arrays; convolutions and linear layers get all steps."""
    import torch

    net = net_at_trained_rates(case)
    spikes, labels = case.inputs()
    x = torch.from_numpy(spikes).float()
    wanted = torch.nn.functional.one_hot(torch.from_numpy(labels), 10).float()
    params = {n: torch.from_numpy(a.copy()).requires_grad_() for n, a in net.params(ms.SL).items()}
    running = {n: torch.from_numpy(a.copy()) for n, a in net.buffers().items()}
    runs = {}
    for i in range(1, 5):
        run, theta = neurons(who, tuple(net[f"lif{i}"].shape), threshold=net[f"lif{i}"].threshold)
        runs[i] = run
        if theta is not None:
            params[f"lif{i}.threshold"] = theta
    adam = torch.optim.Adam(list(params.values()), lr=1e-6, weight_decay=1e-6)

    def block(x: Any, i: int) -> Any:
        steps, batch = x.shape[:2]
        weight = params[f"conv{i}.weight"]
        y = torch.nn.functional.conv2d(x.flatten(0, 1), weight, padding=weight.shape[-1] // 2)
        statistics = running[f"norm{i}.running_mean"], running[f"norm{i}.running_var"]
        scale = params[f"norm{i}.gamma"], params[f"norm{i}.beta"]
        y = torch.stack(
            [
                torch.nn.functional.batch_norm(one, *statistics, *scale, training=True)
                for one in y.unflatten(0, (steps, batch))
            ]
        )
        return torch.nn.functional.max_pool2d(runs[i](y).flatten(0, 1), 2).unflatten(0, (steps, batch))

    def job() -> dict[str, Any]:
        adam.zero_grad()
        y = block(block(x, 1), 2).flatten(2)
        for i in (3, 4):
            y = runs[i](y @ params[f"fc{i - 2}.weight"])
        scores = y.mean(0).reshape(len(labels), 10, -1).mean(2)
        loss = torch.nn.functional.mse_loss(scores, wanted)
        loss.backward()
        adam.step()
        found = {"loss": loss.detach(), "d_weight": params["conv1.weight"].grad}
        theta = params.get("lif3.threshold")
        return found if theta is None else {**found, "d_threshold": theta.grad}

    return job
