// The answers one by one: test prompts with what each stage says, training prompts with what each opponent said.

const PAGE = 10;

// Shades: an opacity that grows with the size of a number.
const shade = (colour, share) => `rgb(var(--${colour}) / ${(Math.min(1, share) * 0.62).toFixed(3)})`;
const RATIO_FULL = 300, RARE_FULL = 700;

function tokenShade(kind, value) {
  if (kind === "ratio") return shade(value > 0 ? "up" : "down", Math.abs(value) / RATIO_FULL);
  return shade("rare", -value / RARE_FULL);
}

const nats = (hundredths) => signed(hundredths / 100, 2);

// The tokens of an answer as elements. `marks` has for each token { kind, value, words }, or null.
function textOf(game, answer, marks, numbers) {
  const special = game.specials;
  const parts = [];
  answer.tokens.forEach((token, at) => {
    const text = game.pieces.texts[token], mark = marks && marks[at];
    if (special.has(token)) {
      parts.push(h("span", { class: "special", title: mark ? mark.words : null }, text));
      return;
    }
    if (!mark) {
      parts.push(text);
      return;
    }
    const element = h("span", { class: mark.kind === "new" ? "tok new" : "tok", title: mark.words }, text);
    if (mark.kind === "new") element.style.backgroundColor = shade("new", 0.4);
    else element.style.backgroundColor = tokenShade(mark.kind, mark.value);
    parts.push(numbers && mark.kind !== "new" ? h("ruby", {}, element, h("rt", {}, nats(mark.value))) : element);
  });
  return h("p", { class: "text" }, parts.length ? parts : h("span", { class: "muted" }, "(nothing)"));
}

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

const plainText = (game, tokens) => tokens.map((token) => game.pieces.texts[token]).join("");

// ---- Test prompts

function testView(runs, games) {
  const many = games.length > 1;
  const places = new Map();
  const all = [];
  games.forEach((game, run) => game.tests.prompts.forEach((prompt) => {
    const key = `${prompt.nth} ${prompt.id}`;
    let item = places.get(key);
    if (!item) {
      item = { prompt, answers: [], change: prompt.change };
      places.set(key, item);
      all.push(item);
    }
    item.answers.push(...prompt.answers.map((answer) => ({ ...answer, run })));
    if (prompt.change !== null) item.change = Math.max(item.change ?? 0, prompt.change);
  }));
  const kinds = ["greedy", "sampled"].filter((kind) => all.some((item) => item.answers.some((answer) => answer.kind === kind)));
  const judged = all.some((item) => item.answers.some((answer) => answer.exact !== null));
  const right = (item, kind) => {
    const of = item.answers.filter((answer) => answer.kind === kind);
    return of.length > 0 && of[of.length - 1].exact === true;
  };
  const lastLength = (item, kind) => item.answers.filter((answer) => answer.kind === kind).pop()?.tokens.length ?? 0;
  return {
    name: "Test prompts", all,
    sorts: [["run", "the run's order"], ["change", "change, largest first"], ["unchanged", "change, smallest first"], ["length", "longest last answer first"]],
    order: (sort, options) => ({
      change: (a, b) => (b.change ?? -1) - (a.change ?? -1), unchanged: (a, b) => (a.change ?? 2) - (b.change ?? 2),
      length: (a, b) => lastLength(b, options.kind) - lastLength(a, options.kind),
    })[sort],
    filters: [["all", "all prompts"], ["changed", "last answer differs from the first"], ["cut", "an answer is cut"],
      ...(judged ? [["right", "last answer is a reference"], ["wrong", "last answer is none"]] : [])],
    passes: (filter, item, options) => ({
      all: true, changed: (item.change ?? 0) > 0, right: right(item, options.kind), wrong: !right(item, options.kind),
      cut: item.answers.some((answer) => answer.kind === options.kind && answer.finish === "length"),
    })[filter],
    choices: [{ key: "kind", label: "Answers", values: kinds.map((kind) => [kind, kind === "greedy" ? "greedy" : "sampled at temperature 1"]) },
      { key: "marks", label: "Marked", values: [["new", "what is new in a stage"], ["none", "nothing"]] }],
    haystack: (item) => [item.prompt.id, item.prompt.prompt, ...item.prompt.references,
      ...item.answers.map((answer) => plainText(games[answer.run], answer.tokens))].join("\n"),
    legend: (options) => [options.marks === "new"
      ? h("span", {}, marked("new", 0.4, "Marked"), " tokens are not in the answer of the stage before (by their longest common subsequence). ",
        "An evaluation keeps no log-probabilities of its answers, so nothing else is shaded here; the training prompts have them.")
      : "Nothing is marked."],
    head: (item) => [h("p", { class: "prompt" }, item.prompt.prompt), [item.prompt.id, item.change === null ? null : `change ${number(item.change, 2)}`]],
    sides: (item, options) => {
      const sides = [];
      if (item.prompt.references.length) {
        sides.push(h("div", { class: "side real" }, h("h4", {}, item.prompt.references.length > 1 ? "Real answers" : "Real answer"),
          item.prompt.references.map((text) => h("p", { class: "text" }, text))));
      }
      let before = null;
      for (const answer of item.answers.filter((answer) => answer.kind === options.kind)) {
        const game = games[answer.run];
        const texts = answer.tokens.map((token) => game.pieces.texts[token]);
        const isNew = options.marks === "new" && before && before.run === answer.run && game.spelled && newTokens(before.texts, texts);
        const marks = isNew && texts.map((_, at) => (isNew[at] ? { kind: "new", words: null } : null));
        sides.push(h("div", { class: "side" }, h("h4", {}, many ? letter(answer.run) : null, answer.folder, h("small", {}, ` ${told(answer.folder)}`),
          badges(answer, game.spelled)), textOf(game, answer, marks || null, false)));
        before = { run: answer.run, texts };
      }
      return sides;
    },
  };
}

