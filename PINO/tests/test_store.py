"""Data files: written and read back, found, refused when damaged or other than asked for; benchmark files."""

import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import scipy.io
from pino import matlab, store
from pino.files import UsageError
from pino.store import Recipe

SMALL = Recipe(size=15, r=10)  # u on 3 x 3 nodes


def arrays(rows: int, recipe: Recipe = SMALL) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)  # a larger set begins with the smaller one
    bits = [np.packbits(random.random(recipe.size**2) < 0.5) for _ in range(rows)]
    return np.stack(bits), np.stack([np.full((recipe.points,) * 2, row, np.float32) for row in range(rows)])


def written(folder, rows: int, recipe: Recipe = SMALL):
    path = folder / f"{recipe.stem(rows)}.h5"
    store.write(path, recipe, *arrays(rows, recipe), 1e-9)
    return path


# ---- recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "name"), [
    (Recipe(), "darcy_N421_n1000_r4_f1_seed0"), (Recipe(r=1.5, f=-2), "darcy_N421_n1000_r1.5_fm2_seed0"),
    (Recipe(split="test", seed=7), "darcy_N421_n1000_r4_f1_test"), (Recipe(seed=3, f=1e-5),
                                                                    "darcy_N421_n1000_r4_f1em05_seed3"),
    (Recipe(tau=5, low=1.5, stride=2), "darcy_N421_n1000_r4_f1_tau5_a2_al1.5_sub2_seed0"),
    (Recipe(grf="neumann", alpha=2.5), "darcy_N421_n1000_r4_f1_tau3_a2.5_al3_neumann_seed0")])
def test_names_tell_recipes_apart(recipe, name):
    assert recipe.stem(1000) == name


def test_recipes_compare_by_their_values():
    assert Recipe(r=4) == Recipe(r=4.0) and Recipe(split="test", seed=1) == Recipe(split="test", seed=2)
    assert Recipe(seed=1) != Recipe(seed=2) and Recipe().points == 61
    assert Recipe().stem(5, full=True) == Recipe(stride=1).stem(5, full=True)


@pytest.mark.parametrize(("change", "flag"), [
    ({"size": 4}, "--N"), ({"stride": 8}, "--sub must be a divisor of N - 1 = 420, at most 210, got 8"),
    ({"stride": 420}, "--sub"), ({"stride": 0}, "--sub"), ({"r": 0.5}, "--r must be from 1 to 1e4, got 0.5"),
    ({"r": float("nan")}, "--r"), ({"r": float("inf")}, "--r"), ({"f": 0}, "--f"), ({"f": float("nan")}, "--f"),
    ({"tau": 0}, "--tau"), ({"alpha": -1}, "--alpha"), ({"low": 0}, "--a_low"), ({"grf": "white"}, "--grf"),
    ({"seed": -1}, "--seed"), ({"tol": 1e-12}, "--tol must be from 8.8e-11"), ({"tol": 1}, "--tol"),
    ({"split": "val"}, "--split")])
def test_recipes_that_are_not_allowed_name_the_flag(change, flag):
    with pytest.raises(UsageError, match=flag.replace("(", ".")):
        Recipe(**change).check()
    Recipe(r=1e4, size=5, stride=2, tol=2e-12).check()


# ---- HDF5 --------------------------------------------------------------------------------------


def test_files_give_back_what_was_written_in_the_same_bytes(tmp_path):
    path, (bits, u) = written(tmp_path, 20), arrays(20)
    fields = store.read(path, SMALL, 12)
    assert len(fields) == 12 and (fields.bits == bits[:12]).all() and (fields.u == u[:12]).all()
    assert (fields.signs() == np.unpackbits(bits[:12], axis=1, count=225).reshape(12, 15, 15)).all()
    assert (fields.low, fields.high, fields.contrast, fields.f, fields.stride) == (3, 30, 10, 1, 7)
    assert fields.source == path and fields.identity == SMALL.identity() and "n_samples" not in fields.identity
    with h5py.File(path) as file:
        assert file["signs"].dtype == np.uint8 and file["signs"].compression == "gzip" and file["u"].dtype == np.float32
        assert file.attrs["complete"] and file.attrs["residual"] == 1e-9 and file.attrs["n_samples"] == 20
    before = path.read_bytes()
    assert written(tmp_path, 20).read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_find_takes_the_smallest_file_of_the_recipe_that_suffices(tmp_path, capsys):
    for rows in (10, 20, 40):
        written(tmp_path, rows)
    written(tmp_path, 50, replace(SMALL, tol=1e-7))  # the tolerance is not in the name
    written(tmp_path, 60, replace(SMALL, seed=1))
    written(tmp_path, 70, replace(SMALL, split="test"))
    found = [store.find(SMALL, n, tmp_path) for n in (5, 10, 11, 40, 41)]
    assert [path and int(path.name.split("_")[2][1:]) for path in found] == [10, 10, 20, 40, None]
    os.truncate(tmp_path / f"{SMALL.stem(20)}.h5", 3000)
    assert store.find(SMALL, 11, tmp_path).name.startswith("darcy_N15_n40")
    assert "darcy_N15_n20_r10_f1_seed0.h5 cannot be read" in capsys.readouterr().err
    assert store.find(SMALL, 1, tmp_path / "nowhere") is None


