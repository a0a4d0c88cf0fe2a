"""report.py: what stands in the page, that it is safe and complete in itself, and how a browser shows it."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from analysis import collect, tasks
from analysis.report import page
from html_page import Page
from matplotlib.image import imread
from shell import SCRIPTS

EVIL = "<script>window.hacked=1</script>"
BETAS, AMOUNTS, SEEDS = (5, 10, 30), (100, 1000), (0, 1)
# (beta, n) -> mean training loss and test error of L-BFGS; the seeds are 0.9 and 1.1 times as high.
LBFGS = {
    (5, 100): (1e-4, 0.02), (10, 100): (2e-4, 0.60), (30, 100): (4e-4, 0.90),
    (5, 1000): (1e-4, 0.01), (10, 1000): (3e-4, 0.05), (30, 1000): (0.2, 0.30),
}  # fmt: skip


def put(root: Path, strategy: str, beta: float, n: int, seed: int, **changes: object) -> Path:
    """Write a finished run folder; train_loss and test_error among the changes."""
    folder = root / f"convection/{strategy}/beta_{beta:g}/n_{n}/seed_{seed}"
    folder.mkdir(parents=True)
    config = {"pde": "convection", "seed": seed, "beta": beta, "options": {"history_size": 100}, "opt": strategy}
    (folder / "config.json").write_text(json.dumps(config))
    content = {
        "schema": 1, "module": "PINN", "model": "PINN", "system": "convection", "strategy": strategy,
        "physical": {"name": "beta", "value": beta}, "data": {"name": "n", "value": n}, "seed": seed,
        "metrics": {"runs_side_by_side": 2}, "status": "finished", "stop_reason": "budget", "iterations": 1000,
        "evaluations": 1200, "seconds": 30.0, "config": config,
        "environment": {"python": "3.11.7", "torch": "2.5.1", "device": "cpu (some)", "git_commit": "abc123"},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(content | changes))
    return folder


def fill(root: Path) -> None:
    """Write both maps in full: ALM has half the training loss of L-BFGS and twice its test error."""
    for (beta, n), seed in itertools.product(LBFGS, SEEDS):
        loss, error = (value * (0.9, 1.1)[seed] for value in LBFGS[beta, n])
        put(root, "lbfgs", beta, n, seed, train_loss=loss, test_error=error)
        put(root, "alm", beta, n, seed, train_loss=loss / 2, test_error=error * 2)


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Return a results folder with every kind of run and of dirt; tasks.sh expects more than there is."""
    root = tmp_path / "my results"
    fill(root)
    lbfgs, alm = root / "convection/lbfgs", root / "convection/alm"

    shutil.rmtree(lbfgs / "beta_30/n_1000/seed_1")
    lost = {"train_loss": None, "test_error": None, "status": "diverged"}
    put(root, "lbfgs", 30, 1000, 1, **lost, stop_reason=f"non_finite {EVIL}")
    shutil.rmtree(alm / "beta_30/n_1000/seed_0")  # missing
    (alm / "beta_30/n_1000/seed_1/metrics.json").unlink()  # unfinished
    failed = alm / "beta_30/n_100/seed_0"
    (failed / "metrics.json").unlink()
    trace = f"Traceback (most recent call last):\n  {EVIL}\nRuntimeError"
    (failed / "failed.json").write_text(json.dumps({"error": f"RuntimeError: </pre>{EVIL}", "traceback": trace}))
    (alm / "beta_30/n_100/seed_1/metrics.json").write_text('{"schema": 1, "mod')
    hostile = root / EVIL / 'a" onmouseover="window.hacked=1'
    hostile.mkdir(parents=True)
    (hostile / "config.json").write_text("{not json")
    unnamed = os.fsencode(root) + b"/\xff"
    os.mkdir(unnamed)
    Path(os.fsdecode(unnamed), "config.json").write_text("{}")
    (root / "broken").mkdir()
    (root / "broken/failed.json").write_bytes(b"\xff\xfe\x00")
    (root / "notes.txt").write_text(EVIL)
    (root / "convection/picture.png").write_bytes(b"\x89PNG")
    (root / "wave/metrics.json").mkdir(parents=True)
    (root / "convection/metrics.json").write_text("[]")
    lines = [
        f"python run.py --opt {name}  # {name} | convection/{name}/beta_{{5,10,30,50}}/n_{{100,1000}}/seed_{{0,1}}"
        for name in ("lbfgs", "alm")
    ]
    lines.append(f"python run.py {EVIL}  # wave/adam | wave/adam/c_1/n_100/seed_0")
    (root / "tasks.sh").write_text("\n".join([*lines, "# then: draw"]))
    (root / "logs").mkdir()
    progress = b"10 %\r50 %\r100 %\n\x1b[31mred\x1b[0m \xff " + EVIL.encode()
    (root / "logs/alm.log").write_bytes(b"first line\n" + b"x\n" * 40 + progress + b"\nlast line\n")
    return root


