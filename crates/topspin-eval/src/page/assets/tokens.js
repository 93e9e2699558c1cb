// Tokens of answers, shaded by what models gave to them.

// Shades: an opacity that grows with the size of a number; of log-ratios with its root, for many small ones make a sum.
const shade = (colour, share) => `rgb(var(--${colour}) / ${(Math.min(1, share) * 0.62).toFixed(3)})`;
const RATIO_FULL = 300, RARE_FULL = 700, NEW = 0.4;

function tokenShade(kind, value) {
  if (kind === "ratio") return shade(value > 0 ? "up" : "down", Math.sqrt(Math.abs(value) / RATIO_FULL));
  return shade("rare", -value / RARE_FULL);
}

const nats = (hundredths) => signed(hundredths / 100, 2);

// How much likelier an answer became from one model to another: what `before` and `now` gave to it.
function logRatio(before, now, whose) {
  const [from, to] = [before.logprobs || [], now.logprobs || []];
  return {
    kind: "ratio", values: from.length === to.length ? to.map((value, at) => value - from[at]) : [],
    total: `Δ\u00a0${signed(now.sum - before.sum, 2)}\u00a0nats: log-ratio of ${whose}`,
    tell: (at) => `${nats(from[at])} to ${nats(to[at])} nats: log-ratio ${nats(to[at] - from[at])}`,
  };
}

// How likely an answer is to one model.
function logProbability(scored) {
  const values = scored.logprobs || [];
  return {
    kind: "rare", values, total: `log\u00a0p\u00a0${number(scored.sum, 2)}\u00a0nats`, tell: (at) => `log-probability ${nats(values[at])} nats`,
  };
}

const totalOf = (known) => (known ? h("small", {}, ` ${known.total}`) : null);

// The tokens of an answer as elements: shaded by what is known of them, and marked where they are new.
function textOf(game, tokens, { known = null, isNew = null, numbers = false } = {}) {
  const parts = tokens.map((token, at) => {
    const text = game.pieces.texts[token], value = known?.values[at], marked = isNew !== null && isNew[at];
    const special = game.specials.has(token) ? "special" : null;
    if (value === undefined && !marked && !special) return text;
    const kinds = [special, value !== undefined || marked ? "tok" : null, marked ? "new" : null];
    const element = h("span", { class: kinds.filter(Boolean).join(" "), title: value === undefined ? null : known.tell(at) }, text);
    if (value !== undefined) element.style.backgroundColor = tokenShade(known.kind, value);
    else if (marked) element.style.backgroundColor = shade("new", NEW);
    return numbers && value !== undefined ? h("ruby", {}, element, h("rt", {}, nats(value))) : element;
  });
  return h("p", { class: "text" }, parts.length ? parts : h("span", { class: "muted" }, "(nothing)"));
}

const plainText = (game, tokens) => tokens.map((token) => game.pieces.texts[token]).join("");

// Which tokens of `now` are not in a longest common subsequence with `before`.
function newTokens(before, now) {
  const n = before.length, m = now.length, width = m + 1;
  const best = new Uint16Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      best[i * width + j] = before[i] === now[j] ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
    }
  }
  const isNew = new Array(m).fill(true);
  for (let i = 0, j = 0; i < n && j < m;) {
    if (before[i] === now[j]) { isNew[j] = false; i++; j++; }
    else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
    else j++;
  }
  return isNew;
}

function badges(answer, spelled) {
  return [spelled ? h("span", { class: "badge" }, `${answer.tokens.length} tokens`) : null,
    answer.finish === "length" ? h("span", { class: "badge bad" }, "cut") : null,
    answer.exact ? h("span", { class: "badge good" }, "a reference") : null];
}

function swatch(text, colour) {
  const element = h("span", { class: "swatch" }, text);
  element.style.backgroundColor = colour;
  return element;
}

function newSwatch() {
  const element = swatch("Marked", shade("new", NEW));
  element.classList.add("new");
  return element;
}

// What can be chosen where answers are scored, and what the choices mean; the rest of the sentences says between which models.
const SHADES = [["ratio", "log-ratio, where it is known"], ["rare", "log-probability"], ["none", "nothing"]];
const NUMBERS = { key: "numbers", label: "numbers over tokens", check: true };

function shadeLegend(wanted, ratios, rest) {
  const scale = (kind, values, text) => values.map((value) => swatch(text(value / 100), tokenShade(kind, value)));
  return [
    wanted === "ratio" ? h("span", {}, scale("ratio", [300, 100, 30, 10, -10, -30, -100, -300], (value) => signed(value, Math.abs(value) < 1 ? 1 : 0)),
      ` log-ratio in nats: how much likelier or less likely a token became ${ratios}. Each answer says which.`) : null,
    wanted !== "none" ? h("span", {}, scale("rare", [-700, -300, -100, 0], (value) => number(value, 0)),
      ` log-probability in nats ${wanted === "ratio" ? rest.where : rest.always}: the darker, the less expected.`) : null];
}

// By a number of theirs, those without one last.
const numeric = (value, way) => (a, b) => {
  const [one, other] = [value(a), value(b)];
  return (one === null) - (other === null) || way * ((one ?? 0) - (other ?? 0));
};
