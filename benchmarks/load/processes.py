"""Prints what each process of its container uses, as JSON; fed to `python3 -` inside, so any image with Python does.

Memory is the proportional set size (PSS) in KiB as if no other container ran: the kernel divides a page of a
library among all processes that map it, those of other contestants too. Pages written to since the start are
shared by forks only, so the kernel's own count of them is right; of a file's pages each process of this
container gets an equal part.
"""

import contextlib
import json
import os
import re


def mappings(pid: int) -> dict[tuple[str, ...], int]:
    """Give the KiB of file pages that `pid` maps, by file and offset."""
    files: dict[tuple[str, ...], int] = {}
    key = None
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            if head := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) (\S+) (\d+)", line):
                key = head.groups() if head[3] != "0" else None
            elif key and line.startswith(("Rss:", "Anonymous:")):
                amount = int(line.split()[1])
                files[key] = files.get(key, 0) + (amount if line.startswith("Rss:") else -amount)
    return files


def unshared(pid: int) -> int:
    """Give the KiB of `pid` that belong to no file, divided among those that share them."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        fields = dict(line.split(":") for line in list(rollup)[1:])
    return sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))


def seconds(pid: int) -> tuple[int, float]:
    """Give the parent of `pid` and the seconds of CPU it has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print one object: process ID → parent, command, pss (KiB), cpu (s)."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    files = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a health check that has ended
            files[pid] = mappings(pid)
    sharers: dict[tuple[str, ...], int] = {}
    for mapped in files.values():
        for key in mapped:
            sharers[key] = sharers.get(key, 0) + 1
    result = {}
    for pid, mapped in files.items():
        shared = sum(amount / sharers[key] for key, amount in mapped.items())
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/cmdline") as cmdline:
            command = cmdline.read().replace("\0", " ").strip()
            parent, cpu = seconds(pid)
            result[pid] = {"parent": parent, "command": command, "pss": unshared(pid) + shared, "cpu": cpu}
    print(json.dumps(result))


main()
