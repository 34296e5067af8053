"use strict";
// A canvas with axes: scales, ticks, grid, and what is under the pointer.

const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Round values (1, 2 or 5 times a power of ten) from `low` to `high`, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) || 10);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    found.push([i * step, text(i * step, digits)]);
  }
  return found;
}

/** Powers of ten; where there are few, also 2 and 5 times these. */
function decades(low, high, plain) {
  const found = [];
  const wide = Math.log10(high / low);
  const skip = Math.ceil(wide / 8);
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const factor of wide < 1.6 ? [1, 2, 5] : [1]) {
      const value = factor * 10 ** power;
      if (value < low * 0.999 || value > high * 1.001 || power % skip) continue;
      const digits = [...String(Math.abs(power))].map((digit) => SUPERSCRIPT[digit]).join("");
      const short = `${factor > 1 ? `${factor}·` : ""}10${power < 0 ? "⁻" : ""}${digits}`;
      found.push([value, plain && value < 1e4 ? text(value, Math.max(0, -power)) : short]);
    }
  }
  return found;
}

/** A number with so many digits behind the point, and a minus sign that is one. */
function text(value, digits) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const rounded = Number(value.toFixed(digits)) === 0 ? 0 : value;
  return rounded.toFixed(digits).replace("-", "−");
}

/** A number with three digits that count. */
function brief(value) {
  return text(value, Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
}

class Plot {
  /** `options`: x and y with label, and log, plain (no powers); square; bar, of colours. */
  constructor(id, options) {
    this.canvas = document.getElementById(id);
    this.note = this.canvas.parentElement.querySelector(".note");
    this.options = options;
    this.pick = null;
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => tip(null));
  }

  /** Clear, and draw axes from low to high; what is drawn next is clipped to the plot. */
  begin(xLow, xHigh, yLow, yHigh) {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = (this.context = this.canvas.getContext("2d"));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = FONT;
    const right = this.options.bar ? 62 : 12;
    this.box = { left: 54, top: 10, width: width - 54 - right, height: height - 10 - 40 };
    if (this.options.square) {
      const side = Math.min(this.box.width, this.box.height);
      this.box.left += (this.box.width - side) / 2;
      this.box.width = this.box.height = side;
    }
    const { left, top, width: w, height: h } = this.box;
    const scale = (value, low, high, log) =>
      log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    const back = (part, low, high, log) =>
      log ? low * (high / low) ** part : low + part * (high - low);
    const { x, y } = this.options;
    this.x = (value) => left + w * scale(value, xLow, xHigh, x.log);
    this.y = (value) => top + h * (1 - scale(value, yLow, yHigh, y.log));
    this.at = (px, py) => [
      back((px - left) / w, xLow, xHigh, x.log), back(1 - (py - top) / h, yLow, yHigh, y.log)];
    this.axes(xLow, xHigh, yLow, yHigh);
    context.save();
    context.beginPath();
    context.rect(left, top, w, h);
    context.clip();
    return context;
  }

  axes(xLow, xHigh, yLow, yHigh) {
    const { context, box, options: { x, y, square } } = this;
    const across = square ? 5 : Math.max(4, Math.min(8, box.width / 64));
    const xs = x.log ? decades(xLow, xHigh, x.plain) : ticks(xLow, xHigh, across);
    const ys = y.log ? decades(yLow, yHigh, y.plain) : ticks(yLow, yHigh, 5);
    const bottom = box.top + box.height;
    context.lineWidth = 1;
    context.strokeStyle = colour("grid");
    context.fillStyle = colour("faint");
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const [value, label] of xs) {
      this.segment(this.x(value), box.top, this.x(value), bottom);
      context.fillText(label, this.x(value), bottom + 5);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [value, label] of ys) {
      this.segment(box.left, this.y(value), box.left + box.width, this.y(value));
      context.fillText(label, box.left - 6, this.y(value));
    }
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(x.label, box.left + box.width / 2, bottom + 39);
    context.save();
    context.translate(box.left - 40, box.top + box.height / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "top";
    context.fillText(y.label, 0, -10);
    context.restore();
  }

  /** Frame the plot; `pick(x, y)` gives the text for a place in it. */
  end(pick) {
    const { context, box } = this;
    context.restore();
    context.strokeStyle = colour("line");
    context.strokeRect(box.left, box.top, box.width, box.height);
    this.pick = pick;
  }

  /** Axes without values, and why. */
  empty(why) {
    const context = this.begin(...this.options.nothing);
    context.fillStyle = colour("faint");
    context.textAlign = "center";
    context.textBaseline = "middle";
    const { left, top, width, height } = this.box;
    context.fillText(why, left + width / 2, top + height / 2);
    this.end(null);
    this.note.replaceChildren();
  }

  segment(x0, y0, x1, y1) {
    this.context.beginPath();
    this.context.moveTo(Math.round(x0) + 0.5, Math.round(y0) + 0.5);
    this.context.lineTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
    this.context.stroke();
  }

  /** A line through the points that have a value. */
  line(xs, ys, name, dashed) {
    const { context } = this;
    context.strokeStyle = colour(name);
    context.lineWidth = 1.6;
    context.lineJoin = "round";
    context.setLineDash(dashed ? [5, 4] : []);
    context.beginPath();
    let open = false;
    xs.forEach((x, i) => {
      if (ys[i] === null) return;
      if (open) context.lineTo(this.x(x), this.y(ys[i]));
      else context.moveTo(this.x(x), this.y(ys[i]));
      open = true;
    });
    context.stroke();
    context.setLineDash([]);
  }

  dots(xs, ys, name, radius, hollow) {
    const { context } = this;
    context.fillStyle = context.strokeStyle = colour(name);
    context.lineWidth = 1.4;
    for (let i = 0; i < xs.length; i++) {
      if (ys[i] === null) continue;
      context.beginPath();
      context.arc(this.x(xs[i]), this.y(ys[i]), radius, 0, 2 * Math.PI);
      if (hollow) context.stroke();
      else context.fill();
    }
  }

  hover(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left;
    const y = event.clientY - bounds.top;
    const { box } = this;
    const inside = box && x >= box.left && x <= box.left + box.width
      && y >= box.top && y <= box.top + box.height;
    tip(inside && this.pick ? this.pick(...this.at(x, y)) : null, event.clientX, event.clientY);
  }

  /** What stands above the plot: [text, kind of mark, class of its colour] each. */
  legend(entries) {
    this.note.replaceChildren(...entries.map(([words, mark, name]) => {
      const span = document.createElement("span");
      if (mark) {
        const swatch = document.createElement("i");
        swatch.className = `${mark} ${name}`;
        span.append(swatch);
      }
      span.append(words);
      return span;
    }));
  }
}

/** Show `words` beside the pointer; null: nothing. */
function tip(words, x, y) {
  let box = document.getElementById("tip");
  if (!words) {
    if (box) box.remove();
    return;
  }
  if (!box) {
    box = document.createElement("div");
    box.id = "tip";
    document.body.append(box);
  }
  box.textContent = words;
  const left = Math.min(x + 14, window.innerWidth - box.offsetWidth - 8);
  box.style.left = `${left}px`;
  box.style.top = `${y - 30}px`;
}
