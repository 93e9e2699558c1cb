// Test prompts: the real answer beside what each stage answers.

const KINDS = { sampled: "sampled at temperature 1", greedy: "greedy" };

// The prompts of all runs, one item for those of the same id.
function testItems(games) {
  const items = new Map();
  games.forEach((game, run) => game.tests.prompts.forEach((prompt) => {
    const key = `${prompt.nth} ${prompt.id}`;
    if (!items.has(key)) items.set(key, { prompt, answers: [], reals: [], margins: [], change: prompt.change });
    const item = items.get(key);
    item.answers.push(...prompt.answers.map((answer) => ({ ...answer, run })));
    if (prompt.real) item.reals.push({ ...prompt.real, run });
    item.margins.push(...prompt.margins.map(([place, margin]) => ({ run, folder: game.tests.stages[place].folder, margin })));
    if (prompt.change !== null) item.change = Math.max(item.change ?? 0, prompt.change);
  }));
  return [...items.values()];
}

// Stages whose models have scored answers, as choices; of two runs together.
function scoringStages(games) {
  const stages = new Map();
  for (const { tests } of games) {
    for (const { folder, before } of tests.stages) {
      if (!stages.has(folder)) stages.set(folder, before === null ? folder : `${folder}, since ${tests.stages[before].folder}`);
    }
  }
  return [...stages];
}

const isIteration = (folder) => folder.startsWith("iter-");

const givenBy = (scores, place) => scores.find((scored) => scored.by === place);

// What is known of a real answer by a stage: its log-ratio to the stage that it is set against.
function knownOfReal({ tests }, real, folder, wanted) {
  const place = tests.stages.findIndex((stage) => stage.folder === folder);
  const now = givenBy(real.scores, place);
  if (!now || wanted === "none") return null;
  const { before } = tests.stages[place], then = givenBy(real.scores, before);
  return wanted === "ratio" && then ? logRatio(then, now, `${folder} to ${tests.stages[before].folder}`) : logProbability(now);
}

// What is known of a stage's sample: the log-ratio to it of the next stage, of several the chosen one or else an iteration.
function knownOfSample({ tests }, answer, folder, wanted) {
  const place = tests.stages.findIndex((stage) => stage.folder === answer.folder);
  const own = givenBy(answer.scores ?? [], place);
  if (!own || wanted === "none") return null;
  const next = tests.stages.map((stage, at) => ({ ...stage, at })).filter((stage) => stage.before === place && givenBy(answer.scores, stage.at));
  const after = next.find((stage) => stage.folder === folder) ?? next.find((stage) => isIteration(stage.folder)) ?? next[0];
  return wanted === "ratio" && after ? logRatio(own, givenBy(answer.scores, after.at), `${after.folder} to ${answer.folder}`) : logProbability(own);
}

