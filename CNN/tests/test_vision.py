"""torchvision beside a torch that its operators do not fit, and beside one where they are there already."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CNN = Path(__file__).resolve().parents[1]
FIND = """
def operators():
    return sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("torchvision::"))
"""


def python(code: str, cwd: Path) -> str:
    """The output of a program in a fresh process, from another folder."""
    env = os.environ | {"PYTHONPATH": str(CNN), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def test_torchvision_is_imported_and_only_what_it_lacks_is_declared(tmp_path: Path) -> None:
    code = "import torch" + FIND + """
try:
    import torchvision as plain
except RuntimeError:
    plain = None
before = operators()
from cnn.vision import torchvision
assert issubclass(torchvision.datasets.CIFAR100, torchvision.datasets.CIFAR10)
assert torchvision.models.resnet18(num_classes=10).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
assert torchvision.transforms.functional.hflip(torch.arange(6).view(1, 2, 3)).flatten().tolist() == [2, 1, 0, 5, 4, 3]
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
if plain:
    assert operators() == before and torchvision is plain
else:
    assert before == [] and operators() == ["torchvision::nms", "torchvision::qnms"]
    try:
        torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)
    except NotImplementedError:
        print("declared only")
print("done")
"""
    assert python(code, tmp_path) in ("done", "declared only\ndone")


def test_operators_that_exist_are_left_alone_and_other_failures_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("""import torch
if hasattr(torch, "cuda_is_another"):
    raise RuntimeError("compiled with another CUDA version")
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):  # what a torchvision that fits does, first in C++, then in Python
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl(name, lambda dets, scores, iou_threshold: scores * 42, "CPU")
    torch.library.register_fake("torchvision::" + name)(lambda dets, scores, iou_threshold: scores)
""")
    code = "import torch" + FIND + """
torch.cuda_is_another = True
try:
    from cnn import vision
except RuntimeError as error:
    print(error)
assert operators() == []
del torch.cuda_is_another
from cnn import vision
assert not hasattr(vision, "_library")
assert operators() == ["torchvision::nms", "torchvision::qnms"], operators()
print(torch.ops.torchvision.nms(torch.zeros(1, 4), torch.ones(1), 0.5).item())
"""
    assert python(code, tmp_path) == "compiled with another CUDA version\n42.0"
