// The page: puts its parts together. Nothing of it is kept when the tab is closed.

import { ApiError, ask, send, servedModel, useKey } from "./api.js";
import { Conversation } from "./conversation.js";
import { byId } from "./dom.js";
import { Gallery } from "./gallery.js";
import { listen } from "./intake.js";
import { Announcer } from "./live.js";
import { readPicture, room } from "./pictures.js";
import { stageText, TurnView } from "./turn.js";

const SINGLE = ["demo"]; // trained on single questions: what was said before only confuses it
const conversation = new Conversation();
const gallery = new Gallery(conversation, removePicture);
const live = new Announcer(byId("live"));
const question = byId("question");
const limits = {}; // the server's: bytes of a request, pixels and number of its pictures
let taking = null; // resolves when the pictures so far have been read
let running = null; // of the answer under way: what stops it
let last = null; // the newest turn's view

async function start() {
  try {
    const { id, vlrt } = await servedModel();
    document.title = `${id} · vlrt`;
    byId("model").textContent = `${id} on ${vlrt.device}`;
    byId("max-tokens").max = byId("max-tokens").value = vlrt.max_tokens;
    byId("remember").checked = !SINGLE.includes(id);
    Object.assign(limits, { pictures: vlrt.max_pictures, bytes: vlrt.max_body, pixels: vlrt.max_pixels });
    notice("");
  } catch (error) {
    if (error.status === 401) askForKey(start);
    else notice(error.message);
  }
}

// Pictures

/** One after the other, so that each finds what the others have left of the limits. */
function takePictures(files) {
  taking = taking.then(async () => takeFiles(await files)).catch((error) => notice(error.message));
}

async function takeFiles(files) {
  if (!limits.bytes) throw new Error("The server has not told its limits; reload the page.");
  const refused = [];
  for (const file of files) {
    try {
      if (conversation.pictures.length >= limits.pictures) {
        throw new Error(`${file.name}: the server takes ${limits.pictures} pictures in a conversation; start over for others.`);
      }
      conversation.waiting.push(await readPicture(file, room(limits, conversation.pictures)));
      gallery.entities = [];
      gallery.select(conversation.pictures.length - 1);
      live.say(`${file.name} added`);
    } catch (error) {
      refused.push(error.message);
    }
  }
  notice(refused.join(" "));
  freshen();
  if (files.length > refused.length) question.focus();
}

function removePicture(picture) {
  conversation.waiting.splice(conversation.waiting.indexOf(picture), 1);
  URL.revokeObjectURL(picture.preview);
  gallery.draw();
  freshen();
  live.say(`${picture.name} removed`);
  (conversation.pictures.length ? byId("add") : document.querySelector("#empty [data-pick]")).focus();
}

async function example() {
  const response = await send("/static/example.png");
  return [new File([await response.blob()], "example.png", { type: "image/png" })];
}

// Questions

async function begin() {
  await taking;
  const text = question.value.trim();
  if (running || !text) return;
  question.value = "";
  fit();
  notice("");
  last?.withdraw();
  const turn = conversation.begin(text);
  turn.entities = [];
  const view = new TurnView(turn, (number) => gallery.point(turn.entities, number));
  last = view;
  byId("turns").append(view.root);
  freshen();
  gallery.draw();
  answer(turn, view);
}

async function answer(turn, view) {
  running = new AbortController();
  view.begin(turn);
  busy(true);
  turn.answer = "";
  gallery.point([]);
  scrollDown(true);
  try {
    const messages = conversation.messages(turn, byId("remember").checked);
    const told = await ask({ messages, ...chosen() }, {
      piece(text) {
        turn.answer += text;
        view.piece(text, scrollDown);
        live.piece(text);
      },
      stage(stage) {
        view.stage(stage);
        live.soon(stageText(stage));
      },
    }, running.signal);
    turn.answer = told.vlrt?.text ?? told.text;
    turn.entities = told.vlrt?.entities ?? [];
    view.finished(turn.answer, told);
    gallery.point(turn.entities);
    live.end(told.finish === "length" ? "The answer was cut." : "End of the answer.", true);
  } catch (error) {
    failed(turn, view, error);
  }
  running = null;
  busy(false);
  scrollDown();
}

function failed(turn, view, error) {
  const stopped = error.name === "AbortError";
  if (!stopped) turn.answer = ""; // half an answer is no answer: it must not be gone on from
  if (!turn.answer) conversation.release(turn);
  gallery.draw();
  const again = () => {
    if (running) return;
    conversation.retake(turn);
    answer(turn, view);
  };
  if (stopped) {
    view.stopped();
    live.end("Stopped.");
    if (!turn.answer) view.offer({ "Ask again": again });
    return;
  }
  const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const told = error instanceof ApiError ? error.message : `The page failed: ${error.message}`;
  view.failed(told + later);
  live.end(`It failed. ${told}${later}`);
  const actions = { "Try again": again };
  if (byId("remember").checked && conversation.turns.indexOf(turn) > 0) {
    actions["Ask without the earlier questions"] = () => {
      conversation.forget(turn);
      view.root.classList.add("first");
      again();
    };
  }
  view.offer(actions);
  if (error.status === 401) askForKey(again);
}

function busy(is) {
  const focus = document.activeElement;
  byId("send").hidden = is;
  byId("stop").hidden = !is;
  if (is && (focus === byId("send") || focus === document.body)) byId("stop").focus();
  if (!is && (focus === byId("stop") || focus === document.body)) question.focus();
}

function startOver() {
  running?.abort();
  for (const { preview } of conversation.pictures) URL.revokeObjectURL(preview);
  conversation.turns = [];
  conversation.waiting = [];
  gallery.entities = [];
  last = null;
  byId("turns").replaceChildren();
  gallery.draw();
  notice("");
  freshen();
  live.say("Started over.");
  question.focus();
}

/** Of the options, what can be used: the server's own stands for what is empty or out of range. */
function chosen() {
  const of = (input) => (input.value && input.validity.valid ? Number(input.value) : undefined);
  return { max_tokens: of(byId("max-tokens")), temperature: of(byId("temperature")) };
}

// Small things

function freshen() {
  byId("reset").disabled = conversation.pictures.length + conversation.turns.length === 0;
}

function notice(text) {
  byId("notice").textContent = text;
}

function askForKey(then) {
  const dialog = byId("key");
  const value = byId("key-value");
  byId("key-wrong").textContent = sessionStorage.getItem("vlrt-key") ? "The server does not take this key." : "";
  dialog.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    useKey(value.value.trim());
    value.value = "";
    dialog.close();
    then();
  };
  if (!dialog.open) dialog.showModal();
}

/** Follows the answer, unless its reader has scrolled away from the end. */
function scrollDown(always = false) {
  const turns = byId("turns");
  const below = turns.scrollHeight - turns.scrollTop - turns.clientHeight;
  if (always || below < 120) turns.scrollTop = turns.scrollHeight;
}

function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight + 2}px`;
}

question.oninput = fit;
question.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  begin();
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !byId("key").open) running.abort();
});
byId("ask").onsubmit = (event) => {
  event.preventDefault();
  begin();
};
byId("stop").onclick = () => running?.abort();
byId("reset").onclick = startOver;
byId("example").onclick = () => takePictures(example());
listen(takePictures);
taking = start();
