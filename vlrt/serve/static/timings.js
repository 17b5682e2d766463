// How long an answer took, in words and as a bar.

import { element, svg } from "./dom.js";

const STAGES = [
  ["queue", "waiting"],
  ["preprocess", "preparing"],
  ["encode", "looking"],
  ["project", "projecting"],
  ["prefill", "reading"],
  ["decode", "answering"],
];

const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s` : `${(ms / 60000).toFixed(1)} min`;
}

/** A line of figures that unfolds into the stages. */
export function timingsOf({ usage, vlrt }) {
  const t = vlrt.timings_ms;
  const figures = [`first token ${duration(t.ttft)}`];
  if (t.tpot > 0) figures.push(`${(1000 / t.tpot).toFixed(t.tpot > 100 ? 1 : 0)} tokens/s`);
  if (usage) figures.push(counted(usage.completion_tokens, "token"));
  const spent = { ...t, queue: vlrt.queue_ms, decode: Math.max(0, t.total - t.ttft) };
  const stages = STAGES.filter(([key]) => spent[key] >= 0.05);
  const rows = stages.map(([key, name]) =>
    element("tr", {}, element("th", { scope: "row" }, element("i", { className: key }), name), element("td", {}, duration(spent[key]))));
  const prompt = usage && `Prompt: ${counted(usage.prompt_tokens, "token")}, ${vlrt.image_tokens} of pictures; ${vlrt.cached_tokens} were there from before.`;
  return element("details", { className: "timings" },
    element("summary", {}, figures.join(" · ")),
    bar(stages.map(([key]) => [key, spent[key]])),
    element("table", {}, element("caption", { className: "unseen" }, "Time by stage"), element("tbody", {}, ...rows)),
    prompt && element("p", {}, prompt));
}

function bar(parts) {
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0) || 1;
  const drawn = svg("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", class: "bar", "aria-hidden": "true" });
  let x = 0;
  for (const [key, ms] of parts) {
    const width = (1000 * ms) / total;
    drawn.append(svg("rect", { x, y: 0, width, height: 10, class: key }));
    x += width;
  }
  return drawn;
}
