// The six plots; each is drawn anew from a state.

// Colours of increasing lightness that differ for the colour-blind, too (viridis).
const PALETTE = [
  [68, 1, 84], [71, 45, 123], [59, 82, 139], [44, 114, 142], [33, 145, 140], [40, 174, 128],
  [94, 201, 98], [173, 220, 48], [253, 231, 37]];

// Colours of the antennas in a plot of all.
const ANTENNAS = ["accent", "second", "third", "fourth"];

// Points that are marked: between more of them there is no room.
const FEW = 80;

function shade(part) {
  const place = Math.max(0, Math.min(1, part)) * (PALETTE.length - 1);
  const low = Math.min(PALETTE.length - 2, Math.floor(place));
  const mix = PALETTE[low].map((c, i) => c + (place - low) * (PALETTE[low + 1][i] - c));
  return `rgb(${mix.map(Math.round).join(",")})`;
}

function floats(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

const plots = {
  constellation: new Plot("constellation", {
    x: { label: "in phase" }, y: { label: "quadrature" }, square: true,
    nothing: [-1.5, 1.5, -1.5, 1.5] }),
  channel: new Plot("channel", {
    x: { label: "delay in µs" }, y: { label: "Doppler in Hz" }, bar: true,
    nothing: [0, 1, -1000, 1000] }),
  spectrum: new Plot("spectrum", {
    x: { label: "frequency in MHz" }, y: { label: "density in dBFS/Hz" },
    nothing: [-1, 1, -100, 0] }),
  ber: new Plot("ber", {
    x: { label: "time in s" }, y: { label: "error rate", log: true },
    nothing: [0, 10, 1e-5, 1] }),
  snr: new Plot("snr", {
    x: { label: "time in s" }, y: { label: "SNR in dB" }, nothing: [0, 10, 0, 30] }),
  latency: new Plot("latency", {
    x: { label: "latency in ms", log: true, plain: true },
    y: { label: "frames", log: true, plain: true },
    nothing: [0.1, 10, 0.8, 1000] }),
};

function drawConstellation(state) {
  const plot = plots.constellation;
  if (!state.constellation) return plot.empty("no frame yet");
  const { levels } = state.constellation;
  const symbols = floats(state.constellation.symbols);
  const side = 1.6 * levels[levels.length - 1];
  const context = plot.begin(-side, side, -side, side);
  const xs = symbols.filter((_, i) => i % 2 === 0);
  const ys = symbols.filter((_, i) => i % 2 === 1);
  plot.dots(xs, ys, "dot", 1.3);
  context.strokeStyle = colour("text");
  context.lineWidth = 1.6;
  for (const i of levels) {
    for (const q of levels) {
      context.beginPath();
      context.moveTo(plot.x(i) - 5, plot.y(q));
      context.lineTo(plot.x(i) + 5, plot.y(q));
      context.moveTo(plot.x(i), plot.y(q) - 5);
      context.lineTo(plot.x(i), plot.y(q) + 5);
      context.stroke();
    }
  }
  plot.end((x, y) => `I ${text(x, 2)}, Q ${text(y, 2)}`);
  const { frame, evm_percent: evm } = state.constellation;
  plot.legend([
    [`symbols of frame ${frame}`, "dot", "accent"], ["reference", "cross", "strong"],
    [`EVM ${text(evm, 1)} %, ${decibels(evm)} dB`]]);
}

function decibels(percent) {
  return percent ? text(20 * Math.log10(percent / 100), 1) : "–";
}

function largest(values) {
  return values.reduce((a, b) => Math.max(a, b), -Infinity);
}

function drawChannel(state) {
  const plot = plots.channel;
  if (!state.channel) return plot.empty("no frame yet");
  const { rows, columns, delay_us: delay, doppler_hz: doppler } = state.channel;
  // One scale for all antennas, so that each can be compared with the others.
  const all = state.channel.db.map(floats);
  const most = Math.ceil(Math.max(...all.map(largest)) / 5) * 5;
  const lowest = Math.min(...state.channel.threshold_db);
  const least = Math.max(most - 60, Math.floor((lowest - 12) / 5) * 5);
  const values = ofAntenna(all);
  const kept = ofAntenna(state.channel.threshold_db);
  const edge = (axis, i) => axis[0] + (i - 0.5) * axis[1];
  const context = plot.begin(
    edge(delay, 0), edge(delay, columns), edge(doppler, 0), edge(doppler, rows));
  for (let row = 0; row < rows; row++) {
    const top = Math.floor(plot.y(edge(doppler, row + 1)));
    const height = Math.ceil(plot.y(edge(doppler, row))) - top;
    for (let column = 0; column < columns; column++) {
      const left = Math.floor(plot.x(edge(delay, column)));
      context.fillStyle = shade((values[row * columns + column] - least) / (most - least));
      context.fillRect(left, top, Math.ceil(plot.x(edge(delay, column + 1))) - left, height);
    }
  }
  plot.end((x, y) => {
    const column = Math.round((x - delay[0]) / delay[1]);
    const row = Math.round((y - doppler[0]) / doppler[1]);
    const value = values[row * columns + column];
    return `${text(delay[0] + column * delay[1], 2)} µs, `
      + `${text(doppler[0] + row * doppler[1], 0)} Hz: ${text(value, 1)} dB`;
  });
  drawBar(plot, least, most);
  plot.legend([[`|h|² of that frame; taps from ${text(kept, 1)} dB on are kept`]]);
}

/** The scale of colours, right of a plot. */
function drawBar(plot, least, most) {
  const { context, box } = plot;
  const left = box.left + box.width + 12;
  for (let y = 0; y < box.height; y++) {
    context.fillStyle = shade(1 - y / box.height);
    context.fillRect(left, box.top + y, 12, 1.5);
  }
  context.fillStyle = colour("faint");
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const [value, label] of ticks(least, most, 5)) {
    const part = (value - least) / (most - least);
    context.fillText(label, left + 17, box.top + box.height * (1 - part));
  }
  context.textBaseline = "bottom";
  context.fillText("dB", left + 17, box.top + box.height + 24);
}

