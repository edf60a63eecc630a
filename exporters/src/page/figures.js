/* Figures outside the charts, from the latest snapshot. `grown` is what the counters grew by over
   the time that the charts show. */

function showHeadline(snapshot, observation, grown) {
  const { purgedPages, calls, purgedBytes } = observation.counts;
  show("rss", figure(observation.rss, bytes));
  show("rss-more", "peak ", figure(snapshot.rss_peak_bytes, bytes));
  show("live", figure(observation.live, bytes));
  show("live-more", figure(ratio(observation.live, observation.rss), percent), " of RSS");
  show("purged", figure(purgedBytes, bytes));
  show("purged-more", figure(purgedPages, count), " pages");
  show("per-call", calls === 0 ? "no call yet" : figure(ratio(purgedPages, calls), decimal));
  show("per-call-more", figure(calls, count), " calls");
  show("gate", figure(snapshot.gate_state, state => state ? "busy" : "idle"));
  show("gate-more", ...(grown.ticks === 0
    ? ["no tick in this time"]
    : [figure(ratio(grown.busyTicks, grown.ticks), percent), " of ticks busy"]));
  show("drop", figure(snapshot.release_dropped_total, count));
  show("drop-more", "of ", figure(total(snapshot.release_enqueued_total), count), " ranges");
}

/* Classes as rows; what a class is measured by, under the column's name. */
function classRows(snapshot) {
  const [live, span] = [snapshot.size_class_live_bytes ?? {}, snapshot.size_class_span_bytes ?? {}];
  return Object.keys(span).map(block => ({
    block: Number(block),
    live: live[block] ?? 0,
    span: span[block],
    occupancy: span[block] ? (live[block] ?? 0) / span[block] : 0,
  }));
}

class ClassTable {
  column = "span";
  descending = true;
  rows = [];

  constructor() {
    this.table = byId("classes");
    this.table.querySelectorAll("thead button").forEach(button =>
      button.addEventListener("click", () => this.sortBy(button.dataset.column)));
  }

  sortBy(column) {
    this.descending = column !== this.column || !this.descending;
    this.column = column;
    this.draw();
  }

  show(snapshot) {
    this.rows = classRows(snapshot);
    this.draw();
  }

