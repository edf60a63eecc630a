"""Makes dashboards/pictures: runs the demo and a simulated fleet under a real Prometheus with the
project's rules, and draws both dashboards from what it holds; runs the same burst program under glibc and
under Slackwater, and draws both. `scripts/pictures` builds the programs and calls this."""

import argparse
import csv
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from drawing import CARD, DPI, FAINT, GRID, PAGE, Span, color, draw_row, rows, save

DASHBOARDS = Path(__file__).resolve().parent.parent
PICTURES = DASHBOARDS / "pictures"

# How much is drawn, and how long it runs before that. The fleet's rates look back five minutes, and it is
# drawn when they have that much to look at.
SERVICE_SECONDS, SERVICE_RUN_SECONDS = 60, 80
FLEET_SECONDS, FLEET_RUN_SECONDS = 240, 560

INSTANCES = 200

# 200,000 blocks of 256 B to 4 KiB by four threads, of which one in ten stays; three times.
BURST = ["200000", "4", "3", "10", "4", "256", "4096", "0", "50", "0"]

CONFIGURATION = """\
global: {{scrape_interval: {interval}, evaluation_interval: {interval}}}
rule_files: ['{rules}/recording.yml', '{rules}/alerts.yml']
scrape_configs:
- job_name: demo
  {discovery}
"""


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(command: list[str], group: Path | None = None) -> Iterator[None]:
    """A program, for as long as this lasts; in a control group, if there is one."""

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    quiet = subprocess.DEVNULL
    program = subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=enter)
    try:
        yield
    finally:
        program.terminate()
        program.wait()


