"""CIFAR files from disk, from an archive and from a server; broken ones; augmentation against torchvision's."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import multiprocessing
import os
import pickle
import re
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from cnn.data import AUGMENTATIONS, DATASETS, Augment, Images, balanced_order, load, normalise  # noqa: E402
from cnn.files import Claimable, UsageError  # noqa: E402
from cnn.vision import torchvision  # noqa: E402

READERS = {"CIFAR-10": torchvision.datasets.CIFAR10, "CIFAR-100": torchvision.datasets.CIFAR100}
BATCHES, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def refusal(folder: Path, dataset: str = "CIFAR-10", verify: bool = True) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(UsageError) as caught:
        load(dataset, folder, verify)
    assert "--data_dir" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(folder.glob("*.tmp")) and not (folder / "claim").exists()
    return str(caught.value)


class Server(http.server.ThreadingHTTPServer):
    """A server of a folder, on a thread; `requests` lists what it was asked, `cut` bytes are missing of its answers."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.cut = 0
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *args: Any) -> None:
                server.requests.append(self.command)

            def copyfile(self, source: Any, target: Any) -> None:
                time.sleep(0.4)  # long enough for another process to come
                content = source.read()
                target.write(content[: len(content) - server.cut])

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/{ARCHIVE}"
        # torchvision asks twice, first for redirections, and does not wait for that answer
        self.handle_error = lambda request, address: None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A small CIFAR-10 that counts as the published one, to be had from here alone."""
    source = small.make_data(tmp_path / "source", 23, 7)
    reader, batches = READERS["CIFAR-10"], source / BATCHES
    for files in ("train_list", "test_list"):
        monkeypatch.setattr(reader, files, [[name, md5(batches / name)] for name, _ in getattr(reader, files)])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(batches / "batches.meta")})
    with tarfile.open(source / ARCHIVE, "w:gz") as tar:
        tar.add(batches, BATCHES)
    monkeypatch.setattr(reader, "tgz_md5", md5(source / ARCHIVE))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(source) as server:
        monkeypatch.setattr(reader, "url", server.url)
        yield server
        server.shutdown()


def same(one: Images, other: Images) -> bool:
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)


# ---- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "classes"), [("CIFAR-10", 10), ("CIFAR-100", 100)])
@pytest.mark.parametrize("archive", [False, True])
def test_images_are_those_of_torchvision(dataset: str, classes: int, archive: bool, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small.make_data(tmp_path / "here", 203, 101, classes, archive)
    parts = load(dataset, folder, verify=False)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: os.path.isfile(path))
    for images, train, n in zip(parts, (True, False), (203, 101)):
        reader = READERS[dataset](folder, train)
        assert len(images) == len(reader) == n and images.labels.dtype == torch.int64
        assert images.pixels.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images.pixels, torch.from_numpy(reader.data).permute(0, 3, 1, 2))
        assert images.labels.tolist() == reader.targets and set(reader.targets) == set(range(classes))
    rows = torch.tensor([5, 0, 5])
    chosen = images.select(rows).to("cpu")
    assert torch.equal(chosen.pixels, images.pixels[rows]) and torch.equal(chosen.labels, images.labels[rows])
    first = images.select(slice(0, 6))
    assert same(first, images.select(torch.arange(6))) and first.pixels.data_ptr() == images.pixels.data_ptr()
    assert first.checksum() == images.select(torch.arange(6)).checksum() != images.select(torch.arange(1, 7)).checksum()


def test_files_in_order_are_used_from_a_folder_that_is_not_touched(tmp_path: Path) -> None:
    folder = small.make_data(tmp_path / "here", 10, 10)
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    load("CIFAR-10", folder, verify=False)
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before


def test_learnable_images_tell_their_class_and_others_do_not(tmp_path: Path) -> None:
    for learnable in (True, False):
        train, test = load("CIFAR-10", small.make_data(tmp_path / str(learnable), 400, 200, learnable=learnable), False)
        means = torch.stack([train.pixels[train.labels == k].double().mean(0) for k in range(10)])
        nearest = torch.cdist(test.pixels.double().flatten(1), means.flatten(1)).argmin(1)
        share = (nearest == test.labels).double().mean().item()
        assert share > 0.99 if learnable else share < 0.25


BAD: dict[str, tuple[Callable[[dict], Any], str]] = {
    "labels out of range": (lambda d: d | {"labels": [10, *d["labels"][1:]]},
                            "holds labels from \\d to 10, allowed: 0 to 9"),
    "negative labels": (lambda d: d | {"labels": [-1, *d["labels"][1:]]}, "holds labels from -1 to"),
    "broken labels": (lambda d: d | {"labels": [0.5, *d["labels"][1:]]}, "holds labels that are not whole numbers"),
    "a label too few": (lambda d: d | {"labels": d["labels"][1:]}, "holds 4 images of 3 x 32 x 32 and 3 labels"),
    "images of another size": (lambda d: d | {"data": d["data"][:, :1024]}, "is no batch file of CIFAR-10 .*reshape"),
    "numbers of another type": (lambda d: d | {"data": d["data"] / 255}, "holds pixels of type float64, not uint8"),
    "no image": (lambda d: d | {"data": d["data"][:0], "labels": []}, "holds no image"),
    "no labels": (lambda d: {"data": d["data"]}, "is no batch file of CIFAR-10 .*labels"),
    "no dictionary": (lambda d: [d], "is no batch file of CIFAR-10"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_batch_file_that_holds_something_else_is_named(case: str, tmp_path: Path) -> None:
    change, text = BAD[case]
    path = small.make_data(tmp_path / "here", 20, 10) / BATCHES / "data_batch_3"
    small.dump(path, change(pickle.loads(path.read_bytes())))
    assert re.search(f"{path} {text}", refusal(tmp_path / "here", verify=False))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = small.make_data(tmp_path / "here", 20, 10)
    path = folder / BATCHES / "test_batch"
    content = path.read_bytes()
    for broken in (b"", content[:1000], b"hello"):
        path.write_bytes(broken)
        assert f"{path} is no batch file of CIFAR-10" in refusal(folder, verify=False)
    path.unlink()
    assert f"{path} is missing" in refusal(folder, verify=False)
    path.write_bytes(content)
    (folder / BATCHES / "batches.meta").unlink()
    assert "batches.meta is missing" in refusal(folder, verify=False)


# ---- archive and download ----------------------------------------------------------------------


def test_a_download_is_checked_extracted_and_fills_in_what_is_missing(
        server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "data"
    first = load("CIFAR-10", folder)
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"downloading {server.url} to {folder / ARCHIVE}\n")
    assert all(map(same, first, load("CIFAR-10", tmp_path / "source", verify=False)))
    assert sorted(path.name for path in folder.iterdir()) == [BATCHES, ARCHIVE]
    asked = len(server.requests)

    (folder / BATCHES / "test_batch").unlink()  # filled in from the archive, the rest left alone
    intact = (folder / BATCHES / "data_batch_1").stat()
    assert all(map(same, load("CIFAR-10", folder), first))
    assert (folder / BATCHES / "data_batch_1").stat().st_ino == intact.st_ino

    (folder / ARCHIVE).write_bytes(b"broken")  # not needed, not touched
    assert all(map(same, load("CIFAR-10", folder), first)) and (folder / ARCHIVE).read_bytes() == b"broken"
    assert len(server.requests) == asked

    (folder / BATCHES / "batches.meta").unlink()  # now it is needed
    assert all(map(same, load("CIFAR-10", folder), first))
    assert (folder / ARCHIVE).read_bytes() == (tmp_path / "source" / ARCHIVE).read_bytes()
    assert len(server.requests) > asked


def test_batch_files_of_another_set_are_not_replaced(server: Server, tmp_path: Path) -> None:
    """Nor is anything downloaded for them, whatever is missing beside them."""
    folder = small.make_data(tmp_path / "own", 20, 10, seed=3)
    for gone in ("data_batch_1", "batches.meta"):
        (folder / BATCHES / gone).unlink()
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = refusal(folder)
    assert message.startswith(f"--data_dir: {folder / BATCHES}/data_batch_2 is another file than CIFAR-10's")
    assert message.endswith("; --no-verify takes data of one's own, else remove it") and server.requests == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == kept


def test_what_cannot_be_downloaded_says_where_to_put_it(
        server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reader = tmp_path / "data", READERS["CIFAR-10"]
    where = f"put {server.url} there, MD5 {reader.tgz_md5}"
    server.cut = 100  # an answer that breaks off
    assert re.search(f"{ARCHIVE} is not there, and no download (.*); {where}", refusal(folder))
    server.cut = 0
    (tmp_path / "source" / ARCHIVE).write_bytes(b"another archive")
    assert f"what came has another checksum); {where}" in refusal(folder)
    (tmp_path / "source" / ARCHIVE).unlink()
    assert "404" in refusal(folder)
    assert socket.getdefaulttimeout() is None
    server.shutdown()
    server.server_close()
    (folder / ARCHIVE).write_bytes(b"broken")
    message = refusal(folder)
    assert re.search(f"{folder / ARCHIVE} does not have its checksum, and no download .*refused.*; {where}", message)
    assert [path.name for path in folder.iterdir()] == [ARCHIVE]
    assert (folder / ARCHIVE).read_bytes() == b"broken"


def test_folders_that_cannot_be_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refusal(file) == f"--data_dir {file} must be a folder, it is a file"
    assert "Not a directory" in refusal(file / "data")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source" / ARCHIVE).unlink()
    assert str(tmp_path / "here" / ARCHIVE) in refusal(Path("here"))
    server.requests.clear()
    assert refusal(Path("/proc/data")).startswith("--data_dir /proc/data: ")  # even root cannot write there
    missing = tmp_path / "missing"
    assert f"neither {missing / BATCHES} nor {missing / ARCHIVE} is there" in refusal(missing, verify=False)
    assert not missing.exists() and server.requests == []


def test_archives_that_cannot_be_extracted(tmp_path: Path) -> None:
    folder = small.make_data(tmp_path / "here", 20, 10, archive=True)
    whole = (folder / ARCHIVE).read_bytes()
    for broken in (b"", b"hello", whole[: len(whole) // 2], gzip.compress(b"hello")):
        (folder / ARCHIVE).write_bytes(broken)
        assert f"{folder / ARCHIVE} cannot be extracted: " in refusal(folder, verify=False)
        assert (folder / ARCHIVE).read_bytes() == broken and not (folder / BATCHES).exists()
    for name, text in (("elsewhere", f"holds no folder {BATCHES}"), (f"../{BATCHES}", "cannot be extracted")):
        with tarfile.open(folder / ARCHIVE, "w:gz") as tar:
            tar.add(TESTS / "conftest.py", f"{name}/data_batch_1")
        assert text in refusal(folder, verify=False)
    assert not (folder / BATCHES).exists()


def _load(folder: Path, queue: Any) -> None:
    train, _ = load("CIFAR-10", folder)
    queue.put((os.getpid(), train.pixels.sum().item()))


def test_of_two_processes_one_downloads_and_the_other_waits(
        server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    fork = multiprocessing.get_context("fork")
    queue, killed = fork.Queue(), fork.Process(target=Claimable(folder).claim)
    killed.start()
    killed.join(10)
    (folder / f"{BATCHES}.tmp" / BATCHES).mkdir(parents=True)  # left by it, as is its claim
    assert (folder / "claim").exists()
    both = [fork.Process(target=_load, args=(folder, queue)) for _ in range(2)]
    for process in both:
        process.start()
    found = dict(queue.get(timeout=30) for _ in both)
    for process in both:
        process.join(10)
    total = load("CIFAR-10", tmp_path / "source")[0].pixels.sum().item()
    assert found == {process.pid: total for process in both}
    err, asked = capfd.readouterr().err, len(server.requests)
    load("CIFAR-10", tmp_path / "alone")
    assert len(server.requests) == 2 * asked
    assert err.count("downloading ") == 1 and len(re.findall(r"process \d+ on .* fills it, waiting\n", err)) == 1
    assert sorted(path.name for path in folder.iterdir()) == [BATCHES, ARCHIVE]


# ---- subsets, augmentation, normalisation ------------------------------------------------------


def test_each_prefix_is_balanced() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.arange(500) % 10))
    order = balanced_order(labels)
    assert sorted(order.tolist()) == list(range(500))
    counts = torch.nn.functional.one_hot(labels[order]).cumsum(0)
    assert (counts.amax(1) - counts.amin(1)).max() <= 1
    for k in range(10):  # within a class, the order of the file
        assert order[labels[order] == k].diff().min() > 0
    unequal = torch.tensor([2, 2, 2, 0, 2, 0])
    assert balanced_order(unequal).tolist() == [3, 0, 5, 1, 2, 4]


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_augmentation_is_torchvisions(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (200, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    augment, transforms = Augment(kind), torchvision.transforms.functional
    draws = augment.draw(200, generator)
    if kind == "crop+flip":  # the corners
        draws[:4, :2] = torch.tensor([[0, 0], [0, 8], [8, 0], [8, 8]])
    found = augment.apply(pixels, draws)
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    for image, draw, result in zip(pixels, draws.tolist(), found):
        if kind == "crop+flip":
            image = transforms.crop(transforms.pad(image, 4), draw[0], draw[1], 32, 32)
        if kind != "none" and draw[-1]:
            image = transforms.hflip(image)
        assert torch.equal(image, result)
    split = [augment.apply(pixels[rows], draws[rows]) for rows in (slice(0, 77), slice(77, 200))]
    assert torch.equal(torch.cat(split), found)


def test_draws_are_uniform_and_follow_their_generator() -> None:
    n = 90_000
    draws = Augment("crop+flip").draw(n, torch.Generator().manual_seed(1))
    assert torch.equal(draws, Augment("crop+flip").draw(n, torch.Generator().manual_seed(1)))
    for column, values in zip(draws.T, (9, 9, 2)):
        counts = column.bincount()
        assert len(counts) == values
        assert (counts - n / values).abs().max() < 4.5 * (n / values * (1 - 1 / values)) ** 0.5
    assert abs(torch.corrcoef(draws.T.double()) - torch.eye(3)).max() < 4.5 / n**0.5
    assert Augment("none").draw(5, torch.Generator()).shape == (5, 0)
    with pytest.raises(ValueError, match="one of none, flip, crop\\+flip"):
        Augment("cutout")


@pytest.mark.parametrize("dataset", DATASETS)
def test_normalisation_is_torchvisions(dataset: str) -> None:
    data = DATASETS[dataset]
    pixels = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        found = normalise(pixels, dataset, dtype)
        expected = torchvision.transforms.functional.normalize(pixels.to(dtype) / 255, data.mean, data.std)
        assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found, expected)
    value = (pixels[1, 2, 3, 4].item() / 255 - data.mean[2]) / data.std[2]
    assert found[1, 2, 3, 4].item() == pytest.approx(value, rel=1e-15)
