"""Runs the stand-in for the model providers and prints its address; it ends with its standard input, or by a signal."""

import argparse
import asyncio
import sys

from standins.provider_server import ProviderStandIn
from standins.provider_writers import CitingWriter, plain_answer


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-s", type=float, default=0.0, help="time to the first token")
    parser.add_argument("--tokens-per-s", type=float, help="speed of what follows")
    parser.add_argument("--requests-per-s", type=float, help="rate limit of each model")
    parser.add_argument("--burst", type=int, default=1, help="how many requests the limit allows at once")
    parser.add_argument("--accepted-key", help="the one key that is taken")
    parser.add_argument(
        "--search-term", action="append", help="answered to every question; then all prompts are obeyed"
    )
    return parser.parse_args()


async def main() -> None:
    given = _arguments()
    provider = ProviderStandIn(
        port=given.port,
        latency_s=given.latency_s,
        tokens_per_s=given.tokens_per_s,
        accepted_key=given.accepted_key,
        writer=CitingWriter(search_terms=given.search_term) if given.search_term else plain_answer,
    )
    if given.requests_per_s:
        provider.limit(given.requests_per_s, given.burst)
    async with provider:
        print(provider.anthropic_url, flush=True)  # noqa: T201  who started it reads the address here
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
