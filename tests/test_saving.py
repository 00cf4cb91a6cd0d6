"""Files: what is saved comes back to the bit, and nothing but our own errors comes out of anything else."""

import copy
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

import minisnn as ms
from minisnn import files

RNG = np.random.default_rng(0)


def zoo(dtype="float32"):
    """A network with a layer of every kind, and every option that a file has to keep."""
    rng = np.random.default_rng(0)
    soft = {"constraint": ms.thresholds.Softplus(), "reset": ms.resets.soft_detached, "dtype": dtype}
    return ms.Network(
        lif0=ms.LIF((2, 3), threshold=rng.uniform(0.4, 1, (2, 1)), decay=np.array(0.7), dtype=dtype),
        flat=ms.Flatten(),
        fc1=ms.Linear(6, 5, rng=rng, bias=True, dtype=dtype),
        lif1=ms.Spiking(5, neuron=ms.neurons.current_lif, decay_syn=0.8, surrogate=ms.surrogates.triangle(1.5), **soft),
        drop=ms.Dropout(0.3, per_step=False),
        rec=ms.Recurrent(5, rng=rng, threshold=0.6, constraint=ms.thresholds.LowerBound(0.1), dtype=dtype),
        sum=ms.Add("lif1"),
        fc2=ms.Linear(5, 6, rng=rng, dtype=dtype),
        out=ms.MembraneReadout(6, over="max", neuron=ms.neurons.leaky_integrator, decay=0.8, dtype=dtype),
    )