def report(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / "report.py", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_page_of_a_messy_folder(messy: Path, away: Path) -> None:
    before = sorted(messy.rglob("*"))
    result = report(messy, cwd=away)
    assert (result.returncode, result.stderr) == (0, "")
    out = messy / "report.html"
    assert sorted(messy.rglob("*")) == sorted([*before, out])
    assert result.stdout == f"wrote {out}: 20 runs, {out.stat().st_size / 1e6:.1f} MB\n"
    text = out.read_text(encoding="utf-8")
    found = Page(text)

    # Nothing from elsewhere, and nothing from a file's text as markup.
    assert {link[:22] if link.startswith("data:") else link[0] for link in found.resources} == {
        "data:image/png;base64,", "#"}  # fmt: skip
    assert {link[1:] for link in found.resources if link[0] == "#"} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert not re.search(r"https?:|url\(|@import|javascript:|<link|<iframe", text, re.IGNORECASE)
    assert found.scripts == 1 and found.handlers == [] and EVIL not in text
    # Stop reason, error, trace, log, folder, task.
    assert text.count("&lt;script&gt;window.hacked=1&lt;/script&gt;") >= 6
    assert all(image["alt"] for image in found.images) and len(found.images) == 3
    for image in found.images:
        picture = imread(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert picture.shape[:2] == (int(image["height"]), int(image["width"])) and picture.std() > 0.1

    states = {row[0]: row[1:7] for row in found.table("Runs by map")[1:]}
    assert states == {  # done, diverged, failed, unfinished, unreadable, missing
        "PINN convection alm": ["8", "0", "1", "1", "1", "5"],
        "PINN convection lbfgs": ["12", "1", "0", "0", "0", "4"],
        "other folders": ["0", "0", "1", "2", "1", "0"],
        "wave/adam": ["0", "0", "0", "0", "0", "1"],
        "all": ["20", "1", "2", "3", "2", "10"],
    }
    facts = {row[0]: row[1] for rows in found.tables.values() for row in rows if len(row) == 2}
    assert facts["Grid"] == "PINN convection: beta 5, 10, 30 × n 100, 1000 × seed 0, 1"
    assert facts["Compute"].startswith("300 s") and "600 s" in facts["Compute"]
    assert facts["Devices"] == "cpu (some)" and facts["Git commits"] == "abc123"
    assert "tasks.sh expects 33" in facts["Runs"]

    assert facts["pde"] == "convection"  # as alien folders have no say in what is common to all

    missing = found.table("PINN convection alm: 5 runs missing")
    assert missing == [["n \\ beta", "30", "50"], ["1000", "0", "0, 1"], ["100", "", "0, 1"]]
    assert found.table("wave/adam: 1 run missing") == [["n \\ c", "1"], ["100", "0"]]
    diverged = found.table("They stand in the maps")
    assert diverged[1][:7] == ["PINN convection lbfgs", "30", "1000", "1", *["not finite"] * 2, f"non_finite {EVIL}"]
    for part in ("100 %\nred \N{REPLACEMENT CHARACTER} ", "\nlast line", "failed.json cannot be read",
                 "alm: 8 of 16 runs without a result", "lbfgs: 4 of 16 runs", "no log"):  # fmt: skip
        assert part in text, part
    assert "first line" not in text and "50 %" not in text


def test_numbers_of_a_map_and_of_a_comparison(tmp_path: Path, away: Path) -> None:
    """L-BFGS: T_train is between 3e-4 and 4e-4, T_test between 0.3 and 0.6: I but for three cells."""
    fill(tmp_path)
    result = report(tmp_path, "--out", tmp_path / "new/page.html", cwd=away)
    assert result.returncode == 0, result.stderr
    found = Page((tmp_path / "new/page.html").read_text(encoding="utf-8"))

    train, test = (np.percentile([v[k] for v in LBFGS.values()], q) for k, q in ((0, 65), (1, 75)))
    rows = found.table("Cells by regime, at the thresholds")
    own = [row for row in rows if row[0] == "percentiles 65 (train) and 75 (test) of this map"]
    # Train losses above 3.25e-4: 0.2 and 4e-4 (II); test errors above 0.525 among the others: 0.6 (III).
    assert own[1] == own[1][:1] + [f"{train:.4g}", f"{test:.4g}", "3", "2", "1", "1", "1", "0"]
    common = [row for row in rows if "L-BFGS map, for all" in row[0]]
    # ALM: losses are halved, so that 4e-4 is low; errors doubled, so that 0.6 becomes 1.2 and 0.3 becomes 0.6.
    assert [row[3:] for row in common] == [["3", "1", "1", "0", "2", "0"], ["3", "2", "1", "1", "1", "0"]]
    table5 = [row for row in rows if row[0] == "Table 5 of the paper"]
    assert table5[1][1:] == ["0.0038", "0.434", "3", "1", "0", "1", "2", "0"]

    # Boundaries: interpolated in log(loss), linearly in beta; T between 2e-4 and 4e-4 in the row n = 100.
    boundary = {row[0]: row for row in found.table("Where the seed mean first rises") if row[0] in ("100", "1000")}
    at = 10 + 20 * np.log(train / 2e-4) / np.log(2)
    assert found.table("Training boundary along beta")[1][2].startswith(f"{at:.4g}")  # the column of L-BFGS
    assert boundary["1000"][5] == "above" and boundary["100"][3] == "1" and boundary["100"][4] == "2"

    improvement = {(row[0], *row[2:4]): row[4:] for row in found.table("100 (base − strategy)")[1:]}
    assert improvement["ALM", "training loss", "ratio of means"] == ["+50.0", "+50.0", "+50.0", "6", "0", "0"]
    assert improvement["ALM", "test error", "mean of ratios"] == ["−100.0", "−100.0", "−100.0", "0", "6", "0"]
    wins = {tuple(row[:2]): row[2:] for row in found.table("Cells with the lowest seed mean")[1:]}
    assert wins["all", "training loss"][:3] == ["6 (0)", "0 (0)", "6"]
    assert wins["all", "test error"][:3] == ["0 (0)", "6 (0)", "6"]
    pooled = {tuple(row[:3]): row[3:] for row in found.table("By regime of the L-BFGS map")[1:]}
    assert pooled["ALM", "training loss", "II"][:3] == ["2", "2", "0.5"]
    assert pooled["ALM", "test error", "all"] == ["6", "2", "2", "", "0.5", "0.5"]  # no variance: no t-test

    cells = [row for rows in found.tables.values() for row in rows if row[:2] == ["30", "1000"] and len(row) == 7]
    assert cells[1] == ["30", "1000", "2.000e-01", "3.000e-01", "II, error low", "2", "0"]
    differ = found.table("Arguments that differ from map to map")
    assert differ == [["", "PINN convection alm", "PINN convection lbfgs"], ["opt", "alm", "lbfgs"]]
    swept = found.table("Arguments that differ from run to run")
    assert [row[1] for row in swept[1:]] == ["0, 1", "5, 10, 30"]
    same = {row[0]: row[1] for rows in found.tables.values() for row in rows if len(row) == 2}
    assert same["options.history_size"] == "100" and same["torch"] == "2.5.1"
    assert "Devices" in same and "missing is what the full grid" in same["Runs"]

    moved = {row[0]: row[1:] for row in found.table("Cells that change their regime")[7:] if row[0] != "moved"}
    # T_test + 20 % of its value is 0.63, above 0.6: one cell from III to I.
    assert moved["T_test +20 %"][2:] == [f"{1.2 * test:.4g}", "1"]


def test_report_of_a_table_has_the_same_maps(tmp_path: Path, away: Path) -> None:
    fill(tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/convection/alm/beta_10/n_100/seed_1")
    table = tmp_path / "table/results.csv"
    collect.write_csv(collect.collect(tmp_path / "runs").runs, table)
    pages = []
    for source in (table, tmp_path / "runs"):
        result = report(source, cwd=away)
        assert result.returncode == 0, result.stderr
        folder = table.parent if source == table else source
        pages.append(Page((folder / "report.html").read_text(encoding="utf-8")))
    one, other = pages
    starts = ("Cells by regime", "Training boundary", "By regime of", "Cells with the lowest", "Where the seed mean")
    for start in (*starts, "PINN convection alm: 1 run missing"):
        assert one.table(start) == other.table(start), start
    assert [image["src"] for image in one.images] == [image["src"] for image in other.images]
    assert not any(caption.startswith(("Arguments", "Environment")) for caption in one.tables)


@pytest.mark.parametrize("case", ["one cell", "all diverged", "nothing finished", "twice", "no reference", "name"])
def test_extremes_still_give_a_page(case: str, tmp_path: Path, away: Path) -> None:
    lost = {"train_loss": None, "test_error": None, "status": "diverged"}
    if case == "one cell":
        put(tmp_path, "lbfgs", 5, 100, 0, train_loss=1e-3, test_error=0.0)
        expected = ["cells: I 1, II 0, III 0, no finished run 0"]
    elif case == "all diverged":
        put(tmp_path, "lbfgs", 5, 100, 0, **lost)
        expected = ["No threshold and so no map: no cell has a finite mean."]
    elif case == "nothing finished":
        (tmp_path / "tasks.sh").write_text("run  # label | convection/lbfgs/beta_5/n_100/seed_{0,1}\n")
        expected = ["convection/lbfgs: 2 runs missing", "2 of 2 runs without a result"]
    elif case == "twice":
        put(tmp_path / "a", "lbfgs", 5, 100, 0, train_loss=1e-3, test_error=0.1)
        put(tmp_path / "b", "lbfgs", 5, 100, 0, train_loss=1e-3, test_error=0.1)
        put(tmp_path / "b", "alm", 5, 100, 0, train_loss=1e-3, test_error=0.1)
        expected = ["No map of PINN convection lbfgs: same cell and seed twice", "Regime map of PINN, convection, ALM"]
    elif case == "name":  # matplotlib takes it for mathematics, and refuses it
        put(tmp_path, r"$\frac$", 5, 100, 0, train_loss=1e-3, test_error=0.1)
        expected = ["Not possible: ", "PINN, convection, $\\frac$</h3>", "Numbers of 1 cells"]
    else:
        put(tmp_path, "lbfgs", 5, 100, 0, **lost)
        put(tmp_path, "alm", 5, 100, 0, train_loss=1e-3, test_error=0.1)
        expected = ["No comparison: the map whose percentiles", "Regime map of PINN, convection, ALM"]
    result = report(tmp_path, cwd=away)
    assert (result.returncode, result.stderr) == (0, "")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    for part in expected:
        assert part in text


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, away: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    put(full, "lbfgs", 5, 100, 0, train_loss=1e-3, test_error=0.1)
    empty.mkdir()
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    header = ",".join(collect.COLUMNS)
    (tmp_path / "short.csv").write_text(f"{header}\nPINN,PINN\n")
    before = sorted(tmp_path.rglob("*"))
    cases = [
        ([tmp_path / "none"], "RESULTS: no such folder or results.csv"),
        ([empty], "RESULTS: neither a run folder nor a tasks.sh"),
        ([tmp_path / "table.csv"], "RESULTS: "),
        ([tmp_path / "short.csv"], "line 2: more or fewer cells than the heading"),
        ([full, "--out", empty], "--out: cannot write"),
        ([full, "--out", "."], "--out: cannot write .: it is a folder"),
        ([full, "--out", tmp_path / "table.csv/report.html"], "--out: cannot write"),
        ([full, "--title", "x"], "unrecognized arguments: --title"),
        ([], "required: RESULTS"),
    ]
    for arguments, message in cases:
        result = report(*arguments, cwd=away)
        assert (result.returncode, result.stdout) == (2, ""), arguments
        assert result.stderr.count("\n") == 1 and message in result.stderr, result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_text_is_escaped_and_logs_are_cut(tmp_path: Path) -> None:
    assert page.render(["<b>", page.tag("i", "a & b", title='"<')]) == "&lt;b&gt;<i title=\"&quot;&lt;\">a &amp; b</i>"
    assert page.render("a\x00\x1b\ud800\tb\n") == "a\ufffd\ufffd\ufffd\tb\n"
    log = tmp_path / "task.log"
    log.write_bytes(b"z" * 100_000 + b"\n" + b"\n".join(b"line %d" % k for k in range(100)) + b"\r\n\n")
    assert tasks.log_tail(log, 25) == [f"line {k}" for k in range(75, 100)]
    assert tasks.log_tail(tmp_path / "none.log", 25) == []


# in a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FIRST = """<script>window.problems = []; window.onerror = (m) => { problems.push(String(m)); };</script>"""
LAST = """<script>
const tables = [...document.querySelectorAll("details table.sortable")];
const numbers = tables.find((table) => table.tHead.textContent.includes("regime"));
const column = () => [...numbers.tBodies[0].rows].map((row) => row.cells[2].textContent);
numbers.tHead.rows[0].cells[2].click();
const up = column();
numbers.tHead.rows[0].cells[2].click();
const result = {
  problems, hacked: window.hacked === undefined ? 0 : 1, width: innerWidth, up, down: column(),
  sort: [...numbers.tHead.rows[0].cells].map((head) => head.getAttribute("aria-sort")),
  over: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  images: [...document.images].map((image) => image.naturalWidth),
  folded: !numbers.closest("details").open,
  states: [...document.querySelector("#overview table:not(.pairs)").rows].map((row) => row.cells[1].textContent),
};
window.dispatchEvent(new Event("beforeprint"));
result.printed = [...document.querySelectorAll("details")].every((fold) => fold.open);
parent.document.documentElement.dataset.result = btoa(unescape(encodeURIComponent(JSON.stringify(result))));
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    named = os.environ.get("CHROME")
    found = named or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"REQUIRE_BROWSER=1, and none of {', '.join(BROWSERS)} is there (CHROME names another)")
        pytest.skip("no browser")
    return found


def browse(browser: str, file: Path, folder: Path, *flags: str, width: int = 1280) -> str:
    """Open a file without network and return the document after its scripts ran."""
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},900",
        *flags, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=180, cwd=folder)
    text = done.stdout.decode("utf-8", errors="replace")
    assert done.returncode == 0 and "</html>" in text, done.stderr.decode(errors="replace")[-2000:]
    return text


def test_page_in_a_browser(browser: str, messy: Path, tmp_path: Path, away: Path) -> None:
    assert report(messy, cwd=away).returncode == 0
    original = messy / "report.html"
    text = original.read_text(encoding="utf-8")

    # The page as it is: its own script runs (by its hash), and a foreign one does not, even unescaped.
    assert 'aria-sort="none"' not in text
    assert 'aria-sort="none"' in browse(browser, original, tmp_path)
    foreign = tmp_path / "foreign.html"
    foreign.write_text(text.replace("</main>", "<p id=mark></p><script>mark.title = 'ran'</script></main>"))
    assert 'title="ran"' not in browse(browser, foreign, tmp_path)

    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)[0]
    probed = text.replace(policy, FIRST).replace("</body>", LAST + "</body>")
    frame = tmp_path / "frame.html"
    for width in (1280, 400):
        # In a frame, as windows are at least 500 pixels wide.
        frame.write_text(f'<!DOCTYPE html><meta charset="utf-8"><iframe width="{width}" height="900" frameborder="0" '
                         f'srcdoc="{html.escape(probed)}"></iframe>', encoding="utf-8")  # fmt: skip
        document = browse(browser, frame, tmp_path)
        result = json.loads(base64.b64decode(re.search(r'data-result="([^"]+)"', document)[1]))
        assert result["problems"] == [] and result["hacked"] == 0
        assert (result["width"], result["over"]) == (width, 0)
        assert len(result["images"]) == 3 and min(result["images"]) > 300
        assert result["states"] == ["done", "8", "12", "0", "0", "20"]
        # The ALM map: sorted by training loss, cells without a run last both ways.
        losses = [f"{LBFGS[cell][0] / 2:.3e}" for cell in LBFGS if cell[0] < 30]
        assert result["up"][:4] == sorted(losses, key=float) and set(result["up"][4:]) == {"no run"}
        assert result["down"][:4] == sorted(losses, key=float, reverse=True) and set(result["down"][4:]) == {"no run"}
        assert result["sort"] == ["none", "none", "descending", *["none"] * 4]
        assert result["folded"] and result["printed"]  # folded on the screen, open in print

        shot = tmp_path / f"{width}.png"
        browse(browser, original, tmp_path, f"--screenshot={shot}", width=width)
        pixels = imread(shot)[..., :3]
        assert pixels.shape[1] == width
        assert 0.02 < (pixels < 0.9).any(axis=2).mean() < 0.9 and np.median(pixels) == 1.0  # dark on white
        assert len(np.unique((pixels * 255).astype(int).reshape(-1, 3), axis=0)) > 50
