// The server: OpenAI's protocol, and what vlrt tells beside it.

const KEY = "vlrt-key";

/** What the server, or its absence, has to say; `code` and `retryAfter` (seconds) where told. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** The model that is served: {id, vlrt: {family, device, max_tokens, ...}}. */
export async function servedModel() {
  const response = await send("/v1/models");
  return (await response.json()).data[0];
}

/**
 * Asks, and calls `on.piece(text)` and `on.stage({stage, done, total})` as they come.
 * Resolves to {text, finish, usage, vlrt}. Aborting `signal` ends the answer on the server too.
 */
export async function ask(body, on, signal) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      ...body,
      stream: true,
      stream_options: { include_usage: true },
      vlrt: { stages: true },
    }),
    signal,
  });
  const answer = { text: "", finish: null, usage: null, vlrt: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return answer;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, chunk.error);
    if (chunk.vlrt?.stage) on.stage(chunk.vlrt);
    else if (chunk.vlrt) answer.vlrt = chunk.vlrt;
    if (chunk.usage) answer.usage = chunk.usage;
    const choice = chunk.choices[0];
    if (choice?.finish_reason) answer.finish = choice.finish_reason;
    if (choice?.delta.content) {
      answer.text += choice.delta.content;
      on.piece(choice.delta.content);
    }
  }
  throw new ApiError("The connection broke before the answer was whole.");
}

/** Fetches, with the key where one is known; what is not OK is thrown. */
export async function send(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is vlrt serve still running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new ApiError(told?.error?.message ?? `The server answered with status ${response.status}.`, {
    status: response.status,
    code: told?.error?.code,
    retryAfter: Number(response.headers.get("retry-after")) || null,
  });
}

/** The data of server-sent events; comments, which only keep the connection alive, are left out. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(broken);
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function broken(error) {
  if (error.name === "AbortError") throw error;
  throw new ApiError("The connection broke before the answer was whole.");
}