  draw() {
    const order = this.descending ? -1 : 1;
    this.rows.sort((a, b) => order * (a[this.column] - b[this.column]) || a.block - b.block);
    this.table.querySelectorAll("thead button").forEach(button => {
      const head = button.parentElement;
      if (button.dataset.column !== this.column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
    const sum = column => this.rows.reduce((sum, row) => sum + row[column], 0);
    const [live, span] = [sum("live"), sum("span")];
    const all = { live, span, occupancy: span ? live / span : 0 };
    this.table.tBodies[0].replaceChildren(...this.rows.map(row => this.row(row)));
    this.table.tFoot.replaceChildren(this.rows.length
      ? this.row(all)
      : element("tr", {}, element("td", { colspan: 4 }, figure(null))));
  }

  row({ block, live, span, occupancy }) {
    const bar = element("b");
    bar.style.width = `${occupancy * 100}%`;
    const meter = element("div", { class: "meter" },
      element("i", {}, bar), figure(occupancy, percent));
    const name = block === undefined ? "all" : figure(block, value => `${count(value)} B`);
    const cells = [name, figure(live, bytes), figure(span, bytes), meter];
    return element("tr", {}, ...cells.map(cell => element("td", {}, cell)));
  }
}

/* Cumulative buckets as one count each, without the empty ones at both ends. */
function bucketCounts(histogram) {
  const counts = histogram.buckets.map(([edge, upTo], place) =>
    ({ edge, count: upTo - (place ? histogram.buckets[place - 1][1] : 0) }));
  const filled = counts.map(bucket => bucket.count > 0);
  return counts.slice(Math.max(0, filled.indexOf(true)), filled.lastIndexOf(true) + 1);
}

function showHistogram(id, histogram, format, about) {
  const [words, list] = [byId(id).querySelector(".about"), byId(id).querySelector("ol")];
  if (!histogram) {
    words.replaceChildren(figure(null));
    return list.replaceChildren();
  }
  words.replaceChildren(...about(histogram));
  const buckets = bucketCounts(histogram);
  const most = Math.max(...buckets.map(bucket => bucket.count));
  const last = histogram.buckets.at(-2)?.[0] ?? 0;
  list.replaceChildren(...buckets.map(({ edge, count: number }) => {
    const bar = element("b");
    bar.style.width = `${100 * number / most}%`;
    const label = edge === null ? `> ${format(last)}` : `≤ ${format(edge)}`;
    return element("li", { class: number ? "" : "none" },
      element("span", {}, label), element("i", {}, bar), figure(number, count));
  }));
}

function showHistograms(snapshot) {
  const mean = (histogram, words, format) =>
    histogram.count ? [words, figure(ratio(histogram.sum, histogram.count), format)] : [];
  const duration = histogram => [
    figure(histogram.count, count), " purges took ", figure(histogram.sum, seconds),
    ...mean(histogram, "; one takes ", seconds),
  ];
  const batch = histogram => [
    figure(histogram.count, count), " purges gave back ", figure(histogram.sum, count), " pages",
    ...mean(histogram, "; one gives ", decimal),
  ];
  showHistogram("purge-duration", snapshot.purge_duration_seconds, shortened(seconds), duration);
  showHistogram("purge-batch", snapshot.purge_batch_pages, count, batch);
}

/* The line that the allocator prints when the program ends. */
function summaryText(snapshot) {
  const value = number => number ?? ABSENT;
  return `[slackwater] enq=${value(total(snapshot.release_enqueued_total))} ` +
    `coalesce=${value(snapshot.release_coalesced_total)} ` +
    `purged_pages=${value(total(snapshot.release_purged_pages_total))} ` +
    `madvise_calls=${value(snapshot.release_madvise_calls_total)}\n` +
    `  idle_ticks=${value(snapshot.epoch_ticks_total?.idle)} ` +
    `busy_ticks=${value(snapshot.epoch_ticks_total?.busy)} ` +
    `drop=${value(snapshot.release_dropped_total)}`;
}

/* Why pages came to be purged, by the label of release_purged_pages_total. */
const REASONS = [
  ["small_page_retire", "small spans"],
  ["sub4k_run_retire", "spans of 2 to 4 KiB"],
  ["medium_run_reclaim", "spans up to 32 KiB"],
  ["large_free", "large runs"],
  ["span_interior", "inside spans in use"],
];

/* Figures without a place of their own: name, value, format. */
const ALSO = [
  ["Live, never touched", snapshot => snapshot.untouched_bytes, bytes],
  ["Swapped out", snapshot => total(snapshot.swapped_bytes), bytes],
  ["Backed by huge pages", snapshot => snapshot.huge_backed_bytes, bytes],
  ["Arena in use", snapshot => snapshot.mapped_bytes, bytes],
  ["Threads with a cache", snapshot => snapshot.threads, count],
  ["Pages reused before their purge", snapshot => snapshot.release_reused_pages_total, count],
  ["Pages used again after it", snapshot => snapshot.release_refault_pages_total, count],
  ["Caches taken over", snapshot => snapshot.takeovers_total?.taken, count],
  ["Purges refused", snapshot => snapshot.release_errors_total, count],
  ["Control group’s memory", snapshot => snapshot.cgroup_current_bytes, bytes],
  ["Needed of it", snapshot => snapshot.cgroup_need_bytes, bytes],
  ["Control group’s limit", snapshot => snapshot.cgroup_limit_bytes, bytes],
  ["Slowed down above", snapshot => snapshot.cgroup_high_bytes, bytes],
  ["Times slowed down", snapshot => snapshot.cgroup_events_total?.high, count],
  ["Tasks killed for memory", snapshot => snapshot.cgroup_events_total?.oom_kill, count],
  ["Stalled for memory", snapshot => snapshot.cgroup_pressure_seconds_total, seconds],
  ["Allocations", snapshot => total(snapshot.allocations_total), count],
];

function showList(id, rows) {
  byId(id).replaceChildren(...rows.map(([name, value, format]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, figure(value, format)))));
}

function showRest(snapshot, grown) {
  byId("summary").textContent = summaryText(snapshot);
  showList("reasons", REASONS.map(([reason, name]) =>
    [name, snapshot.release_purged_pages_total?.[reason], count]));
  showList("also", ALSO.map(([name, read, format]) => [name, read(snapshot), format]));
  const version = Object.keys(snapshot.build_info ?? {})[0];
  const core = ratio(grown.observerSeconds, grown.elapsed);
  show("about", `Slackwater ${version ?? ABSENT} · observing took `,
    figure(snapshot.observer_cpu_seconds_total, seconds), " of CPU",
    ...(core === null ? [] : [", now ", figure(core, percent), " of a core"]));
}
