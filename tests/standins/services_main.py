"""The services behind a gateway as a process: it writes its address and ends with its standard input.

Everything answers at once, so that what is measured beside it is the gateway's.
"""

import argparse
import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes import Fakes, papers

from services.common.server import RoleServer


class Forgetful(dict):
    """Takes what was asked and keeps none of it."""

    def setdefault(self, key, default=None):
        return []


async def main(paper_count: int) -> None:
    host = RoleServer("127.0.0.1:0")
    Fakes(found=papers(paper_count), section_size=8, requests=Forgetful()).add_to(host)
    await host.start()
    sys.stdout.write(f"{host.address}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await host.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--papers", type=int, default=40)
    asyncio.run(main(parser.parse_args().papers))
