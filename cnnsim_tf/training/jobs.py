"""Jobs that threads advance side by side."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor


def finish(jobs: Sequence[Iterator[None]], threads: int) -> None:
    """Run iterators to their ends in so many threads.

    Each thread takes the iterator that has waited longest and advances it by one item, so that all of them end at
    about the same time, whatever their number.
    """
    waiting = deque(jobs)

    def work() -> None:
        while waiting:
            try:
                job = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            for _ in job:
                waiting.append(job)
                break

    with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
        try:
            for future in [pool.submit(work) for _ in range(min(threads, len(jobs)))]:
                future.result()
        except BaseException:
            waiting.clear()  # the other threads stop after their items
            raise
