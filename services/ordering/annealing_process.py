"""Runs the annealing in a process of its own: it is pure Python and would hold this process's lock for seconds.

The process reads `numpy.save` bytes and writes a JSON list; it is killed as soon as nobody waits for it.
"""

import io
import json
import math
import subprocess
import sys
import tempfile

import numpy as np
from numpy.typing import NDArray

from services.ordering.annealing import annealed_tour
from services.ordering.caller import Caller

_LOOK_S = 0.1  # between two looks at whether the caller still waits
_DEADLINE_SHARE = 0.7  # of the time left may be used to search; the rest is for starting, cutting and answering


def anneal_in_process(distances: NDArray[np.float32], seed: int, caller: Caller) -> list[int]:
    """Return `annealed_tour` of the distances, found in a process started for it.

    Args:
        distances: shape (n, n), symmetric, zero diagonal.
        seed: of every draw, 64 bits.
        caller: who waits; when it leaves the process is killed, and its deadline ends the search early.

    Raises:
        RuntimeError: the process failed, or the caller left.
    """
    seconds = caller.left_s() * _DEADLINE_SHARE
    command = [sys.executable, "-m", __name__, str(seed), str(seconds)]
    with tempfile.TemporaryFile() as sent:  # a file, not a pipe: nothing has to be fed while looking after the caller
        np.save(sent, distances.astype(np.float64))
        sent.seek(0)
        # A session of its own: Ctrl-C in a terminal stops this server, which lets its calls end, and them with it.
        with subprocess.Popen(  # noqa: S603 # our own module, two numbers
            command, stdin=sent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            answer, problems = _awaited(process, caller)
    if process.returncode:
        raise RuntimeError(f"annealing ended with {process.returncode}: {problems.decode(errors='replace')}")
    tour: list[int] = json.loads(answer)
    return tour


def _awaited(process: subprocess.Popen[bytes], caller: Caller) -> tuple[bytes, bytes]:
    """Return what the process wrote to stdout and stderr; kill it when nobody waits any more."""
    while True:
        try:
            return process.communicate(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            if caller.has_left:
                process.kill()


def _main() -> None:
    seed, seconds = int(sys.argv[1]), float(sys.argv[2])
    distances = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    tour = annealed_tour(distances, seed, seconds if math.isfinite(seconds) else None)
    sys.stdout.write(json.dumps(tour))


if __name__ == "__main__":
    _main()
