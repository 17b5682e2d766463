// A question and its answer, on the page.

import { namedText, unnamed } from "./boxes.js";
import { element, preview } from "./dom.js";
import { timingsOf } from "./timings.js";

/** What is being done, in words. */
export function stageText({ stage, done, total }) {
  const many = total > 1 ? ` ${Math.min(done + 1, total)} of ${total}` : "";
  return {
    queued: done > 1 ? `Waiting; ${done - 1} before this` : "Waiting for another answer to end",
    preprocess: "Preparing",
    encode: `Looking at picture${many}`,
    project: "Looking",
    prefill: total > 1 ? `Reading, ${Math.floor((100 * done) / total)} %` : "Reading",
    decode: "Answering",
  }[stage] ?? "Working";
}

export class TurnView {
  constructor(turn, show) {
    this.show = show; // (number | null) => draws this answer's boxes
    this.answer = element("div", { className: "answer", dir: "auto" });
    this.bar = element("progress", { max: 1 });
    this.doing = element("span", {}, "Asking");
    this.progress = element("p", { className: "doing" }, this.bar, this.doing);
    this.after = element("div", { className: "after" });
    this.bar.setAttribute("aria-label", "Progress");
    this.sent = element("div", { className: "sent" });
    this.root = element("article", { className: "turn" },
      this.sent,
      element("h3", { className: "question", dir: "auto" }, turn.question),
      this.answer, this.progress, this.after);
  }

  begin({ pictures }) {
    this.sent.replaceChildren(...pictures.map((picture) => preview(picture, picture.name)));
    this.sent.hidden = pictures.length === 0;
    this.text = document.createTextNode("");
    this.pieces = "";
    this.frame = null;
    this.answer.replaceChildren(this.text);
    this.after.replaceChildren();
    this.doing.textContent = "Asking";
    this.bar.removeAttribute("value");
    this.progress.hidden = false;
    this.answer.setAttribute("aria-busy", "true");
  }

  stage(told) {
    this.doing.textContent = stageText(told);
    if (told.stage !== "queued" && told.total > 1) this.bar.value = told.done / told.total;
    else this.bar.removeAttribute("value");
  }

  /** Draws once a frame: a small model is quicker than a browser can lay out its words. */
  piece(text, drawn) {
    this.pieces += text;
    this.frame ??= requestAnimationFrame(() => {
      this.#flush();
      drawn();
    });
  }

  /** The whole answer: names become buttons, and its timings go below. */
  finished(text, told) {
    this.#over();
    const { entities, timings_ms: timings } = told.vlrt ?? { entities: [] };
    this.answer.replaceChildren(...namedText(text, entities, this.show));
    const more = unnamed(entities, this.show);
    if (more.length) this.after.append(element("p", { className: "places" }, "In the picture: ", ...more));
    if (!text.trim()) this.note("The model said nothing.");
    if (told.finish === "length") this.note("It was cut at the longest answer that Options allow.");
    if (timings) this.after.append(timingsOf(told));
  }

  stopped() {
    this.#over();
    this.note("Stopped.");
  }

  failed(message) {
    this.#over();
    this.after.append(element("p", { className: "error" }, message));
  }

  note(text) {
    this.after.append(element("p", { className: "note" }, text));
  }

  /** Buttons for what can be done about an answer that did not come. */
  offer(actions) {
    const buttons = Object.entries(actions).map(([text, onclick]) => element("button", { type: "button", onclick }, text));
    this.actions = element("p", { className: "actions" }, ...buttons);
    this.after.append(this.actions);
  }

  /** Once there is a later question, they would not do what they say. */
  withdraw() {
    this.actions?.remove();
  }

  #flush() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (!this.pieces) return;
    this.progress.hidden = true;
    this.text.appendData(this.pieces);
    this.pieces = "";
  }

  #over() {
    this.#flush();
    this.progress.hidden = true;
    this.answer.removeAttribute("aria-busy");
  }
}
