// Which curves there are.

const GAME = "rewards/margins";

const CHARTS = [
  { title: "Loss of self-play", keys: [["train/loss", "loss"]], of: "game", hint: "Mean over the pairs of a step." },
  { title: "Accuracy", keys: [["rewards/accuracies", "accuracy"]], range: [0, 1],
    hint: "Share of pairs whose real answer has the higher reward. At the first step all rewards are equal, which counts as 0." },
  { title: "Margin and rewards", keys: [[GAME, "margin"], ["rewards/real", "real"], ["rewards/generated", "generated"]],
    colours: [2, 0, 1], hint: "Beta times log-ratios to the opponent. A falling real reward: good answers are pushed away too." },
  { title: "Log-probability of answers", unit: "nats", keys: [["logps/real", "real"], ["logps/generated", "generated"]],
    hint: "Summed over an answer's tokens, mean over the pairs of a step." },
  { title: "Supervised loss", unit: "nats a token", keys: [["train/loss", "loss"]], of: "supervised", hint: "Mean over the tokens of a step." },
  { title: "Gradient norm", keys: [["train/grad_norm", "norm"]], log: true, hint: "Before clipping; logarithmic." },
  { title: "Learning rate", keys: [["train/learning_rate", "rate"]], hint: "" },
  { title: "Throughput", unit: "tokens a second", keys: [["tokens_per_second", "tokens/s"]], range: [0, 0],
    hint: "Rows through the model; a prompt counts once for all of its answers." },
  { title: "MFU", keys: [["mfu", "MFU"]], range: [0, 0], hint: "Useful operations over those that matrix products alone reach on the machine." },
  { title: "Score of samples", keys: [["scores/mean", "mean score"]], hint: "Of a policy step's samples, unweighted." },
  { title: "Effective samples", keys: [["scores/effective_samples", "effective samples"]], hint: "" },
];

// What the clock says besides, and needs no curve.
const SILENT = new Set(["tokens", "seconds"]);

function pointsOf(curve, key) {
  return (curve.series[key] || []).map((value, at) => {
    const first = at * curve.steps_per_point;
    const size = Math.min(curve.steps_per_point, curve.steps - first);
    return [curve.before + first + (size + 1) / 2, value];
  }).filter((point) => point[1] !== null);
}

function stepChart(runs, definition) {
  const lines = [];
  const wanted = (curve) => !definition.of || (definition.of === "game") === (GAME in curve.series || "scores/mean" in curve.series);
  runs.pages.forEach((page, run) => {
    definition.keys.forEach(([key, name], at) => {
      const all = page.curves.filter(wanted).map((curve) => ({ folder: curve.folder, points: pointsOf(curve, key) }))
        .filter((piece) => piece.points.length > 0);
      // A control goes on from the supervised stage beside the iterations, so it has a colour of its own.
      for (const isControl of [false, true]) {
        const pieces = all.filter((piece) => piece.folder.startsWith("control-") === isControl);
        if (pieces.length === 0) continue;
        const many = runs.pages.length > 1;
        const colour = isControl ? 3 : definition.keys.length > 1 ? (definition.colours ? definition.colours[at] : at) : many ? run : 0;
        lines.push({ name: `${many ? `${LETTERS[run]} ` : ""}${isControl ? "control " : ""}${name}`, colour, dash: run > 0, pieces });
      }
    });
  });
  const drawn = new Set(lines.flatMap((line) => line.pieces.map((piece) => piece.folder)));
  const seams = runs.pages[0].curves.filter((curve) => drawn.has(curve.folder) && !curve.folder.startsWith("control-"))
    .map((curve) => [curve.before + 1, curve.folder]);
  return chart({ ...definition, lines, seams });
}

