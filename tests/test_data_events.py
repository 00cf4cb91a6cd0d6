"""Events: the format and its errors, frames, the sets of recordings, and CIFAR-10's batches."""

import gzip
import io
import os
import re
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minisnn as ms
from minisnn.data.images import RECORD

REAL = os.environ.get("MINISNN_DATA")


def real(name):
    there = REAL and Path(REAL, name).is_dir()
    return pytest.mark.skipif(not there, reason=f"MINISNN_DATA does not name a folder with {name}/")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("MINISNN_DATA", raising=False)


def event(x, y, p, t):
    """The five bytes of one event, written in another way than they are read."""
    return bytes([x, y]) + ((p << 23) | t).to_bytes(3, "big")


def table(rows, dtype=ms.data.EVENT):
    """Events from rows (x, y, p, t), whatever the order of the dtype's names."""
    out = np.zeros(len(rows), dtype)
    for name, column in zip("xypt", zip(*rows, strict=True) if rows else [()] * 4, strict=True):
        out[name] = column
    return out


# -- the format


def test_known_bytes(tmp_path):
    path = tmp_path / "00001.bin"
    path.write_bytes(bytes.fromhex("0000 800000  2100 000001  0021 ffffff  0b16 0f4240"))
    events = ms.data.read_events(path)
    assert events.dtype == ms.data.EVENT and events.dtype.names == ("x", "y", "p", "t")
    assert events.tolist() == [(0, 0, 1, 0), (33, 0, 0, 1), (0, 33, 1, 2**23 - 1), (11, 22, 0, 1_000_000)]


def test_an_overflow_is_dropped_and_shifts_all_that_follow(tmp_path):
    path = tmp_path / "a.bin"
    rows = [(1, 1, 1, 8000), (255, 240, 1, 5), (2, 2, 0, 10), (0, 240, 0, 0), (7, 240, 0, 0), (3, 3, 1, 20)]
    path.write_bytes(b"".join(event(*row) for row in rows))
    assert ms.data.read_events(path).tolist() == [(1, 1, 1, 8000), (2, 2, 0, 10 + 8192), (3, 3, 1, 20 + 3 * 8192)]
    path.write_bytes(event(0, 240, 0, 0))
    assert ms.data.read_events(path).shape == (0,)


EVENTS = st.lists(
    st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 1), st.integers(0, 2**23 - 1)), min_size=1, max_size=60
)


@given(rows=EVENTS, packed=st.booleans())
def test_what_is_written_is_read(tmp_path_factory, rows, packed):
    raw = b"".join(event(*row) for row in rows)
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(gzip.compress(raw, 1) if packed else raw)
    assert ms.data.read_events(path).tolist() == rows