function badges(answer, spelled) {
  return [spelled ? h("span", { class: "badge" }, `${answer.tokens.length} tokens`) : null,
    answer.finish === "length" ? h("span", { class: "badge bad" }, "cut") : null,
    answer.exact ? h("span", { class: "badge good" }, "a reference") : null];
}

function marked(colour, share, text) {
  const swatch = h("span", { class: "swatch" }, text);
  swatch.style.backgroundColor = shade(colour, share);
  return swatch;
}

// ---- Training prompts

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

// What is known of an answer in a round: the log-ratio of that round's opponent to the one that scored it before, or to the
// base model, or else the log-probability alone.
function knownOf(training, answer, round, wanted) {
  const at = answer.scores.findIndex((score) => score.round === round);
  if (at < 0 || wanted === "none") return null;
  const now = answer.scores[at], opponent = `${training.rounds[round]}'s opponent`;
  const ratio = (base, whose) => ({
    kind: "ratio", values: now.logprobs.map((value, i) => value - base[i]), words: `log-ratio of ${opponent} to ${whose}`,
    tell: (i) => `${nats(base[i])} to ${nats(now.logprobs[i])} nats: log-ratio ${nats(now.logprobs[i] - base[i])}`,
  });
  if (wanted === "ratio" && at > 0) {
    const before = answer.scores[at - 1];
    return ratio(before.logprobs, `${training.rounds[before.round]}'s`);
  }
  if (wanted === "ratio" && answer.base && answer.base.length === now.logprobs.length) return ratio(answer.base, "the base model");
  return { kind: "rare", values: now.logprobs, words: `log-probability under ${opponent}`, tell: (i) => `log-probability ${nats(now.logprobs[i])} nats` };
}

