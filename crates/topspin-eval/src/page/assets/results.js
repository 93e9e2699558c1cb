// The table of results.

const USUAL = ["nll.per_token", "greedy.exact_match", "sampled.exact_match", "greedy.tokens.mean", "sampled.tokens.mean"];

// The figure that names the best, the same of the other kind of answers, and the usual ones where they tell rows apart.
function columnsOf(results) {
  const metric = results.metric || "nll.per_token";
  const [kind, ...rest] = metric.split(".");
  const twin = { greedy: "sampled", sampled: "greedy" }[kind];
  const names = [metric, twin && [twin, ...rest].join("."), ...USUAL];
  const tells = (name) => new Set(results.rows.map((row) => row.figures[name]?.value)).size > 1;
  return [...new Set(names)].filter((name) => name && (name === metric || tells(name))
    && results.rows.some((row) => row.figures[name]));
}

// 1 where more of a figure is better, -1 where less is, 0 where neither is known.
function wish(results, name) {
  const bare = (name) => name.replace(/^(greedy|sampled)\./, "");
  if (results.metric && bare(name) === bare(results.metric)) return results.highest ? 1 : -1;
  return { true: 1, false: -1 }[results.higher_is_better[name]] ?? 0;
}

function differenceCell(results, name, difference) {
  const { value, low, high, paired } = difference;
  const sure = low !== null && high !== null && (low > 0 || high < 0);
  const way = wish(results, name) * Math.sign(value);
  const isSame = value === 0 && low === 0 && high === 0;
  const [mark, kind, words] = isSame ? ["=", "", "the same"] : !sure ? ["≈", "", "may be chance"] : way > 0 ? ["▲", "better", "better"]
    : way < 0 ? ["▼", "worse", "worse"] : ["≠", "differs", "differs"];
  return h("small", { class: kind, title: paired ? "prompt by prompt" : "from the two intervals" },
    `${mark} `, h("span", { class: "hidden" }, `${words}: `), `${signed(value)} ${low === null ? "" : `[${signed(low)}, ${signed(high)}]`}`,
    paired ? "" : h("span", { class: "hidden" }, " unpaired"), paired ? "" : "*");
}

// The difference of a row to another one, turned round where that one comes later.
function between(results, name, from, to) {
  const find = (a, b) => results.differences.find((all) => all.from === a && all.to === b)?.figures[name];
  if (from < to) return find(from, to);
  const other = find(to, from);
  return other && { value: -other.value, low: other.high === null ? null : -other.high, high: other.low === null ? null : -other.low, paired: other.paired };
}

function forest(results, row, span) {
  const figure = row.figures[results.metric];
  if (!figure) return null;
  const x = (value) => 6 + Math.max(0, Math.min(1, (value - span[0]) / (span[1] - span[0] || 1))) * 132;
  const isOutside = figure.value < span[0] || figure.value > span[1];
  if (isOutside) {
    return svg("svg", { class: "forest", viewBox: "0 0 144 22", "aria-hidden": "true" },
      svg("text", { x: x(figure.value), y: 15, "text-anchor": "middle" }, figure.value < span[0] ? "‹" : "›"));
  }
  return svg("svg", { class: "forest", viewBox: "0 0 144 22", "aria-hidden": "true" },
    figure.low === null ? null : svg("line", { x1: x(figure.low), x2: x(figure.high), y1: 11, y2: 11 }),
    svg("circle", { cx: x(figure.value), cy: 11, r: 4.5 }));
}

