"""Bad input of both commands: one line that names the flag and what is allowed, exit code 2, nothing written."""

from __future__ import annotations

import pickle
import shlex
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from cnn.arguments import make_parser  # noqa: E402

#: Arguments of either command, and what the one line of the answer must contain.
BOTH = {
    "--bogus 3": "unrecognized arguments: --bogus 3", "stray": "unrecognized arguments: stray",
    "--learn 3": "unrecognized arguments: --learn 3",  # no abbreviations
    "--model ResNet50": "--model: invalid choice: 'ResNet50' (choose from", "--model": "--model: expected one argument",
    "--dataset MNIST": "--dataset: invalid choice: 'MNIST' (choose from", "--init zero": "--init: invalid choice",
    "--augment mirror": "--augment: invalid choice: 'mirror'", "--verify yes": "unrecognized arguments: yes",
    "--pretrain": "--pretrain needs --model ResNet18, the only one with ImageNet weights, got ResNet18_w8",
    "--n_samples": "--n_samples: expected at least one argument", "--n_samples 0": "--n_samples must be a whole number",
    "--n_samples 1.5": "--n_samples: invalid int value: '1.5'", "--n_samples 10 20 10": "--n_samples: 10 is given",
    "--n_samples 61": "--n_samples must be at most 60, the training images of", "--n_samples 5 -3": "--n_samples must",
    "--n_samples 10 100000": "--n_samples must be at most 60", "--lr": "--lr: expected at least one argument",
    "--lr 0": "--lr must be positive and at most 3.4e+38, got 0", "--lr -0.1": "--lr must be positive",
    "--lr nan": "--lr must be positive", "--lr inf": "--lr must be positive", "--lr 0.1 -1": "--lr must be positive",
    "--lr fast": "--lr: invalid float value: 'fast'", "--lr 0.1 0.10": "--lr: 0.1 is given twice",
    "--lr 1e39": "--lr must be positive", "--lr 1e400 --precision float64": "--lr must be positive",
    "--batch_size 0": "--batch_size must be a whole number from 1, got 0", "--batch_size 2.5": "--batch_size: invalid",
    "--momentum 1": "--momentum must be from 0 to below 1, got 1", "--momentum -0.1": "--momentum must be from 0",
    "--momentum nan": "--momentum must be from 0", "--weight_decay -1": "--weight_decay must be from 0 to",
    "--weight_decay nan": "--weight_decay must be from 0 to 3.4e+38", "--weight_decay inf": "--weight_decay must be",
    "--weight_decay 1e39": "--weight_decay must be from 0 to 3.4e+38",
    "--seed -1": "--seed must be a whole number from 0 to 2^32", "--seed 0 1 0": "--seed: 0 is given twice",
    f"--seed {2**32}": "--seed must be a whole number from 0 to 2^32 - 1", "--seed x": "--seed: invalid int value: 'x'",
    "--mixed_precision half": "--mixed_precision: invalid choice: 'half' (choose from",
    "--mixed_precision tf32": "--mixed_precision tf32 needs a GPU; allowed here: none, bf16",
    "--mixed_precision bf16 --precision float64": "--mixed_precision goes with --precision float32",
    "--precision float16": "--precision: invalid choice", "--budget huge": "--budget: invalid choice: 'huge'",
    "--hessian_every -1": "--hessian_every must be a whole number from 0", "--hessian_every log:0": "--hessian_every",
    "--log_every 0": "--log_every must be a whole number from 1", "--workers -1": "--workers must be a whole number",
    "--checkpoint_every -1": "--checkpoint_every must be from 0", "--checkpoint_every nan": "--checkpoint_every",
    "--checkpoint_every inf": "--checkpoint_every must be from 0", "--wandb maybe": "--wandb: invalid choice",
    "--device banana": "--device must be auto, cpu, cuda or cuda:k, got 'banana'", "--device cuda:": "--device must be",
    "--device cuda:99": "--device cuda:99: there is no such GPU", "--save_path ''": "--save_path must name a folder",
    "--save_path /proc/nowhere": "--save_path /proc/nowhere", "--save_path file": "--save_path file",
    "--save_path file/below": "cannot write: ", "--data_dir ''": "--data_dir must name a folder",
    "--data_dir nowhere": "nowhere/cifar-10-python.tar.gz is there; --no-verify downloads nothing",
    "--data_dir file": "file must be a folder, it is a file", "--data_dir data/new": "--data_dir: neither",
    "--dataset CIFAR-100": "cifar-100-python.tar.gz is there; --no-verify downloads nothing",
}

RUN_EXP = {
    "--epochs 0": "--epochs must be a whole number from 1, got 0", "--epochs 1e3": "--epochs: invalid int value: '1e3'",
    "--schedule step": "--schedule: invalid choice: 'step' (choose from", "--loss 1": "unrecognized arguments: --loss",
    "--visualize --no-save_model": "--visualize needs the weights",
    "--type 3D": "--type goes with --visualize", "--type 2D": "--type: invalid choice: '2D'",
}

