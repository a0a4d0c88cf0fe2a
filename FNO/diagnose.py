#!/usr/bin/env python3
"""Look at finished runs.

    python diagnose.py hessian RUN_FOLDER...         eigenvalues, trace and density of the Hessian, at start and end
    python diagnose.py landscape RUN_FOLDER...       the training loss on a plane through the weights
    python diagnose.py connectivity A B              curves of low loss between two runs
    python diagnose.py similarity RUN_FOLDER...      CKA of hidden layers and outputs

Results are files in the run folder; nothing else there changes. See fno/diagnosis.py for what they hold, and
fno/subject.py for the loss and the data that they are of.

Exit codes: 0 all done, 1 some run failed, 2 bad input, 3 another process works on some run, 75 interrupted by SIGUSR1,
SIGTERM or Ctrl-C: the same command again skips what is complete; 130 interrupted twice by Ctrl-C.
"""

import signal
import sys

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

from fno import subject  # noqa: E402
from fno.cli import Help, Parser  # noqa: E402
from fno.diagnosis import add_tools  # noqa: E402
from fno.files import UsageError  # noqa: E402


def make_parser() -> Parser:
    """All subcommands and their flags."""
    parser = Parser(prog="diagnose.py", formatter_class=Help, allow_abbrev=False, description=__doc__)
    add_tools(parser.add_subparsers(dest="what", required=True, metavar="WHAT"), subject)
    return parser


def main() -> int:
    """Parse, then run the tool."""
    for number in STOPS:  # from here to the work, which has its own handlers, there is nothing to save
        signal.signal(number, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        args = make_parser().parse_args(sys.argv[1:])
        return args.tool(args)
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C
        return 130


if __name__ == "__main__":
    sys.exit(main())