def _spoil(path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "text":
        path.write_text("no data")
    elif how == "flipped":
        with h5py.File(path, "r+") as file:
            file["u"][15, 1, 1] += 1  # beyond the rows that are asked for, too
    elif how == "signs":
        with h5py.File(path, "r+") as file:
            file["signs"][0, 0] ^= 1
    elif how == "nan":
        bits, u = arrays(20)
        u[2, 1, 1] = np.nan
        store.write(path, SMALL, bits, u, 1e-9)
    elif how == "foreign":
        with h5py.File(path, "w") as file:
            file["u"] = 1
    elif how == "form":
        bits, u = arrays(20)
        store.write(path, SMALL, bits, u.astype(np.float64), 1e-9)
    elif how == "unfinished":
        with h5py.File(path, "r+") as file:
            file.attrs["complete"] = False


@pytest.mark.parametrize(("how", "text"), [
    ("missing", "no such data file"), ("cut", "cannot be read"), ("text", "cannot be read"),
    ("flipped", "checksum of `u`"), ("signs", "checksum of `signs`"), ("nan", "`u` is not finite"),
    ("foreign", "was not made by"), ("form", "`u` has another form"), ("unfinished", "was not made by"),
    ("few", "holds 20 samples, 21 are asked for"), ("other", "r 10.0 -> 4.0, seed 0 -> 3")])
def test_what_cannot_be_used_is_named(how, text, tmp_path):
    path = written(tmp_path, 20)
    _spoil(path, how)
    recipe = replace(SMALL, r=4, seed=3) if how == "other" else SMALL
    with pytest.raises(UsageError, match=text) as caught:
        store.read(path, recipe, 21 if how == "few" else 12)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ---- MATLAB ------------------------------------------------------------------------------------


def benchmark(path, rows: int = 6, size: int = 15, form: str = "v5", values=(3.0, 12.0), **more) -> dict:
    """Write a benchmark file; `form` is v5, plain (v5, not compressed) or v7.3."""
    random = np.random.default_rng(rows)
    content = {"Kcoeff": np.zeros((rows, 2)), "coeff": np.where(random.random((rows, size, size)) < 0.5, *values),
               "sol": random.random((rows, size, size))} | more
    content = {name: array for name, array in content.items() if array is not None}
    if form == "v7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            for name, array in content.items():
                file[name] = np.transpose(np.atleast_2d(array))
        with open(path, "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    else:
        scipy.io.savemat(path, content, do_compression=form == "v5")
    return content


@pytest.mark.parametrize("form", ["v5", "plain", "v7.3"])
@pytest.mark.parametrize("stride", [1, 7])
def test_benchmark_files_of_either_version(form, stride, tmp_path):
    train = benchmark(tmp_path / "piececonst_r421_N1024_smooth1.mat", form=form)
    test = benchmark(tmp_path / "piececonst_r421_N1024_smooth2.mat", rows=4, form=form, f=2.0)
    for split, content, n, f in (("train", train, 5, 1), ("test", test, 4, 2)):
        fields = matlab.read_benchmark(tmp_path, n, split, 4, stride)
        assert (fields.coefficient() == content["coeff"][:n]).all() and (fields.low, fields.high) == (3, 12)
        assert fields.u.dtype == np.float32
        assert (fields.u == content["sol"][:n, ::stride, ::stride].astype(np.float32)).all()
        assert (fields.f, fields.size, fields.stride, len(fields)) == (f, 15, stride, n)
    again = benchmark(tmp_path / "piececonst_r421_N1024_smooth1.mat", form=form)
    one = matlab.read_benchmark(tmp_path, 5, "train", 4, stride).identity
    again["sol"][0, 0, 0] += 1
    scipy.io.savemat(tmp_path / "piececonst_r421_N1024_smooth1.mat", again)
    assert matlab.read_benchmark(tmp_path, 5, "train", 4, stride).identity != one
    assert matlab.read_benchmark(tmp_path, 5, "train", 4, stride).source.name == "piececonst_r421_N1024_smooth1.mat"


def test_names_with_the_contrast_come_first(tmp_path):
    benchmark(tmp_path / "piececonst_r421_N1024_smooth1.mat")
    benchmark(tmp_path / "piececonst_r10_N6_smooth.mat", values=(3.0, 30.0))
    benchmark(tmp_path / "piececonst_r10_N8_smooth1.mat", rows=8, values=(3.0, 30.0))
    benchmark(tmp_path / "piececonst_r1.5_N6_smooth2.mat", values=(2.0, 3.0))
    benchmark(tmp_path / "piececonst_r1_N6_smooth1.mat", values=(3.0, 3.0))
    assert matlab.read_benchmark(tmp_path, 6, "train", 10, 7).source.name == "piececonst_r10_N8_smooth1.mat"
    assert matlab.read_benchmark(tmp_path, 6, "test", 1.5, 7).low == 2
    assert matlab.read_benchmark(tmp_path, 6, "train", 4, 7).high == 12
    constant = matlab.read_benchmark(tmp_path, 6, "train", 1, 7)
    assert (constant.coefficient() == 3).all() and constant.contrast == 1
    (tmp_path / "piececonst_r10_N8_smooth1.mat").unlink()
    assert matlab.read_benchmark(tmp_path, 6, "train", 10, 7).source.name == "piececonst_r10_N6_smooth.mat"


RAGGED = np.zeros((6, 15, 14))


@pytest.mark.parametrize("form", ["v5", "v7.3"])
@pytest.mark.parametrize(("change", "ask", "text"), [
    ({"values": (3.0, 30.0)}, {}, "holds the contrast 10 .a = 3 and 30., not r = 4"),
    ({}, {"r": 4.00001}, "holds the contrast 4 "), ({"values": (0.0, 3.0)}, {}, "two values above 0"),
    ({"coeff": np.random.default_rng(0).random((6, 15, 15))}, {}, "`coeff` must have two values"),
    ({}, {"n": 7}, "holds 6 samples, 7 are asked for"), ({}, {"stride": 5}, "stride 5 must divide N - 1 = 14"),
    ({"sol": None}, {}, "no array `sol`"), ({"coeff": None}, {}, "no array `coeff`"),
    ({"sol": np.zeros((5, 15, 15))}, {}, "`sol` must be"), ({"coeff": RAGGED, "sol": RAGGED}, {}, "`coeff` must be"),
    ({"sol": np.full((6, 15, 15), np.nan)}, {}, "not finite"),
    ({"coeff": np.full((6, 15, 15), np.nan)}, {}, "not finite"), ({"f": np.inf}, {}, "not finite"),
    ({"sol": np.zeros((6, 15, 15), int)}, {}, "`sol` must be")])
def test_benchmark_files_that_do_not_fit_are_named(form, change, ask, text, tmp_path):
    path = tmp_path / "piececonst_r421_N1024_smooth1.mat"
    benchmark(path, form=form, **change)
    with pytest.raises(UsageError, match=text) as caught:
        matlab.read_benchmark(tmp_path, **{"n": 6, "split": "train", "r": 4, "stride": 7} | ask)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["v5", "plain", "v7.3"])
def test_benchmark_files_that_are_damaged_or_missing(form, tmp_path):
    path = tmp_path / "piececonst_r421_N1024_smooth1.mat"
    with pytest.raises(UsageError, match=r"no piececonst_r4_N\.\.\._smooth1.mat and no piececonst_r421_N1024_smooth1"):
        matlab.read_benchmark(tmp_path, 6, "train", 4, 7)
    benchmark(path, form=form)
    whole = path.read_bytes()
    for size in (0, 100, 200, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(UsageError) as caught:
            matlab.read_benchmark(tmp_path, 6, "train", 4, 7)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_bytes(b"\x00" * 5000)
    with pytest.raises(UsageError, match=str(path)):
        matlab.read_benchmark(tmp_path, 6, "train", 4, 7)


def test_published_layout(tmp_path):
    recipe = replace(SMALL, stride=1, f=2.5)
    bits, sol = arrays(4)[0], np.random.default_rng(0).random((4, 15, 15))
    path = tmp_path / "piececonst_r10_N4_smooth1.mat"
    matlab.write(path, recipe, bits, lambda: sol, 0.5)
    content = scipy.io.loadmat(path)
    assert {name for name in content if name[0] != "_"} == {"coeff", "sol", "f", "tau", "alpha", "a_low", "sigma_scale"}
    assert content["coeff"].dtype == content["sol"].dtype == np.float64 and (content["sol"] == sol).all()
    assert [content[k].item() for k in ("f", "tau", "alpha", "a_low", "sigma_scale")] == [2.5, 3, 2, 3, 0.5]
    fields = matlab.read_benchmark(tmp_path, 4, "train", 10, 7)
    assert (fields.bits == bits).all() and (fields.coefficient() == content["coeff"]).all() and fields.f == 2.5
    assert (fields.u == sol[:, ::7, ::7].astype(np.float32)).all()
    before = path.read_bytes()
    matlab.write(path, recipe, bits, lambda: sol, 0.5)
    assert path.read_bytes() == before
    matlab.check(path, recipe, 4)
    shutil.copy(path, tmp_path / "cut")
    os.truncate(tmp_path / "cut", len(before) - 1)
    for bad in ((tmp_path / "cut", recipe, 4), (path, replace(recipe, seed=1), 4), (path, recipe, 5)):
        with pytest.raises(UsageError, match="other arguments or by another program, or is cut short"):
            matlab.check(*bad)
    matlab.check_rows(Recipe(), 1514, "n_samples")
    with pytest.raises(UsageError, match="--n_samples must be at most 1514"):
        matlab.check_rows(Recipe(), 1515, "n_samples")
