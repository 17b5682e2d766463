// Entities of an answer: boxes over the picture, and the words that name them.

import { element, svg } from "./dom.js";

const COLOURS = 6; // classes c0 to c5 of the style sheet

const label = ({ name }, number, all) => name || (all.length > 1 ? `Box ${number + 1}` : "Box");
const percent = (part) => `${Math.round(100 * part)} %`;

/** The boxes of entities that lie on picture `index` of `count`. */
export function drawBoxes(place, entities, index, count) {
  const layer = svg("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
  const names = [];
  entities.forEach((entity, number) => {
    // An answer about several pictures does not say which: then it is the one that is looked at.
    if ((entity.image ?? (count > 1 ? index : 0)) !== index) return;
    const corners = entity.quads ?? entity.boxes.map(([l, t, r, b]) => [[l, t], [r, t], [r, b], [l, b]]);
    for (const quad of corners) {
      const points = quad.map(([x, y]) => `${x * 1000},${y * 1000}`).join(" ");
      layer.append(svg("polygon", { points, class: "halo" }));
      layer.append(svg("polygon", { points, class: `box c${number % COLOURS}`, "data-entity": number }));
    }
    for (const [left, top] of entity.boxes) {
      const name = element("span", { className: `name c${number % COLOURS}` }, label(entity, number, entities));
      name.dataset.entity = number;
      name.dir = "auto";
      name.style.left = `${100 * left}%`;
      name.style.top = `${100 * top}%`;
      name.classList.toggle("inside", top < 0.08);
      names.push(name);
    }
  });
  place.replaceChildren(layer, ...names);
}

/** The answer's text; words that name something are buttons that show it. */
export function namedText(text, entities, show) {
  const letters = Array.from(text); // spans count characters, not UTF-16 units
  const nodes = [];
  let at = 0;
  const spans = entities.map((entity, number) => ({ entity, number, span: entity.span }));
  for (const { entity, number, span: [start, end] } of spans.sort((a, b) => a.span[0] - b.span[0])) {
    if (!entity.name || start < at || end <= start) continue;
    nodes.push(letters.slice(at, start).join(""));
    nodes.push(showButton(letters.slice(start, end).join(""), entity, number, show));
    at = end;
  }
  nodes.push(letters.slice(at).join(""));
  return nodes;
}

/** Buttons for boxes that no word of the answer names. */
export function unnamed(entities, show) {
  return entities.flatMap((entity, number) => (entity.name ? [] : [showButton(label(entity, number, entities), entity, number, show)]));
}

function showButton(text, entity, number, show) {
  const button = element("button", { type: "button", className: `entity c${number % COLOURS}` }, text);
  const places = entity.boxes.map(([left, top, right, bottom]) =>
    `${percent(left)} to ${percent(right)} from the left, ${percent(top)} to ${percent(bottom)} from the top`);
  button.title = places.join("; ");
  button.onmouseenter = button.onfocus = () => show(number);
  button.onmouseleave = button.onblur = () => show(null);
  button.onclick = () => show(number);
  return button;
}
