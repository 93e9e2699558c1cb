// The page from its data.

// Gzipped JSON in base 64.
async function unpack(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = letters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const game = await new Response(stream).json();
  game.specials = new Set(game.pieces.special);
  return game;
}

async function start() {
  const runs = JSON.parse(by("runs").textContent);
  const { pages } = runs;
  by("title").append(...(pages.length > 1
    ? pages.flatMap((page, run) => [run ? " and " : "", ...letter(run), page.name]) : [pages[0].name]));
  pages.forEach((page, run) => page.notes.forEach((note) =>
    by("notes").append(h("p", { class: "note" }, pages.length > 1 ? letter(run) : null, note))));
  showGlance(runs);
  showResults(runs);
  showCurves(runs);
  const waiting = h("p", { class: "muted" }, "The answers are being unpacked …");
  by("game").append(waiting);
  const games = await Promise.all(by("packed").textContent.trim().split(/\s+/).map(unpack));
  games.forEach((game, run) => { game.spelled = pages[run].spelled; });
  waiting.remove();
  showGame(runs, games);
  by("footer").append(`Written by topspin ${runs.version} from ${pages.map((page) => page.name).join(" and ")}.`);
  // In milliseconds since the page was opened.
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start().catch((error) => {
  by("notes").append(h("p", { class: "note bad" },
    `The page cannot be drawn (${error.message}); it needs a browser of 2023 or later.`));
  throw error;
});
