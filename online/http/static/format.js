// Numbers and times as texts. Volatility comes in basis points per horizon.

export const MISSING = "–";
const MINUTES_A_YEAR = 365 * 24 * 60;

export const bp = (value) => (value == null ? MISSING : value.toPrecision(value < 10 ? 3 : 4));

/** Volatility of a year in percent, from basis points of one minute. */
export const annualized = (value, horizonS) =>
  value == null ? MISSING : `${(value * 1e-2 * Math.sqrt((MINUTES_A_YEAR * 60) / horizonS)).toFixed(1)} % a year`;

export const percent = (share) => (share == null ? MISSING : `${(100 * share).toFixed(1)} %`);

export const qlike = (value) => (value == null ? MISSING : value.toFixed(3));

export function price(value) {
  if (value == null) return MISSING;
  const digits = value >= 1000 ? 2 : value >= 1 ? 4 : 6;
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const whole = (value) => (value == null ? MISSING : Math.round(value).toLocaleString("en-US"));

export const rate = (value) => (value == null ? MISSING : value < 10 ? value.toFixed(1) : whole(value));

const two = (value) => String(value).padStart(2, "0");

export function clock(ms) {
  const at = new Date(ms);
  return `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}`;
}

export const day = (ms) => new Date(ms).toISOString().slice(0, 10);

export const dayAndClock = (ms) => `${day(ms)} ${clock(ms)}`;

export function age(seconds) {
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

export const milliseconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : age(ms / 1000));

/** Labels of a time axis, UTC; the day stands where a day begins. */
export function axisLabels(splits, step) {
  return splits.map((s) => {
    const ms = s * 1e3;
    if (s % 86400 === 0) return day(ms).slice(5);
    return step < 60 ? clock(ms) : clock(ms).slice(0, 5);
  });
}
