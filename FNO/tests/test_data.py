"""Loading data files: what the network gets, in float64, and files that are broken or belong to something else."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from fno import data as loading  # noqa: E402
from fno.data import check_scales, inspect, load, read_scales  # noqa: E402
from fno.files import UsageError  # noqa: E402
from fno.streams import VF  # noqa: E402
from fno.systems import SYSTEMS  # noqa: E402

POISSON, LIMITS = SYSTEMS["poisson"], small.RANGES["poisson"]
data = pytest.fixture(scope="module")(small.data)


def by_the_sheet(train: Path, file: Path, subsample: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input planes (n, 1 + J, N, N) and targets (n, N, N) as section 1.8 of the specification has them; and n rows."""
    with h5py.File(train) as h5:
        f, tensor = h5["fields"][:, 0].astype(np.float64), h5["tensor"][:].astype(np.float64)
    size = f.shape[-1]
    scales = [np.median([np.linalg.norm(x) / size**2 for x in f]), *(np.median(abs(column)) for column in tensor.T)]
    scales = [1.0 if s == 0 else s for s in scales]
    inputs, targets = [], []
    with h5py.File(file) as h5:
        rows = [int(np.floor(i * subsample)) for i in range(len(h5["fields"]) // subsample)]
        for row in rows:
            f, u = h5["fields"][row].astype(np.float64)
            r = np.linalg.norm(f) / size**2 / scales[0]
            planes = [np.full_like(f, c / r / s) for c, s in zip(h5["tensor"][row].astype(np.float64), scales[1:])]
            inputs.append(np.stack([f / r, *planes]))
            targets.append(u)
    return np.array(inputs), np.array(targets), np.array(rows)


def open_all(folder: Path, system: str = "poisson") -> tuple[Any, np.ndarray]:
    """The training file and its scales."""
    names = small.names(system)
    file = inspect(folder / names["train"], SYSTEMS[system], small.RANGES[system])
    return file, read_scales(folder / names["scales"], SYSTEMS[system])


def test_a_file_that_was_replaced_after_the_look_at_it_is_refused(tmp_path: Path) -> None:
    file, scales = open_all(small.make_data(tmp_path))
    load(file, scales)
    for sizes in ({"seed": 5}, {"seed": 5, "ntrain": 40}):
        small.make_data(tmp_path / "other", **sizes)
        (tmp_path / "other" / file.path.name).replace(file.path)
        with pytest.raises(UsageError, match="has been replaced since"):
            load(file, scales)
        shutil.rmtree(tmp_path / "other")


@pytest.mark.parametrize("system", SYSTEMS)
def test_samples_are_those_of_the_specification(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "BLOCK", 5)  # several blocks, the last one short
    small.make_data(tmp_path, system, ntrain=44, nval=18)
    names, (train, scales) = small.names(system), open_all(tmp_path, system)
    columns = len(SYSTEMS[system].coefficients)
    assert (train.rows, train.size, len(scales)) == (44, 16, columns + 4)
    for name, subsample in [("train", 1), ("train", 2), ("train", 7), ("train", 44), ("val", 4), ("test", 1)]:
        file = inspect(tmp_path / names[name], SYSTEMS[system], small.RANGES[system])
        inputs, targets, rows = by_the_sheet(train.path, file.path, subsample)
        samples = load(file, scales, subsample, dtype=torch.float64)
        assert len(samples) == len(rows) == file.rows // subsample
        planes = samples.coefficients[:, :, None, None].expand(-1, -1, 16, 16)
        got = torch.cat([samples.f[:, None], planes], 1).numpy()
        np.testing.assert_allclose(got, inputs, rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(samples.u.numpy(), targets)
        single = load(file, scales, subsample)
        assert single.f.dtype == single.coefficients.dtype == single.u.dtype == torch.float32
        np.testing.assert_allclose(single.f, inputs[:, 0], rtol=1e-6, atol=1e-30)
        picked = samples.batch(torch.tensor([len(rows) - 1, 0]))
        assert torch.equal(picked[2], samples.u[[-1, 0]]) and torch.equal(picked[1], samples.coefficients[[-1, 0]])


def test_subsets_are_nested_and_have_equal_shares_of_all_sparsities(tmp_path: Path) -> None:
    """Half as large a subsample contains the old subset; each has n/4 samples of each block of the file."""
    small.make_data(tmp_path, ntrain=64)
    file, scales = open_all(tmp_path)
    every = {u.numpy().tobytes(): row for row, u in enumerate(load(file, scales, 1).u)}
    subsets = {s: [every[u.numpy().tobytes()] for u in load(file, scales, s).u] for s in (1, 2, 4, 8, 16)}
    for s, rows in subsets.items():
        assert len(set(rows)) == 64 // s and set(rows) <= set(subsets[max(1, s // 2)])
        assert np.bincount([row * len(VF) // 64 for row in rows], minlength=4).tolist() == [16 // s] * 4


def rewrite(source: Path, target: Path, change: Callable[[h5py.File], None] = lambda h5: None, attributes: bool = False,
            dtypes: dict[str, Any] | None = None) -> Path:
    """A copy as the published generators write it, without attributes; then `change`d."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for name in old:
            new[name] = old[name][:].astype((dtypes or {}).get(name, "f4"))
        if attributes:
            new.attrs.update(old.attrs)
        change(new)
    return target


def test_published_files_and_other_precisions(data: Path, tmp_path: Path) -> None:
    """Files without attributes, of half and of double precision, chunked or compressed."""
    file, scales = open_all(data)
    expected = load(file, scales, 2, dtype=torch.float64)
    for dtype, tolerance in {"f2": 3e-3, "f4": 0.0, "f8": 0.0}.items():
        other = inspect(rewrite(file.path, tmp_path / "x.h5", dtypes={"fields": dtype, "tensor": dtype}), POISSON,
                        LIMITS)
        check_scales(other, scales, 1.1)
        samples = load(other, scales, 2, dtype=torch.float64)
        for name in ("f", "coefficients", "u"):
            worst = (getattr(samples, name) - getattr(expected, name)).abs().max() / getattr(expected, name).abs().max()
            assert worst <= tolerance, (dtype, name)
        assert other.identity() == {"rows": 32, "grid": 16}
    noted = file.identity()
    assert noted["crc32_fields"] and noted["seed"] == 0 and noted["n"] == 16
    with h5py.File(tmp_path / "z.h5", "w") as h5, h5py.File(file.path) as old:
        for name in ("fields", "tensor"):
            h5.create_dataset(name, data=old[name][:], chunks=True, compression="gzip")
    assert torch.equal(load(inspect(tmp_path / "z.h5", POISSON, LIMITS), scales, 3).f, load(file, scales, 3).f)


def put(h5: h5py.File, name: str, value: Any) -> None:
    """Replace a dataset."""
    del h5[name]
    if value is not None:
        h5[name] = value


def at(name: str, index: tuple[Any, ...], value: float) -> Callable[[h5py.File], None]:
    """Change some numbers."""
    return lambda h5: h5[name].__setitem__(index, value)


#: How a good file becomes a bad one, and what the answer must say.
BROKEN: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no fields": (lambda h5: put(h5, "fields", None), "not a data file of poisson: it has no dataset 'fields'"),
    "no tensor": (lambda h5: put(h5, "tensor", None), "it has no dataset 'tensor'"),
    "a group": (lambda h5: (put(h5, "fields", None), h5.create_group("fields")), "it has no dataset 'fields'"),
    "a number": (lambda h5: put(h5, "fields", np.float32(3)), "fields () and tensor (32, 3) instead of (n, 2, N, N)"),
    "nothing": (lambda h5: put(h5, "fields", h5py.Empty("f4")), "fields None and tensor"),
    "no rows": (lambda h5: [put(h5, n, h5[n][:0]) for n in ("fields", "tensor")], "fields (0, 2, 16, 16)"),
    "one channel": (lambda h5: put(h5, "fields", h5["fields"][:, :1]), "fields (32, 1, 16, 16)"),
    "not square": (lambda h5: put(h5, "fields", h5["fields"][..., :8]), "fields (32, 2, 16, 8)"),
    "3-D": (lambda h5: put(h5, "fields", h5["fields"][:, 0]), "fields (32, 16, 16)"),
    "other rows": (lambda h5: put(h5, "tensor", h5["tensor"][:31]), "tensor (31, 3)"),
    "columns of another system": (lambda h5: put(h5, "tensor", np.ones((32, 5), "f4")), "(n, 2, N, N) and (n, 3)"),
    "integers": (lambda h5: put(h5, "fields", np.ones((32, 2, 16, 16), int)), "must be float16, float32, float64, got"),
    "big-endian": (lambda h5: put(h5, "tensor", h5["tensor"][:].astype(">f4")), "got float32 and >f4"),
    "nan in f": (at("fields", (9, 0, 3, 3), np.nan), "values that are not finite"),
    "inf in u": (at("fields", (31, 1, 0, 0), np.inf), "values that are not finite in rows 0 to 31"),
    "nan in tensor": (at("tensor", (5, 2), np.nan), "values that are not finite"),
    "inf in tensor": (at("tensor", (0, 0), -np.inf), "values that are not finite"),
    "no solution": (at("fields", (8, 1), 0.0), "a forcing or solution that is zero in rows 0 to 31"),
    "no forcing": (at("fields", (8, 0), 0.0), "a forcing or solution that is zero in rows 0 to 31"),
    "another system": (lambda h5: h5.attrs.update(system="helmholtz"), "holds helmholtz, but the configuration is one"),
    "another range": (lambda h5: h5.attrs.update(range=[2.5, 5.0]), "holds the range [2.5, 5.0], but the"),
    "half a range": (lambda h5: h5.attrs.update(range=1.0), "holds the range 1.0, but the configuration asks for [1.0"),
}


def look(path: Path, scales: np.ndarray) -> None:
    """All that is done with a file before training."""
    file = inspect(path, POISSON, LIMITS)
    check_scales(file, scales, 1.1)
    load(file, scales)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_alien_files(name: str, data: Path, tmp_path: Path) -> None:
    file, scales = open_all(data)
    change, words = BROKEN[name]
    path = rewrite(file.path, tmp_path / "x.h5", change, attributes=True)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        look(path, scales)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_hdf5(data: Path, tmp_path: Path) -> None:
    """Cut at many lengths, text, nothing at all, a folder, not there: one line that names the file."""
    file, scales = open_all(data)
    raw, path = file.path.read_bytes(), tmp_path / "x.h5"
    for length in [0, 1, 7, 8, 100, 511, 512, 1024, 2047, 2048, len(raw) // 3, len(raw) // 2, len(raw) - 400,
                   len(raw) - 1]:
        path.write_bytes(raw[:length])
        with pytest.raises(UsageError, match=f"^{re.escape(str(path))} cannot be read: [^\n]+$"):
            look(path, scales)
    for content in (b"k11,k22\n1,2\n", b"\x89HDF\r\n\x1a\n" + bytes(5000), raw[512:]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=re.escape(str(path))):
            look(path, scales)
    path.unlink()
    with pytest.raises(UsageError, match="x.h5: no such data file"):
        look(path, scales)
    path.mkdir()
    with pytest.raises(UsageError, match="x.h5 cannot be read"):
        look(path, scales)
    rng = np.random.default_rng(0)
    for _ in range(300):  # flipped bytes of the header: an answer in one line, or the file is still good
        broken, path = bytearray(raw), tmp_path / "flipped.h5"
        broken[rng.integers(2048)] = rng.integers(256)
        path.write_bytes(broken)
        try:
            look(path, scales)
        except UsageError as error:
            assert "\n" not in str(error) and str(path) in str(error)


def test_scales(data: Path, tmp_path: Path) -> None:
    """Zeros become 1; what is no vector of the right length, finite and not negative, is refused."""
    file, scales = open_all(data)
    path, good = tmp_path / "s.npy", np.load(data / small.names()["scales"])
    np.testing.assert_array_equal(scales, good)
    np.save(path, good * [1, 1, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(read_scales(path, POISSON), [*good[:3], 1, *good[4:6], 1])
    bad = [(good[:6], "must hold 7 numbers for poisson, got (6,)"), (good[None], "got (1, 7)"),
           (np.array(["a"] * 7), "got (7,) of <U1"), (good * [1, np.nan, 1, 1, 1, 1, 1], "finite numbers that are not"),
           (good * [1, 1, np.inf, 1, 1, 1, 1], "finite numbers"), (-good, "not negative"),
           (np.array([*good[:6], None], dtype=object), "cannot be read"), (good > 0, "of bool")]
    for value, words in bad:
        np.save(path, value, allow_pickle=True)
        with pytest.raises(UsageError, match=re.escape(words)) as caught:
            read_scales(path, POISSON)
        assert str(path) in str(caught.value)
    raw = (data / small.names()["scales"]).read_bytes()
    for content in (b"", raw[:9], raw[:60], raw[:-1], b"1 2 3\n", b"PK\x03\x04" + bytes(60), file.path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="s.npy cannot be read"):
            read_scales(path, POISSON)
    path.unlink()
    with pytest.raises(UsageError, match="s.npy: no such scales file"):
        read_scales(path, POISSON)
    np.savez(tmp_path / "s.npz", good)
    with pytest.raises(UsageError, match="must hold 7 numbers"):
        read_scales(tmp_path / "s.npz", POISSON)


@pytest.mark.parametrize(("system", "ranges"), [
    ("poisson", [(1.0, 2.5), (2.5, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 50.0), (100.0, 200.0)]),
    ("advdiff", [(0.2, 0.4), (0.4, 0.6), (1.7, 2.0), (2.0, 2.5)])])
def test_scales_of_another_range_are_refused(system: str, ranges: list[tuple[float, float]], tmp_path: Path) -> None:
    """Those of the neighbours, and those of another grid; not those of the file itself."""
    flags, files = SYSTEMS[system].flags, {}
    for limits in ranges:
        folder = tmp_path / str(limits[0])
        small.make_data(folder, system, ntrain=256, nval=1, ntest=1, **dict(zip(flags, limits)))
        (train,), (npy,) = folder.glob("_train*.h5"), folder.glob("*.npy")
        files[limits] = inspect(train, SYSTEMS[system], limits), read_scales(npy, SYSTEMS[system])
    for (file, own), (_, other) in zip(files.values(), [*files.values()][1:]):
        check_scales(file, own, 1.0001)
        for grid in (0.5, 2.0):
            with pytest.raises(UsageError, match="the scales file does not belong to"):
                check_scales(file, own * [grid, *[1] * (len(own) - 1)], 1.1)
        with pytest.raises(UsageError, match="the scales file does not belong to"):
            check_scales(file, other, 1.1)


def test_a_coefficient_that_is_zero_in_most_rows(tmp_path: Path) -> None:
    """K = 1 (isotropic) has no off-diagonal: its scale 0 counts as 1, and its column stays 0."""
    small.make_data(tmp_path, e1=1.0, e2=1.0)
    path = tmp_path / "_train_k1.0_1.0_32k.h5"
    file, scales = inspect(path, POISSON, (1.0, 1.0)), read_scales(path.with_name(path.stem + "_scales.npy"), POISSON)
    check_scales(file, scales, 1.1)
    samples = load(file, scales)
    assert scales[3] == 1 and not samples.coefficients[:, 2].any() and samples.coefficients[:, :2].all()
