"""The OTLP collector as a process: it writes its address, and when its standard input ends, how many spans it took."""

import argparse
import sys
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parents[1]))

from standins.otlp_collector import otlp_collector

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waits-s", type=float, default=0.0, help="how long each export waits for its answer")
    parser.add_argument("--refuses-with", default="", help="name of the status that each export is answered with")
    given = parser.parse_args()
    with otlp_collector() as collector:
        collector.waits_s = given.waits_s
        collector.refuses_with = grpc.StatusCode[given.refuses_with] if given.refuses_with else None
        sys.stdout.write(f"{collector.endpoint}\n")
        sys.stdout.flush()
        sys.stdin.read()
        sys.stdout.write(f"{len(collector.spans)}\n")
