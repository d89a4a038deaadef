// One stream of events, which comes back by itself: the browser's own retry, and a watchdog for a silent API.

const SILENT_MS = 4000; // the API says something each second, and each three seconds while its broker is away
const LOOK_MS = 500;
const AGAIN_MS = 1000;
const UNAUTHORIZED = 401;

export class Connection {
  /** `handlers`: hello, state, rows get the parsed data; lost gets the time in ms since when nothing came,
   * and the reason if the API refuses; locked is called if the API wants a login, and then nothing is tried until
   * `open`. */
  constructor(handlers) {
    this.handlers = handlers;
    this.heardAt = Date.now();
    this.openedAt = 0;
    this.isLost = false;
    this.refusal = null;
    this.isLocked = false;
    setInterval(() => this.look(), LOOK_MS);
  }

  /** Open the stream of a source; null: of the newest. */
  open(stream) {
    this.stream = stream;
    this.source?.close();
    this.isLocked = false;
    this.openedAt = Date.now();
    const query = stream ? `?${new URLSearchParams(stream)}` : "";
    const source = new EventSource(`/live/events${query}`);
    this.source = source;
    for (const name of ["hello", "state", "rows"]) {
      source.addEventListener(name, (event) => {
        if (source !== this.source) return;
        this.heardAt = Date.now();
        this.isLost = false;
        this.handlers[name](JSON.parse(event.data));
      });
    }
    source.onerror = () => {
      if (source !== this.source) return;
      if (source.readyState === EventSource.CLOSED) this.askWhy(source);
      else this.lose(null);
    };
  }

  /** `refusal`: the reason of the API; null: the API does not answer. */
  lose(refusal) {
    if (this.isLost && refusal === this.refusal) return;
    this.isLost = true;
    this.refusal = refusal;
    this.handlers.lost(this.heardAt, refusal);
  }

  /** Ask for the reason of a refusal: an EventSource does not tell. */
  async askWhy(source) {
    const asking = new AbortController();
    let refusal = null;
    let isLocked = false;
    try {
      const answer = await fetch(source.url, { signal: asking.signal });
      const isProblem = answer.headers.get("content-type") === "application/problem+json";
      isLocked = answer.status === UNAUTHORIZED;
      if (isProblem) refusal = (await answer.json()).detail;
    } catch {
      // The API does not answer.
    } finally {
      asking.abort(); // an accepted stream would go on without end
    }
    if (source !== this.source || source.readyState !== EventSource.CLOSED) return;
    this.isLocked = isLocked;
    this.lose(refusal);
    if (isLocked) this.handlers.locked();
  }

  /** Notice silence, and open again what the browser has given up. */
  look() {
    if (!this.source || this.isLocked) return;
    const now = Date.now();
    const isSilent = now - Math.max(this.heardAt, this.openedAt) > SILENT_MS;
    if (isSilent) this.lose(this.isLost ? this.refusal : null);
    const isClosed = this.source.readyState === EventSource.CLOSED;
    if ((isClosed && now - this.openedAt > AGAIN_MS) || isSilent) this.open(this.stream);
  }
}
