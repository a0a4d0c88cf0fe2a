# Twin of PINN/pinn/cli.py - edit there and run: python experiments/twins.py --fix
"""What the command lines of the modules share: a parser that answers in one line, and the choice of the device."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from .files import UsageError

BUDGETS = ("smoke", "laptop", "paper")


class Parser(argparse.ArgumentParser):
    """Errors of argparse become `UsageError`s: one line, no usage dump."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UsageError(message.removeprefix("argument ") + " (--help lists all flags)")


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help, description as written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default is None or action.default is False
        return action.help if nothing else super()._get_help_string(action)


def find_device(text: str, allowed: str = "auto, cpu, cuda or cuda:k") -> torch.device:
    """The device that is asked for; auto is the first GPU, or the CPU.

    Raises:
        UsageError: for anything else than `allowed`, and for a GPU that is not there.
    """
    count = torch.cuda.device_count()
    if text == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if text == "cpu":
        return torch.device("cpu")
    kind, _, index = text.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()) or (":" in text and not index):
        raise UsageError(f"--device must be {allowed}, got {text!r}")
    if int(index or 0) >= count:
        raise UsageError(f"--device {text}: there is no such GPU ({count} found); allowed here: auto, cpu")
    return torch.device(f"cuda:{index or 0}")


def unique(values: Sequence[Any], flag: str) -> list[Any]:
    """The values, each of which must stand there once: it would be the same run folder."""
    twice = sorted({v for v in values if list(values).count(v) > 1})
    if twice:
        raise UsageError(f"{flag}: {twice[0]:g} is given twice; each value names one run")
    return list(values)