X = RNG.normal(0.8, 1, (5, 4, 2, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_comes_back_as_it_was(tmp_path, dtype):
    net = zoo(dtype)
    net["lif0"].params["threshold"][0] = -0.25  # training may cross what a constructor refuses
    path = net.save(tmp_path / "net.npz", lesson=[8, "digits"])
    again = ms.load(path)
    assert repr(again) == repr(net) and again.description() == net.description() and again.dtype == np.dtype(dtype)
    assert all(np.array_equal(again.params()[n], p) and again.params()[n].dtype == dtype for n, p in net.params().items())
    assert all(again[n].dynamics == layer.dynamics for n, layer in net.layers.items() if layer.has_state)
    assert again["lif1"].constraint == net["lif1"].constraint and again["rec"].constraint == net["rec"].constraint
    x = X.astype(dtype)
    assert np.array_equal(again.forward(x)[0], net.forward(x)[0])
    again.params()["fc1.weight"][...] = 0  # arrays of its own, which can learn
    assert files.read(path, ("network",))[0]["notes"] == {"lesson": [8, "digits"]}
    assert path.read_bytes() == net.save(tmp_path / "twice.npz", lesson=[8, "digits"]).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.npz", "twice.npz"]
    with np.load(path, allow_pickle=False) as plain:
        assert np.array_equal(plain["fc1.weight"], net["fc1"].weight)


def test_a_file_that_says_what_a_layer_remembers_still_loads(tmp_path):
    """Files of the first edition may: it kept membranes, all of them or those of chunks of time."""
    net = zoo()
    path = net.save(tmp_path / "net.npz")
    rewritten(
        path, lambda header, arrays: [header["network"]["layers"][i]["config"].update(remember="chunks") for i in (0, 3)]
    )
    assert "remember" in json.dumps(files.read(path, ("network",))[0])
    again = ms.load(path)
    assert again.description() == net.description() and repr(again) == repr(net)
    assert np.array_equal(again.forward(X.astype("f4"))[0], net.forward(X.astype("f4"))[0])


def test_votes_and_rates_come_back(tmp_path):
    for readout in (ms.PopulationVote(3), ms.Rate()):
        net = ms.Network(fc=ms.Linear(2, 6, rng=RNG, dtype="float64"), lif=ms.LIF(6, dtype="float64"), out=readout)
        assert repr(ms.load(net.save(tmp_path / "net.npz"))) == repr(net)


def own_charge(v, x, decay):
    return decay * v + x - 0.1 * v * v


def own_adjoint(d_u, v, x, decay):
    return decay * d_u - 0.2 * v * d_u, d_u, v * d_u


OWN = ms.Neuron(own_charge, own_adjoint)


def test_a_neuron_of_one_s_own_is_handed_over(tmp_path):
    net = ms.Network(fc=ms.Linear(2, 3, rng=RNG), lif=ms.Spiking(3, neuron=OWN))
    path = net.save(tmp_path / "net.npz")
    with pytest.raises(ms.FileError, match=r"lif: it uses 'own_charge'.*custom=\{'own_charge': \.\.\.\}"):
        ms.load(path)
    assert ms.load(path, custom={"own_charge": OWN})["lif"].dynamics == net["lif"].dynamics


class Gain(ms.Layer):
    """A layer of a user's own, of public names alone."""

    options = ("n",)

    def __init__(self, n, dtype="float32"):
        super().__init__(dtype)
        self.n = n
        self.params["gain"], self.roles["gain"] = np.ones(n, self.dtype), "synapse"

    def forward(self, x, *, state=None, train=False, rng=None):
        return x * self.gain, x


def test_a_layer_of_one_s_own_is_handed_over(tmp_path):
    net = ms.Network(fc=ms.Linear(2, 3, rng=RNG), mine=Gain(3), lif=ms.Spiking(3, neuron=OWN))
    net["mine"].gain[:] = 1, 2, 3
    path = net.save(tmp_path / "net.npz")
    with pytest.raises(ms.FileError, match=r"mine: it uses 'Gain'.*custom=\{'Gain': \.\.\.\}"):
        ms.load(path)
    again = ms.load(path, custom={"Gain": Gain, "own_charge": OWN})
    assert type(again["mine"]) is Gain and again["mine"].gain.tolist() == [1, 2, 3]
    with pytest.raises(ms.FileError, match="mine: .*unexpected keyword argument 'n'"):
        ms.load(path, custom={"Gain": ms.Flatten, "own_charge": OWN})
    with pytest.raises(ms.FileError, match="no network can be made"):
        ms.load(path, custom={"Gain": 3, "own_charge": OWN})


def test_a_subclass_is_not_taken_for_its_parent(tmp_path):
    class Linear(ms.Linear):
        pass

    class Louder(ms.Spiking):
        pass

    net = ms.Network(a=Linear(2, 3, rng=RNG), b=Louder(3, neuron=OWN))
    path = net.save(tmp_path / "net.npz")
    again = ms.load(path, custom={"Linear": Linear, "Louder": Louder, "own_charge": OWN})
    assert [type(layer) for layer in again.layers.values()] == [Linear, Louder]


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    class Needs(Gain):
        options = ()

    class Forgets(ms.Flatten):
        options = ("axis",)

    for make, message in ((lambda: Needs(3), "argument: 'n'"), (Forgets, "no attribute 'axis'")):
        with pytest.raises(TypeError, match=f"save: a: cannot be rebuilt.*{message}.*`options` must"):
            ms.Network(a=make()).save(tmp_path / "mine.npz")
        assert not (tmp_path / "mine.npz").exists()


# -- what is refused


def rewritten(path, change):
    """The file with its header or arrays changed, and every check sum right again."""
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    header = json.loads(bytes(arrays.pop("header")))
    change(header, arrays)
    kind, _, _ = header.pop("kind"), header.pop("minisnn"), header.pop("format")
    return files.write(path, kind, header, arrays)


def header_with(path, **values):
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    arrays["header"] = np.frombuffer(json.dumps(json.loads(bytes(arrays["header"])) | values).encode(), np.uint8)
    np.savez(path, **arrays)


def as_pickle(path):
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


def as_objects(path):
    np.savez(path, header=np.array([{"a": 1}], dtype=object))


def as_compressed(path):
    np.savez_compressed(path, header=np.zeros(10**6, np.uint8))


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "pickle": (as_pickle, "is a pickle.*runs the code in it"),
    "pickled array": (as_objects, "pickle of Python objects"),
    "bomb": (as_compressed, "compressed or claim to be larger"),
    "truncated": (cut, "damaged or not a minisnn file"),
    "one bit": (flipped, "damaged.*CRC"),
    "text": (lambda p: p.write_text("hello"), "not a minisnn file"),
    "empty": (lambda p: p.write_bytes(b""), "not a minisnn file"),
    "newer": (lambda p: header_with(p, format=99, minisnn="7.0"), "format 99, written by minisnn 7.0.*pip install -U"),
    "another kind": (lambda p: header_with(p, kind="history"), "holds a history, expected a network or a checkpoint"),
    "no kind": (lambda p: header_with(p, kind=None), "does not say what the file is"),
    "unknown layer": (
        lambda p: rewritten(p, lambda h, a: h["network"]["layers"][0].update(type="Conv9d")), "lif0: it uses 'Conv9d', which this",
    ),
    "sizes": (
        lambda p: rewritten(p, lambda h, a: h["network"]["layers"][0]["config"].update(shape=[10**9, 10**9])), "lif0",
    ),
    "a missing array": (lambda p: rewritten(p, lambda h, a: a.pop("fc1.bias")), "its arrays are .*fc1.bias"),
    "an array too many": (lambda p: rewritten(p, lambda h, a: a.update(extra=np.zeros(3))), "the file has .*extra"),
    "another shape": (lambda p: rewritten(p, lambda h, a: a.update({"lif0.decay": np.zeros(7, "f4")})), "lif0.*broadcast"),
    "another dtype": (lambda p: rewritten(p, lambda h, a: a.update({"fc1.bias": np.zeros(5)})), r"float64 \[5\], expected float32"),
    "layers that do not fit": (
        lambda p: rewritten(p, lambda h, a: a.update({"fc2.weight": np.zeros((4, 6), "f4")})), "fc2 does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(tmp_path, damage):
    spoil, message = DAMAGES[damage]
    path = zoo().save(tmp_path / "net.npz")
    spoil(path)
    with pytest.raises(ms.FileError, match=f"(?s)net.npz.*{message}|{message}"):
        ms.load(path)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        ms.load(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        zoo().save(tmp_path / "nowhere" / "net.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = zoo().save(tmp_path / "net.npz")
    before = path.read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        zoo("float64").save(path)
    assert path.read_bytes() == before


# -- random damage

MOST = 2 << 20  # no file here is larger: nothing may need more memory than a few of these


def spoiled(content, rng):
    """Bytes flipped, cut off, or a piece put where another was."""
    content = bytearray(content)
    kind = rng.integers(4)
    if kind == 0:
        for at in rng.integers(len(content), size=rng.integers(1, 9)):
            content[at] = rng.integers(256)
    elif kind == 1:
        del content[rng.integers(len(content)) :]
    elif kind == 2:
        n = int(rng.integers(1, 200))
        a, b = rng.integers(max(len(content) - n, 1), size=2)
        content[a : a + n], content[b : b + n] = content[b : b + n], content[a : a + n]
    else:
        at = int(rng.integers(len(content)))
        content[at:at] = rng.bytes(int(rng.integers(1, 40)))
    return bytes(content)


def reheadered(content, rng):
    """A file whose check sums are right and whose header or arrays are not: one value of the header replaced."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        arrays = dict(arrays)
    header = json.loads(bytes(arrays["header"]))
    places = []

    def collect(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                collect(node[key])

    collect(header)
    node, key = places[rng.integers(len(places))]
    others = [None, -1, 10**12, "x", [], {}, 1e308, True, [10**9] * 3, *copy.deepcopy([n[k] for n, k in places])]
    node[key] = others[rng.integers(len(others))]
    if rng.random() < 0.3:
        a, b = rng.choice(list(arrays), 2)
        arrays[a], arrays[b] = arrays[b], arrays[a]
    if "header" in arrays:
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as out:
                np.lib.format.write_array(out, array, allow_pickle=False)
    return stream.getvalue()


def trained(folder):
    """A checkpoint of a short run, and what restores it."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((24, 6), dtype=np.float32), rng.integers(0, 3, 24)

    def fit(path, epochs=2, resume=False):
        rng = np.random.default_rng(1)
        net = ms.Network(fc1=ms.Linear(6, 5, rng=rng), lif1=ms.LIF(5, threshold=0.3, backend="numpy"),
                         fc2=ms.Linear(5, 3, rng=rng), lif2=ms.LIF(3, threshold=0.3, backend="numpy"), rate=ms.Rate())  # fmt: skip
        optimizer = ms.Adam(net, ms.STL)
        ms.fit(net, optimizer, (images, labels), epochs=epochs, batch=8, encoder=ms.encode.Bernoulli(3), progress=False,
               keep="best", validation=0.25, checkpoint=path, resume=resume)  # fmt: skip
        return net

    path = folder / "checkpoint.npz"
    fit(path)
    return path, fit


def corrupt(folder, cases, seed):
    """How many of `cases` spoiled models and checkpoints were refused, and how many still read."""
    rng = np.random.default_rng(seed)
    model = zoo().save(folder / "model.npz")
    path, fit = trained(folder)
    refused = read = 0
    for case in range(cases):
        source = (model, path)[case % 2]
        victim = folder / f"victim{case % 2}.npz"
        spoil = reheadered if rng.random() < 0.3 else spoiled
        victim.write_bytes(spoil(source.read_bytes(), rng))
        try:
            if source is model or rng.random() < 0.5:
                ms.load(victim)
            else:
                fit(victim, resume=True)
            read += 1
        except (ms.FileError, ms.TrainingStopped):
            refused += 1
        victim.unlink()
    return refused, read


@pytest.mark.filterwarnings("ignore")
def test_spoiled_files_give_our_own_errors(tmp_path):
    refused, read = corrupt(tmp_path, 400, seed=0)
    assert refused > 250 and refused + read == 400


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_very_many_spoiled_files_give_our_own_errors(tmp_path):
    resource = pytest.importorskip("resource")
    here = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (here + (256 << 20), old[1]))
    try:
        refused, read = corrupt(tmp_path, 50_000, seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    assert refused > 30_000 and refused + read == 50_000