function resultsTable(page, run, runs) {
  const { results } = page;
  const columns = columnsOf(results);
  // The model as it came is often far off, and would press all others together.
  const metricValues = results.rows.filter((row) => row.folder !== "base" || results.rows.length === 1).flatMap((row) => {
    const figure = row.figures[results.metric];
    return figure ? [figure.value, figure.low ?? figure.value, figure.high ?? figure.value] : [];
  });
  const span = [Math.min(...metricValues), Math.max(...metricValues)];
  const holder = h("div", { class: "scroll", role: "region", "aria-label": `Results of ${page.name}`, tabindex: 0 });
  const start = results.rows.findIndex((row) => row.folder === "iter-0");
  let reference = run > 0 && runs.between.length > 0 ? "other" : String(start >= 0 ? start : 0);

  function differenceOf(name, at) {
    if (reference === "other") return runs.between.find((all) => all.to === at)?.figures[name];
    return Number(reference) === at ? null : between(results, name, Number(reference), at);
  }

  function fill() {
    const head = ["stage", ...columns];
    const body = results.rows.map((row, at) => {
      const cells = columns.map((name) => {
        const figure = row.figures[name];
        if (!figure) return h("td", {}, "–");
        const difference = differenceOf(name, at);
        return h("td", {}, h("strong", {}, number(figure.value)), " ", h("span", { class: "muted" }, interval(figure.low, figure.high)),
          difference ? differenceCell(results, name, difference) : null);
      });
      const name = h("th", { scope: "row" }, row.folder, at === results.best ? h("span", { class: "badge good" }, "best") : null,
        h("small", {}, told(row.folder)));
      const picture = forest(results, row, span);
      return h("tr", { class: at === results.best ? "best" : null }, name, cells.slice(0, 1), picture ? h("td", {}, picture) : null, cells.slice(1));
    });
    const titles = head.map((text) => h("th", { scope: "col" }, text));
    if (metricValues.length) titles.splice(2, 0, h("th", { scope: "col" }, `${number(span[0])} – ${number(span[1])}`));
    holder.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, titles)), h("tbody", {}, body)));
  }
  fill();
  const options = results.rows.map((row, at) => [String(at), row.folder]);
  if (run > 0 && runs.between.length > 0) options.unshift(["other", "the same stage of A"]);
  const goal = results.metric ? `The best is the iteration with the ${results.highest ? "highest" : "lowest"} ${results.metric}. ` : "";
  return h("div", {},
    h("div", { class: "bar" }, select("Differences to", options, reference, (value) => { reference = value; fill(); })),
    holder,
    h("p", { class: "muted" }, h("small", {}, `${goal}Figures stand with 95% intervals over prompts. Differences: `,
      h("span", { class: "better" }, "▲ better"), ", ", h("span", { class: "worse" }, "▼ worse"),
      ", ≠ differs, ≈ may be chance (the interval holds 0), = the same. They are taken prompt by prompt (paired), where the answers' own values ",
      "are in the run; those with * are taken from the two intervals, and wider than need be.")),
    allFigures(results));
}

function allFigures(results) {
  const names = [...new Set(results.rows.flatMap((row) => Object.keys(row.figures)))].sort();
  const cell = (row, name) => {
    const figure = row.figures[name];
    return h("td", {}, figure ? [number(figure.value), h("small", { class: "muted" }, interval(figure.low, figure.high))] : "–");
  };
  return h("details", {}, h("summary", {}, `All ${names.length} figures`),
    h("div", { class: "scroll", role: "region", "aria-label": "All figures", tabindex: 0 },
      h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "figure"), results.rows.map((row) => h("th", { scope: "col" }, row.folder)))),
        h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, name), results.rows.map((row) => cell(row, name))))))));
}

function guardList(page) {
  if (page.guards.length === 0) return null;
  return h("div", { class: "note bad" }, h("h3", {}, `Guards that fired in ${page.name}`),
    h("ul", {}, page.guards.map((guard) =>
      h("li", {}, h("strong", {}, guard.stage + (guard.step === null ? "" : `, step ${guard.step}`)), `: ${guard.sentence}`))));
}

function showResults(runs) {
  const section = by("results");
  runs.pages.forEach((page, run) => {
    if (runs.pages.length > 1) section.append(h("h3", { class: "run-name" }, letter(run), page.name));
    const guards = guardList(page);
    if (guards) section.append(guards);
    section.append(page.results.rows.length ? resultsTable(page, run, runs)
      : h("p", {}, "No stage is evaluated yet."));
  });
}

// Sentences of an answer that are seen at once.
const SENTENCES = 3;

function showGlance(runs) {
  const section = by("glance");
  runs.pages.forEach((page, run) => {
    if (runs.pages.length > 1) section.append(h("h3", { class: "run-name" }, letter(run), page.name));
    section.append(h("div", { class: "glance" }, page.glance.map((answer) =>
      h("article", { class: `answer ${answer.tone}` }, h("h3", {}, answer.question), h("p", { class: "short" }, answer.short),
        answer.why.slice(0, SENTENCES).map((sentence) => h("p", {}, sentence)),
        answer.why.length > SENTENCES ? h("details", {}, h("summary", {}, "before that"),
          answer.why.slice(SENTENCES).map((sentence) => h("p", {}, sentence))) : null))));
    section.append(h("dl", { class: "facts" }, page.facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
  });
}
