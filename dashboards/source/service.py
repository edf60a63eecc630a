"""The dashboard of one service: why its memory is what it is, and whether it comes back."""

from grafana_foundation_sdk.builders import dashboard

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
    heat,
    steps,
    variable,
)

# Which processes. `comm` is there only where `slackwater export` serves many for one scrape.
CHOSEN = 'job=~"$job",instance=~"$instance",comm=~"$comm"'

# What RSS consists of, from the bottom of the stack up, in shades of one meaning: used is green, what could
# come back is yellow to red, the rest is blue.
PART_COLORS = {
    "live": "green",
    "rounding": "super-light-green",
    "free_blocks": "yellow",
    "thread_cache": "orange",
    "dirty": "red",
    "metadata": "purple",
    "sampled": "super-light-purple",
    "stacks": "semi-dark-blue",
    "other_anon": "blue",
    "file": "light-blue",
    "shmem": "dark-blue",
}

# The heap's share of it.
CLASS_COLORS = {
    name: color
    for name, color in PART_COLORS.items()
    if name not in ("stacks", "other_anon", "file", "shmem")
}

NOT_ATTRIBUTED = "#8e8e8e"

REASON_COLORS = {
    "small_page_retire": "green",
    "sub4k_run_retire": "yellow",
    "medium_run_reclaim": "orange",
    "large_free": "red",
    "span_interior": "purple",
}


def s(name: str, matcher: str = "") -> str:
    """A metric of the chosen processes."""
    return f"slackwater_{name}{{{CHOSEN}{',' + matcher if matcher else ''}}}"


def rate(name: str, matcher: str = "") -> str:
    return f"rate({s(name, matcher)}[$__rate_interval])"


def total(expr: str, by: str = "") -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"


RSS = total(s("process_resident_bytes"))
RSS_LIVE = total(s("rss_bytes", 'part="live"'))


def quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, {total(rate(name + '_bucket'), 'le')})"


# A query for each, since Grafana stacks in the order of the queries.
PARTS = [
    *(Query(total(s("rss_bytes", f'part="{name}"')), name, color) for name, color in PART_COLORS.items()),
    Query(total(s("rss_unattributed_bytes")), "not attributed", NOT_ATTRIBUTED),
]


RETURNS: list[Panel] = [
    chart(
        "RSS against purged pages",
        "Whether memory comes back. After a burst RSS falls towards the live size, and the bars show the "
        "pages that were given back for it. RSS stays up and no bars: release is off, or its delay has "
        "not passed (see Release). RSS stays up in spite of bars: the pages come back at once (see "
        "Refaults), or something else than the heap grows (see the next row).",
        BYTES,
        [
            Query(RSS, "RSS", "blue"),
            Query(total(s("memory_bytes", 'class="live"')), "live", "green"),
            Query(total(rate("release_purged_pages_total")), "purged pages", "orange", PER_SECOND, bars=True),
        ],
        width=24,
        height=10,
        right_label="pages of 4 KiB",
    ),
    figure("RSS", "What the kernel counts, and what a container's limit is held against.", BYTES, RSS),
    figure("Live and resident", "What the program holds, as far as it has touched it.", BYTES, RSS_LIVE),
    figure(
        "RSS over live",
        "How much memory is paid for each live byte. Small programs are above 2 for their code and "
        "stacks; a large one that stays there has a reason, which the next row names.",
        TIMES,
        f"{RSS} / {RSS_LIVE}",
        thresholds=steps((None, "green"), (3, "yellow"), (6, "red")),
        decimals=2,
    ),
    figure(
        "Given back",
        "Memory returned to the system within the time that is shown.",
        BYTES,
        total(f"increase({s('release_purged_bytes_total')}[$__range])"),
        instant=True,
    ),
    figure(
        "Waiting for its purge",
        "Free pages not yet given back. An idle program has none after a second.",
        BYTES,
        total(s("release_pending_bytes")),
    ),
    figure(
        "Not attributed",
        "The part of RSS that the allocator's books do not explain. More than 5% is a defect: report it.",
        RATIO,
        f"{total(s('rss_unattributed_bytes'))} / {RSS}",
        thresholds=steps((None, "green"), (0.02, "yellow"), (0.05, "red")),
        decimals=2,
    ),
]