function trainingView(game, page, name) {
  const { training } = game;
  const isKept = training.prompts.some((prompt) => prompt.rounds.some((played) => played.generated.some(([index]) => index === played.real)));
  const dropped = isKept ? [] : page.pairs.filter((pairs) => pairs.figures.identical > 0);
  const own = (prompt) => plainText(game, prompt.prompt);
  const has = (key) => training.prompts.some((prompt) => prompt[key] !== null);
  const numeric = (key, way) => (a, b) => (a[key] === null) - (b[key] === null) || way * ((a[key] ?? 0) - (b[key] ?? 0));
  const sorts = [["run", "the run's order"]];
  if (has("margin")) sorts.push(["margin", "margin, smallest first"], ["margin-down", "margin, largest first"]);
  if (has("change")) sorts.push(["change", "change of the real answer, falling first"], ["change-down", "change of the real answer, rising first"]);
  if (has("gap")) sorts.push(["gap", "real less generated, smallest first"], ["gap-down", "real less generated, largest first"]);
  const anyRatio = training.prompts.some((prompt) => prompt.answers.some((answer) => answer.scores.length > 1 || (answer.base || []).length));
  const entry = (prompt, index, round, count, options) => {
    const answer = prompt.answers[index];
    const known = knownOf(training, answer, round, options.shade);
    const marks = known && known.values.map((value, at) => ({ kind: known.kind, value, words: known.tell(at) }));
    const total = known ? `${known.kind === "ratio" ? `Δ ${signed(sum(known.values) / 100, 2)}` : `log p ${number(sum(known.values) / 100, 2)}`} nats` : null;
    return [h("p", { class: "facts-of" }, count > 1 ? h("span", { class: "badge" }, `× ${count}`) : null, badges(answer, game.spelled),
      total ? h("small", {}, ` ${total}${known.kind === "ratio" ? `: ${known.words}` : ""}`) : null), textOf(game, answer, marks, options.numbers)];
  };
  const side = (isReal, title, note, entries) => h("div", { class: isReal ? "side real" : "side" }, h("h4", {}, title, note ? h("small", {}, ` ${note}`) : null), entries);
  return {
    name, all: training.prompts, sorts,
    order: (sort) => ({
      margin: numeric("margin", 1), "margin-down": numeric("margin", -1), change: numeric("change", 1), "change-down": numeric("change", -1),
      gap: numeric("gap", 1), "gap-down": numeric("gap", -1),
    })[sort],
    filters: [["all", "all prompts"], ["several", "in several iterations"], ["cut", "an answer is cut"], ["fell", "real answer grew less likely"]]
      .filter(([filter]) => filter !== "fell" || has("change")),
    passes: (filter, prompt) => ({
      all: true, several: prompt.rounds.length > 1, cut: prompt.answers.some((answer) => answer.finish === "length"), fell: prompt.change !== null && prompt.change < 0,
    })[filter],
    choices: [
      { key: "shade", label: "Shade", values: [...(anyRatio ? [["ratio", "log-ratio, where it is known"]] : []), ["rare", "log-probability"], ["none", "nothing"]] },
      { key: "numbers", label: "numbers over tokens", check: true }],
    haystack: (prompt) => [prompt.id, own(prompt), ...prompt.answers.map((answer) => plainText(game, answer.tokens))].join("\n"),
    legend: (options) => [
      options.shade === "ratio" ? h("span", {}, marked("up", 1, "+3 nats"), marked("up", 0.33, "+1"), marked("down", 0.33, "−1"), marked("down", 1, "−3"),
        " log-ratio: how much likelier or less likely a token became from one opponent that scored the answer to the next (or from the base model, ",
        "where the loss needs it). Each answer says which.") : null,
      options.shade !== "none" ? h("span", {}, marked("rare", 1, "−7 nats or less"), marked("rare", 0.33, "−2.3"), marked("rare", 0, "0"),
        options.shade === "ratio" ? " log-probability under its opponent, where only one opponent has scored the answer: the darker, the less expected."
          : " log-probability of a token under the opponent of the iteration: the darker, the less expected.") : null,
      h("span", {}, "An iteration's opponent is who answered before it was trained: the model as it stood then, unless game.opponent says otherwise. ",
        training.prompts.some((prompt) => prompt.gap !== null) ? "“Real less generated” is the opponent's log-probability of the real answer less the mean of its own. " : "",
        has("margin") ? "The margin (without beta) is the change of the real answer's log-probability less that of the generated ones, between two opponents." : "")],
    notes: () => [
      dropped.length ? h("p", { class: "legend" }, "Generated answers that are the real one to the token are not trained on, and not shown: ",
        dropped.map(({ folder, figures }) => `${figures.identical} of ${figures.identical + figures.pairs} in ${folder}`).join(", "), ".") : null,
      training.prefix || training.suffix ? h("details", {}, h("summary", {}, "What all these prompts share"),
        h("p", { class: "text" }, training.prefix, h("em", {}, " … "), training.suffix)) : null].filter(Boolean),
    head: (prompt) => [h("p", { class: "prompt" }, own(prompt)),
      [prompt.id, prompt.gap === null ? null : `real less generated ${signed(prompt.gap, 2)} nats`,
        prompt.change === null ? null : `real ${signed(prompt.change, 2)} nats since the opponent before`,
        prompt.margin === null ? null : `margin ${signed(prompt.margin, 2)}`]],
    sides: (prompt, options) => {
      // A prompt may be drawn several times in a round, and have several real answers.
      const reals = [...new Map(prompt.rounds.map((played) => [played.real, played.round]))];
      const rounds = [...new Set(prompt.rounds.map((played) => played.round))];
      return [
        side(true, reals.length > 1 ? "Real answers" : "Real answer", `scored by ${training.rounds[reals[reals.length - 1][1]]}'s opponent`,
          reals.flatMap(([real, round]) => entry(prompt, real, round, 1, options))),
        ...rounds.map((round) => side(false, `${training.rounds[round]}'s opponent`, null,
          prompt.rounds.filter((played) => played.round === round).flatMap((played) => [
            ...played.generated.flatMap(([index, count]) => entry(prompt, index, round, count, options)),
            played.omitted ? h("p", { class: "muted" }, h("small", {}, `and ${played.omitted} other answers`)) : null]))),
      ];
    },
  };
}

