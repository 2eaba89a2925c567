"""Runs command lines in forked children of one process that has imported everything.

The first line of stdin is a list in JSON: a folder, then command lines, which are run
there one after the other. Each further line is a job, answered with one line:

    {"folder": …, "commands": [[…], …], "number": N, "error": errno, "lasting": …,
     "limit": bytes, "seconds": …}
    [{"status": …, "stdout": …, "stderr": …, "log": …, "seconds": …}, …]

The commands of a job run at once. `number`, `error` and `lasting` are `shim_arm`'s; no
file gets larger than `limit`, -1 for any size; a child is killed after `seconds`. A
status below 0 is the number of the signal that ended it.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn


def main() -> None:
    """Run the first commands, then the jobs."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # of the first commands
    folder, *commands = json.loads(sys.stdin.readline())
    os.chdir(folder)
    statuses: list[Any] = [_call(command) for command in commands]
    gc.freeze()  # else a collection in a child copies the memory of all objects
    print(json.dumps(statuses), file=answers, flush=True)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as notes:
            found = _run(json.loads(line), Path(notes))
        print(json.dumps(found), file=answers, flush=True)


def _run(job: dict[str, Any], notes: Path) -> list[dict[str, Any]]:
    begun = time.monotonic()
    numbers = {}
    for number, command in enumerate(job["commands"]):
        if not (pid := os.fork()):
            _become(job, command, notes / str(number))
        numbers[pid] = number
    found: dict[int, dict[str, Any]] = {}
    while numbers:
        pid, status = os.wait()
        number = numbers.pop(pid)
        texts = {
            name: file.read_text("utf-8", "replace") if file.exists() else ""
            for name in ("stdout", "stderr", "log")
            for file in [notes / f"{number}.{name}"]
        }
        found[number] = {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - begun,
            **texts,
        }
    return [found[number] for number in sorted(found)]


def _become(job: dict[str, Any], command: list[str], note: Path) -> NoReturn:
    """In a child: run a command and exit."""
    status = 70
    try:
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])  # SIGALRM ends the process
        for number, name in (
            (0, os.devnull),
            (1, f"{note}.stdout"),
            (2, f"{note}.stderr"),
        ):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
        os.chdir(job["folder"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        shim = ctypes.CDLL(None) if "LD_PRELOAD" in os.environ else None
        if shim is not None:
            folder = os.fsencode(os.path.realpath(job["folder"]))
            shim.shim_arm(folder, job["number"], job["error"], job["lasting"])
        status = _call(command)
        if shim is not None and job["limit"] < 0:
            log = ctypes.addressof(ctypes.c_char.in_dll(shim, "shim_log"))
            Path(f"{note}.log").write_bytes(ctypes.string_at(log))
    finally:
        os._exit(status)


def _call(command: list[str]) -> int:
    """The exit status of `aln-pipeline`, as the interpreter would give it."""
    from pipeline.cli import main

    try:
        main(command, prog_name="aln-pipeline")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()
