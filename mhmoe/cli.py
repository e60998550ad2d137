"""How every command ends: a mistake in one line and exit code 2; a reader that left, or Ctrl-C, quietly; in time."""

import errno
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from mhmoe.io import UserError

GRACE = 1.0  # seconds after a deadline, in which work that looks at it between its steps ends by itself


class OutOfTime(BaseException):
    """A deadline came in the middle of work."""


def exit_code(command: Callable[[], object], *, interrupted: str = "interrupted; nothing was written") -> int:
    """Run a command and return its exit code: 0, or 2 after a mistake of the user's, or 130 after Ctrl-C."""
    try:
        command()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except OutOfTime:
        print("stopped at the time budget; the same command goes on from here")
    except (UserError, ValueError, OSError, MemoryError, RuntimeError) as error:
        line = one_line(error)
        if line is None:
            raise
        print(f"error: {line}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return 2
    return 0


def one_line(error: Exception) -> str | None:
    """What to tell the user; None of what is no mistake of theirs."""
    if (wanted := memory_wanted(error)) is not None:
        return (
            f"memory ran out{wanted}; run fewer jobs at once, raise micro_batches or choose a smaller scale "
            "(what was checkpointed is kept)"
        )
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return str(error) if isinstance(error, UserError | ValueError) else None


def memory_wanted(error: BaseException) -> str | None:
    """How much memory an error says was not to be had, "" if it does not say; None if it is about something else."""
    text = str(error)
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    known = known or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not known and not re.search(r"can't allocate memory|out of memory|can't start new thread|bad_alloc", text):
        return None
    amount = re.search(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)", text)
    return f" (wanted {amount[2] or f'{int(amount[1]) / 2**20:,.0f} MiB'})" if amount else ""


def interruptible(work: Callable[[], object]) -> None:
    """Do `work`, which may be long in a library that hears no signal, in another thread: Ctrl-C, and `stopped_at`, then
    need not wait for it. What is left of it ends with the process."""
    raised: list[BaseException] = []

    def noted() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=noted, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@contextmanager
def stopped_at(deadline: float) -> Generator[None]:
    """Raise OutOfTime in the block soon after `deadline` (time.monotonic), whatever it does then.

    Work that looks at the deadline itself has `GRACE` seconds to end in its own way. Needs the main thread and its
    alarm signal; elsewhere, and without a deadline, nothing is raised.
    """
    if deadline == math.inf or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.0) + GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)
