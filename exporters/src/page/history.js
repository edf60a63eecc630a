/* Snapshots become observations; observations become a history. */

const KEPT_MS = 16 * 60 * 1000;

/* Observations further apart have a gap between them: the page was hidden or paused. */
const GAP_MS = 5000;

/* What holds resident memory, from the bottom of the stack to its top: the name that rss_bytes has
   for it, the class of its colour, and what it is called here. */
const PARTS = [
  ["live", "live", "live"],
  ["rounding", "rounding", "rounding up"],
  ["free_blocks", "free-blocks", "free blocks"],
  ["thread_cache", "thread-cache", "thread caches"],
  ["dirty", "dirty", "free, waits for its purge"],
  ["metadata", "metadata", "allocator’s records"],
  ["sampled", "sampled", "profiled blocks"],
  ["unattributed", "unattributed", "unattributed"],
  ["stacks", "stacks", "stacks of threads"],
  ["other_anon", "other-anon", "other anonymous"],
  ["file", "file", "files"],
  ["shmem", "shmem", "shared memory"],
];

/* The counters whose growth is shown. */
const COUNTERS = {
  purgedBytes: snapshot => snapshot.release_purged_bytes_total ?? null,
  purgedPages: snapshot => total(snapshot.release_purged_pages_total),
  calls: snapshot => snapshot.release_madvise_calls_total ?? null,
  busyTicks: snapshot => snapshot.epoch_ticks_total?.busy ?? null,
  ticks: snapshot => total(snapshot.epoch_ticks_total),
  observerSeconds: snapshot => snapshot.observer_cpu_seconds_total ?? null,
};

/* The sum over a family's labels; null where the family is absent. */
function total(family) {
  if (family === undefined || family === null) return null;
  return Object.values(family).reduce((sum, value) => sum + value, 0);
}

/* null where one of the two is unknown or there is nothing to divide by. */
function ratio(part, whole) {
  return part === null || !whole ? null : part / whole;
}

function residentParts(snapshot) {
  if (!snapshot.rss_bytes) return null;
  return { ...snapshot.rss_bytes, unattributed: snapshot.rss_unattributed_bytes ?? 0 };
}

/* What each counter grew by from one observation's counts to another's. Nothing is known of it when one
   of them went back: then another process has taken the place of the first. */
function growth(before, now) {
  const names = Object.keys(COUNTERS);
  const known = name => before && before[name] !== null && now[name] !== null;
  const restarted = names.some(name => known(name) && now[name] < before[name]);
  const grown = name => (known(name) && !restarted ? now[name] - before[name] : null);
  return { restarted, ...Object.fromEntries(names.map(name => [name, grown(name)])) };
}

function toObservation(snapshot, time, before, cutOff) {
  const counts = Object.fromEntries(
    Object.entries(COUNTERS).map(([name, read]) => [name, read(snapshot)]));
  const grown = growth(before?.counts, counts);
  const elapsed = before ? (time - before.time) / 1000 : null;
  return {
    time,
    since: before?.time ?? null,
    gap: !before || cutOff || grown.restarted || time - before.time > GAP_MS,
    counts,
    rss: total(snapshot.process_resident_bytes),
    live: snapshot.memory_bytes?.live ?? null,
    parts: residentParts(snapshot),
    pending: snapshot.release_pending_bytes ?? null,
    age: snapshot.release_oldest_age_seconds ?? null,
    purgedBytes: grown.purgedBytes,
    pagesRate: ratio(grown.purgedPages, elapsed),
    callsRate: ratio(grown.calls, elapsed),
    pagesPerCall: ratio(grown.purgedPages, grown.calls),
    // Without a tick since the observation before, the gate is as it was.
    busyShare: grown.ticks ? ratio(grown.busyTicks, grown.ticks) : snapshot.gate_state ?? null,
  };
}

class ObservationHistory {
  observations = [];

  get latest() {
    return this.observations.at(-1);
  }

  /* With `cutOff`, a question between the observation before and this one got no answer. */
  add(snapshot, time, cutOff) {
    this.observations.push(toObservation(snapshot, time, this.latest, cutOff));
    while (this.observations[0].time < time - KEPT_MS) this.observations.shift();
  }

  /* The observations of the last so many seconds. */
  within(windowSeconds) {
    const from = this.latest.time - windowSeconds * 1000;
    return this.observations.slice(this.observations.findIndex(one => one.time >= from));
  }

  /* What the counters grew by over those, and in how many seconds. */
  growthWithin(windowSeconds) {
    const observations = this.within(windowSeconds);
    const elapsed = (this.latest.time - observations[0].time) / 1000;
    return { elapsed, ...growth(observations[0].counts, this.latest.counts) };
  }
}
