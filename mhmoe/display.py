"""What long work shows: a bar on a terminal, plain lines in a log, records for the process that started it.

A process with many jobs reads their records and shows them itself, so that no two write over each other.
"""

import json
import os
import sys
import time
from types import TracebackType

from tqdm import tqdm

JOB = "MHMOE_JOB"  # set for a process whose output another one reads
RECORD = "\x02"  # a line of standard error that begins so is a record: JSON with the fields of `Display`
LOG_SECONDS = 30.0
RECORD_SECONDS = 0.5


class Display:
    """Work that is `done` of `total` (None: nobody knows); silent itself. As a context, it shows begin and end."""

    def __init__(self, label: str, total: int | None, done: int = 0, unit: str = "tok") -> None:
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self.remark = ""

    def update(self, amount: int) -> None:
        """So much more is done."""
        self.done += amount

    def note(self, remark: str) -> None:
        """What came out last; shown behind."""
        self.remark = remark

    def end(self) -> None:
        """It is over, finished or not."""

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class _Bar(Display):
    """For a terminal; gone when the work is over."""

    def __init__(self, label: str, total: int | None, done: int, unit: str, line: int | None) -> None:
        super().__init__(label, total, done, unit)
        self.bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            unit=unit,
            unit_scale=True,
            mininterval=0.5,
            position=line,
            leave=False,
        )

    def update(self, amount: int) -> None:
        super().update(amount)
        self.bar.update(amount)

    def note(self, remark: str) -> None:
        self.bar.set_postfix_str(remark)

    def end(self) -> None:
        self.bar.close()


class _Timed(Display):
    """Tells at the start, then at most every so many seconds, and at the end; if `brief`, only when it takes longer."""

    seconds = LOG_SECONDS

    def __init__(self, label: str, total: int | None, done: int, unit: str, brief: bool) -> None:
        super().__init__(label, total, done, unit)
        self.first, self.begun, self.brief = done, time.monotonic(), brief
        self.told = self.begun
        if not brief:
            self.tell()

    def update(self, amount: int) -> None:
        super().update(amount)
        if time.monotonic() - self.told >= self.seconds:
            self.told = time.monotonic()
            self.tell()

    def end(self) -> None:
        if not self.brief or self.told > self.begun:
            self.tell(over=True)

    def tell(self, over: bool = False) -> None:
        raise NotImplementedError


class _Lines(_Timed):
    """For a log."""

    def tell(self, over: bool = False) -> None:
        made, seconds = self.done - self.first, time.monotonic() - self.begun
        text = f"{self.label}: {_size(self.done)}{f' of {_size(self.total)}' if self.total else ''} {self.unit}"
        if made > 0 and seconds > 0:
            text += f", {_size(made / seconds)} {self.unit}/s"
            if self.total and not over:
                text += f", {tqdm.format_interval((self.total - self.done) * seconds / made)} left"
        tqdm.write(text + (f"; {self.remark}" if self.remark else ""), file=sys.stderr)


class _Records(_Timed):
    """For the process that started this one."""

    seconds = RECORD_SECONDS

    def tell(self, over: bool = False) -> None:
        names = ("label", "total", "done", "unit", "remark")
        record = {name: getattr(self, name) for name in names} | {"over": over}
        sys.stderr.write(f"{RECORD}{json.dumps(record)}\n")
        sys.stderr.flush()


def display(
    label: str,
    total: int | None,
    *,
    done: int = 0,
    unit: str = "tok",
    brief: bool = False,
    quiet: bool = False,
    line: int | None = None,
) -> Display:
    """The display that suits standard error.

    brief: a log hears of it only if it takes long. quiet: nobody does. line: of a terminal, where several are shown.
    """
    if quiet:
        return Display(label, total, done, unit)
    if os.environ.get(JOB):
        return _Records(label, total, done, unit, brief)
    if sys.stderr.isatty():
        return _Bar(label, total, done, unit, line)
    return _Lines(label, total, done, unit, brief)


def _size(number: int | float) -> str:
    return tqdm.format_sizeof(number) if number >= 1000 else f"{number:.0f}"