function testView(runs, games) {
  const many = games.length > 1;
  const all = testItems(games);
  const stages = scoringStages(games), isScored = stages.length > 0;
  const unscored = games.flatMap((game, run) => (game.tests.stages.length ? [] : [run]));
  const kinds = Object.keys(KINDS).filter((kind) => all.some((item) => item.answers.some((answer) => answer.kind === kind)));
  // Samples are what is scored.
  if (!isScored) kinds.reverse();
  const hasMargins = all.some((item) => item.margins.length);
  const judged = all.some((item) => item.answers.some((answer) => answer.exact !== null));
  const right = (item, kind) => {
    const of = item.answers.filter((answer) => answer.kind === kind);
    return of.length > 0 && of[of.length - 1].exact === true;
  };
  const lastLength = (item, kind) => item.answers.filter((answer) => answer.kind === kind).pop()?.tokens.length ?? 0;
  const marginOf = (item, folder) => item.margins.find((known) => known.folder === folder)?.margin ?? null;

  function marginsOf(item, folder) {
    const told = ({ run, folder: of, margin }, at) => [at ? ", " : null, many && item.margins[at - 1]?.run !== run ? letter(run) : null,
      h(of === folder ? "strong" : "span", { class: margin < 0 ? "worse" : null }, `${of} ${signed(margin, 2)}`)].flat();
    return item.margins.length ? h("span", {}, "margin in nats: ", item.margins.flatMap(told)) : null;
  }

  // Of the two answers whose log-ratios are the margin of the chosen stage.
  const inMargin = (run, item, { stage }) => (item.margins.some((known) => known.run === run && known.folder === stage)
    ? h("span", { class: "badge" }, `in ${stage}'s margin`) : null);

  function realSide(item, options) {
    const { references } = item.prompt;
    if (!references.length && !item.reals.length) return null;
    const scored = item.reals.map((real) => {
      const known = knownOfReal(games[real.run], real, options.stage, options.shade);
      return [h("p", { class: "facts-of" }, many ? letter(real.run) : null, badges(real, games[real.run].spelled), inMargin(real.run, item, options), totalOf(known)), textOf(games[real.run], real.tokens, { known, numbers: options.numbers })];
    });
    const others = references.slice(item.reals.length ? 1 : 0).map((text) => h("p", { class: "text" }, text));
    return h("div", { class: "side real" }, h("h4", {}, references.length > 1 ? "Real answers" : "Real answer",
      item.reals.length && references.length > 1 ? h("small", {}, " only the first is scored") : null), scored.flat(), others);
  }

  function answerSide(item, answer, before, options) {
    const game = games[answer.run];
    const known = knownOfSample(game, answer, options.stage, options.shade);
    const texts = (tokens) => tokens.map((token) => game.pieces.texts[token]);
    const isNew = options.marks && before && game.spelled ? newTokens(texts(before.tokens), texts(answer.tokens)) : null;
    const { stages } = game.tests, chosen = stages.find((stage) => stage.folder === options.stage);
    const isOpponent = answer.kind === "sampled" && stages[chosen?.before]?.folder === answer.folder;
    return h("div", { class: "side" },
      h("h4", {}, many ? letter(answer.run) : null, answer.folder, h("small", {}, ` ${told(answer.folder)}`)),
      h("p", { class: "facts-of" }, badges(answer, game.spelled), isOpponent ? inMargin(answer.run, item, options) : null, totalOf(known)),
      textOf(game, answer.tokens, { known, isNew, numbers: options.numbers }));
  }

  function explained(options) {
    const parts = isScored ? shadeLegend(options.shade, "from one stage's model to the next one's", {
      where: "under its own stage's model, where no later stage has scored the answer", always: "of a token under its own stage's model" }) : [];
    if (options.marks) {
      parts.push(h("span", {}, newSwatch(), " tokens are not in the answer of the stage before (by their longest common subsequence)."));
    }
    if (hasMargins) {
      parts.push(h("span", {}, "A stage's sample is shaded by what the next stage made of it, the real answer by what the chosen stage did. ",
        "The margin of a stage (without beta) is the log-ratio of the real answer less that of the sample of the stage before: the score that self-play trains, ",
        "here on prompts that it is not trained on. Below 0 the two are told apart wrongly."));
    }
    if (isScored && options.kind === "greedy") parts.push("Greedy answers are not scored.");
    if (unscored.length) {
      parts.push(h("span", {}, "There are no log-probabilities of answers ", many ? ["in ", unscored.map((run) => letter(run))].flat(2) : null,
        "(an evaluation keeps them when it ends, and those of earlier versions did not), so these are not shaded."));
    }
    return parts;
  }

  return {
    name: "Test prompts", all,
    sorts: [["run", "the run's order"],
      ...(hasMargins ? [["margin", "margin, smallest first"], ["margin-down", "margin, largest first"]] : []),
      ["change", "change, largest first"], ["unchanged", "change, smallest first"], ["length", "longest last answer first"]],
    order: (sort, options) => ({
      margin: numeric((item) => marginOf(item, options.stage), 1), "margin-down": numeric((item) => marginOf(item, options.stage), -1),
      change: numeric((item) => item.change, -1), unchanged: numeric((item) => item.change, 1),
      length: (a, b) => lastLength(b, options.kind) - lastLength(a, options.kind),
    })[sort],
    filters: [["all", "all prompts"], ...(hasMargins ? [["confused", "told apart wrongly"]] : []),
      ["changed", "last answer differs from the first"], ["cut", "an answer is cut"],
      ...(judged ? [["right", "last answer is a reference"], ["wrong", "last answer is none"]] : [])],
    passes: (filter, item, options) => ({
      all: true, confused: (marginOf(item, options.stage) ?? 0) < 0, changed: (item.change ?? 0) > 0,
      right: right(item, options.kind), wrong: !right(item, options.kind),
      cut: item.answers.some((answer) => answer.kind === options.kind && answer.finish === "length"),
    })[filter],
    choices: [{ key: "kind", label: "Answers", values: kinds.map((kind) => [kind, KINDS[kind]]) },
      ...(isScored ? [{ key: "stage", label: "Stage", values: stages, chosen: [...stages].reverse().find(([folder]) => isIteration(folder))?.[0] },
        { key: "shade", label: "Shade", values: SHADES }, NUMBERS] : []),
      { key: "marks", label: "mark new tokens", check: true, on: !isScored }],
    haystack: (item, options) => [item.prompt.id, item.prompt.prompt, ...item.prompt.references,
      ...item.answers.filter((answer) => answer.kind === options.kind).map((answer) => plainText(games[answer.run], answer.tokens))].join("\n"),
    legend: explained,
    head: (item, options) => [h("p", { class: "prompt" }, item.prompt.prompt),
      [item.prompt.id, item.change === null ? null : `change ${number(item.change, 2)}`, marginsOf(item, options.stage)]],
    sides: (item, options) => {
      const answers = item.answers.filter((answer) => answer.kind === options.kind);
      const before = (at) => (at > 0 && answers[at - 1].run === answers[at].run ? answers[at - 1] : null);
      return [realSide(item, options), ...answers.map((answer, at) => answerSide(item, answer, before(at), options))];
    },
  };
}
