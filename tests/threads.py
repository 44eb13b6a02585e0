"""Several things at once, each in a thread."""

import threading


def at_once(runs):
    """Run all of them; what any of them raises fails the test."""
    errors = []

    def guarded(run):
        try:
            run()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
