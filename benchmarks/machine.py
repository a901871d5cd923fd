"""What the benchmarks share: options, the machine they ran on, memory, and their place in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def add_docs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--docs", type=_folder, default=REPOSITORY / "docs", help="folder of benchmarks.md and images/ (default: ours)"
    )


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def replace_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the section's markers, appending the markers to the file if they are missing."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = path.read_text() if path.exists() else "# Benchmarks\n"
    if begin not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n"
    head, rest = page.split(begin, 1)
    path.write_text(f"{head}{begin}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}")


def machine(packages: Sequence[str]) -> str:
    """Processor, cores, and versions of Python and of those packages that are installed."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next((ln.split(":")[1].strip() for ln in info.read_text().splitlines() if "model name" in ln), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages if installed(p))
    return f"{model}, {cores} core{'' if cores == 1 else 's'}; Python {platform.python_version()}, {versions}"


def installed(package: str) -> bool:
    """Whether a distribution of that name is there."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def memory_kilobytes(key: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))
