// What a screen reader is told: whole sentences, and not more often than it can say them.

import { element } from "./dom.js";

const EVERY = 3000; // ms between parts of one answer
const KEPT = 10000; // ms; then it is gone, since the answer itself can be read in its place
const SENTENCE = /^[\s\S]*[.!?。!?\n](?=\s|$)/;

export class Announcer {
  constructor(region) {
    this.region = region;
    this.pieces = "";
  }

  say(text) {
    if (!text.trim()) return;
    const line = element("p", {}, text.trim());
    this.region.append(line);
    setTimeout(() => line.remove(), KEPT);
  }

  /** What takes long enough to be worth telling; the next call, or an end, takes it back. */
  soon(text) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.say(text), 2000);
  }

  piece(text) {
    clearTimeout(this.waiting);
    this.pieces += text;
    this.timer ??= setTimeout(() => {
      this.timer = null;
      const whole = SENTENCE.exec(this.pieces)?.[0] ?? "";
      this.pieces = this.pieces.slice(whole.length);
      this.say(whole);
    }, EVERY);
  }

  /** How an answer ended, and before that the rest of it where it is `whole`. */
  end(told, whole = false) {
    clearTimeout(this.waiting);
    clearTimeout(this.timer);
    this.timer = null;
    if (whole) this.say(this.pieces);
    this.pieces = "";
    this.say(told);
  }
}
