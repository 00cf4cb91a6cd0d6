"""An oracle that shares nothing with us: PyTorch's autograd, in an environment that has it (``pip install torch``)."""

import numpy as np
import pytest
from grid import relative

import minisnn as ms

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")


class Spike(torch.autograd.Function):
    """A step whose gradient is the slope of an arctangent."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.save_for_backward(x)
        ctx.k = k
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, d):
        (x,) = ctx.saved_tensors
        return d * 0.5 * ctx.k / (1 + (0.5 * torch.pi * ctx.k * x) ** 2), None


RESETS = {
    "hard": lambda u, s, theta: u - s * u,
    "soft": lambda u, s, theta: u - s * theta,
    "none": lambda u, s, theta: u,
    "hard_detached": lambda u, s, theta: u - s.detach() * u,
    "soft_detached": lambda u, s, theta: u - s.detach() * theta,
}


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("reset", RESETS)
def test_gradients_equal_autograd(reset, recurrent, backend):
    rng = np.random.default_rng(4)
    options = {
        "reset": ms.resets.RESETS[reset], "surrogate": ms.surrogates.atan(1.3), "threshold": rng.uniform(0.4, 1.2, 5),
        "decay": rng.uniform(0.3, 0.9, 5), "dtype": "float64", "backend": backend,
    }  # fmt: skip
    layer = ms.Recurrent(5, rng=rng, **options) if recurrent else ms.Spiking(5, **options)
    x, d_y = rng.normal(0.5, 1, (7, 3, 5)), rng.normal(size=(7, 3, 5))
    spikes, cache = layer.forward(x)
    d_x, grads = layer.backward(d_y, cache)
    leaves = {n: torch.tensor(p, requires_grad=True) for n, p in {"x": x, **layer.params}.items()}
    v = s = torch.zeros(3, 5, dtype=torch.float64)
    total = 0
    for t in range(7):
        u = leaves["decay"] * v + leaves["x"][t] + (s @ leaves["recurrent"] if recurrent else 0)
        s = Spike.apply(u - leaves["threshold"], 1.3)
        v = RESETS[reset](u, s, leaves["threshold"])
        assert np.array_equal(s.detach().numpy(), spikes[t])
        total = total + (s * torch.tensor(d_y[t])).sum()
    total.backward()
    for name, yours in {"x": d_x, **grads}.items():
        assert relative(yours, leaves[name].grad.numpy()) <= 1e-12, name
