"""The tail exponent of step lengths: against the closed form, a search of its own and the noise to be expected."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pinn.steps import Tail, fit_tail, write  # noqa: E402
from run_folders import read_strict  # noqa: E402

ABOUT = {"loss": 1e-4, "reached": True, "iteration": 840, "unit": "SGD step", "lr": 0.1}


def uniform(seed: int, n: int = 200) -> np.ndarray:
    """Lengths u in (0, 1): u^(1 / (alpha - 1)) are inverses of a power law with exponent alpha."""
    return 1 - np.random.default_rng(seed).random(n)


def search(lengths: np.ndarray) -> tuple[float, float, int]:
    """Distance, alpha and count of the best tail, by trying every xmin that leaves three different values."""
    x, found = np.sort(1 / lengths), []
    for xmin in np.unique(x)[:-2]:
        tail = x[x >= xmin]
        m, alpha = len(tail), 1 + len(tail) / np.log(tail / xmin).sum()
        found.append((np.abs(1 - (tail / xmin) ** (1 - alpha) - np.arange(m) / m).max(), alpha, m))
    return min(found)


@pytest.mark.parametrize("lengths", [
    uniform(1) ** (1 / 1.2), uniform(2) ** (1 / 7), 3e-6 * uniform(3, 40) ** 0.1, uniform(4, 10),
    np.exp(0.7 * np.random.default_rng(5).standard_normal(200)),
    np.concatenate([10 * uniform(6, 100), 0.2 * uniform(7, 100) ** 0.5])])
def test_tail_is_the_best_of_all(lengths: np.ndarray) -> None:
    """xmin minimises the Kolmogorov-Smirnov distance, and alpha is its closed form on the tail."""
    with warnings.catch_warnings(action="error"):
        tail = fit_tail(lengths)
    distance, alpha, count = search(lengths)
    assert (tail.distance, tail.alpha, tail.count) == (pytest.approx(distance, abs=1e-6),
                                                       pytest.approx(alpha, rel=1e-5), count)
    x = 1 / lengths[1 / lengths >= tail.xmin * (1 - 1e-12)]
    assert len(x) == tail.count and x.min() == pytest.approx(tail.xmin, rel=1e-12)
    assert tail.alpha == pytest.approx(1 + len(x) / np.log(x / tail.xmin).sum(), rel=1e-5)
    assert tail.error == pytest.approx((tail.alpha - 1) / math.sqrt(count))
    assert tail.log_sd == pytest.approx(np.std(np.log(lengths), ddof=1))


def test_noise_of_200_lengths() -> None:
    """A power law with exponent 2.2 gives 2.22 +- .12."""
    alphas = np.array([fit_tail(uniform(seed) ** (1 / 1.2)).alpha for seed in range(40)])
    assert alphas.mean() == pytest.approx(2.22, abs=3 * 0.12 / math.sqrt(40))
    assert alphas.std() == pytest.approx(0.12, rel=0.35)


@pytest.mark.parametrize("true", [4, 8])
def test_a_power_of_the_lengths_scales_alpha(true: float) -> None:
    """d^c has alpha - 1 divided by c, so that the noise at 4 and 8 follows from that at 2.2."""
    for seed in range(2):
        one, other = (fit_tail(uniform(seed, 60) ** (1 / (alpha - 1))) for alpha in (2.2, true))
        assert other.alpha - 1 == pytest.approx((true - 1) / 1.2 * (one.alpha - 1), rel=1e-5)
        assert other.count == one.count


def test_log_normal_lengths_have_an_exponent_too() -> None:
    """About 21, 7.6, 4.2, 2.9 and 2.3 for log-sd 0.1, 0.3, 0.6, 1 and 1.5: alpha tells the spread as well."""
    normal = [np.random.default_rng(seed).standard_normal(200) for seed in range(12)]
    wide = np.array([fit_tail(np.exp(1.5 * z)).alpha for z in normal])
    for sd, alpha in [(0.1, 21), (0.3, 7.6), (0.6, 4.2), (1, 2.9), (1.5, 2.3)]:
        assert 1 + np.mean(wide - 1) * 1.5 / sd == pytest.approx(alpha, rel=0.15)
        one, other = (fit_tail(np.exp(width * normal[0][:60])).alpha for width in (1.5, sd))
        assert other - 1 == pytest.approx((one - 1) * 1.5 / sd, rel=1e-5)


@pytest.mark.parametrize("exponent", [1 / 1.2, 1 / 150])
def test_the_unit_of_length_does_not_matter(exponent: float) -> None:
    """c d has the tail of d, xmin divided by c; also where x^(-alpha) has no floating-point number."""
    d = uniform(11, 60) ** exponent
    one = fit_tail(d)
    for c in (1e-9, 1e7):
        other = fit_tail(c * d)
        assert other.alpha == pytest.approx(one.alpha, rel=1e-5) and other.count == one.count
        assert c * other.xmin == pytest.approx(one.xmin, rel=1e-9)
        assert (other.distance, other.log_sd) == (pytest.approx(one.distance, rel=1e-4), pytest.approx(one.log_sd))


def test_lengths_that_say_nothing_are_left_out() -> None:
    """Zeros, rounding and what is not finite change nothing; too few different lengths give NaN."""
    d = uniform(12)
    assert fit_tail([0.0, *d[:100], math.nan, 1e-12, math.inf, *d[100:]]) == fit_tail(d)
    for few in ([], [0.0] * 50, d[:9], [0.25] * 50, [*[0.25] * 50, *d[:8]]):
        tail = fit_tail(few)
        assert tail.count == 0 and all(map(math.isnan, (tail.alpha, tail.error, tail.distance, tail.xmin)))
    assert math.isnan(fit_tail([0.0, 0.25]).log_sd)
    assert fit_tail([0.0, 1, math.e]).log_sd == pytest.approx(math.sqrt(0.5))
    assert fit_tail(d[:10]).count > 1


def test_written(tmp_path: Path) -> None:
    """All three files, numbers to the last digit, strict JSON; too few lengths are recorded as such."""
    lengths, losses = [0.0, *uniform(13).tolist()], [1e-4 / (k + 1) for k in range(201)]
    tail = write(tmp_path, lengths, losses, ABOUT)
    with open(tmp_path / "steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(r["step"]), float(r["length"]), float(r["loss"])) for r in rows] == [
        (k, *pair) for k, pair in enumerate(zip(lengths, losses, strict=True))]
    found = read_strict(tmp_path / "steps.json")
    assert found == {"schema": 1, **vars(tail), "steps": 201, "dropped": 1, **ABOUT}
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"
    assert {p.name for p in tmp_path.iterdir()} == {"steps.csv", "steps.json", "steps.png"}
    assert np.isnan(write(tmp_path, [], [], ABOUT | {"reached": False}).alpha)
    assert json.loads((tmp_path / "steps.json").read_text())["alpha"] is None
    with pytest.raises(ValueError, match="zip"):
        write(tmp_path, lengths, losses[1:], ABOUT)


def test_a_record_cut_short_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """steps.json belongs to the files beside it: it goes before they are replaced and comes back last."""
    write(tmp_path, uniform(14), uniform(15), ABOUT)

    def full(*_: object) -> Tail:
        raise OSError("no space left")
    monkeypatch.setattr("pinn.steps.draw", full)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, uniform(16), uniform(15), ABOUT)
    assert not (tmp_path / "steps.json").exists() and not list(tmp_path.glob("*.tmp"))


def test_import_is_light() -> None:
    """powerlaw and matplotlib, seconds to load, come in where a fit is made and no earlier."""
    code = "import sys, pinn.steps; sys.exit('powerlaw' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent).returncode == 0
