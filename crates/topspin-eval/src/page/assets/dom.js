"use strict";
// Elements and words. Whatever a run holds becomes text nodes and never markup.

function build(create, tag, attributes, children) {
  const element = create(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const h = (tag, attributes, ...children) => build((tag) => document.createElement(tag), tag, attributes, children);

const svg = (tag, attributes, ...children) =>
  build((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag), tag, attributes, children);

const by = (id) => document.getElementById(id);

// A number with a true minus sign, and as many digits as tell.
function number(value, digits) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text;
  if (digits !== undefined) text = value.toFixed(digits);
  else if (size !== 0 && (size < 1e-5 || size >= 1e6)) text = value.toExponential(2);
  else if (size !== 0 && size < 1e-3) text = value.toFixed(6).replace(/0+$/, "");
  else text = value.toFixed(size < 10 ? 3 : size < 1000 ? 1 : 0);
  return text.replace(/^-/, "−").replace("e-", "e−");
}

function signed(value, digits) {
  // What is rounded to 0 has no sign.
  if (digits !== undefined && Number(value.toFixed(digits)) === 0) return number(0, digits);
  return (value > 0 ? "+" : "") + number(value, digits);
}

const interval = (low, high) => (low === null || high === null ? "" : `[${number(low)}, ${number(high)}]`);

// What a stage's folder is, in a word or two.
function told(folder) {
  const [stage, round] = folder.split("/");
  const kind = stage === "base" ? "as it came" : stage === "iter-0" ? "start of self-play"
    : stage.startsWith("control-") ? "supervised control" : "self-play";
  return round ? `${kind}, ${round}` : kind;
}

function select(label, options, chosen, change) {
  const box = h("select", { onchange: () => change(box.value) },
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return h("label", {}, label, box);
}

const LETTERS = ["A", "B"];

const letter = (run) => [h("span", { class: `letter ${LETTERS[run].toLowerCase()}` }, LETTERS[run]), " "];
