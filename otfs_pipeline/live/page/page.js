// The page: a state comes several times a second and is shown.

const FLAGS = {
  clipped: "clipped", burst: "burst", missing: "samples missing", mismatch: "symbols beside points",
  noisy: "noisy", crc: "CRC failed" };
const LOSSES = {
  dropped: "dropped, receiver busy", lost: "lost on the way", malformed: "malformed",
  damaged: "damaged, samples missing", wrong_length: "of wrong length", not_finite: "not finite" };
const antenna = document.getElementById("antenna");
let shown = null;

function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}

function element(name, content, kind) {
  const made = document.createElement(name);
  if (content !== undefined) made.textContent = content;
  if (kind) made.className = kind;
  return made;
}

function setStatus(words, kind) {
  const status = document.getElementById("status");
  status.className = kind;
  status.querySelector("span").textContent = words;
}

function count(value) {
  return value.toLocaleString("en-US");
}

/** A figure of the antenna that is shown; with one antenna, it is no list. */
function ofAntenna(value) {
  return Array.isArray(value) ? value[antenna.value] : value;
}

/** The large numbers: [name, value, what else, whether it is bad]. */
function figures({ totals, frames, latency, link }) {
  const last = frames.at(-1) || {};
  const missed = totals.missed || 0;
  const lost = Object.values(totals.losses).reduce((a, b) => a + b, 0);
  const timely = totals.on_time == null ? null : 100 * totals.on_time;
  const rows = [
    ["frames", count(totals.frames), `${count(lost)} lost`, lost > 0],
    ["good frames", percent(totals.good, totals.frames, 1), "without flags"],
    ["bit error rate", totals.bits ? rateText(totals.bit_errors / totals.bits) : "–",
      totals.bits ? `of ${brief(totals.bits / 1e6)} Mbit` : "payload unknown"]];
  if (totals.coding) {
    const { frame_errors: errors, uncoded_ber: before } = totals.coding;
    rows.push(["frame errors", rateText(totals.frames ? errors / totals.frames : null),
      before === null ? "by CRC" : `uncoded ${before.toPrecision(2)}`]);
  }
  rows.push(
    ["SNR in dB", text(last.snr_db, 1), `${text(last.equalized_snr_db, 1)} equalized`],
    ["EVM", `${text(last.evm_percent, 1)} %`, `${decibels(last.evm_percent)} dB`],
    [link.antennas > 1 ? `σ², antenna ${Number(antenna.value) + 1}` : "noise variance",
      rateText(ofAntenna(last.noise_variance)), `${text(ofAntenna(last.taps), 0)} taps kept`]);
  if (last.carrier_hz !== undefined) {
    rows.push(["carrier in Hz", text(last.carrier_hz, 0), `timing ${text(last.timing_us, 2)} µs`]);
  }
  rows.push(
    ["p99.9 in ms", brief(latency.p99_9), `deadline ${brief(latency.deadline)}`,
      latency.p99_9 > latency.deadline],
    ["late frames", count(missed), `${text(timely, 2)} % on time`, missed > 0],
    ["payload", brief(totals.mbps), "Mbit/s"]);
  return rows;
}

function percent(part, whole, digits) {
  return whole && part !== undefined ? `${text((100 * part) / whole, digits)} %` : "–";
}

function showFigures(state) {
  document.getElementById("figures").replaceChildren(...figures(state).map(
    ([name, value, more, bad]) => {
      const box = element("div", undefined, bad ? "bad" : "");
      box.append(element("span", name), element("b", value), element("small", more));
      return box;
    }));
}

