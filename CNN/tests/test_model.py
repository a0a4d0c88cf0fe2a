"""The network against torchvision's in float64, its initial weights, and ImageNet weights on disk."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from cnn.data import normalise
from cnn.files import UsageError
from cnn.model import MODELS, ResNet18, build
from cnn.vision import torchvision
from torch import nn

STEM_AND_HEAD = ("conv1.", "fc.")
FILE = "checkpoints/resnet18-f37072fd.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder of downloads, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "hub"


def test_sizes_are_the_published_ones() -> None:
    net = build("ResNet18", 10, 0, "torch")
    weights = list(net.parameters())
    flat = [weight.numel() for weight in weights if weight.dim() == 1]
    assert (sum(weight.numel() for weight in weights), len(weights)) == (11_173_962, 62)
    assert (len(flat), sum(flat), len(list(net.buffers()))) == (41, 9_610, 60)
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights if weight.dim() == 4)
    assert sum(weight.numel() for weight in build("ResNet18", 100, 0, "torch").parameters()) == 11_173_962 + 90 * 513
    for model, width in MODELS.items():
        net = build(model, 10, 0, "torch")
        assert [net.layer4[1].conv2.weight.shape[0], net.fc.in_features] == [8 * width, 8 * width]


@pytest.mark.parametrize("training", [True, False])
def test_logits_and_gradients_are_torchvisions(training: bool) -> None:
    ours = ResNet18(64, 10).double()
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.double()
    generator = torch.Generator().manual_seed(0)
    for name, value in theirs.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(1 + torch.rand(value.shape, generator=generator, dtype=torch.float64))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 9])
    for net in (ours, theirs):
        net.train(training)
        nn.functional.cross_entropy(net(images), labels).backward()
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-10, atol=1e-12)
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-12)
    for mine, other in zip(ours.buffers(), theirs.buffers()):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("init", ["fan_out", "torch"])
def test_initial_weights_have_their_distribution(init: str) -> None:
    # the fourth moment tells the normal distribution from the uniform; and its standard deviation over one weight
    moment, spread = (3, math.sqrt(96)) if init == "fan_out" else (9 / 5, 2.4)
    state = torch.get_rng_state()
    net = build("ResNet18", 10, 3, init)
    assert torch.equal(torch.get_rng_state(), state)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
        if isinstance(layer, nn.Conv2d):
            fan_out, fan_in = (layer.weight.shape[axis] * layer.weight[0, 0].numel() for axis in (0, 1))
            std = math.sqrt(2 / fan_out) if init == "fan_out" else 1 / math.sqrt(3 * fan_in)
            kurtosis = (layer.weight**4).mean().item() / std**4
            noise = 1 / math.sqrt(layer.weight.numel())
            assert abs(layer.weight.std().item() / std - 1) < 4 * noise
            assert abs(layer.weight.mean().item() / std) < 4 * noise
            assert abs(kurtosis - moment) < 4 * spread * noise
    bound = 1 / math.sqrt(512)
    assert 0.99 * bound < net.fc.weight.abs().max() <= bound and net.fc.bias.abs().max() <= bound


def test_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int, init: str) -> torch.Tensor:
        return torch.cat([weight.flatten() for weight in build("ResNet18_w8", 10, seed, init).parameters()])

    first = weights(0, "fan_out")
    torch.manual_seed(99)
    assert torch.equal(weights(0, "fan_out"), first)
    assert not torch.equal(weights(1, "fan_out"), first) and not torch.equal(weights(0, "torch"), first)


@pytest.mark.parametrize("init", ["fan_out", "torch"])
def test_an_untrained_network_guesses(init: str) -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        logits = build("ResNet18", 10, 0, init).eval()(normalise(pixels, "CIFAR-10", torch.float32))
    loss = nn.functional.cross_entropy(logits, torch.arange(40) % 10).item()
    assert abs(loss - math.log(10)) < 0.1 and logits.std() > 0.01


def imagenet(hub: Path) -> dict[str, torch.Tensor]:
    """A file of torchvision's name and layers, with random weights."""
    weights = torchvision.models.resnet18().state_dict()
    generator = torch.Generator().manual_seed(2)
    for value in weights.values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator))
    weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    (hub / FILE).parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights, hub / FILE)
    return weights


def test_pretrained_weights_fill_all_but_the_stem_and_the_head(hub: Path) -> None:
    weights = imagenet(hub)
    net, fresh = (build("ResNet18", 10, 0, "torch", pretrained) for pretrained in (True, False))
    other = fresh.state_dict()
    for name, value in net.state_dict().items():
        expected = other if name.startswith(STEM_AND_HEAD) or name.endswith("num_batches_tracked") else weights
        assert torch.equal(value, expected[name]), name


def test_pretrained_weights_that_cannot_be_had_are_one_line(hub: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=f"no download of https://.*/{FILE[12:]}.*; put the file at {hub / FILE}$"):
        build("ResNet18", 10, 0, "torch", pretrained=True)
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(r"downloading https://\S+ to \S+\n", err)
    weights = imagenet(hub)
    whole = (hub / FILE).read_bytes()
    for content in (whole[:5000], whole[:-1000], b"", b"<html>not found</html>"):
        (hub / FILE).write_bytes(content)
        with pytest.raises(UsageError, match=f"--pretrain: {hub / FILE} cannot be used .*; remove it") as caught:
            build("ResNet18", 10, 0, "torch", pretrained=True)
        assert "\n" not in str(caught.value)
        assert (hub / FILE).read_bytes() == content
    for change in ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, {"layer1.0.conv3.weight": torch.zeros(1)}):
        torch.save(weights | change, hub / FILE)
        with pytest.raises(UsageError, match="cannot be used"):
            build("ResNet18", 10, 0, "torch", pretrained=True)
    del weights["layer3.1.bn2.bias"]
    torch.save(weights, hub / FILE)
    with pytest.raises(UsageError, match="layer3.1.bn2.bias"):
        build("ResNet18", 10, 0, "torch", pretrained=True)


def test_narrow_networks_have_no_imagenet_weights() -> None:
    with pytest.raises(UsageError, match="--pretrain needs --model ResNet18, .* got ResNet18_w8"):
        build("ResNet18_w8", 10, 0, "torch", True)


def test_few_channels_are_safe() -> None:
    """A strided 1 x 1 convolution of channels_last float32 images overruns its memory on CPUs: not used."""
    net = ResNet18(4).to(memory_format=torch.channels_last)
    assert not [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)
                and layer.kernel_size == (1, 1) and layer.stride != (1, 1)]
    for _ in range(3):
        net(torch.randn(50, 3, 32, 32).contiguous(memory_format=torch.channels_last)).sum().backward()
