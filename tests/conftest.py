"""What serves all tests."""

import gc
import os

# As `make test` has it, before anything imports torch: several processes share the cores, and a forked one would wait for ever for threads
# of its parent's.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Many tests fork processes, and each would look through, and so copy, all that the imports have made whenever it collects garbage."""
    gc.collect()
    gc.freeze()