WHY: list[Panel] = [
    chart(
        "Why RSS is what it is",
        "The parts add up to the kernel's figure, the dashed line. Green is what the program holds. "
        "Yellow is free blocks on pages that also hold live ones: fragmentation. Orange and red come "
        "back by themselves once the program pauses. Blue is not heap: stacks, code, files.",
        BYTES,
        [*PARTS, Query(RSS, "RSS (kernel)", "text", over=True)],
        width=16,
        height=10,
        stacked=True,
    ),
    bars(
        "Now",
        "The same at the end of the time that is shown.",
        BYTES,
        PARTS,
        height=10,
    ),
    chart(
        "The heap by the allocator's books",
        "What the allocator counts as its own, whether resident or not; the classes exclude each other. "
        "The dashed line is their sum as the allocator reports it.",
        BYTES,
        [
            *(
                Query(total(s("memory_bytes", f'class="{name}"')), name, color)
                for name, color in CLASS_COLORS.items()
            ),
            Query(total(s("resident_bytes")), "heap, resident", "text", over=True),
        ],
        stacked=True,
    ),
    chart(
        "RSS by kind, and its peak",
        "anon is heap and stacks, file is code and mapped files. The peak tells how high a burst went "
        "between two scrapes. Forked workers share memory: `slackwater export` also tells RSS with that "
        "divided by their number.",
        BYTES,
        [
            Query(total(s("process_resident_bytes"), "kind"), "{{kind}}"),
            Query(total(s("rss_peak_bytes")), "peak", "red", over=True),
            Query(total(s("process_proportional_bytes")), "what is shared divided", "purple", over=True),
        ],
        stacked=True,
        colors={"anon": "blue", "file": "light-blue", "shmem": "dark-blue"},
    ),
    chart(
        "Addresses in use",
        "Address space costs nothing; memory behind it does. Mapped stays where it is after a burst. "
        "Untouched is live, but not resident until the program writes to it.",
        BYTES,
        [
            Query(total(s("mapped_bytes")), "mapped", "purple"),
            Query(total(s("resident_bytes")), "heap, resident", "blue"),
            Query(total(s("untouched_bytes")), "live, untouched", "green"),
            Query(total(s("swapped_bytes")), "swapped out", "purple"),
        ],
    ),
    chart(
        "Heap in huge pages",
        "More than nothing only with SLACKWATER_HUGE_PAGES other than never, or where the system forces "
        "them on. Huge pages fill what was given back: RSS then climbs without an allocation.",
        BYTES,
        [Query(total(s("huge_backed_bytes")), "in huge pages", "orange")],
    ),
]

