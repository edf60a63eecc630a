/* Asking the service. */

const TIMEOUT_MS = 5000;

/* It answered, and not with what was asked for. */
class Refused extends Error {}

async function fetchJson(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Refused(`${path}: ${response.status}`);
  return response.json();
}
