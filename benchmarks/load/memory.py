"""Prints the memory of each process of its container as JSON; run by `python3 -c`, so any image with Python does.

Memory is the proportional set size (PSS) as if no other container ran: the kernel divides a page of a library
among all processes that map it, those of other contestants too. Pages written to since the start are shared by
forks only, so the kernel's own count of them is right; of a file's pages each process of this container gets an
equal part.
"""

import contextlib
import json
import os
import re
from collections import Counter

KIB = 1024
Mapping = tuple[str, ...]  # offset, device, inode


def file_pages(pid: int) -> Counter[Mapping]:
    """Return the KiB of file pages that `pid` maps."""
    pages: Counter[Mapping] = Counter()
    mapping = None
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            if head := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) (\S+) (\d+)", line):
                mapping = head.groups() if head[3] != "0" else None
            elif mapping and line.startswith(("Rss:", "Anonymous:")):
                amount = int(line.split()[1])
                pages[mapping] += amount if line.startswith("Rss:") else -amount
    return pages


def fields(pid: int, name: str) -> dict[str, str]:
    """Return the fields of one of the kernel's files about `pid`."""
    with open(f"/proc/{pid}/{name}") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def main() -> None:
    """Print a list of objects: parent (process ID), command, pss (bytes), peak (bytes, of its RSS)."""
    pages = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a health check that has ended
            pages[pid] = file_pages(pid)
    sharers = Counter(mapping for mapped in pages.values() for mapping in mapped)
    processes = []
    for pid, mapped in pages.items():
        # One that is just ending has no memory any more: KeyError.
        ended = contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError)
        with ended, open(f"/proc/{pid}/cmdline") as cmdline:
            rollup = fields(pid, "smaps_rollup")
            unshared = sum(int(rollup[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))
            shared = sum(amount / sharers[mapping] for mapping, amount in mapped.items())
            command = cmdline.read().replace("\0", " ").strip()
            status = fields(pid, "status")
            parent, peak = int(status["PPid"]), int(status["VmHWM"].split()[0]) * KIB
            pss = round((unshared + shared) * KIB)
            processes.append({"parent": parent, "command": command, "pss": pss, "peak": peak})
    print(json.dumps(processes))


if __name__ == "__main__":
    main()
