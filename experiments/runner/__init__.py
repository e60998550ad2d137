"""Runs: what a page needs, what is done, and doing the rest.

runs: one training run. store: records on disk; manifest: their hashes; gather: many in one file. plan: the runs of some
systems. measurements: what is measured on finished models. page: what every page is; queue: several as one; bundle:
new records to be carried elsewhere. texts: which text, and whose results. outlook, gpus, dry_run: what is to be
expected. processes, jobs: several that share the work. task, cluster: on machines of a cluster. again: runs done once
more. execute: one run. failures: those that do not stop a queue. launch: what is missing. validation: records from
elsewhere. run_command: the command.
"""

READING_ORDER = (
    "runs",
    "store",
    "plan",
    "manifest",
    "gather",
    "measurements",
    "page",
    "queue",
    "bundle",
    "texts",
    "outlook",
    "gpus",
    "dry_run",
    "processes",
    "jobs",
    "task",
    "cluster",
    "again",
    "execute",
    "failures",
    "launch",
    "validation",
    "run_command",
)