REFUSED = {
    "empty": (b"", "expected events of 5 bytes each, found an empty file"),
    "cut off": (event(1, 1, 0, 0) * 3 + b"12", "expected events of 5 bytes each, found 17 bytes: event 4 is cut off"),
    "x": (event(1, 1, 0, 0) * 2 + event(34, 1, 0, 0), "expected x from 0 to 33 and y from 0 to 33, found x = 34, y = 1 in event 3"),
    "y": (event(1, 241, 0, 0), "expected x from 0 to 33 and y from 0 to 33, found x = 1, y = 241 in event 1"),
    "web page": (b"<!DOCTYPE html><title>404</title>", "found a web page (HTML): a download that went wrong"),
    "zip": (b"PK\3\4" + bytes(51), "found a zip archive: unpack it first"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
    "gzip cut off": (gzip.compress(event(1, 1, 0, 0))[:-5], "expected whole gzip data, found them damaged or cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_recordings_are_named_with_what_was_expected(tmp_path, case):
    raw, message = REFUSED[case]
    path = tmp_path / "00001.bin"
    path.write_bytes(raw)
    with pytest.raises(ms.data.DataError, match=re.escape(message)) as error:
        ms.data.read_events(path)
    assert str(error.value).startswith(f"{path}: expected ") and "\n" not in str(error.value)


def test_folders_missing_files_limits_and_other_cameras(tmp_path, monkeypatch):
    with pytest.raises(ms.data.DataError, match="expected a file, found a folder"):
        ms.data.read_events(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        ms.data.read_events(tmp_path / "nothing")
    path = tmp_path / "a.bin"
    path.write_bytes(event(200, 150, 1, 9) * 2)
    assert ms.data.read_events(path, size=(180, 240)).tolist() == [(200, 150, 1, 9)] * 2
    monkeypatch.setattr(ms.data.reading, "LIMIT", 9)
    with pytest.raises(ms.data.DataError, match="expected at most 9 bytes, found more"):
        ms.data.read_events(path, size=(180, 240))


def test_random_damage_is_read_or_refused(tmp_path):
    rng, path, read, refused = np.random.default_rng(0), tmp_path / "a.bin", 0, 0
    whole = b"".join(event(*map(int, rng.integers(34, size=2)), int(rng.integers(2)), i * 1000) for i in range(40))
    begun = time.perf_counter()
    for i in range(4000):
        raw = bytearray(gzip.compress(whole, 1) if i % 4 == 0 else whole)
        for at in rng.integers(len(raw), size=rng.integers(3)):
            raw[at] = rng.integers(256)
        raw = raw[: rng.integers(len(raw) + 1)] if i % 3 == 0 else raw + rng.bytes(5 * int(rng.integers(3)))
        path.unlink(missing_ok=True)
        path.write_bytes(raw)
        try:
            frames = ms.data.to_frames(ms.data.read_events(path), 4, binary=False)
        except ms.data.DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: expected ")
        else:
            read += 1
            if raw[:2] != b"\x1f\x8b":  # every event of the file is in a frame, unless it is a marker
                assert frames.sum() == len(raw) // 5 - raw[1::5].count(240)
    assert read > 500 and refused > 1000 and time.perf_counter() - begun < 20


# -- frames

ROWS = [(0, 1, 0, 0), (0, 1, 0, 24), (2, 0, 1, 25), (2, 0, 1, 50), (1, 1, 1, 99), (1, 1, 0, 100)]


def test_frames_by_time_and_by_count_by_hand():
    frames = ms.data.to_frames(table(ROWS), 4, size=(2, 3), binary=False)
    expected = np.zeros((4, 2, 2, 3), np.float32)
    expected[0, 0, 1, 0], expected[1, 1, 0, 2], expected[2, 1, 0, 2], expected[3, :, 1, 1] = 2, 1, 1, 1
    assert frames.dtype == np.float32 and np.array_equal(frames, expected)
    binary = ms.data.to_frames(table(ROWS), 4, size=(2, 3))
    assert binary.dtype == np.uint8 and np.array_equal(binary, expected > 0)
    by_count = ms.data.to_frames(table(ROWS[::-1]), 3, size=(2, 3), by="count", binary=False)  # order is that of time
    expected = np.zeros((3, 2, 2, 3), np.float32)
    expected[0, 0, 1, 0], expected[1, 1, 0, 2], expected[2, :, 1, 1] = 2, 2, 1
    assert np.array_equal(by_count, expected)


def test_a_duration_leaves_out_what_comes_later_and_nothing_else():
    for by in ("time", "count"):
        assert ms.data.to_frames(table(ROWS), 2, duration=50, by=by, binary=False).sum() == 4
    late = ms.data.to_frames(table(ROWS), 4, duration=400, binary=False).sum(axis=(1, 2, 3))
    assert late.tolist() == [5, 1, 0, 0]  # 100 us are the begin of the second window


@given(rows=EVENTS, steps=st.integers(1, 7), by=st.sampled_from(["time", "count"]), seed=st.integers(0, 99))
def test_no_event_is_lost_and_each_is_where_it_belongs(rows, steps, by, seed):
    events = np.random.default_rng(seed).permutation(table(rows))
    frames = ms.data.to_frames(events, steps, by=by, binary=False)
    assert frames.shape == (steps, 2, 34, 34) and frames.sum() == len(events)
    image = np.zeros((2, 34, 34))
    for x, y, p, _ in rows:
        image[p, y, x] += 1
    assert np.array_equal(frames.sum(axis=0), image)
    assert np.array_equal(ms.data.to_frames(events, steps, by=by), frames > 0)
    sizes = frames.sum(axis=(1, 2, 3))
    if by == "count":
        assert sizes.max() - sizes.min() <= 1
    else:
        end = max(t for *_, t in rows)
        at = [min(t * steps // end, steps - 1) if end else 0 for *_, t in rows]
        assert np.array_equal(sizes, np.bincount(at, minlength=steps))


TONIC = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])


@pytest.mark.parametrize("dtype", [
    TONIC,
    np.dtype([("x", int), ("y", int), ("t", int), ("p", int)]),
    np.dtype([("t", "<u8"), ("p", "u1"), ("y", "<u2"), ("x", "<u2"), ("camera", "i4")]),
    np.dtype([("t", "f8"), ("x", "i4"), ("y", "i4"), ("p", "i1")]),
])  # fmt: skip
def test_arrays_of_event_libraries_pass(dtype):
    assert np.array_equal(ms.data.to_frames(table(ROWS, dtype), 4), ms.data.to_frames(table(ROWS), 4))


def test_no_events_and_events_at_time_0_are_frames_too():
    for by in ("time", "count"):
        assert not ms.data.to_frames(table([]), 3, by=by).any()
    assert ms.data.to_frames(table([(1, 1, 1, 0)] * 2), 3, binary=False).sum(axis=(1, 2, 3)).tolist() == [2, 0, 0]


def test_wrong_events_and_arguments_are_explained():
    good = table(ROWS)

    def refused(kind, message, events=good, steps=3, **options):
        with pytest.raises(kind, match=re.escape(message)):
            ms.data.to_frames(events, steps, **options)

    refused(
        TypeError,
        "events must be a structured array [n] with the fields x, y, p, t, got an array of float64 [5, 4]",
        np.zeros((5, 4)),
    )
    refused(TypeError, "with the fields x, y, p, t, got [1, 2]", [1, 2])
    refused(TypeError, "structured array [n]", good.reshape(2, 3))
    refused(
        ValueError,
        "events have no field p, t; they have x, y, polarity",
        np.zeros(2, [("x", int), ("y", int), ("polarity", int)]),
    )
    refused(TypeError, "the field x must hold whole numbers, got float64", np.zeros(2, [(n, float) for n in "xypt"]))
    refused(
        TypeError,
        "the field p must hold bool or whole numbers, got float32",
        np.zeros(2, [("x", int), ("y", int), ("p", "f4"), ("t", int)]),
    )
    refused(
        TypeError, "the field t must hold numbers, got <U3", np.zeros(2, [("x", int), ("y", int), ("p", int), ("t", "U3")])
    )
    refused(ValueError, "the field x must be 0 to 33, got 34 in row 1", table([(0, 0, 0, 0), (34, 0, 0, 0)]))
    refused(ValueError, "the field y must be 0 to 19, got -1 in row 0", table([(0, -1, 0, 0)]), size=(20, 30))
    refused(
        ValueError,
        "the field p must be 0 to 1, got -1 in row 0",
        table([(0, 0, -1, 0)], np.dtype([(n, int) for n in "xypt"])),
    )
    refused(ValueError, "the field t must be 0 or more, and finite, got -5 in row 0", table([(0, 0, 0, -5)]))
    refused(
        ValueError,
        "got nan in row 0",
        table([(0, 0, 0, np.nan)], np.dtype([("x", int), ("y", int), ("p", int), ("t", float)])),
    )
    for steps in (0, -1, 2.0, True):
        refused(ValueError, f"steps must be a whole number of at least 1, got {steps!r}", steps=steps)
    refused(ValueError, "by must be 'time' or 'count', got 'events'", by="events")
    for duration in (0, -1, np.inf, np.nan):
        refused(ValueError, f"duration must be a positive number of microseconds, got {duration!r}", duration=duration)


# -- the encoder


def test_frames_move_time_first():
    values = np.random.default_rng(0).random((3, 5, 2, 4), dtype=np.float32) * 7
    x = ms.encode.frames(values)
    assert x.shape == (5, 3, 2, 4) and x.dtype == np.float32 and x.flags.c_contiguous
    assert all(np.array_equal(x[t], values[:, t]) for t in range(5))
    for encoder in (ms.encode.Frames(), ms.encode.Frames(5), ms.encode.ENCODERS["frames"](5)):
        assert np.array_equal(encoder(values, None), x)
    for dtype, factor, expected in (
        (np.uint8, 1, np.uint8),
        (bool, 1, bool),
        (np.uint8, 3, np.float32),
        (int, 1, np.float32),
    ):
        spikes = ((values > 3) * np.array(factor)).astype(dtype)
        assert ms.encode.frames(spikes).dtype == expected and np.array_equal(ms.encode.frames(spikes), spikes.swapaxes(0, 1))
    assert repr(ms.encode.Frames()) != repr(ms.encode.Frames(5))  # a checkpoint compares them


def test_frames_refuse_what_is_no_input():
    good = np.zeros((2, 3, 4))
    for bad in (good - 1, good + np.nan, good + np.inf, good.astype(complex)):
        with pytest.raises((ValueError, TypeError), match="frames must be finite and not negative"):
            ms.encode.frames(bad)
    for bad in (np.zeros(3), good[:0], good[:, :0]):
        with pytest.raises(ValueError, match=r"frames must be \[B, T, \.\.\.\]"):
            ms.encode.frames(bad)
    with pytest.raises(ValueError, match=r"and T = 4 steps, got shape \[2, 3, 4\]"):
        ms.encode.Frames(4)(good, None)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        ms.encode.Frames(0)


# -- N-MNIST


def write_nmnist(folder, n=24, part="Train"):
    """Recording number i has label i % 10 and one event, at x = i."""
    for i in range(1, n + 1):
        home = folder / part / str(i % 10)
        home.mkdir(parents=True, exist_ok=True)
        (home / f"{i}.bin").write_bytes(event(i, 0, 1, 1000))  # without leading zeros: 2 comes before 10


@pytest.mark.filterwarnings("ignore::minisnn.data.SubsetWarning")
def test_nmnist_in_the_order_of_the_numbers(tmp_path, monkeypatch):
    write_nmnist(tmp_path / "nmnist")
    write_nmnist(tmp_path / "nmnist", 3, "Test")
    (tmp_path / "nmnist/Train/0/._10.bin").write_bytes(b"left by another system")
    for folder in (tmp_path, tmp_path / "nmnist"):
        frames, labels = ms.data.nmnist("train", steps=4, folder=folder)
        assert frames.shape == (22, 4, 2, 34, 34) and frames.dtype == np.uint8 and labels.dtype == np.int64
        assert labels.tolist() == [i % 10 for i in range(1, 23)]
        assert np.array_equal(frames[:, 3, 1, 0].argmax(axis=-1), np.arange(1, 23)) and frames.sum() == 22
    monkeypatch.setenv("MINISNN_DATA", str(tmp_path))
    assert ms.data.nmnist("validation")[1].tolist() == [3, 4] and ms.data.nmnist("test")[1].tolist() == [1, 2, 3]
    assert ms.data.nmnist("test", 2, by="count", binary=False)[0].dtype == np.float32
    for split, n in (("test", 3), ("validation", 0)):  # a twelfth of three recordings is none
        write_nmnist(tmp_path / "few", 3, "Test" if n else "Train")
        assert ms.data.SETS["nmnist"].load(split, steps=3, folder=tmp_path / "few")[0].shape == (n, 3, 2312)


def test_nmnist_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="nmnist: no folder was given.*garrickorchard"):
        ms.data.nmnist()
    with pytest.raises(
        FileNotFoundError, match=r"Train/<label>/<number>\.bin in .*nmnist or .*; found none\. .*garrickorchard"
    ):
        ms.data.nmnist(folder=tmp_path)
    with pytest.raises(ValueError, match="nmnist: unknown split 'dev'"):
        ms.data.nmnist("dev")
    write_nmnist(tmp_path)
    with pytest.warns(ms.data.SubsetWarning, match="nmnist: found 24 of the 60,000 training samples"):
        ms.data.nmnist(folder=tmp_path)
    with pytest.raises(ValueError, match="steps must be a whole number"), pytest.warns(ms.data.SubsetWarning):
        ms.data.nmnist(steps=0, folder=tmp_path)
    (tmp_path / "Train/3/3.bin").write_bytes(b"1234")
    with (
        pytest.raises(ms.data.DataError, match=r"3\.bin: expected events of 5 bytes each"),
        pytest.warns(ms.data.SubsetWarning),
    ):
        ms.data.nmnist(folder=tmp_path)
    (tmp_path / "Train/3/copy.bin").write_bytes(b"1234")
    with pytest.raises(ms.data.DataError, match=r"copy\.bin: expected a number as the file's name, found 'copy'"):
        ms.data.nmnist(folder=tmp_path)


# -- CIFAR-10


def batch(n, seed=0):
    records = np.random.default_rng(seed).integers(0, 256, (n, RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    return records


@pytest.mark.filterwarnings("ignore::minisnn.data.SubsetWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_from_as_many_batches_as_there_are(tmp_path, inside):
    home = tmp_path / "cifar10" if inside else tmp_path
    home.mkdir(exist_ok=True)
    first, third, test = batch(20), batch(10, 1), batch(4, 2)
    (home / "data_batch_1.bin").write_bytes(first.tobytes())
    (home / "data_batch_3.bin.gz").write_bytes(gzip.compress(third.tobytes(), 1))
    (home / "test_batch.bin").write_bytes(test.tobytes())
    both = np.concatenate([first, third])
    x, y = ms.data.cifar10(folder=tmp_path)
    assert x.shape == (27, 3, 32, 32) and x.dtype == np.float32 and y.dtype == np.int64
    assert np.array_equal(x.reshape(27, -1), both[:27, 1:] / np.float32(255)) and np.array_equal(y, both[:27, 0])
    u, v = ms.data.cifar10("validation", flat=True, folder=tmp_path)
    assert np.array_equal(u, both[27:, 1:] / np.float32(255)) and np.array_equal(v, both[27:, 0])
    assert np.array_equal(ms.data.cifar10("test", folder=tmp_path)[1], test[:, 0])


def test_cifar10_says_what_is_wrong(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected data_batch_1\.bin to data_batch_5\.bin, at least one of them.*found none.*kriz"
    ):
        ms.data.cifar10(folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected test_batch\.bin, with or without \.gz"):
        ms.data.cifar10("test", folder=tmp_path)
    with pytest.raises(ValueError, match="cifar10: unknown split 'dev'"):
        ms.data.cifar10("dev", folder=tmp_path)
    path, good = tmp_path / "data_batch_2.bin", batch(20)
    path.write_bytes(good.tobytes())
    with pytest.warns(ms.data.SubsetWarning, match="cifar10: found 20 of the 50,000 training samples"):
        ms.data.cifar10(folder=tmp_path)
    bad = good.copy()
    bad[7, 0] = 10
    for raw, message in (
        (b"", "expected records of 3,073 bytes each, found an empty file"),
        (good.tobytes()[:-1], "expected records of 3,073 bytes each, found 61,459 bytes: record 20 is cut off"),
        (b"<html>", "found a web page"),
        (bad.tobytes(), "expected labels 0 to 9, found 10 at row 7"),
        (gzip.compress(good.tobytes(), 1)[:-9], "found them damaged or cut off"),
    ):
        path.write_bytes(raw)
        with pytest.raises(ms.data.DataError, match=re.escape(f"{path}: ") + ".*" + message):
            ms.data.cifar10(folder=tmp_path)


# -- Braille


def tactile(n=50, **changed):
    rng = np.random.default_rng(0)
    arrays = {
        "taxel_data": rng.integers(0, 256, (n, 77, 12), dtype=np.uint8),
        "label": np.arange(n, dtype=np.uint8) % 27,
        "repetition": np.arange(n, dtype=np.uint8),
    }
    return {k: v for k, v in (arrays | changed).items() if v is not None}


def write_braille(folder, save=np.savez_compressed, **changed):
    save(folder / "braille_letters_tactile.npz", **(arrays := tactile(**changed)))
    return arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_braille_is_split_by_repetition(tmp_path, save):
    arrays = write_braille(tmp_path, save)
    for split, rows in (("train", slice(36)), ("validation", slice(36, 41)), ("test", slice(41, 50))):
        x, y = ms.data.braille(split, folder=tmp_path)
        assert x.dtype == np.float32 and y.dtype == np.int64 and np.array_equal(y, arrays["label"][rows])
        assert np.array_equal(x, arrays["taxel_data"][rows] / np.float32(255))


def test_braille_says_what_is_wrong(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"braille: expected braille_letters_tactile\.npz in .*braille or .*; found none.*spytorch"
    ):
        ms.data.braille(folder=tmp_path)
    for changed, message in (
        ({"label": None}, "expected the arrays taxel_data, label, repetition, found no label"),
        (
            {"taxel_data": np.zeros((50, 77, 12))},
            "expected taxel_data uint8 [n, 77, 12], label [n], repetition [n], found float64 [50, 77, 12], uint8 [50]",
        ),
        ({"taxel_data": np.zeros((50, 12, 77), np.uint8)}, "found uint8 [50, 12, 77]"),
        ({"label": np.array(3)}, "found uint8 [50, 77, 12], int64 []"),
        ({"label": np.zeros(50)}, "float64 [50]"),
        ({"label": np.full(50, 27)}, "expected labels 0 to 26, found 27"),
        ({"repetition": np.full(50, -1)}, "expected repetitions 0 to 49, found -1"),
        ({"label": np.array([{}] * 50)}, "is a pickle of Python objects"),
    ):
        write_braille(tmp_path, **changed)
        with pytest.raises(ms.data.DataError, match=re.escape(message)) as error:
            ms.data.braille(folder=tmp_path)
        assert str(error.value).startswith(str(tmp_path / "braille_letters_tactile.npz: "))
    monkeypatch.setattr(ms.data.reading, "LIMIT", 999)
    with pytest.raises(ms.data.DataError, match="expected at most 999 bytes, found a directory that promises more"):
        ms.data.braille(folder=tmp_path)


def test_damaged_archives_are_read_or_refused(tmp_path):
    """Random bytes, cuts, and an archive whose arrays have damaged headers but right check sums."""
    path, rng, refused = tmp_path / "braille_letters_tactile.npz", np.random.default_rng(0), 0
    write_braille(tmp_path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for i in range(600):
        if i % 2:
            raw = bytearray(whole)
            for _ in range(rng.integers(1, 4)):  # mostly the directories: the rest has check sums
                raw[int(rng.integers(len(raw))) if i % 4 == 1 else -int(rng.integers(1, 300))] = rng.integers(256)
            raw = raw[: rng.integers(len(raw))] if i % 10 == 1 else raw
        else:
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as archive:
                for name, content in members.items():
                    content = bytearray(content)
                    content[rng.integers(128)] = rng.integers(256)
                    archive.writestr(name, bytes(content))
            raw = out.getvalue()
        path.unlink()
        path.write_bytes(raw)
        try:
            x, y = ms.data.braille(folder=tmp_path)
        except ms.data.DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
        else:
            assert x.shape == (len(y), 77, 12)
    assert refused > 300


# -- the published recordings


def nearest(x, y, u):
    """Labels of u by the nearest mean of a class, and by the nearest neighbour."""
    means = np.stack([x[y == c].mean(axis=0) for c in range(y.max() + 1)])
    distance = lambda a: ((u[:, None] - a) ** 2).sum(axis=2)  # noqa: E731
    return distance(means).argmin(axis=1), y[np.stack([((x - row) ** 2).sum(axis=1) for row in u]).argmin(axis=1)]


@real("nmnist")
@pytest.mark.filterwarnings("ignore::minisnn.data.SubsetWarning")
def test_the_real_recordings():
    """The subset's facts as its README has them; other tests of N-MNIST stay true for the whole set."""
    paths = sorted(Path(REAL, "nmnist").glob("*/*/*.bin"))
    if len(paths) != 1100:
        pytest.skip("another part of N-MNIST than the subset whose numbers are known")
    recordings = [ms.data.read_events(p) for p in paths]
    numbers, last = [len(e) for e in recordings], [e["t"].max() for e in recordings]
    assert (min(numbers), max(numbers)) == (1069, 7152) and round(np.mean(numbers)) == 4108
    assert [round(t / 1000, 1) for t in (min(last), max(last))] == [296.8, 336.0]
    assert all((np.diff(e["t"]) >= 0).all() for e in recordings)
    parts = {s: ms.data.nmnist(s, steps=1, folder=REAL, binary=False) for s in ms.data.SPLITS}
    assert {s: len(y) for s, (_, y) in parts.items()} == {"train": 917, "validation": 83, "test": 100}
    x, y = (np.concatenate(both) for both in zip(parts["train"], parts["validation"], strict=True))
    u, v = parts["test"]
    assert np.bincount(y).tolist() == [97, 116, 99, 93, 105, 92, 94, 117, 87, 100]
    assert np.bincount(v).tolist() == [8, 14, 8, 11, 14, 7, 10, 15, 2, 11]
    assert x.sum(dtype=float) + u.sum(dtype=float) == sum(numbers)
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # MNIST's own order
    # Counts as shares of the recording's events; as they are: 70 and 78 %.
    x, u = (a.reshape(len(a), -1) / a.sum(axis=(1, 2, 3, 4))[:, None] for a in (x, u))
    mean, neighbour = nearest(x, y, u)
    assert (mean == v).mean() == pytest.approx(0.68, abs=0.01) and (neighbour == v).mean() == pytest.approx(0.82, abs=0.01)


@real("cifar10")
@pytest.mark.filterwarnings("ignore::minisnn.data.SubsetWarning")
def test_the_real_photographs():
    parts = {s: ms.data.cifar10(s, flat=True, folder=REAL) for s in ms.data.SPLITS}
    x, y = (np.concatenate(both) for both in zip(parts["train"], parts["validation"], strict=True))
    if len(y) != 3000:
        pytest.skip("another part of CIFAR-10 than the subset whose numbers are known")
    assert len(parts["validation"][1]) == 300 and np.bincount(y).tolist() == [300] * 10
    planes = x.reshape(-1, 3, 1024).astype(float)
    assert planes.mean(axis=(0, 2)) == pytest.approx([0.4958, 0.4835, 0.4480], abs=5e-5)
    assert planes.std(axis=(0, 2)) == pytest.approx([0.2465, 0.2443, 0.2616], abs=5e-5)
    u, v = parts["test"]
    means = np.stack([x[y == c].mean(axis=0) for c in range(10)])
    assert (((means**2).sum(axis=1) - 2 * u @ means.T).argmin(axis=1) == v).mean() == pytest.approx(0.284, abs=1e-3)


@real("braille")
def test_the_real_letters():
    parts = {s: ms.data.braille(s, folder=REAL) for s in ms.data.SPLITS}
    assert {s: x.shape for s, (x, _) in parts.items()} == {
        "train": (972, 77, 12),
        "validation": (135, 77, 12),
        "test": (243, 77, 12),
    }
    assert all((np.bincount(y) == len(y) // 27).all() for _, y in parts.values())
    (x, y), (u, v) = parts["train"], parts["test"]
    assert x.min() == np.float32(55 / 255) and x.max() == 1
    means = np.stack([x[y == c].mean(axis=0).ravel() for c in range(27)])
    assert (((means**2).sum(axis=1) - 2 * u.reshape(243, -1) @ means.T).argmin(axis=1) == v).all()


PAGE = Path(__file__).parent.parent / "docs/how_to/use_your_data.rst"


def programs():
    """The page's programs on recordings, by the set that they read."""
    blocks = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", PAGE.read_text(encoding="utf-8"))
    return {name: b for b in map(textwrap.dedent, blocks) for name in ("nmnist", "braille") if f"ms.data.{name}(" in b}


@pytest.mark.filterwarnings("ignore::minisnn.data.SubsetWarning")
@pytest.mark.parametrize("name", [pytest.param(n, marks=real(n)) for n in ("nmnist", "braille")])
def test_the_page_s_programs_train_on_recordings(monkeypatch, capsys, name):
    monkeypatch.setenv("MINISNN_DATA", REAL)
    exec(programs()[name], names := {})
    print(names["history"])
    assert names["share"] > {"nmnist": 0.7, "braille": 0.8}[name]


def test_the_page_s_program_on_one_s_own_events_runs():
    blocks = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", PAGE.read_text(encoding="utf-8"))
    program = next(b for b in blocks if "EVENT" in b)
    exec(textwrap.dedent(program), names := {})
    assert names["frames"].shape == (10, 2, 34, 34) and names["counts"].sum() == len(names["events"])
