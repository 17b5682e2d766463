// What has been said. A turn is {question, pictures, answer, state}; an answer is text.

export class Conversation {
  turns = [];
  waiting = []; // pictures that go with the next question

  get pictures() {
    return [...this.turns.flatMap((turn) => turn.pictures), ...this.waiting];
  }

  /** A new turn, with the pictures that were waiting. */
  begin(question) {
    const turn = { question, pictures: this.waiting, answer: "" };
    this.waiting = [];
    this.turns.push(turn);
    return turn;
  }

  /** The newest turn got no answer: its pictures wait again, and can be taken away. */
  release(turn) {
    if (!this.turns.includes(turn)) return; // it has been started over
    this.waiting = [...turn.pictures, ...this.waiting];
    turn.pictures = [];
  }

  /** It is asked again, with what waits now. */
  retake(turn) {
    turn.pictures = this.waiting;
    this.waiting = [];
  }

  /** Lets go of all turns before the newest, not of their pictures. */
  forget(turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn));
    this.waiting = [...before.flatMap((each) => each.pictures), ...this.waiting];
    this.turns = [turn];
  }

  /** In OpenAI's form, up to a turn. A question that is left out, since it got no answer or is not
   * to be remembered, leaves its pictures to the next one. */
  messages(last, remember) {
    const messages = [];
    let pictures = [];
    for (const turn of this.turns.slice(0, this.turns.indexOf(last) + 1)) {
      pictures = [...pictures, ...turn.pictures];
      if (turn !== last && !(turn.answer && remember)) continue;
      const shown = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
      messages.push({ role: "user", content: [...shown, { type: "text", text: turn.question }] });
      if (turn !== last) messages.push({ role: "assistant", content: turn.answer });
      pictures = [];
    }
    return messages;
  }
}
