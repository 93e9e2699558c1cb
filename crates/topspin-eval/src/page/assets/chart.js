// Line charts. A line is { name, colour, dash, pieces: [{ folder, points: [[x, y, low, high], ...] }] }.

const MARGIN = { left: 46, right: 10, top: 18, bottom: 20 };

// Numbers that are pleasant to read, about as many as wanted.
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw);
  const all = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) all.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return all;
}

function tickText(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size < 1e-3 || size >= 1e5 ? value.toExponential(0) : String(+value.toPrecision(3));
  return text.replace(/^-/, "−").replace("e-", "e−").replace("e+", "e");
}

// The mean of the points about each, as many on both sides, so that it leans to no side.
function smoothed(points) {
  const reach = Math.round(points.length / 24);
  return points.map(([x], at) => {
    const side = Math.min(reach, at, points.length - 1 - at);
    const near = points.slice(at - side, at + side + 1);
    return [x, near.reduce((sum, point) => sum + point[1], 0) / near.length];
  });
}

function path(points, x, y) {
  return points.map(([a, b], at) => `${at ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("");
}

// options: title, unit, hint, lines, categories (names of the places 0, 1, ...), seams ([[x, folder], ...]), log, range.
function chart(options) {
  const { title, unit, hint, lines, categories, log } = options;
  const points = lines.flatMap((line) => line.pieces.flatMap((piece) => piece.points)).filter((point) => !log || point[1] > 0);
  if (points.length === 0) return null;
  const scale = log ? Math.log10 : (value) => value;
  const values = points.flatMap((point) => point.slice(1)).filter((value) => value !== null && value !== undefined);
  let low = Math.min(...values.map(scale)), high = Math.max(...values.map(scale));
  if (options.range) [low, high] = [Math.min(low, options.range[0]), Math.max(high, options.range[1])];
  if (high - low < 1e-12) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const room = (high - low) * 0.04;
  [low, high] = [low - room, high + room];
  const xs = [...new Set(points.map((point) => point[0]))].sort((a, b) => a - b);
  let [left, right] = [xs[0], xs[xs.length - 1]];
  if (categories) [left, right] = [-0.3, categories.length - 0.7];
  else if (left === right) [left, right] = [left - 1, right + 1];

  const readout = h("p", { class: "readout", role: "status" }, hint || "");
  const name = (x) => (categories ? categories[x] : `step ${Math.round(x)}`);
  const ends = (line) => {
    const all = line.pieces.flatMap((piece) => piece.points);
    return `${line.name} from ${number(all[0][1])} to ${number(all[all.length - 1][1])}`;
  };
  const label = `${title}${unit ? `, ${unit}` : ""}; ${name(xs[0])} to ${name(xs[xs.length - 1])}: ${lines.map(ends).join("; ")}`;
  const plot = h("div", { class: "plot" });
  let draw = null, cursor = null;

  function read(at) {
    cursor = at;
    const x = xs[cursor];
    const found = lines.flatMap((line) => line.pieces.flatMap((piece) => {
      const point = piece.points.find((point) => point[0] === x);
      return point ? [`${line.name} ${number(point[1])} ${interval(point[2] ?? null, point[3] ?? null)}`.trim()] : [];
    }));
    const seam = (options.seams || []).filter(([start]) => start <= x).pop();
    readout.textContent = [name(x), seam && seam[1], ...found].filter(Boolean).join(" · ");
    draw.cross(x);
  }

  function render() {
    const width = Math.max(plot.clientWidth, 200), height = Math.max(plot.clientHeight, 120);
    const x = (value) => MARGIN.left + (value - left) / (right - left) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => MARGIN.top + (high - scale(value)) / (high - low) * (height - MARGIN.top - MARGIN.bottom);
    const marks = [];
    const yTicks = log ? logTicks(low, high) : ticks(low, high, 4);
    for (const value of yTicks) {
      const at = y(value);
      marks.push(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }),
        svg("text", { x: MARGIN.left - 6, y: at + 4, "text-anchor": "end" }, tickText(value)));
    }
    if (categories) {
      const every = Math.ceil(categories.length * 62 / (width - MARGIN.left - MARGIN.right));
      categories.forEach((text, at) => {
        if (at % every === 0) marks.push(svg("text", { x: x(at), y: height - 4, "text-anchor": "middle" }, text));
      });
    } else {
      for (const value of ticks(left, right, width / 90).filter(Number.isInteger)) {
        marks.push(svg("text", { x: x(value), y: height - 4, "text-anchor": "middle" }, String(value)));
      }
    }
    let free = -Infinity;
    for (const [start, folder] of options.seams || []) {
      const at = x(Math.max(start, left));
      marks.push(svg("line", { class: "seam", x1: at, x2: at, y1: 4, y2: height - MARGIN.bottom }));
      if (at >= free && at + folder.length * 6.2 < width + 4) {
        marks.push(svg("text", { x: at + 3, y: 12 }, folder));
        free = at + folder.length * 6.2 + 8;
      }
    }
    for (const line of lines) {
      const stroke = `line-${line.colour}`, dash = line.dash ? "5 4" : null;
      for (const piece of line.pieces) {
        const shown = piece.points.filter((point) => !log || point[1] > 0);
        if (!categories && shown.length > 23) {
          marks.push(svg("path", { class: `raw ${stroke}`, d: path(shown, x, y) }),
            svg("path", { class: `mean ${stroke}`, "stroke-dasharray": dash, d: path(smoothed(shown), x, y) }));
        } else {
          marks.push(svg("path", { class: `mean ${stroke}`, "stroke-dasharray": dash, d: path(shown, x, y) }));
        }
        for (const [at, value, from, to] of categories || shown.length < 3 ? shown : []) {
          if (from !== undefined && from !== null) {
            marks.push(svg("line", { class: stroke, x1: x(at), x2: x(at), y1: y(from), y2: y(to), "stroke-width": 1.5 }));
          }
          marks.push(svg("circle", { class: `dot-${line.colour}`, cx: x(at), cy: y(value), r: 3.5 }));
        }
      }
    }
    const cross = svg("line", { class: "cross", y1: MARGIN.top, y2: height - MARGIN.bottom, visibility: "hidden" });
    const nearest = (event) => {
      const wanted = left + (event.clientX - picture.getBoundingClientRect().left - MARGIN.left)
        / (width - MARGIN.left - MARGIN.right) * (right - left);
      let best = 0;
      xs.forEach((value, at) => { if (Math.abs(value - wanted) < Math.abs(xs[best] - wanted)) best = at; });
      read(best);
    };
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0, onpointermove: nearest,
      onpointerdown: nearest, onpointerleave: rest, onblur: rest,
      onkeydown: (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
        if (move === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        read(Math.max(0, Math.min(xs.length - 1, (cursor ?? (move > 0 ? -1 : xs.length)) + move)));
      },
    }, marks, cross);
    draw = { cross: (at) => { cross.setAttribute("x1", x(at)); cross.setAttribute("x2", x(at)); cross.setAttribute("visibility", "visible"); } };
    const hadFocus = plot.contains(document.activeElement);
    plot.replaceChildren(picture);
    if (hadFocus) picture.focus();
    function rest() {
      cursor = null;
      readout.textContent = hint || "";
      cross.setAttribute("visibility", "hidden");
    }
  }

  let drawnAt = 0;
  new ResizeObserver(() => {
    if (Math.abs(plot.clientWidth - drawnAt) < 2) return;
    drawnAt = plot.clientWidth;
    render();
  }).observe(plot);
  const key = (line) => h("span", { class: "key" },
    svg("svg", { width: 22, height: 8, "aria-hidden": "true" },
      svg("line", { class: `line-${line.colour}`, x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 3, "stroke-dasharray": line.dash ? "5 4" : null })),
    line.name);
  return h("figure", {}, h("figcaption", {}, h("h3", {}, title), unit ? h("span", { class: "muted" }, unit) : null,
    lines.length > 1 ? lines.map(key) : null), plot, readout);
}

function logTicks(low, high) {
  const all = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    for (const factor of high - low > 2 ? [1] : [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (Math.log10(value) >= low && Math.log10(value) <= high) all.push(value);
    }
  }
  return all;
}
