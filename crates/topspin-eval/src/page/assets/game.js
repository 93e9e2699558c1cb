// The answers one by one: searched, filtered, sorted, and gone through by page.

const PAGE = 10;

function browser(view, panel) {
  const options = {};
  for (const choice of view.choices) options[choice.key] = choice.check ? choice.on === true : choice.chosen ?? choice.values[0]?.[0];
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
    hay[at] ??= view.haystack(item, options).toLowerCase();
    return hay[at];
  }

  function choose() {
    shown = view.all.filter((item) => view.passes(filter, item, options) && words.every((word) => hayOf(item).includes(word)));
    const order = view.order(sort, options);
    if (order) shown.sort(order);
    go(0);
  }

  function card(item, at) {
    const [prompt, facts] = view.head(item, options);
    return h("article", { class: options.numbers ? "card numbers" : "card", tabindex: -1, "aria-label": `Prompt ${at + 1} of ${shown.length}` },
      h("header", {}, prompt), h("small", {}, String(at + 1), facts.filter(Boolean).flatMap((fact) => [" · ", fact])), h("div", { class: "sides" }, view.sides(item, options)));
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
    ? h("label", { class: "check" }, h("input", { type: "checkbox", checked: options[choice.key], onchange: (event) => { options[choice.key] = event.target.checked; render(); } }), choice.label)
    : select(choice.label, choice.values, options[choice.key], (value) => { options[choice.key] = value; hay.fill(null); choose(); }));
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
