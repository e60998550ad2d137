"""Whether a file can be written, asked before the work whose result it is for."""

import os
import tempfile
from pathlib import Path

from mhmoe.io import UserError


def check_output(path: Path) -> None:
    """Raises UserError unless a file can be written at `path`; makes its folder if need be, and nothing else.

    What is there and is no regular file, such as a folder or a device, is refused: writing would replace it.
    """
    try:
        str(path).encode()
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no file'}; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.writing-"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}; name another file"
        ) from None
