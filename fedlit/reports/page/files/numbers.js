"use strict";
// Numbers: texts, ticks of axes, and scales.

const BYTES = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];

/** The divisor and the unit for values up to `largest`. */
function scaleUnit(largest, unit) {
  if (unit !== "B") return [1, unit];
  return BYTES.find(([size]) => Math.abs(largest) >= size) || [1, "B"];
}

function numberText(value, digits = 4) {
  if (value === null || !Number.isFinite(value)) return "-";
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) return value.toExponential(2);
  return String(Number(value.toPrecision(digits)));
}

function valueText(value, unit) {
  const [size, name] = scaleUnit(value, unit);
  return numberText(value / size) + (name ? ` ${name}` : "");
}

/** A function from values to pixels, with its inverse. */
function makeScale(domain, range, isLog) {
  const forward = isLog ? Math.log10 : (value) => value, back = isLog ? (value) => 10 ** value : (value) => value;
  const [a, b] = domain.map(forward), [p, q] = range;
  const scale = (value) => p + ((forward(value) - a) / (b - a)) * (q - p);
  scale.invert = (pixel) => back(a + ((pixel - p) / (q - p)) * (b - a));
  return scale;
}

/** The values of the ticks within a domain. */
function ticks([low, high], count, isLog) {
  if (isLog && high / low > 3) {
    const subs = high / low > 1000 ? [1] : [1, 2, 5], found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const sub of subs) if (sub * 10 ** power >= low && sub * 10 ** power <= high) found.push(sub * 10 ** power);
    }
    const every = Math.ceil(found.length / Math.max(count, 2));
    return found.filter((_, i) => i % every === 0);
  }
  const raw = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

/** The domain around values, with a margin; a logarithmic one has positive values only. */
function domainOf(values, isLog) {
  const fitting = values.filter((value) => Number.isFinite(value) && (!isLog || value > 0));
  if (!fitting.length) return isLog ? [0.1, 1] : [0, 1];
  let low = Infinity, high = -Infinity;
  for (const value of fitting) { low = Math.min(low, value); high = Math.max(high, value); }
  if (isLog) {
    const margin = high > low ? (high / low) ** 0.05 : 1.5;
    return [low / margin, high * margin];
  }
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 0.05;
  return [low - margin, high + margin];
}

/** The mean of numbers and half the width of its Student-t interval; null for one number. */
function meanInterval(values, quantiles) {
  const n = values.length, mean = values.reduce((sum, value) => sum + value, 0) / n;
  if (n < 2) return { mean, half: null, n };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, half: (quantiles[n] * Math.sqrt(squares / (n - 1))) / Math.sqrt(n), n };
}

/** The value at `x` on the line through the points. */
function interpolate(x, xs, ys) {
  let high = xs.findIndex((value) => value >= x);
  if (high <= 0) return ys[Math.max(high, 0)];
  const low = high - 1;
  if (xs[high] === x) { while (high + 1 < xs.length && xs[high + 1] === x) high++; return ys[high]; }
  return ys[low] + ((x - xs[low]) / (xs[high] - xs[low])) * (ys[high] - ys[low]);
}

/** Indices of the points [x, y] that no other point dominates; null is no point. */
function paretoFront(points, isMax) {
  const costs = points.map((point) => point && point.map((value, axis) => (isMax[axis] ? -value : value)));
  const dominates = (a, b) => a[0] <= b[0] && a[1] <= b[1] && (a[0] < b[0] || a[1] < b[1]);
  return costs.flatMap((cost, i) => (cost && !costs.some((other) => other && dominates(other, cost)) ? [i] : []));
}
