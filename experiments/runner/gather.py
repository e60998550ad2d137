"""Many small records in one file: those of a search's trials, a line each, as a system's own file."""

from collections.abc import Mapping, Sequence

from experiments.runner.manifest import unlist, write_listed
from experiments.runner.runs import Run
from experiments.runner.store import Records


def gather(records: Records, groups: Mapping[str, Sequence[Run]]) -> None:
    """Move the records of each group whose runs are all done into `<group>.jsonl`, if they do not lie there yet.

    Killed in between, it leaves records in both places, which are equal; the next call ends it.
    """
    for name, runs in groups.items():
        single = [path for run in runs if (path := records.path(run)).is_file()]
        if not single or records.pending_runs(runs):
            continue
        lines = "".join(records.by_name[run].to_json() for run in sorted(run.name for run in runs))
        write_listed(records.folder / f"{name}.jsonl", lines, records.folder)
        for path in single:
            unlist(path, records.folder)
            path.unlink(missing_ok=True)  # another job of the command may do the same
    records.reload()
