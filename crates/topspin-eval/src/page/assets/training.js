// Training prompts: the real answer beside what each iteration's opponent answered.

// What is known of an answer in a round: the log-ratio of that round's opponent to the one that scored it before, or to the
// base model, or else the log-probability alone.
function knownOf(training, answer, round, wanted) {
  const at = answer.scores.findIndex((score) => score.by === round);
  if (at < 0 || wanted === "none") return null;
  const now = answer.scores[at], opponent = `${training.rounds[round]}'s opponent`;
  if (wanted === "ratio" && at > 0) {
    const before = answer.scores[at - 1];
    return logRatio(before, now, `${opponent} to ${training.rounds[before.by]}'s`);
  }
  if (wanted === "ratio" && answer.base) return logRatio(answer.base, now, `${opponent} to the base model`);
  return logProbability(now);
}

function trainingView(game, page, name) {
  const { training } = game;
  const isKept = training.prompts.some((prompt) => prompt.rounds.some((played) => played.generated.some(([index]) => index === played.real)));
  const dropped = isKept ? [] : page.pairs.filter((pairs) => pairs.figures.identical > 0);
  const own = (prompt) => plainText(game, prompt.prompt);
  const has = (key) => training.prompts.some((prompt) => prompt[key] !== null);
  const ordered = (key, way) => numeric((prompt) => prompt[key], way);
  const sorts = [["run", "the run's order"]];
  if (has("margin")) sorts.push(["margin", "margin, smallest first"], ["margin-down", "margin, largest first"]);
  if (has("change")) sorts.push(["change", "change of the real answer, falling first"], ["change-down", "change of the real answer, rising first"]);
  if (has("gap")) sorts.push(["gap", "real less generated, smallest first"], ["gap-down", "real less generated, largest first"]);
  const anyRatio = training.prompts.some((prompt) => prompt.answers.some((answer) => answer.scores.length > 1 || answer.base));
  const entry = (prompt, index, round, count, options) => {
    const answer = prompt.answers[index];
    const known = knownOf(training, answer, round, options.shade);
    return [h("p", { class: "facts-of" }, count > 1 ? h("span", { class: "badge" }, `× ${count}`) : null, badges(answer, game.spelled), totalOf(known)),
      textOf(game, answer.tokens, { known, numbers: options.numbers })];
  };
  const side = (isReal, title, note, entries) => h("div", { class: isReal ? "side real" : "side" }, h("h4", {}, title, note ? h("small", {}, ` ${note}`) : null), entries);
  return {
    name, all: training.prompts, sorts,
    order: (sort) => ({
      margin: ordered("margin", 1), "margin-down": ordered("margin", -1), change: ordered("change", 1), "change-down": ordered("change", -1),
      gap: ordered("gap", 1), "gap-down": ordered("gap", -1),
    })[sort],
    filters: [["all", "all prompts"], ["several", "in several iterations"], ["cut", "an answer is cut"], ["fell", "real answer grew less likely"]]
      .filter(([filter]) => filter !== "fell" || has("change")),
    passes: (filter, prompt) => ({
      all: true, several: prompt.rounds.length > 1, cut: prompt.answers.some((answer) => answer.finish === "length"), fell: prompt.change !== null && prompt.change < 0,
    })[filter],
    choices: [{ key: "shade", label: "Shade", values: SHADES.slice(anyRatio ? 0 : 1) }, NUMBERS],
    haystack: (prompt) => [prompt.id, own(prompt), ...prompt.answers.map((answer) => plainText(game, answer.tokens))].join("\n"),
    legend: (options) => [
      ...shadeLegend(options.shade, "from one opponent that scored the answer to the next (or from the base model, where the loss needs it)", {
        where: "under its opponent, where only one opponent has scored the answer", always: "of a token under the opponent of the iteration" }),
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