RELEASE: list[Panel] = [
    chart(
        "Pages given back, by reason",
        "Which kind of memory comes back. span_interior is free pages inside spans that still have live "
        "blocks: much of it means survivors scattered over the heap.",
        PER_SECOND,
        [Query(total(rate("release_purged_pages_total"), "reason"), "{{reason}}")],
        stacked=True,
        colors=REASON_COLORS,
    ),
    chart(
        "Waiting for their purge",
        "Free pages pile up while the program is busy and are gone soon after. An age that only grows: "
        "nobody purges.",
        BYTES,
        [
            Query(total(s("release_pending_bytes")), "pending", "red"),
            Query(f"max({s('release_oldest_age_seconds')})", "oldest", "blue", SECONDS),
        ],
    ),
    chart(
        "Ranges that became free, by reason",
        "What the program gives back to the allocator, in runs of pages.",
        PER_SECOND,
        [Query(total(rate("release_enqueued_total"), "reason"), "{{reason}}")],
        width=8,
        stacked=True,
        colors=REASON_COLORS,
    ),
    chart(
        "From free ranges to system calls",
        "Each step should be far below the one before: free ranges join, and one call gives many back.",
        PER_SECOND,
        [
            Query(total(rate("release_enqueued_total")), "enqueued", "blue"),
            Query(total(rate("release_coalesced_total")), "joined another", "green"),
            Query(total(rate("release_purge_ranges_total")), "purged ranges", "orange"),
            Query(total(rate("release_madvise_calls_total")), "system calls", "red"),
        ],
        width=8,
    ),
    chart(
        "Pages for each system call",
        "Near 1 is what makes release expensive: a call for each page. Hundreds and more are usual here.",
        NUMBER,
        [
            Query(
                f"{total(rate('release_purged_pages_total'))} "
                f"/ ({total(rate('release_madvise_calls_total'))} > 0)",
                "pages per call",
                "green",
            )
        ],
        width=8,
    ),
    heat(
        "How long a purge takes",
        "Each column is one moment's system calls by duration. They run on a thread of the allocator's "
        "own, with no lock held.",
        SECONDS,
        total(f"increase({s('purge_duration_seconds_bucket')}[$__rate_interval])", "le"),
    ),
    chart(
        "Pages in one purge",
        "A median of a few pages while the program is busy means that the delay is too short.",
        NUMBER,
        [
            Query(quantile(0.5, "purge_batch_pages"), "median", "green"),
            Query(quantile(0.95, "purge_batch_pages"), "95%", "orange"),
        ],
        width=6,
    ),
    chart(
        "Duration of a purge",
        "The slowest calls wait for the kernel's lock on the address space.",
        SECONDS,
        [
            Query(quantile(0.5, "purge_duration_seconds"), "median", "green"),
            Query(quantile(0.99, "purge_duration_seconds"), "99%", "orange"),
        ],
        width=6,
    ),
    chart(
        "What giving back costs, by stage",
        "Seconds of work for each second, on whatever thread. kernel is the system calls, purge the books "
        "around them, takeover what it takes to put resting caches away, tick the rest. All but kernel "
        "should be next to nothing.",
        RATIO,
        [Query(total(rate("release_seconds_total"), "stage"), "{{stage}}")],
        stacked=True,
        colors={"tick": "blue", "takeover": "purple", "purge": "green", "kernel": "orange"},
    ),
    chart(
        "What giving back costs, by reason",
        "Of that, purges and their system calls, by the kind of memory they were for. A batch's time is "
        "divided as its pages are.",
        RATIO,
        [Query(total(rate("release_seconds_total", 'reason!="none"'), "reason"), "{{reason}}")],
        stacked=True,
        colors=REASON_COLORS,
    ),
    chart(
        "Refaults: given back too early",
        "Reused pages were taken again before their purge: the delay saved a fault. Refaulted ones were "
        "taken again after it, at 1.5 µs each. Refaults near the purged pages: the program's bursts are "
        "closer together than the delay; raise SLACKWATER_DELAY_EPOCHS_IDLE.",
        PER_SECOND,
        [
            Query(total(rate("release_purged_pages_total")), "purged", "blue"),
            Query(total(rate("release_reused_pages_total")), "reused", "green"),
            Query(total(rate("release_refault_pages_total")), "refaulted", "red"),
        ],
        width=8,
    ),
    chart(
        "Ticks of the release machinery",
        "None at all is right for a program with nothing left to give back.",
        PER_SECOND,
        [
            Query(total(rate("epoch_ticks_total"), "gate"), "{{gate}}"),
            Query(f"max({s('gate_state')})", "gate (1 is busy)", "text", NUMBER, over=True),
        ],
        width=8,
        stacked=True,
        colors={"idle": "green", "busy": "orange"},
    ),
    chart(
        "What must be zero",
        "Purges that the kernel refused, and pages that the ledger could not record.",
        NUMBER,
        [
            Query(total(f"increase({s('release_errors_total')}[$__rate_interval])"), "refused", "red"),
            Query(total(f"increase({s('release_dropped_total')}[$__rate_interval])"), "dropped", "orange"),
        ],
        width=8,
    ),
]

