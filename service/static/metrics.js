// From the text of /metrics to what the page shows of the service's load.

/** Samples of Prometheus's text format 0.0.4, of metrics whose names begin so: [{name, labels, value}]. */
export function samples(text, prefix) {
  const found = [];
  for (const line of text.split("\n")) {
    if (!line.startsWith(prefix)) continue;
    const parts = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, label, value] of (parts[2] ?? "").matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)) labels[label] = value;
    found.push({ name: parts[1], labels, value: Number(parts[3].replace("Inf", "Infinity")) });
  }
  return found;
}

function sum(all, name, wanted = {}) {
  return all
    .filter((each) => each.name === name && Object.entries(wanted).every(([label, value]) => each.labels[label] === value))
    .reduce((total, each) => total + each.value, 0);
}

function buckets(all) {
  const counts = new Map();
  for (const each of all) {
    if (each.name !== "stripmlp_request_duration_seconds_bucket" || each.labels.endpoint !== "/classify") continue;
    const bound = Number(each.labels.le.replace("Inf", "Infinity"));
    counts.set(bound, (counts.get(bound) ?? 0) + each.value);
  }
  return counts;
}

/**
 * What happened between two looks: {rate, p99, queue, limit}, pictures a second, the upper bound of 99 % of the
 * requests' times in seconds (null without requests), pictures in work and the most there may be.
 */
export function summary(before, after, seconds) {
  const done = (all) => sum(all, "stripmlp_images_total", { outcome: "ok" });
  const [old, now] = [buckets(before), buckets(after)];
  const between = [...now].map(([bound, count]) => [bound, count - (old.get(bound) ?? 0)]).sort((a, b) => a[0] - b[0]);
  const all = between.length ? between[between.length - 1][1] : 0;
  const p99 = all > 0 ? between.find(([, count]) => count >= 0.99 * all)[0] : null;
  return {
    rate: (done(after) - done(before)) / seconds,
    p99,
    queue: sum(after, "stripmlp_queue_images"),
    limit: sum(after, "stripmlp_queue_limit"),
  };
}
