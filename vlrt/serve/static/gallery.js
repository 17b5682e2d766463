// The pictures: the one that is looked at with its boxes, and the row of all of them.

import { drawBoxes } from "./boxes.js";
import { byId, element, preview } from "./dom.js";

const short = (name) => (name.length > 34 ? `${name.slice(0, 22)}…${name.slice(-10)}` : name);

export class Gallery {
  index = 0;
  entities = [];

  /** @param {(picture: object) => void} remove for pictures that have not been sent */
  constructor(conversation, remove) {
    this.conversation = conversation;
    this.remove = remove;
  }

  get picture() {
    return this.conversation.pictures[this.index];
  }

  select(index) {
    this.index = index;
    this.draw();
  }

  /** Boxes of an answer; one of them stands out where `number` is told. */
  point(entities, number = null) {
    const image = entities[number ?? 0]?.image;
    const changed = entities !== this.entities || (image ?? this.index) !== this.index;
    this.entities = entities;
    this.index = image ?? this.index;
    if (changed) this.draw();
    for (const part of byId("boxes").querySelectorAll("[data-entity]")) {
      part.classList.toggle("strong", part.dataset.entity === String(number));
      part.classList.toggle("faint", number !== null && part.dataset.entity !== String(number));
    }
  }

  draw() {
    const { pictures } = this.conversation;
    this.index = Math.min(this.index, Math.max(0, pictures.length - 1));
    byId("empty").hidden = pictures.length > 0;
    byId("shown").hidden = byId("strip").hidden = pictures.length === 0;
    byId("thumbs").replaceChildren(...pictures.map((picture, index) => this.#thumb(picture, index)));
    byId("thumbs").hidden = pictures.length < 2 && this.conversation.waiting.length === 0;
    if (pictures.length) this.#show(this.picture, pictures.length);
  }

  #show(picture, count) {
    const image = byId("picture");
    image.src = picture.preview;
    image.alt = count > 1 ? `Picture ${this.index + 1}: ${picture.name}` : picture.name;
    const frame = byId("frame");
    frame.hidden = !picture.width;
    frame.style.setProperty("--ratio", picture.width / picture.height);
    frame.style.setProperty("--widest", `${2 * picture.width}px`);
    byId("unseen-picture").hidden = Boolean(picture.width);
    const size = picture.width ? `${picture.width} × ${picture.height}` : "";
    const waits = this.conversation.waiting.includes(picture) && this.conversation.turns.length;
    const unsure = count > 1 && this.entities.some(({ image: at }) => at === null) && "the answer does not say which picture its boxes are of";
    const said = [short(picture.name), size, picture.note, waits && "goes with your next question", unsure];
    byId("caption").textContent = said.filter(Boolean).join(" · ");
    drawBoxes(byId("boxes"), this.entities, this.index, count);
  }

  #thumb(picture, index) {
    const look = element("button", { type: "button", className: "thumb", onclick: () => this.#look(index) },
      preview(picture, ""));
    look.setAttribute("aria-label", `Picture ${index + 1}: ${picture.name}`);
    look.setAttribute("aria-pressed", index === this.index);
    const item = element("li", {}, look);
    if (this.conversation.waiting.includes(picture)) {
      const drop = element("button", { type: "button", className: "drop", onclick: () => this.remove(picture) }, "×");
      drop.setAttribute("aria-label", `Remove ${picture.name}`);
      item.append(drop);
    }
    return item;
  }

  #look(index) {
    this.select(index);
    byId("thumbs").querySelectorAll(".thumb")[index].focus(); // the row has been made anew
  }
}