RATES: list[Panel] = [
    chart(
        "Allocations by kind",
        "small is up to 2 KiB, sub4k to 4, medium to 32, large above. A kind that stands out says where "
        "the program's memory work is.",
        PER_SECOND,
        [Query(total(rate("allocations_total"), "kind"), "{{kind}}")],
        width=8,
        stacked=True,
        colors={"small": "green", "sub4k": "yellow", "medium": "orange", "large": "red"},
    ),
    chart(
        "Allocated and freed blocks",
        "The lines lie on each other except in a burst. A gap that stays is a leak, or growth.",
        PER_SECOND,
        [
            Query(total(rate("allocations_total")), "allocated", "green"),
            Query(total(rate("frees_total")), "freed", "blue"),
        ],
        width=8,
    ),
    chart(
        "Bytes asked for",
        "The turnover, and the mean size of a block on the right.",
        BYTES_PER_SECOND,
        [
            Query(total(rate("allocated_bytes_total")), "bytes asked for", "green"),
            Query(
                f"{total(rate('allocated_bytes_total'))} / ({total(rate('allocations_total'))} > 0)",
                "mean size",
                "purple",
                BYTES,
            ),
        ],
        width=8,
    ),
    chart(
        "Slow paths",
        "What left the fast path, by where it went. uncached: frees and allocations of threads without "
        "a cache, or inside a signal handler.",
        PER_SECOND,
        [Query(total(rate("slow_path_total"), "path"), "{{path}}")],
    ),
    chart(
        "System calls of the allocator",
        "membarrier belongs to taking over caches, clone to starting the ticker.",
        PER_SECOND,
        [Query(total(rate("os_calls_total"), "call"), "{{call}}")],
    ),
]

SIZE_CLASSES: list[Panel] = [
    chart(
        "Live bytes by size class",
        "Which block sizes the live memory consists of: the ten largest. The label is the size of a "
        "block in bytes.",
        BYTES,
        [Query(f"topk(10, {total(s('size_class_live_bytes'), 'size_class')})", "{{size_class}} B")],
        width=10,
        stacked=True,
        table=True,
    ),
    bars(
        "Pages held by size class",
        "Pages that the spans of a class occupy: the twelve largest.",
        BYTES,
        [
            Query(
                f"sort_desc(topk(12, {total(s('size_class_span_bytes'), 'size_class')}))",
                "{{size_class}} B",
            )
        ],
        width=7,
    ),
    bars(
        "Occupancy of the largest classes",
        "Live bytes in each byte of pages. A class at 20% is where the fragmentation is: free blocks "
        "between survivors. Purging inside spans gives back their empty pages all the same.",
        RATIO,
        [
            Query(
                f"sort(({total(s('size_class_live_bytes'), 'size_class')} "
                f"/ {total(s('size_class_span_bytes'), 'size_class')}) "
                f"and topk(12, {total(s('size_class_span_bytes'), 'size_class')}))",
                "{{size_class}} B",
            )
        ],
        width=7,
        thresholds=steps((None, "red"), (0.25, "yellow"), (0.5, "green")),
    ),
]

CACHES: list[Panel] = [
    chart(
        "Blocks in thread caches",
        "Free blocks that threads keep at hand. Of a thread that sleeps they are taken back within "
        "two epochs.",
        BYTES,
        [
            Query(total(s("memory_bytes", 'class="thread_cache"')), "cached", "orange"),
            Query(total(s("threads")), "threads", "blue", NUMBER),
        ],
        width=8,
    ),
    chart(
        "Refills and spills",
        "Traffic between caches and spans. In proportion to allocations it tells how well the caches "
        "hold: one refill for a hundred allocations is usual.",
        PER_SECOND,
        [
            Query(total(rate("refills_total")), "refills", "green"),
            Query(total(rate("spills_total")), "spills", "orange"),
            Query(
                f"{total(rate('refills_total'))} / ({total(rate('allocations_total'))} > 0)",
                "refills per allocation",
                "purple",
                RATIO,
            ),
        ],
        width=8,
    ),
    chart(
        "Take-overs of resting caches",
        "busy: the owner was inside just then; it is tried again. unavailable: the kernel has no "
        "membarrier, and sleeping threads keep what they cached.",
        PER_SECOND,
        [Query(total(rate("takeovers_total"), "result"), "{{result}}")],
        width=8,
        stacked=True,
        colors={"taken": "green", "busy": "yellow", "unavailable": "red"},
    ),
]


