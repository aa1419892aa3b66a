import { element } from "./dom.js";

// What has a meaning inside of a line: an escaped character, a run of backticks, emphasis, a link, an address. Each part
// of it is bounded, so that no text takes more than linear time.
const TOKEN = new RegExp(
  [
    /\\([!-/:-@[-`{-~])/,
    /(`+)/,
    /(\*\*\*|\*\*|\*|__|_|~~)/,
    /!?\[([^[\]\n]{0,400})\]\(((?:[^()\s<>]|\([^()\s<>]{0,200}\)){1,1000})(?: "[^"\n]{0,200}")?\)/,
    /(https?:\/\/[^\s<>"'()[\]`*]{1,1000})/,
  ].map((part) => part.source).join("|"),
  "g",
);
const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const DEEPEST = 8;
const END = {}; // the end of the innermost emphasis, among parts

/** The address if a browser may open it from a text that a model wrote: http and https only; otherwise null. */
export function safeAddress(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(label, address) {
  return element("a", { href: address, title: address, rel: "noopener noreferrer nofollow", target: "_blank" }, label);
}

/** Reads one text, once from left to right, into parts: texts, nodes, and marks that open or close emphasis. */
class Reader {
  constructor(text) {
    this.text = text;
    this.parts = [];
    this.open = []; // marks among the parts that may still be closed, the outermost first
    this.unclosed = new Set(); // lengths of backtick runs that close nowhere
  }

  read() {
    for (let end = 0; ; ) {
      TOKEN.lastIndex = end;
      const match = TOKEN.exec(this.text);
      this.parts.push(this.text.slice(end, match?.index));
      if (!match) return this.parts;
      end = this.take(match);
    }
  }

  /** Takes one token, and returns where the text goes on. */
  take(match) {
    const [all, escaped, ticks, emphasis, label, target, address] = match;
    const after = match.index + all.length;
    if (ticks) return this.code(ticks, after);
    if (address) return this.address(address, match.index);
    if (escaped) this.parts.push(escaped);
    else if (emphasis) this.emphasis(emphasis, this.text[match.index - 1] ?? " ", this.text[after] ?? " ");
    else this.parts.push(safeAddress(target) ? link(label || target, safeAddress(target)) : all);
    return after;
  }

  address(address, start) {
    const text = address.replace(/[.,;:!?]{1,8}$/, "");
    this.parts.push(safeAddress(text) ? link(text, safeAddress(text)) : text);
    return start + text.length;
  }

  code(ticks, start) {
    const closing = new RegExp("(?<!`)" + ticks + "(?!`)", "g");
    closing.lastIndex = start;
    const end = this.unclosed.has(ticks.length) ? null : closing.exec(this.text);
    if (!end) {
      this.unclosed.add(ticks.length);
      this.parts.push(ticks);
      return start;
    }
    const inside = this.text.slice(start, end.index);
    const isPadded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim();
    this.parts.push(element("code", {}, isPadded ? inside.slice(1, -1) : inside));
    return closing.lastIndex;
  }

  emphasis(mark, before, after) {
    if (mark === "***") {
      const [first, second] = this.open.at(-1)?.mark === "*" ? ["*", "**"] : ["**", "*"];
      this.emphasis(first, before, /\s/.test(after) ? " " : "x");
      this.emphasis(second, before, after);
      return;
    }
    const inWord = mark.startsWith("_") && /\w/.test(before) && /\w/.test(after);
    const at = this.open.findLastIndex((one) => one.mark === mark);
    if (at >= 0 && !/\s/.test(before) && !inWord) this.close(at);
    else if (!/\s/.test(after) && !inWord && this.open.length < DEEPEST) this.begin(mark);
    else this.parts.push(mark);
  }

  begin(mark) {
    this.open.push({ mark, isClosed: false });
    this.parts.push(this.open.at(-1));
  }

  /** Closes an open mark. Those inside of it stay as they were written. */
  close(at) {
    this.open[at].isClosed = true;
    this.open.length = at;
    this.parts.push(END);
  }
}

/** Appends a text to `parent`, with its code, emphasis and links as elements. */
export function appendInline(parent, text) {
  const nodes = [parent];
  let plain = "";
  const flush = () => plain && nodes.at(-1).append(plain);
  for (const part of new Reader(text).read()) {
    if (typeof part === "string") plain += part;
    else if (part.isClosed === false) plain += part.mark;
    else {
      flush();
      plain = "";
      if (part === END) nodes.pop();
      else if (part.mark) nodes.push(nodes.at(-1).appendChild(element(TAGS[part.mark])));
      else nodes.at(-1).append(part);
    }
  }
  flush();
}
