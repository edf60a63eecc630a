"""The dashboard of a fleet: where memory is over all instances, and which of them stand out. It reads
recorded series (rules/recording.yml) alone, so that ten thousand processes cost it no more than ten."""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from panels import (
    BYTES,
    BYTES_PER_SECOND,
    NUMBER,
    PER_SECOND,
    RATIO,
    SECONDS,
    TIMES,
    Panel,
    Query,
    bars,
    board,
    chart,
    figure,
    steps,
    variable,
)
from service import NOT_ATTRIBUTED, PART_COLORS

CHOSEN = 'cluster=~"$cluster",job=~"$job"'

PROCESS = "{{job}} {{instance}} {{comm}} {{pid}}"


def job(name: str, matcher: str = "") -> str:
    """A series for each job."""
    return f"job:slackwater_{name}{{{CHOSEN}{',' + matcher if matcher else ''}}}"


def process(name: str) -> str:
    """A series for each process."""
    return f"process:slackwater_{name}{{{CHOSEN}}}"


def total(expr: str, by: str = "") -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


def top(expr: str) -> list[Query]:
    return [Query(f"sort_desc(topk($top, {expr}))", PROCESS)]


RSS = total(job("process_resident_bytes:sum"))
RSS_LIVE = total(job("rss_live_bytes:sum"))

FLEET: list[Panel] = [
    chart(
        "RSS of the fleet against what is given back",
        "RSS should follow the live size down after every peak of the day, and what is given back be highest "
        "where it falls.",
        BYTES,
        [
            Query(RSS, "RSS", "blue"),
            Query(RSS_LIVE, "live", "green"),
            Query(
                total(job("release_purged_bytes:rate5m")),
                "given back",
                "orange",
                BYTES_PER_SECOND,
            ),
        ],
        width=24,
        height=9,
    ),
    figure("Processes", "Processes under Slackwater.", NUMBER, total(job("build_info:count"))),
    figure("RSS", "Of all of them together.", BYTES, RSS),
    figure(
        "RSS over live",
        "Memory paid for each live byte, over the fleet.",
        TIMES,
        f"{RSS} / {RSS_LIVE}",
        thresholds=steps((None, "green"), (3, "yellow"), (6, "red")),
        decimals=2,
    ),
    figure(
        "Could come back",
        "Dirty pages and cached blocks: what an idle fleet would give back.",
        BYTES,
        total(job("releasable_bytes:sum")),
    ),
    figure(
        "Not attributed",
        "The part of RSS that nothing explains, over the fleet.",
        RATIO,
        f"{total(job('rss_unattributed_bytes:sum'))} / {RSS}",
        thresholds=steps((None, "green"), (0.02, "yellow"), (0.05, "red")),
        decimals=2,
    ),
    figure(
        "Alerts firing",
        "Of rules/alerts.yml.",
        NUMBER,
        'count(ALERTS{alertname=~"Slackwater.*",alertstate="firing"}) or vector(0)',
        thresholds=steps((None, "green"), (1, "red")),
    ),
]

WHY: list[Panel] = [
    chart(
        "Why the fleet's RSS is what it is",
        "As on the service's dashboard, added up. Yellow is fragmentation, orange and red would come "
        "back in a pause.",
        BYTES,
        [
            *(
                Query(total(job("rss_bytes:sum", f'part="{name}"')), name, color)
                for name, color in PART_COLORS.items()
            ),
            Query(total(job("rss_unattributed_bytes:sum")), "not attributed", NOT_ATTRIBUTED),
            Query(RSS, "RSS (kernel)", "text", over=True),
        ],
        stacked=True,
        height=9,
    ),
    chart(
        "RSS by job",
        "Whose memory it is.",
        BYTES,
        [Query(total(job("process_resident_bytes:sum"), "cluster, job"), "{{cluster}} {{job}}")],
        width=6,
        height=9,
        stacked=True,
    ),
    chart(
        "RSS over live, by job",
        "A job that leaves the others' band has changed its behaviour; its service dashboard says how.",
        TIMES,
        [
            Query(
                f"{total(job('process_resident_bytes:sum'), 'cluster, job')} "
                f"/ {total(job('rss_live_bytes:sum'), 'cluster, job')}",
                "{{cluster}} {{job}}",
            )
        ],
        width=6,
        height=9,
    ),
]