def events(event: str) -> str:
    return rate("perf_events_total", f'event="{event}"')


PERF_EVENTS: list[Panel] = [
    chart(
        "CPU time in slow sections",
        "Where the allocator's time goes when it leaves its fast path. Only in processes that count it "
        "themselves (`count_sections`, or `slackwater demo --perf`); each section includes about 1 µs of "
        "the counting.",
        RATIO,
        [
            Query(
                f"{total(events('task_clock_nanoseconds'), 'scope')} / 1e9",
                "{{scope}}",
            )
        ],
        width=8,
        stacked=True,
        colors={"refill": "green", "spill": "orange", "tick": "blue", "purge": "purple"},
    ),
    chart(
        "Faults, switches and misses there",
        "Page faults in refills: new spans, or pages that were given back too early (see Refaults). "
        "Context switches: threads wait for each other in the page heap. Misses where the machine counts "
        "them. Sections not counted: the process had no descriptors left for the thread.",
        PER_SECOND,
        [
            Query(
                total(rate("perf_events_total", 'event=~"page_faults|context_switches|.*_misses"'), "event"),
                "{{event}}",
            ),
            Query(total(rate("perf_uncounted_sections_total")), "sections not counted", "red"),
        ],
        width=8,
    ),
    chart(
        "Instructions per cycle there",
        "Below 1 the processor mostly waits for memory. Empty where the machine has no counters for it.",
        NUMBER,
        [
            Query(
                f"{total(events('instructions'), 'scope')} / {total(events('cycles'), 'scope')}",
                "{{scope}}",
            )
        ],
        width=8,
    ),
]

PRESSURE: list[Panel] = [
    chart(
        "Against the container's limit",
        "Empty where no control group limits the process. What lies between what the group uses "
        "and what it needs is cached files, which the kernel drops before anything fails; between that and "
        "RSS are other processes.",
        BYTES,
        [
            Query(f"max({s('cgroup_limit_bytes')})", "limit", "red", over=True),
            Query(f"max({s('cgroup_high_bytes')})", "memory.high", "purple", over=True),
            Query(f"max({s('cgroup_current_bytes')})", "used by the group, with page cache", "orange"),
            Query(f"max({s('cgroup_need_bytes')})", "needed by the group", "super-light-orange"),
            Query(RSS, "RSS", "blue"),
            Query(total(s("rss_bytes", 'part=~"dirty|thread_cache"')), "could come back", "yellow"),
        ],
        width=10,
    ),
    chart(
        "Needed part of the limit",
        "Cached files are not counted. Above 90%: if much could come back, release is late; if not, the "
        "program needs the memory, or leaks it. Above its memory.high a program is slowed down.",
        RATIO,
        [
            Query(f"max({s('cgroup_need_bytes')} / {s('cgroup_limit_bytes')})", "of the limit", "orange"),
            Query(
                f"max({s('cgroup_high_need_bytes')} / {s('cgroup_high_bytes')})", "of memory.high", "purple"
            ),
        ],
        width=7,
        maximum=1,
        thresholds=steps((None, "green"), (0.9, "red")),
    ),
    chart(
        "Stalled for memory",
        "The part of the time in which some task of the group waited for memory (the kernel's PSI). "
        "Empty where the kernel does not tell.",
        RATIO,
        [Query(f"max({rate('cgroup_pressure_seconds_total')})", "some task waited", "red")],
        width=7,
    ),
    chart(
        "What befell the control group",
        "high: tasks were slowed down above memory.high; max: the group came to its limit; oom: an "
        "allocation was about to fail; oom_kill: a task was killed. Cached files can bring about the "
        "first two as well.",
        PER_SECOND,
        [Query(f"max by (event) ({rate('cgroup_events_total')})", "{{event}}")],
        width=24,
    ),
]

