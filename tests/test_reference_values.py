"""One LIF layer against autograd: the values in data/lif_layer.npz were made with PyTorch in double precision."""

from pathlib import Path

import numpy as np
import pytest
from grid import relative

import minisnn as ms

VALUES = np.load(Path(__file__).parent / "data" / "lif_layer.npz", allow_pickle=False)
CASES = sorted({name.partition(".")[0] for name in VALUES.files})


def test_there_is_a_case_for_every_reset():
    assert CASES == sorted(ms.resets.RESETS)


@pytest.mark.parametrize("case", CASES)
def test_spikes_and_gradients_equal_autograd(case, backend):
    c = {name.partition(".")[2]: VALUES[name] for name in VALUES.files if name.startswith(f"{case}.")}
    layer = ms.Spiking(
        7, reset=ms.resets.RESETS[case], surrogate=ms.surrogates.atan(float(c["k"])), threshold=c["threshold"],
        decay=c["decay"], dtype="float64", backend=backend,
    )  # fmt: skip
    spikes, cache = layer.forward(c["x"], state={"v": c["v0"]})
    assert np.array_equal(spikes, c["spikes"]) and 0 < spikes.mean() < 1
    assert relative(cache.u, c["u"]) <= 1e-14 and relative(cache.state["v"], c["v_last"]) <= 1e-14
    d_x, grads = layer.backward(c["d_spikes"], cache, d_state={"v": c["d_v_last"]})
    found = {"d_x": d_x, "d_threshold": grads["threshold"], "d_decay": grads["decay"], "d_v0": grads["state"]["v"]}
    for name, value in found.items():
        assert relative(value, c[name]) <= 1e-12, name
