"""MNIST and Fashion-MNIST from files: what is read, where it is looked for, and what is said when it is not there or broken."""

import gzip
import hashlib
import os
import re
import struct
import textwrap
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data_events import batch, write_braille, write_nmnist

import minisnn as ms
from minisnn.data.reading import LIMIT

REAL = os.environ.get("MINISNN_DATA")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("MINISNN_DATA", raising=False)


def idx(values, sizes=None):
    """The bytes of an IDX file; `sizes`: what the header says instead of the truth."""
    sizes = values.shape if sizes is None else sizes
    return struct.pack(f">I{len(sizes)}I", 0x800 + len(sizes), *sizes) + values.tobytes()


def small_set(n=24, side=28, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)


def write_set(folder, images, labels, part="train", form="{}-{}-idx{}-ubyte", pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images", images), ("labels", labels)):
        raw = idx(values)
        path = folder / (form.format(part, kind, values.ndim) + (".gz" if pack else ""))
        path.write_bytes(gzip.compress(raw, 1) if pack else raw)


# -- the format


@given(shape=st.lists(st.integers(0, 6), min_size=1, max_size=5), packed=st.booleans(), seed=st.integers(0, 10**6))
def test_what_is_written_is_read(tmp_path_factory, shape, packed, seed):
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.getbasetemp() / "any"  # one file: hypothesis writes it again and again
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    for axes in (None, len(shape)):
        read = ms.data.read_idx(path, axes)
        assert read.dtype == np.uint8 and read.shape == values.shape and np.array_equal(read, values)


def test_compression_is_seen_from_the_bytes_not_from_the_name(tmp_path):
    values = small_set()[0]
    for name, raw in (("plain.gz", idx(values)), ("packed", gzip.compress(idx(values)))):
        (tmp_path / name).write_bytes(raw)
        assert np.array_equal(ms.data.read_idx(str(tmp_path / name), 3), values)


V = small_set(5, 4)[0]
PACKED = gzip.compress(idx(V))
WRONG_CRC = PACKED[:-8] + bytes(4) + PACKED[-4:]
REFUSED = {
    "empty": (b"", 3, "expected an IDX file, found an empty file"),
    "empty gzip": (gzip.compress(b""), 3, "expected an IDX file, found an empty file"),
    "labels": (idx(V[:, 0, 0]), 3, "expected images (magic number 2051), found labels (magic number 2049)"),
    "images": (idx(V), 1, "expected labels (magic number 2049), found images (magic number 2051)"),
    "two axes": (idx(V[0]), 3, "found 2 axes (magic number 2050)"),
    "no axes": (b"\0\0\x08\0" + b"1", None, "expected the magic number of unsigned bytes, 2049 and up, found the bytes 00 00 08 00"),
    "floats": (b"\0\0\x0d\x03" + bytes(99), 3, "found the bytes 00 00 0d 03"),
    "little-endian": (b"\3\x08\0\0" + bytes(99), 3, "found the bytes 03 08 00 00"),
    "three bytes": (b"\0\0\x08", 3, "found the bytes 00 00 08"),
    "web page": (b"\n<!DOCTYPE html><title>404</title>", 3, "found a web page (HTML): a download that went wrong"),
    "packed web page": (gzip.compress(b"<html>"), 3, "found a web page (HTML)"),
    "zip": (b"PK\3\4" + bytes(50), 3, "found a zip archive: unpack it first"),
    "twice packed": (gzip.compress(PACKED), 3, "found gzip within gzip: unpack it once"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", 3, "Git LFS pointer"),
    "half a header": (idx(V)[:10], 3, "expected 3 sizes in the header, found the end of the file: it is cut off"),
    "cut off": (idx(V)[:-1], 3, "expected 5 x 4 x 4 = 80 bytes after the header, found only 79: it is cut off"),
    "too long": (idx(V) + b"!", 3, "expected 5 x 4 x 4 = 80 bytes after the header, found more"),
    "too long in gzip": (gzip.compress(idx(V) + bytes(10**6)), 3, "= 80 bytes after the header, found more"),
    "cut off in gzip": (gzip.compress(idx(V)[:-1]), 3, "found only 79: it is cut off"),
    "cut off gzip": (PACKED[:-9], 3, "expected whole gzip data, found them damaged or cut off"),
    "wrong check sum": (WRONG_CRC, 3, "found them damaged or cut off (CRC check failed"),
    "not gzip after all": (b"\x1f\x8bnot gzip", 3, "expected whole gzip data, found them damaged or cut off"),
    "broken stream": (PACKED[:10] + b"\xff" * 20, 3, "expected whole gzip data, found them damaged or cut off"),
    "absurd": (idx(V, [2**32 - 1] * 3), 3, "a header that promises 4,294,967,295 x 4,294,967,295 x 4,294,967,295: it is damaged"),
    "nothing times absurd": (idx(V[:0], [0, 2**32 - 1, 2**32 - 1]), 3, "a header that promises 0 x 4,294,967,295"),
    "absurd in gzip": (gzip.compress(idx(V, [2**31, 1, 1])), 3, f"expected at most {LIMIT:,} bytes"),
    "many axes": (b"\0\0\x08\x21" + bytes(4 * 33), None, "found the bytes 00 00 08 21"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_files_are_named_with_what_was_expected(tmp_path, case):
    raw, axes, message = REFUSED[case]
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(ms.data.DataError, match=re.escape(message)) as error:
        ms.data.read_idx(path, axes)
    assert str(error.value).startswith(f"{path}: expected ") and "\n" not in str(error.value)


def test_a_folder_a_pipe_and_no_file(tmp_path):
    with pytest.raises(ms.data.DataError, match="expected a file, found a folder"):
        ms.data.read_idx(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing here"):
        ms.data.read_idx(tmp_path / "nothing here")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ms.data.DataError, match="expected a file, found something else"):
            ms.data.read_idx(tmp_path / "pipe")
    with pytest.raises(ms.data.DataError, match="cannot be read"):
        ms.data.read_idx(tmp_path / ("x" * 5000))


PROMISE = [LIMIT // 1024, 32, 32]
LIARS = {
    "a header that promises 1 GiB": idx(V, PROMISE),
    "the same in gzip": gzip.compress(idx(V, PROMISE)),
    "64 MB of zeros behind a small header": gzip.compress(idx(V), 1) + gzip.compress(bytes(1 << 20)) * 64,
}


@pytest.mark.parametrize("case", LIARS)
def test_memory_follows_what_is_there_not_what_is_promised(tmp_path, case):
    path = tmp_path / "liar"
    path.write_bytes(LIARS[case])
    tracemalloc.start()
    try:
        with pytest.raises(ms.data.DataError, match="after the header"):
            ms.data.read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture
def little_memory():
    """No more than 256 MB on top of what the process has now."""
    resource = pytest.importorskip("resource")
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("the memory of this process cannot be limited here")
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(status.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_bomb_that_keeps_its_promise_is_our_error(tmp_path, little_memory):
    path = tmp_path / "bomb"  # 0.3 MB that hold 300 MB
    path.write_bytes(gzip.compress(idx(V[:0], [300, 1024, 1024])) + gzip.compress(bytes(1 << 20)) * 300)
    with pytest.raises(ms.data.DataError, match=r"bomb: holds more than fits into memory"):
        ms.data.read_idx(path, 3)


# -- the sets


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("form", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("inside", [False, True])
def test_files_are_found_in_every_spelling_and_place(tmp_path, monkeypatch, inside, name, form, pack):
    images, labels = small_set()
    write_set(tmp_path / name if inside else tmp_path, images, labels, form=form, pack=pack)
    x, y = ms.data.SETS[name].load("train", flat=False, folder=tmp_path)
    assert x.shape == (22, 1, 28, 28) and x.dtype == np.float32 and y.dtype == np.int64
    assert np.array_equal(x[:, 0], images[:22] / np.float32(255)) and np.array_equal(y, labels[:22])
    monkeypatch.setenv("MINISNN_DATA", str(tmp_path))
    u, v = ms.data.SETS[name].load("validation")
    assert u.shape == (2, 784) and np.array_equal(u, images[22:].reshape(2, -1) / np.float32(255))
    assert np.array_equal(v, labels[22:])


def test_splits_parts_and_ranges(tmp_path):
    (images, labels), (others, their) = small_set(36), small_set(7, seed=1)
    images[0], images[1] = 0, 255
    write_set(tmp_path, images, labels)
    write_set(tmp_path, others, their, "t10k")
    parts = {split: ms.data.mnist(split, folder=str(tmp_path)) for split in ms.data.SPLITS}
    assert {s: len(y) for s, (_, y) in parts.items()} == {"train": 33, "validation": 3, "test": 7}
    assert np.all(parts["train"][0][0] == 0) and np.all(parts["train"][0][1] == 1)
    assert np.array_equal(parts["test"][1], their)
    for x, y in parts.values():
        assert x.flags.writeable and y.flags.writeable and x.flags.c_contiguous
    with pytest.raises(
        ValueError, match="fashion-mnist: unknown split 'dev', expected one of 'train', 'validation', 'test'"
    ):
        ms.data.fashion_mnist("dev", folder=tmp_path)


def test_the_folder_goes_before_the_environment_and_the_set_s_own_folder_before_the_base(tmp_path, monkeypatch):
    for i, place in enumerate((tmp_path / "a" / "mnist", tmp_path / "a", tmp_path / "b")):
        write_set(place, small_set()[0], np.full(24, i, np.uint8))
    monkeypatch.setenv("MINISNN_DATA", str(tmp_path / "b"))
    assert ms.data.mnist()[1][0] == 2 and ms.data.mnist(folder=tmp_path / "a")[1][0] == 0
    (tmp_path / "a" / "mnist" / LABELS).unlink()  # never one file from here and the other from there
    assert ms.data.mnist(folder=tmp_path / "a")[1][0] == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert ms.data.mnist(folder="~/b")[1][0] == 2


def test_a_compressed_file_goes_first_it_has_a_check_sum(tmp_path):
    for label, pack in ((0, False), (1, True)):
        write_set(tmp_path, small_set()[0], np.full(24, label, np.uint8), pack=pack)
    assert ms.data.mnist(folder=tmp_path)[1][0] == 1


def test_a_file_goes_before_a_folder_of_its_name(tmp_path):
    write_set(tmp_path, *small_set(), form="{}-{}.idx{}-ubyte")
    (tmp_path / IMAGES).mkdir()
    assert len(ms.data.mnist(folder=tmp_path)[1]) == 22
    (tmp_path / "train-images.idx3-ubyte").unlink()
    with pytest.raises(ms.data.DataError, match=f"{IMAGES}: expected a file, found a folder"):
        ms.data.mnist(folder=tmp_path)


def test_missing_files_say_where_they_were_looked_for_and_how_to_get_them(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"mnist: no folder was given\. .*: folder= \(--data-dir D\), or MINISNN_DATA"
    ):
        ms.data.mnist()
    monkeypatch.setenv("MINISNN_DATA", "")
    with pytest.raises(FileNotFoundError, match="no folder was given"):
        ms.data.mnist()
    monkeypatch.setenv("MINISNN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        ms.data.fashion_mnist("test")
    assert str(error.value) == (
        "fashion-mnist: expected t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each with or without .gz, in "
        f"{tmp_path / 'fashion-mnist'} or {tmp_path}; found none. "
        f"Get the files with: minisnn data get fashion-mnist --data-dir {tmp_path}. "
        "Or say where fashion-mnist/ or they are: folder= (--data-dir D), or MINISNN_DATA"
    )
    with pytest.raises(FileNotFoundError, match="found no folder .*nowhere"):
        ms.data.mnist(folder=tmp_path / "nowhere")
    write_set(tmp_path, *small_set())
    (tmp_path / LABELS).unlink()
    with pytest.raises(FileNotFoundError, match=f"found only .*{IMAGES}"):
        ms.data.mnist()


def test_images_and_labels_must_fit(tmp_path):
    images, labels = small_set()

    def refused(message, images, labels):
        write_set(tmp_path, images, labels)
        with pytest.raises(ms.data.DataError, match=message):
            ms.data.mnist(folder=tmp_path)

    refused(f"{IMAGES}: expected images of 28 x 28, found 8 x 8", small_set(side=8)[0], labels)
    refused(f"{IMAGES} and .*{LABELS}: expected as many images as labels, found 24 and 23", images, labels[1:])
    refused("expected as many images as labels, found 0 and 0", images[:0], labels[:0])
    refused(
        f"{LABELS}: expected labels 0 to 9, found 200 at row 5",
        images,
        np.where(np.arange(24) == 5, 200, labels).astype("u1"),
    )
    for kind, other in ((IMAGES, LABELS), (LABELS, IMAGES)):
        write_set(tmp_path, images, labels)
        (tmp_path / kind).write_bytes((tmp_path / other).read_bytes())
        with pytest.raises(ms.data.DataError, match=f"{kind}: expected (images|labels) .*, found (images|labels)"):
            ms.data.mnist(folder=tmp_path)


def test_one_set_in_place_of_another_is_seen(tmp_path, monkeypatch):
    images, labels = small_set()
    known = ms.data.SETS["fashion-mnist"]
    monkeypatch.setattr(
        ms.data.images, "zlib", Fake := type("zlib", (), {"crc32": staticmethod(lambda raw: known.labels[0])})
    )
    assert Fake.crc32(b"") == 0x2ED6E46A
    write_set(tmp_path, images, labels)
    assert len(ms.data.fashion_mnist(folder=tmp_path)[1]) == 22
    with pytest.raises(
        ms.data.DataError, match=f"{LABELS}: expected train labels of mnist, found train labels of fashion-mnist"
    ):
        ms.data.mnist(folder=tmp_path)
    write_set(tmp_path, images, labels, "t10k")
    with pytest.raises(
        ms.data.DataError, match="expected t10k labels of fashion-mnist, found train labels of fashion-mnist"
    ):
        ms.data.fashion_mnist("test", folder=tmp_path)


@pytest.mark.filterwarnings("ignore::minisnn.data.SubsetWarning")
def test_every_set_of_the_registry_says_what_it_is(tmp_path):
    write_set(tmp_path, *small_set())
    assert list(ms.data.SETS) == ["digits", "mnist", "fashion-mnist", "cifar10", "nmnist", "braille"]
    write_nmnist(tmp_path)
    write_braille(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(batch(20).tobytes())
    for name, source in ms.data.SETS.items():
        x, y = source.load("train", flat=False, folder=tmp_path)
        steps = () if source.encoder == "bernoulli" else (source.steps or 10,)
        assert x.shape[1:] == (*steps, *source.shape) and y.max() < len(source.classes) == (27 if name == "braille" else 10)
        assert ms.encode.ENCODERS[source.encoder](*steps or (3,))(x[:2], np.random.default_rng(0)).shape[1] == 2
        if steps:
            assert source.load("train", folder=tmp_path)[0].shape == (len(y), *steps, np.prod(source.shape))
            continue
        assert np.array_equal(source.load("train", folder=tmp_path)[0], x.reshape(len(x), -1))
        assert len(source.files) in (0, 4) and all(re.fullmatch("[0-9a-f]{64}", h) for h in source.files.values())


def test_the_page_s_program_trains_on_one_s_own_arrays(capsys):
    page = (Path(__file__).parent.parent / "docs/how_to/use_your_data.rst").read_text(encoding="utf-8")
    blocks = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", page)
    names = {}
    exec(textwrap.dedent(blocks[1]), names)
    assert names["history"].column("validation_accuracy")[-1] > 0.95 and "lif1" in capsys.readouterr().out


# -- the published files

FACTS = {  # shared/data/README: mean and std of the 60,000 images, right answers of the nearest mean on the 10,000
    "mnist": (0.1307, 0.3081, 0.820, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
    "fashion-mnist": (0.2860, 0.3530, 0.677, [6000] * 10),
}


@pytest.mark.skipif(not REAL, reason="MINISNN_DATA does not name a folder with the data sets")
@pytest.mark.parametrize("name", FACTS)
def test_the_published_files(name):
    mean, std, share, counts = FACTS[name]
    source = ms.data.SETS[name]
    parts = {split: source.load(split, folder=REAL) for split in ms.data.SPLITS}
    assert {s: x.shape for s, (x, _) in parts.items()} == {
        "train": (55000, 784),
        "validation": (5000, 784),
        "test": (10000, 784),
    }
    x, y = (np.concatenate(both) for both in zip(parts["train"], parts["validation"], strict=True))
    u, v = parts["test"]
    assert (x.mean(dtype=float), x.std(dtype=float)) == pytest.approx((mean, std), abs=5e-5)
    assert np.bincount(y).tolist() == counts and x.min() == 0 and x.max() == 1
    if name == "mnist":
        assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4] and v[:5].tolist() == [7, 2, 1, 0, 4]
        assert np.bincount(v).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    means = np.stack([x[y == c].mean(axis=0) for c in range(10)])
    nearest = ((means**2).sum(axis=1) - 2 * u @ means.T).argmin(axis=1)
    assert (nearest == v).mean() == pytest.approx(share, abs=5e-4)
    for path in (p for file in source.files for p in (Path(REAL, name, file), Path(REAL, file)) if p.exists()):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == source.files[path.name]
    crcs = tuple(zlib.crc32(labels.astype(np.uint8).tobytes()) for labels in (y, v))
    assert crcs == source.labels


@pytest.mark.skipif(not REAL, reason="MINISNN_DATA does not name a folder with the data sets")
def test_the_wrong_published_set_is_refused():
    home = Path(REAL, "fashion-mnist")
    if not home.is_dir():
        pytest.skip("MINISNN_DATA has no fashion-mnist/")
    for split in ms.data.SPLITS:
        with pytest.raises(ms.data.DataError, match=r"expected \w+ labels of mnist, found \w+ labels of fashion-mnist"):
            ms.data.mnist(split, folder=home)


# -- random damage

EXTREMES = [0, 1, 2, 27, 28, 255, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1]


def damaged(raw, other, rng):
    """One to three random injuries; `other` is a file whose head or tail may be swapped in."""
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        kind, n = rng.integers(9), len(raw)
        at = int(rng.integers(n)) if n else 0
        head = int(rng.integers(1, 21))
        if kind == 0:  # some bits anywhere
            for i in rng.integers(n, size=rng.integers(1, 9)) if n else ():
                raw[i] ^= 1 << int(rng.integers(8))
        elif kind == 1 and n:  # one byte of the head
            raw[min(head, n) - 1] = int(rng.integers(256))
        elif kind == 2:  # cut off
            del raw[at:]
        elif kind == 3:  # something behind
            raw += rng.bytes(head)
        elif kind == 4:  # another file's head
            raw[:head] = other[:head]
        elif kind == 5:  # another file's tail
            raw[max(n - head, 0) :] = other[-head:]
        elif kind == 6:  # a hole, or a stretch of noise
            raw[at : at + head] = rng.bytes(int(rng.integers(head + 1)))
        elif kind == 7:  # absurd sizes
            axis = int(rng.integers(3))
            raw[4 + 4 * axis : 8 + 4 * axis] = struct.pack(">I", EXTREMES[rng.integers(len(EXTREMES))])
        else:  # twice in a row
            raw += bytes(raw)
    return bytes(raw)


def fuzz(folder, cases, seed):
    """Returns (refused, read, whole sets refused, slowest in seconds); any other outcome is an exception."""
    rng = np.random.default_rng(seed)
    images, labels = small_set(12)
    plain = idx(images[:, :5, :5]), idx(labels)
    packed = tuple(gzip.compress(raw, mtime=0) for raw in plain)
    path, refused, read, sets, slowest = folder / "file", 0, 0, 0, 0.0
    for i in range(cases):
        which, inner = int(rng.integers(2)), rng.random() < 0.3
        family = plain if inner or rng.random() < 0.5 else packed
        raw = damaged(family[which], (packed if rng.random() < 0.2 else family)[1 - which], rng)
        path.unlink(missing_ok=True)  # writing over a file makes some file systems wait for the disk
        path.write_bytes(gzip.compress(raw, 1) if inner else raw)
        begun = time.perf_counter()
        try:
            values = ms.data.read_idx(path, (None, 3, 1)[rng.integers(3)])
        except ms.data.DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "memory" not in str(error)
        else:
            read += 1
            if raw[:2] == b"\x1f\x8b":  # gzip has a check sum: what comes out went in
                assert any(np.array_equal(values, whole) for whole in (images[:, :5, :5], labels))
            else:
                assert idx(values) == raw
        slowest = max(slowest, time.perf_counter() - begun)
        if i % 20 == 0:
            sets += pair_is_read_or_refused(folder, images, labels, rng)
    return refused, read, sets, slowest


def pair_is_read_or_refused(folder, images, labels, rng):
    """The same for a whole set, one of its files damaged; returns whether it was refused."""
    write_set(folder, images, labels, pack=rng.random() < 0.5)
    files = [next(p for p in (folder / f"{kind}.gz", folder / kind) if p.exists()) for kind in (IMAGES, LABELS)]
    contents = [p.read_bytes() for p in files]
    which = int(rng.integers(2))
    files[which].unlink()
    files[which].write_bytes(damaged(contents[which], contents[1 - which], rng))
    try:
        x, y = ms.data.mnist("train", folder=folder)
    except ms.data.DataError:
        return True
    else:
        assert x.shape == (len(y), 784) and 0 <= x.min() and x.max() <= 1 and y.max() <= 9
        return False
    finally:
        for p in files:
            p.unlink()


def test_random_damage_is_read_or_refused(tmp_path, little_memory):
    refused, read, sets, _ = fuzz(tmp_path, 4000, seed=0)
    assert refused > 3000 and read > 100 and sets > 100


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_much_random_damage_is_read_or_refused(tmp_path, little_memory, seed):
    refused, read, sets, slowest = fuzz(tmp_path, 25_000, seed)
    print(f"\nseed {seed}: {refused} refused, {read} read, {sets} of 1250 sets refused, slowest {1000 * slowest:.1f} ms")
    assert refused > 20_000 and read > 600 and sets > 600 and slowest < 5