/** [heading, key or function of an entry, digits or function of a value]. */
function columns(frames, link) {
  const list = [
    ["frame", "frame", 0], ["SNR dB", "snr_db", 1], ["equalized dB", "equalized_snr_db", 1],
    ["EVM %", "evm_percent", 1]];
  if (link.antennas > 1) list.push(["antenna", (e) => e.taps.map((_, i) => i + 1), 0]);
  list.push(
    ["σ²", "noise_variance", rateText], ["taps", "taps", 0],
    ["peak", "peak", (value) => value.toPrecision(3)], ["clipped", "clipped_samples", 0],
    ["burst dB", "burst_db", 1], ["missing", "missing_samples", 0]);
  if (frames.some((e) => "carrier_hz" in e)) {
    list.push(["carrier Hz", "carrier_hz", 0], ["timing µs", "timing_us", 2]);
  }
  list.push(["bit errors", "bit_errors", 0]);
  if (link.code_rate) list.push(["blocks failed", "block_errors", 0]);
  return list;
}

/** A cell: a line for each antenna where there are several values. */
function cell(entry, [, key, form]) {
  const values = [typeof key === "function" ? key(entry) : entry[key]].flat();
  return element("td", values.map(
    (value) => typeof form === "function" ? form(value) : text(value, form)).join("\n"));
}

function showTables({ frames, totals, link }) {
  const list = columns(frames, link);
  const head = element("tr");
  head.append(...list.map(([name]) => element("th", name)));
  head.firstChild.after(element("th", "flags", "text"));
  const rows = [...frames].reverse().map((entry) => {
    const row = element("tr");
    row.append(...list.map((column) => cell(entry, column)));
    const flags = entry.flags.map((flag) => FLAGS[flag] || flag).join(", ");
    row.firstChild.after(element("td", flags || "good", flags ? "text bad" : "text"));
    return row;
  });
  document.getElementById("frames").replaceChildren(head, ...rows);
  const counts = [
    ...Object.entries(totals.flags || {}).map(([key, value]) => [FLAGS[key] || key, value]),
    ...Object.entries(totals.losses).map(([key, value]) => [LOSSES[key] || key, value])];
  document.getElementById("losses").replaceChildren(...counts.map(([name, value]) => {
    const row = element("tr");
    row.append(element("td", name, "text"), element("td", count(value), value ? "bad" : ""));
    return row;
  }));
}

/** What can be chosen, which stays as long as the number of antennas. */
function showAntennas({ link: { antennas } }) {
  if (antenna.length === antennas) return;
  antenna.hidden = antennas === 1;
  antenna.replaceChildren(...Array.from(
    { length: antennas }, (_, i) => new Option(`antenna ${i + 1} of ${antennas}`, i)));
}

function showLink({ link, totals }) {
  const parts = [
    `grid ${link.grid}`, `${link.modulation}-QAM`, `${text(link.bandwidth_hz / 1e6, 2)} MHz`,
    `K = ${link.iterations}`];
  if (link.antennas > 1) parts.push(`${link.antennas} antennas`);
  if (link.code_rate) parts.push(`LDPC rate ${link.code_rate}`);
  if (link.source) parts.push(link.source);
  const front = totals.front_end;
  if (front) parts.push(`${front.locks} locks, ${front.jumps} jumps`);
  document.getElementById("link").textContent = parts.join(" · ");
}

function show(state) {
  shown = state;
  const time = state.seconds === null ? "" : clock(state.seconds);
  if (state.ended) setStatus(`ended ${time && `after ${time}`}`, "");
  else setStatus(time ? `live ${time}` : "no stream yet", "live");
  showAntennas(state);
  showLink(state);
  showFigures(state);
  showTables(state);
  for (const draw of [
    drawConstellation, drawChannel, drawSpectrum, drawBer, drawSnr, drawLatency]) draw(state);
}

const source = new EventSource("/events");
source.onmessage = (event) => {
  const state = JSON.parse(event.data);
  if (state.ended) source.close();
  show(state);
};
source.onerror = () => setStatus("connection lost", "lost");
const again = () => { if (shown) show(shown); };
antenna.addEventListener("change", again);
window.addEventListener("resize", again);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