// ---- The browser of either

function browser(view, panel) {
  const options = {};
  for (const choice of view.choices) options[choice.key] = choice.check ? false : choice.values[0]?.[0];
  let sort = "run", filter = "all", words = [], page = 0, shown = view.all, current = -1;
  const hay = new Array(view.all.length).fill(null);
  const place = new Map(view.all.map((item, at) => [item, at]));
  const search = h("input", { type: "search", placeholder: "words in prompts and answers", autocomplete: "off", spellcheck: "false" });
  const list = h("div", { class: "cards" });
  const count = h("span", { role: "status" });
  const legend = h("p", { class: "legend" });
  const buttons = [["First", () => 0], ["Previous", () => page - 1], ["Next", () => page + 1], ["Last", () => pages() - 1]]
    .map(([text, to]) => h("button", { type: "button", onclick: () => go(to()) }, text));
  const pages = () => Math.max(1, Math.ceil(shown.length / PAGE));

  function hayOf(item) {
    const at = place.get(item);
    hay[at] ??= view.haystack(item).toLowerCase();
    return hay[at];
  }

  function choose() {
    shown = view.all.filter((item) => view.passes(filter, item, options) && words.every((word) => hayOf(item).includes(word)));
    const order = view.order(sort, options);
    if (order) shown.sort(order);
    go(0);
  }

  function card(item, at) {
    const [prompt, facts] = view.head(item);
    return h("article", { class: options.numbers ? "card numbers" : "card", tabindex: -1, "aria-label": `Prompt ${at + 1} of ${shown.length}` },
      h("header", {}, prompt), h("small", {}, `${at + 1} · `, facts.filter(Boolean).join(" · ")), h("div", { class: "sides" }, view.sides(item, options)));
  }

  function go(to) {
    page = Math.max(0, Math.min(pages() - 1, to));
    current = -1;
    render();
  }

  function render() {
    const start = page * PAGE, some = shown.slice(start, start + PAGE);
    list.replaceChildren(...some.map((item, at) => card(item, start + at)));
    if (some.length === 0) list.append(h("p", {}, "No prompt fits; change the search or the filter."));
    count.textContent = some.length ? `${start + 1}–${start + some.length} of ${shown.length}` : "0";
    buttons.forEach((button, at) => { button.disabled = at < 2 ? page === 0 : page >= pages() - 1; });
    legend.replaceChildren(...view.legend(options).filter(Boolean));
  }

  function step(by) {
    const cards = list.querySelectorAll(".card");
    if (current + by >= cards.length && page < pages() - 1) { go(page + 1); step(1); return; }
    if (current + by < 0 && page > 0) { go(page - 1); current = list.querySelectorAll(".card").length; step(-1); return; }
    current = Math.max(0, Math.min(cards.length - 1, current + by));
    const chosen = list.querySelectorAll(".card")[current];
    if (!chosen) return;
    chosen.focus({ preventScroll: true });
    chosen.scrollIntoView({ block: "start" });
  }

  list.addEventListener("focusin", (event) => {
    const at = [...list.querySelectorAll(".card")].indexOf(event.target.closest(".card"));
    if (at >= 0) current = at;
  });
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      choose();
    }, 120);
  });
  const choices = view.choices.filter((choice) => choice.check || choice.values.length > 1).map((choice) => choice.check
    ? h("label", { class: "check" }, h("input", { type: "checkbox", onchange: (event) => { options[choice.key] = event.target.checked; render(); } }), choice.label)
    : select(choice.label, choice.values, options[choice.key], (value) => { options[choice.key] = value; choose(); }));
  panel.append(h("div", { class: "bar" }, h("label", {}, "Search", search),
    select("Sort by", view.sorts, sort, (value) => { sort = value; choose(); }),
    select("Show", view.filters, filter, (value) => { filter = value; choose(); }), choices), legend, ...(view.notes?.() ?? []),
  h("div", { class: "pager" }, buttons, count), list);
  render();
  return { search, step, turn: (by) => go(page + by) };
}

