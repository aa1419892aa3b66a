import { number } from "./dom.js";
import { stream } from "./server.js";

const WHY = { length: "ended at the limit of tokens", stopped: "stopped", content_filter: "cut by a filter" };

/** An answer that has not begun. It is kept as it is, so it holds plain values only. */
export const emptyAnswer = (model) => ({ role: "assistant", content: "", reasoning: "", calls: [], pieces: 0, model });

function takeCalls(calls, deltas) {
  for (const { index = 0, function: called } of deltas ?? []) {
    const call = (calls[index] ??= { name: "", arguments: "" });
    call.name += called?.name ?? "";
    call.arguments += called?.arguments ?? "";
  }
}

/** Adds what one event brings. Returns the new text of the answer. */
function take(answer, event, now) {
  const choice = event.choices?.[0];
  const delta = choice?.delta ?? {};
  const text = delta.content ?? choice?.text ?? "";
  const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
  answer.content += text;
  answer.reasoning += reasoning;
  takeCalls(answer.calls, delta.tool_calls);
  if (text || reasoning || delta.tool_calls) {
    answer.began ??= now;
    answer.ended = now;
    answer.pieces += 1;
  }
  answer.finish = choice?.finish_reason ?? answer.finish;
  answer.usage = event.usage ?? answer.usage;
  return text;
}

/** Asks, and fills `answer` while its parts arrive; `changed` gets each new text. An abort by `signal` ends it as stopped
 * (the server cancels when the connection closes); an error is kept as a sentence in `answer.error`, and returned. */
export async function fill(answer, path, body, signal, changed) {
  try {
    const wishes = { ...body, stream_options: { include_usage: true } };
    for await (const event of stream(path, wishes, signal)) changed(take(answer, event, performance.now()));
  } catch (error) {
    if (error.name === "AbortError") {
      answer.finish = "stopped";
      return null;
    }
    answer.error = error.message;
    return error;
  }
  return null;
}

/** What is known of an answer's length, speed and end, in words. Before the server tells, a piece counts as a token. */
export function figures(answer) {
  const tokens = answer.usage?.completion_tokens ?? answer.pieces;
  const seconds = (answer.ended - answer.began) / 1000;
  const parts = [];
  if (tokens) parts.push(tokens === 1 ? "1 token" : `${number(tokens)} tokens`);
  if (tokens > 1 && seconds > 0) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
  if (WHY[answer.finish]) parts.push(WHY[answer.finish]);
  return parts.join(" · ");
}

/** How many tokens of the context the answer and all before it take; 0 where the server has not told. */
export const tokensInContext = (answer) => (answer?.usage ? answer.usage.prompt_tokens + answer.usage.completion_tokens : 0);