// A chart over stages; `values` gives [value, low, high] of a page's stage for each line.
function stageChart(runs, definition) {
  const folders = [];
  for (const page of runs.pages) {
    for (const { folder } of [...page.results.rows, ...page.pairs]) if (!folders.includes(folder)) folders.push(folder);
  }
  const rank = (folder) => {
    const [stage, n] = folder.split("/")[0].split("-");
    return ({ base: 0, control: 2 }[stage] ?? (n === "0" ? 1 : 3)) * 1000 + Number(n || 0) + (folder.includes("/") ? 0.5 : 0);
  };
  folders.sort((a, b) => rank(a) - rank(b));
  const lines = [];
  runs.pages.forEach((page, run) => definition.lines.forEach(([name, values], colour) => {
    const points = folders.flatMap((folder, at) => {
      const found = values(page, folder);
      return found ? [[at, ...found]] : [];
    });
    if (points.length) {
      const many = runs.pages.length > 1;
      // Controls are beside the line of descent, not on it.
      const isControl = ([at]) => folders[at].startsWith("control-");
      const pieces = [points.filter((point) => !isControl(point)), ...points.filter(isControl).map((point) => [point])];
      lines.push({ name: (many ? `${LETTERS[run]} ` : "") + name, colour, dash: run > 0,
        pieces: pieces.filter((points) => points.length).map((points) => ({ points })) });
    }
  }));
  return chart({ ...definition, lines, categories: folders });
}

const figureOf = (name) => (page, folder) => {
  const figure = page.results.rows.find((row) => row.folder === folder)?.figures[name];
  return figure && [figure.value, figure.low, figure.high];
};

// Runs of earlier versions have no such figure where no answer was cut.
const cutOf = (kind) => (page, folder) =>
  figureOf(`${kind}.finish.length`)(page, folder) || (figureOf(`${kind}.finish.stop`)(page, folder) && [0]);

const sideOf = (side, key) => (page, folder) => {
  const value = page.pairs.find((pairs) => pairs.folder === folder)?.figures[side]?.[key];
  return typeof value === "number" && [value];
};

const STAGE_CHARTS = [
  { title: "Length of answers", unit: "tokens, mean",
    lines: [["real, in training", sideOf("real", "mean_tokens")], ["the opponent's, in training", sideOf("generated", "mean_tokens")],
      ["greedy, in tests", figureOf("greedy.tokens.mean")], ["sampled, in tests", figureOf("sampled.tokens.mean")]],
    hint: "An iteration's opponent is the model as it stood before it." },
  { title: "Answers cut at the limit", unit: "share", range: [0, 0],
    lines: [["real, in training", sideOf("real", "cut")], ["the opponent's, in training", sideOf("generated", "cut")],
      ["greedy, in tests", cutOf("greedy")], ["sampled, in tests", cutOf("sampled")]],
    hint: "All other answers ended with the end-of-turn token." },
  { title: "Told apart, held out", unit: "area under the ROC curve", range: [0, 1],
    lines: [["by log-ratio", figureOf("discrimination.log_ratio.auc")], ["by length alone", figureOf("discrimination.length.auc")]],
    hint: "Real answers of test prompts from those of the model before, by what training increases. 1/2 is chance." },
  { title: "Variety", unit: "distinct pairs of words", range: [0, 0],
    lines: [["greedy", figureOf("greedy.distinct_2")], ["sampled", figureOf("sampled.distinct_2")]],
    hint: "Different pairs of neighbouring words over all pairs, in all answers of a stage together." },
];

function showCurves(runs) {
  const known = new Set(CHARTS.flatMap((definition) => definition.keys.map(([key]) => key)));
  const keys = new Set(runs.pages.flatMap((page) => page.curves.flatMap((curve) => Object.keys(curve.series))));
  const others = [...keys].filter((key) => !known.has(key) && !SILENT.has(key)).map((key) => ({ title: key, keys: [[key, key]], hint: "" }));
  const steps = [...CHARTS.slice(0, 7), ...CHARTS.slice(9), ...others, ...CHARTS.slice(7, 9)];
  const figures = [...steps.slice(0, 5).map((one) => stepChart(runs, one)), ...STAGE_CHARTS.map((one) => stageChart(runs, one)),
    ...steps.slice(5).map((one) => stepChart(runs, one))].filter(Boolean);
  const section = by("curves");
  if (figures.length === 0) {
    section.append(h("p", {}, "Nothing is trained yet."));
    return;
  }
  const controls = runs.pages.some((page) => page.curves.some((curve) => curve.folder.startsWith("control-")));
  section.append(h("p", { class: "muted" }, "Steps count on from the supervised stage over all iterations",
    controls ? "; each control counts on from the supervised stage. " : ". ",
    "Thin: each step. Thick: the mean about it. Point at a chart, or focus it and use the arrow keys, to read values."),
    h("div", { class: "charts" }, figures));
}
