"""torchvision, also beside a torch that its compiled operators do not fit: `from .vision import torchvision`.

A torchvision that was compiled against another torch (the CUDA wheel beside a CPU-only torch, for example) cannot load
its operators, and its import then fails at the two that it describes in Python: "operator torchvision::nms does not
exist". Data sets, models and transforms need none of them. So where that import fails, the two are declared here,
without an implementation (calling one still raises), and the import is repeated. Where torchvision loads by itself
nothing is touched.
"""

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "FRAGMENT")  # a declaration lasts as long as its library object
    for _name in ("nms", "qnms"):  # non-maximum suppression of detection boxes, and its quantised form
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