OBSERVER: list[Panel] = [
    chart(
        "CPU time that watching costs",
        "Collecting, rendering and serving these figures, in seconds of CPU for each second.",
        RATIO,
        [Query(total(rate("observer_cpu_seconds_total")), "observer", "purple")],
        width=7,
    ),
    chart(
        "The scrape",
        "How long Prometheus waits for the figures, which are as of then: a few milliseconds.",
        SECONDS,
        [Query('max(scrape_duration_seconds{job=~"$job",instance=~"$instance"})', "scrape", "orange")],
        width=7,
    ),
    chart(
        "Failures",
        "Frees of addresses that are not this heap's: they are ignored; many mean that the program "
        "mixes two allocators. Allocations that got no memory: a limit (ulimit -v, the control group, "
        "overcommit) or an absurd size.",
        PER_SECOND,
        [
            Query(total(rate("foreign_frees_total")), "foreign frees", "red"),
            Query(total(rate("allocation_failures_total")), "failed allocations", "orange"),
        ],
        width=5,
    ),
    bars(
        "Versions",
        "Processes by the version of Slackwater they run.",
        NUMBER,
        [Query(f"count by (version) ({s('build_info')})", "{{version}}")],
        width=5,
    ),
    chart(
        "Events that were not told in time",
        "Of the allocator's journal, to tracing: drain it more often. Empty where nobody tells them.",
        PER_SECOND,
        [Query(total(rate("trace_lost_events_total")), "lost events", "red")],
        width=12,
    ),
    chart(
        "Sampled allocations",
        "Allocations that the profiler remembers, and those that it could not: its tables are full, or "
        "the system had no memory for it. There are 500 a second at most, unless set otherwise.",
        PER_SECOND,
        [
            Query(total(rate("profile_samples_total")), "sampled", "green"),
            Query(total(rate("profile_dropped_total")), "dropped", "red"),
        ],
        width=12,
    ),
    chart(
        "Allocated bytes between samples",
        "Where a program allocates so much that samples would exceed their budget, they are taken at "
        "larger distances. Profiles stay unbiased.",
        BYTES,
        [Query(f"max({s('profile_rate_bytes')})", "mean distance", "blue")],
        width=12,
    ),
]


def service() -> dashboard.Dashboard:
    chosen = 'job=~"$job"'
    return board(
        "slackwater-service",
        "Slackwater: a service's memory",
        "Why the memory of a process is what it is, and whether it comes back after a burst.",
        ("Fleet", "/d/slackwater-fleet"),
        [
            variable(
                "job", "Job", "label_values(slackwater_build_info, job)", "The scrape job of the service."
            ),
            variable(
                "instance",
                "Instance",
                f"label_values(slackwater_build_info{{{chosen}}}, instance)",
                "The scraped endpoint: a process, or a node with `slackwater export`.",
            ),
            variable(
                "comm",
                "Process",
                f'label_values(slackwater_build_info{{{chosen},instance=~"$instance"}}, comm)',
                "Processes by name, where `slackwater export` serves many.",
            ),
        ],
        [
            ("Does memory come back? RSS against purged pages", RETURNS),
            ("Why is RSS what it is?", WHY),
            ("Release", RELEASE),
            ("Rates", RATES),
            ("Size classes", SIZE_CLASSES),
            ("Caches", CACHES),
            ("Perf events", PERF_EVENTS),
            ("Pressure", PRESSURE),
            ("Observer", OBSERVER),
        ],
    )