function drawSpectrum(state) {
  const plot = plots.spectrum;
  if (!state.spectrum) return plot.empty("no samples yet");
  const all = state.spectrum.db.map((packed) => Array.from(floats(packed)));
  const half = state.spectrum.rate_hz / 2e6;
  const bins = all[0].length;
  const hz = all[0].map((_, i) => -half + (2 * half * i) / bins);
  const ordered = all.flat().sort((a, b) => a - b);
  const high = Math.ceil((ordered.at(-1) + 2) / 10) * 10;
  // An antenna that receives nothing leaves the others' scale alone.
  const floor = Math.max(ordered[Math.floor(ordered.length / 100)] - 3, high - 100);
  const low = Math.floor(floor / 10) * 10;
  plot.begin(-half, half, low, Math.max(high, low + 20));
  all.forEach((values, i) => plot.line(hz, values, ANTENNAS[i]));
  plot.end((x) => {
    const i = nearest(hz, x);
    return `${text(hz[i], 3)} MHz: ${all.map((one) => text(one[i], 1)).join(", ")} dBFS/Hz`;
  });
  const bin = state.spectrum.rate_hz / bins / 1e3;
  plot.legend([
    [state.link.raw ? "waveform before the front end" : "frames, matched-filtered"],
    [`${text(bin, 1)} kHz a bin, averaged`],
    ...(all.length > 1 ? all.map((_, i) => [`antenna ${i + 1}`, "line", ANTENNAS[i]]) : [])]);
}

/** From 0 to the last interval, a little more than is needed. */
function span(times) {
  return Math.max(2, times.length ? times.at(-1) * 1.02 : 0);
}

function nearest(times, x) {
  let best = 0;
  times.forEach((t, i) => { if (Math.abs(t - x) < Math.abs(times[best] - x)) best = i; });
  return best;
}

