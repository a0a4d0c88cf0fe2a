"""ResNet-18 in its form for 32 x 32 images (He et al. 2016, arXiv 1512.03385), and narrow ones of the same shape.

    x = ReLU(BN(conv3x3(images)))                         stem: stride 1, no max-pooling
    x = ReLU(x' + BN(conv3x3(ReLU(BN(conv3x3(x))))))      eight blocks, two a stage; x' = x, or BN(conv1x1(x)) where the
                                                          shape changes
    logits = W mean_pixels(x) + b

The stages have width, 2 width, 4 width and 8 width channels; all but the first halve the image. At width 64 and ten
classes there are 11,173,962 weights in 62 tensors. Layers are named as in torchvision, so that its weights fit.

    model = build("ResNet18", classes=10, seed=0, init="fan_out")
"""

from __future__ import annotations

import os
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from .data import downloading
from .files import UsageError

#: Width of the first stage.
MODELS = {"ResNet18": 64, "ResNet18_w32": 32, "ResNet18_w16": 16, "ResNet18_w8": 8}
INITS = ("fan_out", "torch")


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: (B, channels, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.downsample = stride, nn.Sequential()
        if stride > 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        # not by the convolution's stride: for few channels oneDNN's backward pass overruns its memory (issue 6035)
        shortcut = self.downsample(x[:, :, :: self.stride, :: self.stride])
        return (residual + shortcut).relu()


class ResNet18(nn.Module):
    """Images (B, 3, 32, 32), normalised, to logits (B, classes); `width` is that of the first stage."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits."""
        x = self.bn1(self.conv1(images)).relu()
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def build(model: str, classes: int, seed: int, init: str, pretrained: bool = False) -> ResNet18:
    """A network on the CPU, float32, channels_last, whose initial weights depend on `seed` and `init` alone.

    fan_out: convolutions normal with std sqrt(2 / fan_out) (He et al. 2015, arXiv 1502.01852), torchvision's choice;
    torch: uniform within 1 / sqrt(fan_in), PyTorch's. The head is PyTorch's in both. `pretrained` replaces all but the
    stem and the head, whose shapes differ, by torchvision's ImageNet weights, running statistics included. The global
    random numbers are left as they were.

    Raises:
        UsageError: `pretrained` with a narrow model, or weights that cannot be had.
    """
    if pretrained and MODELS[model] != 64:
        raise UsageError(f"--pretrain needs --model ResNet18, the only one with ImageNet weights, got {model}")
    with torch.random.fork_rng(devices=[]):  # PyTorch's initialisation takes no generator
        torch.default_generator.manual_seed(seed)
        net = ResNet18(MODELS[model], classes)
        if init == "fan_out":
            for layer in net.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if pretrained:
        _load_imagenet(net)
    return net.to(memory_format=torch.channels_last)


def _load_imagenet(net: ResNet18) -> None:
    """Overwrite all weights but those of the stem and the head."""
    from .vision import torchvision

    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    path = os.path.join(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    there = os.path.exists(path)
    try:
        with nullcontext() if there else downloading(url, path):
            weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        ours = {name: value for name, value in weights.items() if not name.startswith(("conv1.", "fc."))}
        missing, unexpected = net.load_state_dict(ours, strict=False)
        missing = [name for name in missing if not name.startswith(("conv1.", "fc."))]
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # older files have none
        if missing or unexpected:
            raise ValueError(f"not the layers of ResNet-18: {(missing or unexpected)[0]}")
    except Exception as error:  # torch raises all sorts for a file that is not its own
        reason = str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__
        if there:
            raise UsageError(f"--pretrain: {path} cannot be used ({reason}); remove it and it is downloaded") from error
        raise UsageError(f"--pretrain: no download of {url} ({reason}); put the file at {path}") from error
