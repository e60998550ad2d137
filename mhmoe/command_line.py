"""How every command ends: a mistake in one line and exit code 2; a reader that left, or Ctrl-C, quietly."""

import os
import sys
from collections.abc import Callable

from mhmoe.records import UserError


def exit_code(command: Callable[[], object], *, interrupted: str = "interrupted; nothing was written") -> int:
    """Run a command and return its exit code: 0, or 2 after a mistake of the user's, or 130 after Ctrl-C."""
    try:
        command()
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0