function drawBer(state) {
  const plot = plots.ber;
  const { t, ber, bits, uncoded, fer } = state.history;
  const coded = state.totals.coding;
  if (!t.length) return plot.empty("no frame yet");
  if (ber.every((v) => v === null) && !coded) return plot.empty("the payload is not known");
  // Without an error in n bits, the rate is below 3/n with a confidence of 95 %.
  const bound = ber.map((v, i) => (v === 0 ? 3 / bits[i] : null));
  const some = (values) => values.map((v) => v || null);
  const series = [...some(ber), ...bound, ...(coded ? [...some(uncoded), ...some(fer)] : [])];
  const least = Math.min(1e-3, ...series.filter((v) => v !== null));
  plot.begin(0, span(t), 10 ** Math.floor(Math.log10(least)), 1);
  const legend = [];
  if (coded) {
    plot.line(t, some(uncoded), "second");
    plot.dots(t, some(uncoded), "second", 2);
    plot.line(t, some(fer), "bad", true);
    plot.dots(t, some(fer), "bad", 2);
    legend.push(["before decoding", "line", "second"], ["frame errors", "dashed", "warning"]);
  }
  plot.line(t, some(ber), "accent");
  plot.dots(t, some(ber), "accent", 2);
  plot.dots(t, bound, "accent", 3, true);
  plot.end((x) => {
    const i = nearest(t, x);
    const parts = [ber[i] === 0 ? `below ${rateText(bound[i])}` : rateText(ber[i])];
    if (coded) parts.push(`before decoding ${rateText(uncoded[i])}`, `frames ${rateText(fer[i])}`);
    return `${text(t[i], 1)} s: ${parts.join(", ")}`;
  });
  legend.unshift(["bits", "line", "accent"]);
  if (bound.some((v) => v !== null)) legend.push(["none: 95 % bound", "ring", "accent"]);
  plot.legend(legend);
}

function rateText(value) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : value.toExponential(2).replace("e-", "·10⁻").replace(
    /⁻(\d+)$/, (_, digits) => `⁻${[...digits].map((d) => SUPERSCRIPT[d]).join("")}`);
}

function drawSnr(state) {
  const plot = plots.snr;
  const { t, snr, equalized, least, most } = state.history;
  const values = [...least, ...most, ...equalized].filter((v) => v !== null);
  if (!values.length) return plot.empty("no frame yet");
  const low = Math.floor((Math.min(...values) - 1) / 5) * 5;
  const high = Math.ceil((Math.max(...values) + 1) / 5) * 5;
  const context = plot.begin(0, span(t), low, high);
  const kept = t.map((_, i) => i).filter((i) => least[i] !== null);
  context.fillStyle = colour("band");
  context.beginPath();
  kept.forEach((i) => context.lineTo(plot.x(t[i]), plot.y(most[i])));
  kept.reverse().forEach((i) => context.lineTo(plot.x(t[i]), plot.y(least[i])));
  context.fill();
  for (const [values, name] of [[snr, "accent"], [equalized, "second"]]) {
    plot.line(t, values, name);
    if (t.length < FEW) plot.dots(t, values, name, 2);
  }
  plot.end((x) => {
    const i = nearest(t, x);
    const range = `${text(least[i], 1)} to ${text(most[i], 1)}`;
    return `${text(t[i], 1)} s: ${text(snr[i], 2)} dB (${range}), `
      + `equalized ${text(equalized[i], 2)} dB`;
  });
  plot.legend([
    ["channel, mean", "line", "accent"], ["least to most", "band", "accent"],
    ["after the equalizer", "line", "second"]]);
}

function drawLatency(state) {
  const plot = plots.latency;
  const { edges, counts, deadline, p50, p99, p99_9: p999 } = state.latency;
  if (!counts.length) return plot.empty("no frame yet");
  const low = Math.min(edges[0], deadline) * 0.85;
  const high = Math.max(edges.at(-1), deadline) * 1.18;
  const context = plot.begin(low, high, 0.7, Math.max(10, ...counts) * 2);
  const ground = plot.y(0.7);
  counts.forEach((count, i) => {
    if (!count) return;
    const left = plot.x(edges[i]);
    context.fillStyle = colour(edges[i] >= deadline ? "bad" : "accent");
    const width = Math.max(1, plot.x(edges[i + 1]) - left - 0.5);
    context.fillRect(left, plot.y(count), width, ground - plot.y(count));
  });
  const mark = (value, name, dash) => {
    context.strokeStyle = colour(name);
    context.lineWidth = 1.6;
    context.setLineDash(dash);
    plot.segment(plot.x(value), plot.box.top, plot.x(value), ground);
    context.setLineDash([]);
  };
  mark(p999, "second", [5, 4]);
  mark(deadline, "bad", []);
  plot.end((x) => {
    const i = edges.findIndex((edge) => edge > x) - 1;
    const range = `${text(edges[i], 3)} to ${text(edges[i + 1], 3)} ms`;
    return i >= 0 ? `${range}: ${counts[i]} frames` : null;
  });
  plot.legend([
    [`deadline ${brief(deadline)}`, "line", "warning"],
    [`p99.9 ${brief(p999)}`, "dashed", "second"], [`p99 ${brief(p99)}`],
    [`p50 ${brief(p50)} ms`]]);
}
