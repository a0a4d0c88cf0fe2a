# Twin of PINN/pinn/diagnosis_tools.py - edit there and run: python experiments/twins.py --fix
"""The four landscape tools: what is computed of the runs of a `Job` (diagnosis.py), drawn, written and printed."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .curves import Curve, measure, train_bends
from .drawing import draw_path, draw_similarity, draw_spectrum, draw_surface, interactive_surface
from .files import UsageError, atomic_write, warn_once
from .hessian import Linear, flatten, hessian_product, top_eigenvalue, unflatten
from .landscape import Surface, normalise, random_directions, with_sign
from .similarity import similarity as align
from .spectrum import DENSE, Spectrum, of_one, spectrum

if TYPE_CHECKING:
    from .diagnosis import Job, Subject

SAVE_SECONDS = 60.0  # between two saves of an unfinished landscape
PLUS_MINUS = r"$\pm$"  # in pictures


def size(params: Sequence[Tensor]) -> int:
    """Number of weights of one network."""
    return sum(p[0].numel() for p in params)


def flat(params: Sequence[Tensor]) -> Tensor:
    """One network as (p,)."""
    return flatten([p.detach() for p in params], params)[0]


def are_finite(params: Sequence[Tensor]) -> bool:
    """No weight is NaN or infinite."""
    return all(bool(p.isfinite().all()) for p in params)


def differing(subjects: Sequence[Subject]) -> list[str]:
    """What tells runs apart, from the folders: strategy, seed, ..."""
    parts = [subject.run.key.folder().parts for subject in subjects]
    names = ["/".join(p for p, *others in zip(own, *parts, strict=True) if len(set(others)) > 1) for own in parts]
    return names if len(set(names)) == len(names) else [str(subject.run.path) for subject in subjects]


# ---- hessian -----------------------------------------------------------------------------------


def product_of(job: Job, subject: Subject, params: Sequence[Tensor], total: int) -> Linear:
    """Products of the Hessian with vectors v (c, p), watched; `total` is how many there may be."""
    leaves, done = [p.detach().requires_grad_() for p in params], 0
    product = of_one(hessian_product(subject.gradients(leaves), leaves, torch.arange(1, device=leaves[0].device)))

    def watched(v: Tensor) -> Tensor:
        nonlocal done
        out, done = product(v), done + len(v)
        job.watch(done, total)
        return out

    return watched


def hessian(job: Job) -> None:
    """Spectra of the Hessian at some states of a run."""
    args, subject, arrays, states, drawn = job.args, job.subject, {}, {}, {}
    for state in args.at:
        params = subject.weights(state)
        loss, found = math.nan, None
        if are_finite(params):
            dense = args.method == "dense" or args.method == "auto" and size(params) <= DENSE
            steps = min(args.iterations, size(params))
            total = size(params) if dense else args.probes * steps + args.trace_samples + 2 * min(args.top, steps)
            total += len(subject.restrictions) * args.iterations
            product = product_of(job, subject, params, total)
            loss = subject.losses(params).item()
            found = spectrum(product, size(params), like=params[0], method=args.method, top=args.top,
                             iterations=args.iterations, probes=args.probes, trace_samples=args.trace_samples,
                             chunk=args.chunk or subject.chunk, seed=args.seed)
        if found is None or not found.finite or not math.isfinite(loss):
            states[state] = {"finite": False, "loss": None}
            print(f"{job.run.path}: {state}: weights, loss or Hessian are not finite (the run diverged): no spectrum",
                  file=sys.stderr)
            continue
        states[state] = {"finite": True, "loss": loss, **numbers(found, args.eps)}
        states[state] |= restricted(subject, product, params, found, args)
        arrays |= {f"{state}_{name}": getattr(found.density, name) for name in ("nodes", "weights", "ends")}
        if found.density.exact:
            arrays[f"{state}_eigenvalues"] = found.density.nodes[0]
        both = states[state]["highest"] + states[state]["lowest"]
        drawn[state] = found.density, both, beside(states[state])
        print(f"{job.run.path}: {state}: loss {loss:.3g}, {in_words(states[state])}")
    figure = draw_spectrum(subject.title, drawn)
    job.write(arrays, figure, loss_name=subject.loss_name, states=states)


def numbers(found: Spectrum, eps: float) -> dict[str, Any]:
    """A spectrum as hessian.json holds it."""
    density = found.density
    below, within = density.mass_below(-eps * found.norm), density.mass_within(eps * found.norm)
    return {
        "method": found.method, "lambda_max": found.highest.values[0].item(),
        "lambda_min": found.lowest.values[0].item(), "highest": found.highest.values.tolist(),
        "lowest": found.lowest.values.tolist(), "highest_residuals": found.highest.residuals.tolist(),
        "lowest_residuals": found.lowest.residuals.tolist(), "trace": found.trace.value,
        "trace_error": found.trace.error, "trace_samples": found.trace.samples,
        "mass": {"eps": eps, "threshold": eps * found.norm, "below": below.value, "below_error": below.error,
                 "below_bounds": [below.least, below.most], "within": within.value, "within_error": within.error,
                 "within_bounds": [within.least, within.most]},
        "ritz_values": density.ritz_values, "ritz_negative_share": density.ritz_negative_share,
        "products": found.products}


def restricted(subject: Subject, product: Linear, params: Sequence[Tensor], found: Spectrum,
               args: argparse.Namespace) -> dict[str, Any]:
    """Highest eigenvalues of the Hessian of some parameters only, and lambda_max over its lower bound."""
    out = {}
    for name, keep in subject.restrictions.items():
        mask = flat([torch.full_like(p, float(kept)) for p, kept in zip(params, keep, strict=True)])[None]
        start = torch.randn(mask.shape, generator=torch.Generator().manual_seed(args.seed)).to(mask)
        top = top_eigenvalue(lambda v, mask=mask: mask * product(v), mask * start, max_iter=args.iterations)
        out[name] = {"lambda_max": top.value.item(), "residual": top.residual.item()}
    over = None if subject.floor is None else found.highest.values[0].item() / subject.floor
    return {"restricted": out, "floor": subject.floor, "lambda_max_over_floor": over}


def in_words(state: Mapping[str, Any]) -> str:
    """The numbers of a spectrum in one line."""
    mass = state["mass"]
    floor = f", {state['lambda_max_over_floor']:.3g} times its floor" if state["floor"] else ""
    errors = (give_or_take(error, "+-", form) for error, form in [
        (state["trace_error"], ".2g"), (mass["below_error"], ".1g"), (mass["within_error"], ".1g")])
    return (f"lambda_max {state['lambda_max']:.4g} (residual {state['highest_residuals'][0]:.1g}){floor}, trace "
            f"{state['trace']:.4g}{next(errors)}, mass below -eps {mass['below']:.3g}{next(errors)}"
            f"{limits(mass['below_bounds'])}, within eps {mass['within']:.3g}{next(errors)}"
            f"{limits(mass['within_bounds'])}")


def limits(bounds: Sequence[float]) -> str:
    """Bounds of a mass, where Lanczos leaves more than 0.001 open."""
    least, most = bounds
    return f" (bounds {least:.3g} to {most:.3g})" if most - least > 1e-3 else ""


def give_or_take(error: float, sign: str, form: str) -> str:
    """A standard error, if there is one: of a single sample it is NaN."""
    return "" if math.isnan(error) else f" {sign} {error:{form}}"


def beside(state: Mapping[str, Any]) -> str:
    """What stands beside a curve."""
    mass = state["mass"]
    return (f"loss {state['loss']:.3g}\n$\\lambda_{{max}}$ = {state['lambda_max']:.4g}\n"
            f"$\\lambda_{{min}}$ = {state['lambda_min']:.3g}\n"
            f"trace {state['trace']:.4g}{give_or_take(state['trace_error'], PLUS_MINUS, '.2g')}\n"
            f"below $-\\epsilon$: {share(mass, 'below')}\n"
            f"within $\\epsilon$: {share(mass, 'within')}\n"
            f"$\\epsilon$ = {mass['threshold']:.2g}")


def share(mass: Mapping[str, Any], name: str) -> str:
    """A mass in per cent with its standard error and, where Lanczos leaves more than that open, its bounds."""
    value, error, (least, most) = (100 * np.asarray(mass[key]) for key in (name, f"{name}_error", f"{name}_bounds"))
    bounds = f"\n    (bounds {least:.1f} to {most:.1f} %)" if most - least > 0.1 else ""
    return f"{value:.1f}{give_or_take(error, PLUS_MINUS, '.1f')} %{bounds}"


# ---- landscape ---------------------------------------------------------------------------------


def landscape(job: Job) -> None:
    """The loss on a plane through the weights; what is evaluated survives an interruption."""
    args, subject = job.args, job.subject
    params = subject.weights(args.at)
    surface = Surface(args.radius, args.grid, args.line_points)
    part = take_up(job, surface)
    if part is None:
        directions, pairs = find_directions(job, params)
        part = {"directions": directions.cpu().numpy(), "pairs": pairs, "seconds": np.zeros(1)}
    job.start -= part["seconds"].item()
    d1, d2 = (unflatten(d[None], params) for d in torch.as_tensor(part["directions"]).to(params[0]))
    saved, total = time.monotonic(), len(surface.done)
    try:
        for done in surface.evaluate(subject.losses, params, d1, d2, args.batch or subject.batch):
            if time.monotonic() - saved > SAVE_SECONDS:
                keep(job, surface, part)
                saved = time.monotonic()
            if done < total:
                job.watch(done, total)
            else:
                job.progress.update(done, total)
    except BaseException:
        keep(job, surface, part)
        raise
    write_landscape(job, surface, part["pairs"])
    job.path("part.npz").unlink(missing_ok=True)


def find_directions(job: Job, params: Sequence[Tensor]) -> tuple[Tensor, np.ndarray]:
    """The normalised directions (2, p), and their eigenvalues and residuals (2, 2), which random ones have none of."""
    args = job.args
    if args.directions == "random":
        found, pairs = random_directions(params, 2, args.seed), np.zeros((2, 0))
    else:
        precision = getattr(torch, args.precision)
        curved = job.subject if params[0].dtype == precision else job.open(job.run.path, args, precision)
        precise = curved.weights(args.at)
        if size(precise) < 2:
            raise UsageError(f"{job.run.path}: a plane takes two weights or more")
        product = product_of(job, curved, precise, 105)
        top = spectrum(product, size(precise), like=precise[0], method="lanczos", top=2, iterations=100, probes=1,
                       trace_samples=1, chunk=curved.chunk, seed=args.seed)
        if not top.finite:
            raise UsageError(f"{job.run.path}: the Hessian of its {args.at} weights is not finite: it has no "
                             "eigenvectors; --directions random needs none")
        found = [unflatten(v[None], precise) for v in with_sign(top.highest.vectors)]
        pairs = torch.stack([top.highest.values, top.highest.residuals]).numpy()
    scaled = [normalise(d, params, job.subject.filters, args.normalise) for d in found]
    return torch.stack([flat(d) for d in scaled]), pairs


def identity(job: Job) -> str:
    """What an unfinished landscape must have been begun with to be gone on with."""
    return json.dumps(job.made_with, sort_keys=True)


def take_up(job: Job, surface: Surface) -> dict[str, np.ndarray] | None:
    """Fill in what an interrupted process with the same arguments has evaluated; None where there is nothing."""
    path = job.path("part.npz")
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            part = dict(file)
        if str(part["identity"]) != identity(job):
            return None
        surface.values[:], surface.done[:] = part["values"], part["done"]
    except Exception as error:  # numpy raises all sorts for a file that is cut short
        warn_once(f"{path} cannot be read and is not gone on with: {str(error).strip().partition(chr(10))[0]}")
        return None
    print(f"{job.run.path}: goes on after {surface.done.sum()} of {len(surface.done)} points", file=sys.stderr)
    return part


def keep(job: Job, surface: Surface, part: Mapping[str, np.ndarray]) -> None:
    """Write what is evaluated; on a full disk that is a warning."""
    now = {**part, "values": surface.values, "done": surface.done, "identity": np.array(identity(job)),
           "seconds": np.array([time.monotonic() - job.start])}
    try:
        atomic_write(job.path("part.npz"), lambda file: np.savez(file, **now))
    except OSError as error:
        warn_once(f"{job.path('part.npz')} not saved: {error}")


def write_landscape(job: Job, surface: Surface, pairs: np.ndarray) -> None:
    """Files and a line of a landscape."""
    subject, bad = job.subject, int((~np.isfinite(surface.values)).sum())
    centre = surface.loss[len(surface.a) // 2, len(surface.a) // 2]
    lines = {"line": surface.line, "line_1": surface.line_1, "line_2": surface.line_2}
    title = f"{subject.title}, {job.args.at} weights"
    figure = draw_surface(title, surface.a, surface.a, surface.loss, **lines, loss_name=subject.loss_name)
    page = None
    if find_spec("plotly"):
        page = interactive_surface(title, surface.a, surface.a, surface.loss, subject.loss_name)
    else:
        print(f"plotly is not installed: no {job.path('html').name}", file=sys.stderr)
    values, residuals = pairs.tolist()
    job.write({"a": surface.a, "b": surface.a, "loss": surface.loss, **lines}, figure, page, loss=centre,
              loss_name=subject.loss_name, eigenvalues=values, eigenvalue_residuals=residuals, not_finite=bad)
    top = f", eigenvalues {values[0]:.4g} and {values[1]:.4g}" if values else ""
    print(f"{job.run.path}: {job.args.at}: loss {centre:.3g} at the centre, {surface.loss.min():.3g} to "
          f"{surface.loss.max():.3g} on the plane{top}")


# ---- connectivity ------------------------------------------------------------------------------


def connectivity(job: Job) -> None:
    """Curves between two runs, and loss and test error along them."""
    args, (first, second) = job.args, job.subjects
    like = first.weights("final")
    a, b = flat(like), flat(second.weights("final"))
    curves = {kind: Curve.straight(kind, a, b, args.bends) for kind in dict.fromkeys(args.curves)}
    path, trace = first.along_path(), []
    steps = train_bends(list(curves.values()), like, path.loss_and_gradients, args.steps, args.lr, args.seed)
    for step, losses in enumerate(steps, 1):
        trace.append(losses)
        job.watch(step, args.steps, loss=float(losses.min()))
    curves = {"chord": Curve.straight("bezier", a, b)} | curves
    t = np.linspace(0, 1, args.points)
    losses, errors = ({name: np.empty(len(t)) for name in curves} for _ in range(2))
    for name, curve in curves.items():
        for rows, weights in curve.networks(t, like, path.batch):
            losses[name][rows], errors[name][rows] = path.losses(weights), path.errors(weights)
            job.watch(args.steps, args.steps)
    arrays = {"t": t}
    for name, curve in curves.items():
        arrays |= {f"{name}_loss": losses[name], f"{name}_error": errors[name]}
        if name != "chord":
            arrays[f"{name}_bends"] = curve.control[1:-1].cpu().numpy()
    paths = {name: measure(t, values)._asdict() for name, values in losses.items()}
    names = differing(job.subjects)
    ends = tuple(f"{letter} ({name})" for letter, name in zip("AB", names, strict=True))
    figure = draw_path(first.title, t, losses, errors, path.loss_name, path.error_name, ends)
    job.write(arrays, figure, a=str(first.run.key.folder()), b=str(second.run.key.folder()),
              ends={"loss": losses["chord"][[0, -1]], "error": errors["chord"][[0, -1]]}, paths=paths,
              training=training(list(curves)[1:], np.array(trace)))
    for name, found in paths.items():
        print(f"{job.run.path} to {names[1]}: {name}: barrier {found['barrier']:.3g} at t = {found['barrier_t']:.2f} "
              f"(log10: {found['barrier_log10']:.3g}), mc {found['mc']:.3g} (log10: {found['mc_log10']:.3g})")


def training(kinds: Sequence[str], trace: np.ndarray) -> dict[str, Any]:
    """How the bends were trained: mean losses of the first and the last tenth of the steps, and updates left out."""
    tenth, out = max(1, len(trace) // 10), {}
    for kind, losses in zip(kinds, trace.T, strict=True):
        means = {name: float(part[np.isfinite(part)].mean()) if np.isfinite(part).any() else math.nan
                 for name, part in [("first", losses[:tenth]), ("last", losses[-tenth:])]}
        out[kind] = {"steps": len(losses), **means, "not_finite": int(np.isnan(losses).sum())}
    return out


# ---- similarity --------------------------------------------------------------------------------


def similarity(job: Job) -> None:
    """CKA of each two runs, layer by layer."""
    args, found = job.args, []
    for subject in job.subjects:
        features = subject.features(subject.weights("final"), args.samples)
        found.append({layer: x.detach() for layer, x in features.items()})
        job.watch(len(found), len(job.subjects))
    layers, linear, rbf = align(found, args.bandwidth, args.sigma)
    runs = differing(job.subjects)
    figure = draw_similarity(f"{job.subject.title} (1) and others", runs, layers, {"linear": linear, "RBF": rbf})
    for kernel, matrices in [("linear", linear), ("RBF", rbf)]:
        for layer, k in np.argwhere(np.isnan(np.diagonal(matrices, axis1=1, axis2=2))):
            print(f"{job.subjects[k].run.path}: {layers[layer]}: no {kernel} CKA, its features are constant"
                  + (" or most of them equal (--sigma takes another width)" * (kernel == "RBF")), file=sys.stderr)
    job.write({"linear": linear, "rbf": rbf}, figure, runs=[str(s.run.key.folder()) for s in job.subjects],
              layers=layers, samples=len(found[0][layers[0]]), linear=over_pairs(layers, linear),
              rbf=over_pairs(layers, rbf))
    for kernel, matrices in [("linear", linear), ("RBF", rbf)]:
        means = ", ".join(f"{layer} {values['mean']:.4f}" for layer, values in over_pairs(layers, matrices).items())
        print(f"{job.run.path} and {len(runs) - 1} more: {kernel} CKA, mean over pairs: {means}")


def over_pairs(layers: Sequence[str], matrices: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest CKA of two different runs, layer by layer; NaN where a run's features are constant."""
    pairs = np.triu_indices(matrices.shape[1], 1)
    return {layer: {"mean": float(m[pairs].mean()), "min": float(m[pairs].min()), "max": float(m[pairs].max())}
            for layer, m in zip(layers, matrices, strict=True)}


TOOLS = {"hessian": hessian, "landscape": landscape, "connectivity": connectivity, "similarity": similarity}
