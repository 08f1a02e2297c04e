"""A process beside a save: renews a lease again and again, and says which commit took longest.

``python bench/commits.py URL STUDY NUMBER``. Each line on stdin begins a round or ends it; at the end of
one the longest commit [ms] is printed. Imports no torch, as no worker does that only waits.
"""

from __future__ import annotations

import sys
import threading
from time import perf_counter, sleep

from tunesafe.store import claims
from tunesafe.store.engine import open_engine, writing

_PAUSE_SECONDS = 0.002


def main() -> None:
    """Renew until told to stop, and say what the longest commit took."""
    url, study, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    engine = open_engine(url)

    def renew() -> float:
        begun = perf_counter()
        with writing(engine) as connection:
            claims.renew(connection, study, number, 1, 3600.0)
        return 1000 * (perf_counter() - begun)

    renew()
    print("ready", flush=True)
    while sys.stdin.readline():
        ended, longest = threading.Event(), [0.0]

        def measure(ended: threading.Event = ended, longest: list[float] = longest) -> None:
            while not ended.is_set():
                longest[0] = max(longest[0], renew())
                sleep(_PAUSE_SECONDS)

        thread = threading.Thread(target=measure)
        thread.start()
        sys.stdin.readline()
        ended.set()
        thread.join()
        print(longest[0], flush=True)


if __name__ == "__main__":
    main()
