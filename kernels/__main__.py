"""`python -m kernels`: every op's ladder, each rung checked against its formula on this machine.

`python -m kernels bench` also times them; see `kernels.bench`.
"""

import argparse
import math
import signal
import sys

from kernels import ladders
from kernels.backend import cuda_is_available
from kernels.bench import bench, cases
from kernels.ladder import environment


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m kernels", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    timed = commands.add_parser("bench", help="check and time rungs, beside PyTorch")
    timed.add_argument("op", nargs="?", help="an op, the beginning of several, or api; default: all")
    timed.add_argument("--json", metavar="FILE", help="write all numbers")
    timed.add_argument("--plot", metavar="FILE", help="write a roofline picture (matplotlib)")
    timed.add_argument("--threads", type=_threads, nargs="+", metavar="N", help="default: 1 and all")
    timed.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    timed.add_argument("--seconds", type=_seconds, default=0.3, metavar="S",
                       help="for each contestant of a case")
    options = parser.parse_args(arguments)
    try:
        environment()
    except ValueError as error:
        parser.error(str(error))
    # as an exception: whoever has children ends them first
    for end in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        signal.signal(end, lambda number, _: sys.exit(128 + number))
    try:
        if options.command is None:
            return show()
        return bench(options.op, options.json, options.plot, options.threads, options.device,
                     options.seconds)
    except KeyboardInterrupt:
        return 130


def _threads(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number of threads is 1 or more, not {text!r}")
    return int(text)


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"a time is a number above 0, such as 0.3, not {text!r}")
    return seconds


def show():
    """List all ladders, checked. Returns the exit code: 1 if a rung is wrong."""
    device = "cuda" if cuda_is_available() else "cpu"
    failures = 0
    for name in ladders():
        print(name)
        for check in cases.check([name], device):
            failures += check["verdict"] == "WRONG"
            says = f"error {check['error']:.1e}; {check['why']}" if "error" in check else check["reason"]
            print(f"  {check['rung']:<11} {check['device']:<5} {check['verdict']}: {says}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