TRAJECTORY = {
    "--max_epochs 0": "--max_epochs must be a whole number from 1, got 0", "--max_epochs x": "--max_epochs: invalid",
    "--steps 0": "--steps must be a whole number from 1, got 0", "--steps -5": "--steps must be a whole number from 1",
    "--loss 0": "--loss must be a positive number, got 0", "--loss -1": "--loss must be a positive number",
    "--loss nan": "--loss must be a positive number", "--loss inf": "--loss must be a positive number",
    "--loss low": "--loss: invalid",
    "--epochs 3": "unrecognized arguments: --epochs 3", "--schedule cosine": "unrecognized arguments: --schedule",
    "--visualize": "unrecognized arguments: --visualize",
}


def refused(words: list[object], folder: Path, expected: str, trajectory: bool = False) -> str:
    """What is wrong with the answer, nothing if it is one line with these words and wrote no file."""
    before = sorted(folder.rglob("*"))
    done = small.call(*words, cwd=folder, trajectory=trajectory)
    lines = done.stderr.splitlines()
    if done.returncode != 2 or done.stdout or len(lines) != 1 or not lines[0].startswith("error: ") or (
            expected not in lines[0]):
        return f"{expected!r}: {done}"
    made = [str(path) for path in sorted(folder.rglob("*")) if path not in before]
    return f"{words}: wrote {made}" if made else ""


@pytest.mark.parametrize("trajectory", [False, True])
def test_flags(trajectory: bool, tmp_path: Path) -> None:
    """Each flag with a value that it does not take; those without are switches, or any text is a name."""
    small.make_data(tmp_path / "data", 60, 20)
    (tmp_path / "file").touch()
    table, wrong = BOTH | (TRAJECTORY if trajectory else RUN_EXP), []
    for flags, expected in table.items():
        words = [*small.TINY, "--data_dir", "data", "--save_path", "never", *shlex.split(flags)]
        wrong.append(refused(words, tmp_path, expected, trajectory))
    assert not any(wrong), "\n".join(filter(None, wrong))
    known = {action.option_strings[0] for action in make_parser(trajectory)._actions}
    assert known - {flags.split()[0] for flags in table} == {"-h", "--save_model", "--force", "--wandb_project"}


def test_data(tmp_path: Path) -> None:
    """Files that are missing, cut short, of another data set, with labels that do not exist."""
    folder = small.make_data(tmp_path / "data", 60, 20)
    batches = folder / "cifar-10-batches-py"
    words = [*small.TINY, "--data_dir", "data", "--save_path", "never", "--epochs", 1]
    good = (batches / "data_batch_2").read_bytes()
    content = pickle.loads(good)
    small.dump(tmp_path / "labels", content | {"labels": [10, *content["labels"][1:]]})
    small.dump(tmp_path / "shape", content | {"data": content["data"][:, :784]})
    wrong = []
    for changed, expected in [((tmp_path / "labels").read_bytes(), "holds labels from 0 to 10, allowed: 0 to 9"),
                              ((tmp_path / "shape").read_bytes(), "is no batch file of CIFAR-10"),
                              (good[: len(good) // 2], "is no batch file of CIFAR-10"), (b"", "is no batch file of"),
                              (b"\x80", "is no batch file of CIFAR-10"), (None, "is missing")]:
        (batches / "data_batch_2").unlink(missing_ok=True)
        if changed is not None:
            (batches / "data_batch_2").write_bytes(changed)
        for trajectory in (False, True):
            flags = words[:-2] if trajectory else words
            wrong.append(refused(flags, tmp_path, f"data/cifar-10-batches-py/data_batch_2 {expected}", trajectory))
    assert not any(wrong), "\n".join(filter(None, wrong))
    (batches / "data_batch_2").write_bytes(good)
    assert small.call(*words, "--n_samples", 20, cwd=tmp_path).returncode == 0


def test_an_archive_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short; and, where checksums count, not the published one and no network: where to put it."""
    folder = small.make_data(tmp_path / "data", 60, 20, archive=True)
    archive = folder / "cifar-10-python.tar.gz"
    whole = archive.read_bytes()
    words = [*small.TINY, "--data_dir", "data", "--save_path", "never", "--epochs", 1, "--n_samples", 20]
    archive.write_bytes(whole[: len(whole) // 2])
    assert not refused(words, tmp_path, "data/cifar-10-python.tar.gz cannot be extracted: ")
    archive.write_bytes(whole)
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    before = sorted(tmp_path.rglob("*"))
    done = small.call(*words, "--verify", cwd=tmp_path)
    first, second = done.stderr.splitlines()
    assert done.returncode == 2 and first.startswith("downloading https://") and sorted(tmp_path.rglob("*")) == before
    assert second.startswith("error: --data_dir: ") and "does not have its checksum, and no download (" in second
    assert "put https://" in second and "cifar-10-python.tar.gz there, MD5 c58f30108f718f92721af3b95e74349a" in second
    assert archive.read_bytes() == whole
    assert small.call(*words, cwd=tmp_path).returncode == 0  # without them it is extracted, and used


def test_what_needs_a_process_of_its_own(tmp_path: Path) -> None:
    """The real command: its answer comes before any file, on standard error alone."""
    done = small.run("--model", "ResNet9", "--no-verify", "--data_dir", "none", cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: --model: invalid choice: 'ResNet9'") and done.stderr.count("\n") == 1
