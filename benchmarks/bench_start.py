"""What every call pays before it begins; each sample is a process of its own."""

import resource
import subprocess
import sys
from functools import cache

from benchmarks.common import REPEAT_SLOW, count

TRIALS = count(3, 1)


def seconds(code: str) -> float:
    """Of the processor, for a fresh interpreter that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Start:
    """Imports and help in seconds of a watch; the interpreter's own start is left out."""

    repeat = REPEAT_SLOW
    warmup_time = 0

    def timeraw_import(self) -> str:
        return "import icobench"

    def timeraw_help(self) -> str:
        return """
        import contextlib, io, sys
        from icobench.cli import main
        sys.argv = ["icobench", "--help"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main()
        if "torch" in sys.modules:
            raise RuntimeError("help imports torch")
        """


@cache
def torch_seconds() -> float:
    """For importing torch alone, the fastest of several processes."""
    return min(seconds("import torch") for _ in range(TRIALS))


class Ratio:
    """Imports over that of torch alone, whole processes, the fastest of several each."""

    timeout = 300
    unit = "times"

    def track_import_over_torch(self) -> float:
        return self.ratio("import icobench")

    def track_import_simulator_over_torch(self) -> float:
        return self.ratio("from icobench import Simulator")

    def ratio(self, code: str) -> float:
        return min(seconds(code) for _ in range(TRIALS)) / torch_seconds()