function showGame(runs, games) {
  const section = by("game");
  const views = [];
  if (games.some((game) => game.tests.prompts.length)) views.push(testView(runs, games));
  games.forEach((game, run) => {
    if (game.training.prompts.length) views.push(trainingView(game, runs.pages[run], games.length > 1 ? `Training prompts of ${LETTERS[run]}` : "Training prompts"));
  });
  if (views.length === 0) {
    section.append(h("p", {}, "Nothing is answered yet."));
    return;
  }
  const browsers = views.map(() => null);
  let open = 0;
  const tabs = views.map((view, at) => h("button", {
    type: "button", role: "tab", id: `tab-${at}`, "aria-controls": `panel-${at}`, onclick: () => choose(at),
  }, `${view.name} (${view.all.length})`));
  const panels = views.map((_, at) => h("div", { role: "tabpanel", id: `panel-${at}`, "aria-labelledby": `tab-${at}` }));

  function choose(at) {
    open = at;
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === at));
      tab.tabIndex = i === at ? 0 : -1;
      panels[i].hidden = i !== at;
    });
    browsers[at] ??= browser(views[at], panels[at]);
  }

  const bar = h("div", { role: "tablist", "aria-label": "Kinds of prompts", onkeydown: (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.stopPropagation();
    choose((open + by + tabs.length) % tabs.length);
    tabs[open].focus();
  } }, tabs);
  section.append(h("p", { class: "muted keys" }, "Keys: ", h("kbd", {}, "/"), " search, ", h("kbd", {}, "j"), " and ", h("kbd", {}, "k"),
    " next and previous prompt, ", h("kbd", {}, "←"), " and ", h("kbd", {}, "→"), " page."), bar, ...panels);
  choose(0);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target;
    if (at.matches("input, select, textarea")) {
      if (event.key === "Escape") at.blur();
      return;
    }
    const act = {
      "/": () => { browsers[open].search.focus(); browsers[open].search.scrollIntoView({ block: "center" }); },
      j: () => browsers[open].step(1), k: () => browsers[open].step(-1),
      ArrowRight: () => browsers[open].turn(1), ArrowLeft: () => browsers[open].turn(-1),
    }[event.key];
    // A wide table scrolls by the arrow keys.
    if (!act || (event.key.startsWith("Arrow") && at.closest(".scroll"))) return;
    event.preventDefault();
    act();
  });
}
