/** An error as the server tells it; `status` is 0 where there was no answer at all. */
export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const KEY = "elm-mlx.key"; // in sessionStorage: gone when the tab is closed
export const keepKey = (key) => sessionStorage.setItem(KEY, key);

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function sentenceOf(response) {
  try {
    return (await response.json()).error.message ?? response.statusText;
  } catch {
    return `The server answered with the status ${response.status} and no reason.`;
  }
}

async function ask(path, options) {
  const response = await fetch(path, { ...options, headers: headers() }).catch((error) => {
    throw error.name === "AbortError" ? error : new ServerError("The server does not answer. Is it still running?");
  });
  if (!response.ok) throw new ServerError(await sentenceOf(response), response.status);
  return response;
}

/** The models that the server offers: objects with an id, maybe context_length and has_chat_template. */
export async function models() {
  return (await (await ask("v1/models")).json()).data;
}

/** The lines of a response's body, as they come. */
async function* lines(body) {
  let rest = "";
  for (const reader = body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = value.split("\n");
    parts[0] = rest + parts[0];
    rest = parts.pop();
    yield* parts;
  }
}

/** The objects of a stream of server-sent events, up to [DONE]. Comments and all fields but `data` mean nothing here.
 * Throws ServerError for an error, before the stream or in it, and for a stream that breaks. */
export async function* stream(path, body, signal) {
  const options = { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal };
  const response = await ask(path, options);
  try {
    for await (const line of lines(response.body)) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(event.error.message);
      yield event;
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    throw new ServerError("The connection broke before the answer was complete.");
  }
  throw new ServerError("The connection ended before the answer was complete.");
}
