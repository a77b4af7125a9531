"""What serves all tests."""

import gc


def pytest_collection_finish() -> None:
    """Many tests fork processes, and each would look through, and so copy, all that the imports have made whenever it collects garbage."""
    gc.collect()
    gc.freeze()