@contextmanager
def limited_group() -> Iterator[Path | None]:
    """A control group with a limit of 1 GiB, where this user may make one; for the rows about it."""
    for mount, limit in (
        ("/sys/fs/cgroup", "memory.max"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ):
        group = Path(mount) / f"slackwater-pictures-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(1 << 30))
                yield group
                return
        finally:
            group.rmdir()
    print("no control group can be made here: the rows Pressure will be empty")
    yield None


def wait_until_ready(server: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{server}/-/ready").close()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("Prometheus does not start")


def file_name(dashboard: str, title: str) -> Path:
    words = re.sub(r"[^a-z]+", "-", title.split("?")[0].lower()).strip("-")
    return PICTURES / f"{dashboard}-{words}.png"


def ending_idle(span: Span) -> Span:
    """The same span, ended where RSS was lowest in its last seconds: between two bursts."""
    _, values = span.ranges("sum(slackwater_process_resident_bytes)")[0]
    last = values[-14:]
    earlier = (len(last) - 1 - int(last.argmin())) * span.step
    return replace(span, start=span.start - earlier, end=span.end - earlier)


@contextmanager
def observed(program: list[str], discovery: str, interval: str) -> Iterator[str]:
    """A program and the Prometheus that scrapes it, which is what this gives."""
    own = free_address()
    server = f"http://{own}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "prometheus.yml"
        config.write_text(
            CONFIGURATION.format(interval=interval, rules=DASHBOARDS / "rules", discovery=discovery)
        )
        stack.enter_context(running(program, stack.enter_context(limited_group())))
        data = f"--storage.tsdb.path={folder / 'data'}"
        stack.enter_context(
            running(["prometheus", f"--config.file={config}", data, f"--web.listen-address={own}"])
        )
        wait_until_ready(server)
        yield server


def draw_dashboard(name: str, span: Span) -> None:
    for row in rows(DASHBOARDS / f"{name}.json"):
        draw_row(row, span, file_name(name, row.title))


EVERYTHING = {name: ".*" for name in ("cluster", "job", "instance", "comm")}


def draw_service(program: Path) -> None:
    address = free_address()
    discovery = f"static_configs: [{{targets: ['{address}'], labels: {{cluster: local}}}}]"
    with observed([str(program), "demo", "--perf", "--listen", address], discovery, "500ms") as server:
        print(f"the demo runs for {SERVICE_RUN_SECONDS} s", flush=True)
        time.sleep(SERVICE_RUN_SECONDS)
        end = float(int(time.time()) - 2)
        # Four scrapes, as Grafana has it.
        variables = EVERYTHING | {"__rate_interval": "2s", "__range": f"{SERVICE_SECONDS}s"}
        span = Span(server, end - SERVICE_SECONDS, end, 0.5, variables)
        draw_dashboard("service", ending_idle(span))


def draw_fleet(fleet: Path) -> None:
    address = free_address()
    discovery = f"http_sd_configs: [{{url: 'http://{address}/targets'}}]"
    with observed([str(fleet), address, str(INSTANCES)], discovery, "5s") as server:
        print(f"{INSTANCES} instances run for {FLEET_RUN_SECONDS} s", flush=True)
        time.sleep(FLEET_RUN_SECONDS)
        end = float(int(time.time()) - 2)
        variables = EVERYTHING | {"__rate_interval": "20s", "top": "10"}
        draw_dashboard("fleet", Span(server, end - FLEET_SECONDS, end, 5.0, variables))


def measured(bench: Path) -> tuple[list[float], list[float]]:
    """Seconds and RSS in MiB of one run of the burst program."""
    with tempfile.NamedTemporaryFile("r", suffix=".csv") as file:
        subprocess.run([bench, *BURST, "--csv", file.name], check=True, stdout=subprocess.DEVNULL)
        samples = list(csv.DictReader(file))
    seconds = [float(sample["seconds"]) for sample in samples]
    return seconds, [int(sample["rss_bytes"]) / (1 << 20) for sample in samples]


def draw_burst(system: Path, slackwater: Path) -> None:
    page = Figure(figsize=(12, 4.4), dpi=DPI, facecolor=PAGE)
    axes = page.add_axes((0.065, 0.13, 0.915, 0.66))
    axes.set_facecolor(CARD)
    page.text(
        0.065,
        0.925,
        "One burst program, two allocators: its resident memory",
        fontsize=14,
        weight="semibold",
    )
    page.text(
        0.065,
        0.85,
        "Three times 200,000 blocks of 256 B to 4 KiB by four threads, nine in ten of them freed at once; "
        "then every thread sleeps for 4 s.",
        fontsize=10,
        color=FAINT,
    )
    for bench, name, tint in ((system, "glibc", "red"), (slackwater, "Slackwater", "blue")):
        seconds, mib = measured(bench)
        axes.plot(seconds, mib, color=color(tint), linewidth=2.2)
        axes.fill_between(seconds, 0, mib, color=color(tint), alpha=0.12, linewidth=0)
        # The last samples are of an idle time: that is what is left.
        offset = 9 if name == "Slackwater" else -22
        axes.annotate(
            f"{name}: {mib[-1]:.0f} MiB",
            (seconds[-1], mib[-1]),
            xytext=(-8, offset),
            textcoords="offset points",
            ha="right",
            fontsize=12,
            weight="semibold",
            color=color(tint),
        )
    axes.set_xlim(left=0)
    axes.margins(x=0)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MultipleLocator(100))
    axes.set_ylabel("RSS, MiB", fontsize=10, color=FAINT)
    axes.set_xlabel("seconds", fontsize=10, color=FAINT)
    axes.grid(True, color=GRID)
    axes.tick_params(length=0, labelsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    save(page, PICTURES / "burst.png")


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes dashboards/pictures.")
    for program in ("program", "fleet", "burst-system", "burst-slackwater"):
        parser.add_argument(f"--{program}", type=Path, required=True)
    arguments = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    draw_burst(arguments.burst_system, arguments.burst_slackwater)
    draw_service(arguments.program)
    draw_fleet(arguments.fleet)
    for picture in sorted(PICTURES.iterdir()):
        print(f"{picture.relative_to(DASHBOARDS.parent)}: {picture.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