OFFENDERS: list[Panel] = [
    bars(
        "Could come back, but has not",
        "Dirty pages and cached blocks. A busy process has some; the same names here for hours have not "
        "released. A bar leads to its process.",
        BYTES,
        top(process("releasable_bytes:sum")),
        link=True,
    ),
    bars(
        "RSS over live",
        "The most memory for each live byte. Fragmented heaps, or small ones.",
        TIMES,
        top(process("rss_over_live:ratio")),
        thresholds=steps((None, "green"), (3, "yellow"), (6, "red")),
        link=True,
    ),
    bars(
        "Largest",
        "The most RSS.",
        BYTES,
        top(process("process_resident_bytes:sum")),
        link=True,
    ),
    bars(
        "Refaults",
        "Pages taken again after their purge, in proportion to what was purged. Near 100%: release only "
        "costs faults there; raise the delay.",
        RATIO,
        top(process("release_refault:ratio_rate5m")),
        thresholds=steps((None, "green"), (0.5, "yellow"), (0.8, "red")),
        link=True,
    ),
    bars(
        "Longest wait for a purge",
        "The age of the oldest pending page. Minutes mean that nobody purges.",
        SECONDS,
        top(process("release_oldest_age_seconds:max")),
        thresholds=steps((None, "green"), (30, "yellow"), (120, "red")),
        link=True,
    ),
    bars(
        "Not attributed",
        "The largest unexplained parts of RSS.",
        RATIO,
        top(process("rss_unattributed:ratio")),
        thresholds=steps((None, "green"), (0.02, "yellow"), (0.05, "red")),
        link=True,
    ),
]

RELEASE: list[Panel] = [
    chart(
        "Given back, by job",
        "Who has bursts, and how large they are.",
        BYTES_PER_SECOND,
        [Query(total(job("release_purged_bytes:rate5m"), "cluster, job"), "{{cluster}} {{job}}")],
        width=8,
        stacked=True,
    ),
    chart(
        "Refaults, by job",
        "Refaulted pages for each purged one.",
        RATIO,
        [
            Query(
                f"{total(job('release_refault_pages:rate5m'), 'cluster, job')} "
                f"/ ({total(job('release_purged_pages:rate5m'), 'cluster, job')} > 0)",
                "{{cluster}} {{job}}",
            )
        ],
        width=8,
    ),
    chart(
        "99% of purges are shorter than",
        "A purge is a system call of the ticker's, not of the program's threads.",
        SECONDS,
        [
            Query(
                f"histogram_quantile(0.99, {total(job('purge_duration_seconds_bucket:rate5m'), 'job, le')})",
                "{{job}}",
            )
        ],
        width=8,
    ),
    chart(
        "Waiting for their purge, by job",
        "Free pages not yet given back.",
        BYTES,
        [Query(total(job("release_pending_bytes:sum"), "cluster, job"), "{{cluster}} {{job}}")],
        width=8,
        stacked=True,
    ),
    chart(
        "Bytes asked for, by job",
        "How hard the fleet works its allocators.",
        BYTES_PER_SECOND,
        [Query(total(job("allocated_bytes:rate5m"), "cluster, job"), "{{cluster}} {{job}}")],
        width=8,
        stacked=True,
    ),
    chart(
        "What must be zero",
        "Purges that the kernel refused, and pages that the ledger could not record.",
        PER_SECOND,
        [
            Query(total(job("release_errors:rate5m")), "refused", "red"),
            Query(total(job("release_dropped:rate5m")), "dropped", "orange"),
        ],
        width=8,
    ),
]

