"""The network of the PINN: R fully connected tanh networks side by side, and one differential operator of them.

Weights are stacked on a leading `runs` axis, W_k (R, in, out) and b_k (R, 1, out), and

    u = W_K tanh( ... tanh(x W_0 + b_0) ... ) + b_K,            x = (x, t).

A residual needs, beside u, one linear operator of it, L u = d . grad u + c D_v D_w u (`Operator`), so the forward pass
carries L u along with u (Taylor-mode differentiation collapsed to the operator itself):

    z = h W + b     z_v = h_v W        z_w = h_w W         z_L = h_L W
    h' = tanh z     h'_v = s z_v       h'_w = s z_w        h'_L = s z_L - 2 c h' s z_v z_w         s = 1 - h'^2

which is cheaper than nested reverse differentiation: two to four streams instead of a graph of a graph. The reverse
pass over the streams is written out as well, since for networks this small the bookkeeping of autograd costs more than
the arithmetic; second derivatives with respect to the weights (Hessian-vector products) go through autograd.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Operator:
    """The linear operator L u = first . grad u + scale * D_v D_w u, one per run.

    first: (R, 2) direction of the first-order part, in (x, t).
    v, w: (R, 2) directions of the second-order part, or None; `w is v` for a pure second derivative.
    scale: (R,) factor of the second-order part.
    """

    first: Tensor
    v: Tensor | None = None
    w: Tensor | None = None
    scale: Tensor | None = None

    def select(self, runs: slice | Tensor) -> "Operator":
        """The operator of some of the runs."""
        if self.v is None:
            return Operator(self.first[runs])
        v = self.v[runs]
        return Operator(self.first[runs], v, v if self.w is self.v else self.w[runs], self.scale[runs])


class MLP(nn.Module):
    """R stacked tanh networks 2 -> hidden -> ... -> hidden -> 1.

    Weights are Xavier normal, biases zero. Each run draws from its own generator, in float64, so a run's weights depend
    on its seed alone: not on its neighbours, the device or (up to rounding) the precision.

    Args:
        seeds: one seed a run.
        hidden: widths of the hidden layers.
    """

    def __init__(self, seeds: Sequence[int], hidden: Sequence[int], dtype: torch.dtype = torch.float32,
                 device: torch.device | str = "cpu") -> None:
        super().__init__()
        widths = [2, *hidden, 1]
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            std = math.sqrt(2 / (fan_in + fan_out))
            draw = [torch.randn(fan_in, fan_out, generator=g, dtype=torch.float64) for g in generators]
            self.weights.append(nn.Parameter((std * torch.stack(draw)).to(device, dtype)))
            self.biases.append(nn.Parameter(torch.zeros(len(seeds), 1, fan_out, dtype=dtype, device=device)))

    @property
    def size(self) -> int:
        """Number of weights of one run: 7,851 for four hidden layers of 50."""
        return sum(p[0].numel() for p in self.parameters())

    def forward(self, points: Tensor) -> Tensor:
        """u at points (R or 1, n, 2) -> (R, n), for evaluation and prediction."""
        return propagate(list(self.parameters()), points)[0]


def propagate(params: Sequence[Tensor], points: Tensor, operator: Operator | None = None,
              n: int | None = None) -> tuple[Tensor, Tensor | None]:
    """u and L u of the stacked networks, differentiable (any number of times) with respect to the weights.

    Args:
        params: W_0 ... W_K, b_0 ... b_K as `MLP.parameters()` gives them, each with leading axis R.
        points: (R or 1, m, 2), columns x and t.
        operator: L with R directions, or None for u alone.
        n: L u is wanted at the first n points only; default all.

    Returns:
        u (R, m) and L u (R, n), the latter None without an operator.
    """
    n = 0 if operator is None else points.shape[1] if n is None else n
    if torch.is_grad_enabled() and any(p.requires_grad for p in params):
        return _Propagate.apply(points, operator, n, *params)
    return _outputs(_forward(params, points, operator, n)[0], params, points.shape[1], n)


class _Propagate(torch.autograd.Function):
    """The streams as one node of the graph, with a hand-written reverse pass."""

    @staticmethod
    def forward(ctx, points: Tensor, operator: Operator | None, n: int, *params: Tensor):
        last, tape = _forward(params, points, operator, n)
        ctx.arguments, ctx.tape, ctx.last = (points, operator, n), tape, last
        ctx.save_for_backward(*params)
        return _outputs(last, params, points.shape[1], n)

    @staticmethod
    def backward(ctx, grad_u: Tensor, grad_lu: Tensor | None):
        params = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted: plain operations, recorded by autograd
            outputs = _reference(params, *ctx.arguments)
            pairs = [(o, g) for o, g in zip(outputs, (grad_u, grad_lu), strict=True) if o is not None]
            grads = torch.autograd.grad([o for o, _ in pairs], params, [g for _, g in pairs],
                                        create_graph=True, materialize_grads=True)
            return None, None, None, *grads
        return None, None, None, *_backward(params, *ctx.arguments, ctx.last, ctx.tape, grad_u, grad_lu)


def _outputs(last: Tensor, params: Sequence[Tensor], m: int, n: int) -> tuple[Tensor, Tensor | None]:
    """The linear output layer: only the first and the last stream leave the network."""
    weight, bias = params[len(params) // 2 - 1], params[-1]
    u = torch.baddbmm(bias, last[:, :m], weight).squeeze(2)
    return u, torch.bmm(last[:, -n:], weight).squeeze(2) if n else None


def _first_layer(params: Sequence[Tensor], points: Tensor, operator: Operator | None) -> list[Tensor]:
    """Pre-activation streams of the first layer: z (R, m, w), and the tangents, constant in space, (R, 1, w)."""
    weight, bias = params[0], params[len(params) // 2]
    z = torch.baddbmm(bias, points.expand(len(weight), -1, -1), weight)
    return [z, *(direction[:, None] @ weight for direction in _directions(operator))]


def _directions(operator: Operator | None) -> list[Tensor]:
    """Directions of the tangent streams v, w, L: (R, 2) each; w is left out when it is v."""
    if operator is None:
        return []
    if operator.v is None:
        return [operator.first]
    return [operator.v, operator.first] if operator.w is operator.v else [operator.v, operator.w, operator.first]


def _forward(params: Sequence[Tensor], points: Tensor, operator: Operator | None, n: int):
    """Streams after the last hidden layer, (R, m + tangents * n, width), and the tape of the reverse pass.

    The tape holds, a layer, the layer's input streams, s = 1 - tanh^2, and the pre-activation tangents.
    """
    depth, m = len(params) // 2, points.shape[1]
    z, *tangents = _first_layer(params, points, operator)
    h, tape = None, []
    for layer in range(depth - 1):
        if layer > 0:
            stacked = torch.bmm(h, params[layer])
            z = stacked[:, :m].add_(params[depth + layer])
            tangents = stacked[:, m:].split(n, dim=1) if n else []
        out = z.new_empty(len(z), m + len(tangents) * n, z.shape[2])
        a = torch.tanh(z, out=out[:, :m])
        s = torch.addcmul(_one(z), a, a, value=-1)  # 1 - a^2 in one pass
        for k, tangent in enumerate(tangents):
            torch.mul(s[:, :n], tangent, out=out[:, m + k * n:m + (k + 1) * n])
        if len(tangents) > 1:
            curvature = tangents[0] * tangents[-2] * (-2 * operator.scale[:, None, None])
            out[:, -n:].addcmul_(a[:, :n] * s[:, :n], curvature)
        tape.append((h, s, tangents))
        h = out
    return h, tape


def _one(like: Tensor) -> Tensor:
    return torch.ones((), dtype=like.dtype, device=like.device)


def _backward(params: Sequence[Tensor], points: Tensor, operator: Operator | None, n: int, last: Tensor, tape: list,
              grad_u: Tensor, grad_lu: Tensor | None) -> list[Tensor]:
    """Gradients of all parameters, given those of u and L u; the transpose of `_forward`, layer by layer."""
    depth, m = len(params) // 2, points.shape[1]
    grads: list[Tensor] = [None] * len(params)
    out_grad = torch.cat([grad_u, grad_lu], 1)[..., None] if n else grad_u[..., None]
    out_rows = torch.cat([last[:, :m], last[:, -n:]], 1) if last.shape[1] > m + n else last
    grads[depth - 1] = torch.bmm(out_rows.mT, out_grad)
    grads[-1] = grad_u.sum(1)[:, None, None]
    grad = out_grad * params[depth - 1].mT
    if last.shape[1] > m + n:  # the streams v and w end in the last hidden layer
        grad = torch.cat([grad[:, :m], grad.new_zeros(len(grad), last.shape[1] - m - n, grad.shape[2]), grad[:, m:]], 1)
    out = last
    for layer in range(depth - 2, -1, -1):
        h, s, tangents = tape[layer]
        _reverse_tanh(grad, out, s, tangents, m, n, operator)
        grads[depth + layer] = grad[:, :m].sum(1, keepdim=True)
        if layer > 0:
            grads[layer] = torch.bmm(h.mT, grad)
            grad = torch.bmm(grad, params[layer].mT)
        out = h
    grads[0] = torch.bmm(points.mT.expand(len(grad), -1, -1), grad[:, :m])
    for direction, part in zip(_directions(operator), grad[:, m:].split(n, dim=1) if n else (), strict=True):
        grads[0] += direction[:, :, None] * part.sum(1, keepdim=True)
    return grads


def _reverse_tanh(grad: Tensor, out: Tensor, s: Tensor, tangents: Sequence[Tensor], m: int, n: int,
                  operator: Operator | None) -> None:
    """Turn the gradient of a layer's output streams into that of its pre-activation streams, in place.

    With bars for gradients, a = tanh z, s = 1 - a^2:
        z_L~ = s a_L~        z_v~ = s (a_v~ - 2 c a z_w a_L~)        z_w~ likewise
        z~   = s (a~ - 2 a (z_v a_v~ + z_w a_w~ + z_L a_L~) - 2 c (1 - 3 a^2) z_v z_w a_L~)
    """
    if n:
        a, sn, grad_z = out[:, :n], s[:, :n], grad[:, :n]
        parts = grad[:, m:].split(n, dim=1)
        inner = tangents[0] * parts[0]
        for tangent, part in zip(tangents[1:], parts[1:], strict=True):
            inner.addcmul_(tangent, part)
        grad_z.addcmul_(a, inner, value=-2)
        if len(tangents) > 1:
            zv, zw = tangents[0], tangents[-2]
            curved = parts[-1] * (-2 * operator.scale[:, None, None])
            grad_z.addcmul_(curved * (3 * sn - 2), zv * zw)  # 1 - 3 a^2 = 3 s - 2
            curved *= a
            parts[0].addcmul_(curved, zw)
            parts[-2].addcmul_(curved, zv)  # the same stream when w is v
        for part in parts:
            part *= sn
    grad[:, :m] *= s


def _reference(params: Sequence[Tensor], points: Tensor, operator: Operator | None, n: int):
    """The same streams by plain operations: the readable form, and the one that autograd differentiates again."""
    depth = len(params) // 2
    z, *tangents = _first_layer(params, points, operator)
    for layer in range(1, depth):
        a = torch.tanh(z)
        an, sn = a[:, :n], 1 - a[:, :n] * a[:, :n]
        streams = [sn * tangent for tangent in tangents]
        if len(tangents) > 1:
            streams[-1] = streams[-1] - 2 * operator.scale[:, None, None] * an * sn * tangents[0] * tangents[-2]
        z = torch.baddbmm(params[depth + layer], a, params[layer])
        tangents = [torch.bmm(stream, params[layer]) for stream in streams]
    return z.squeeze(2), tangents[-1].squeeze(2) if tangents else None
