/* Asking the service. */

const TIMEOUT_MS = 5000;

/* Links and requests lead on from a folder. Behind a proxy it may have been asked for without its slash. */
if (!location.pathname.endsWith("/")) {
  location.replace(`${location.pathname}/${location.search}${location.hash}`);
}

/* It answered, and not with what was asked for. */
class Refused extends Error {}

async function fetchJson(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Refused(`${path}: ${response.status}`);
  return response.json();
}