PRESSURE: list[Panel] = [
    bars(
        "Nearest to their limit",
        "Needed part of the container's limit, without cached files. Empty where nothing limits processes.",
        RATIO,
        top(process("cgroup_need:ratio")),
        thresholds=steps((None, "green"), (0.8, "yellow"), (0.9, "red")),
        link=True,
    ),
    chart(
        "Processes above 90% of their limit",
        "How many would be killed by their next burst.",
        NUMBER,
        [
            Query(
                f"count by (job) ({process('cgroup_need:ratio')} > 0.9) "
                f"or 0 * count by (job) ({process('cgroup_need:ratio')})",
                "{{job}}",
            )
        ],
        width=8,
    ),
    chart(
        "Stalled for memory, by job",
        "The worst process of each job: part of the time in which a task of its group waited for memory.",
        RATIO,
        [
            Query(
                f"max by (cluster, job) ({job('cgroup_pressure_seconds:max_rate5m')})",
                "{{cluster}} {{job}}",
            )
        ],
        width=8,
    ),
    chart(
        "Tasks killed for memory, by job",
        "By the kernel, in the last five minutes, in the control group of the worst process of each job. "
        "The limit is too low, or what was killed leaked.",
        NUMBER,
        [
            Query(
                f"max by (cluster, job) ({job('cgroup_oom_kills:max_increase5m')})",
                "{{cluster}} {{job}}",
            )
        ],
        width=24,
    ),
]

COST: list[Panel] = [
    chart(
        "Versions",
        "A roll-out, as it goes.",
        NUMBER,
        [Query(total(f"job_version:slackwater_build_info:count{{{CHOSEN}}}", "version"), "{{version}}")],
        width=8,
        stacked=True,
    ),
    chart(
        "CPU time of watching, per process",
        "Collecting, rendering and serving the figures.",
        RATIO,
        [
            Query(
                f"{total(job('observer_cpu_seconds:rate5m'), 'job')} "
                f"/ {total(job('build_info:count'), 'job')}",
                "{{job}}",
            )
        ],
        width=8,
    ),
    chart(
        "Series for each scraped target",
        "What a target costs Prometheus. It grows with the size classes in use, and with the processes "
        "that one `slackwater export` serves.",
        NUMBER,
        [
            Query(
                f"max by (cluster, job) (job:scrape_samples_scraped:max{{{CHOSEN}}})",
                "{{cluster}} {{job}}",
            )
        ],
        width=8,
    ),
    chart(
        "Processes that `slackwater export` looks at",
        "Read, refused for want of CAP_SYS_PTRACE, and failed: with a heap of another version. Empty "
        "where nothing is exported that way.",
        NUMBER,
        [Query(total(f"slackwater_export_processes{{{CHOSEN}}}", "result"), "{{result}}")],
        width=12,
    ),
    chart(
        "How long it takes to read them all",
        "The slowest exporter of each job. It grows with the processes of a host and with their heaps.",
        SECONDS,
        [
            Query(
                f"max by (cluster, job) (slackwater_export_duration_seconds{{{CHOSEN}}})",
                "{{cluster}} {{job}}",
            )
        ],
        width=12,
    ),
]


def fleet() -> dashboard.Dashboard:
    return board(
        "slackwater-fleet",
        "Slackwater: a fleet's memory",
        "Where the memory of all services is, and which of them stand out. Needs rules/recording.yml.",
        ("Service", "/d/slackwater-service"),
        [
            variable(
                "cluster",
                "Cluster",
                "label_values(job:slackwater_build_info:count, cluster)",
                "The label `cluster` of the targets, where they have one.",
            ),
            variable(
                "job",
                "Job",
                'label_values(job:slackwater_build_info:count{cluster=~"$cluster"}, job)',
                "The scrape job of the services.",
            ),
            dashboard.CustomVariable("top")
            .label("Top")
            .description("How many of the most conspicuous processes are shown.")
            .values("5,10,20")
            .current(model.VariableOption(selected=True, text="10", value="10")),
        ],
        [
            ("Does memory come back?", FLEET),
            ("Why is RSS what it is?", WHY),
            ("Top offenders", OFFENDERS),
            ("Release", RELEASE),
            ("Pressure", PRESSURE),
            ("Versions and cost", COST),
        ],
    )
