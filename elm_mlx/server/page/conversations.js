// A conversation is a tree: every node (a question or an answer) knows its parent, and `head` is the last node of the
// branch that is shown. Regenerating and editing add a sibling, so nothing that was said is lost.

const PREFIX = "elm-mlx.conversation.";
const LAST = "elm-mlx.last";
const MOST = 200; // conversations
const MOST_CHARACTERS = 4_000_000; // of them all; browsers give a page about five million

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12)); // randomUUID is missing where there is no HTTPS
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** An empty conversation, with the system prompt and the options of `like`. */
export function newConversation(like) {
  const { system = "", options = {} } = like ?? {};
  return { id: newId(), title: "", changed: 0, system, options: { ...options }, nodes: [], head: null, text: "" };
}

/** The nodes from the first question to the head. */
export function branch(conversation) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  const nodes = [];
  for (let node = byId.get(conversation.head); node; node = byId.get(node.parent)) nodes.push(node);
  return nodes.reverse();
}

export const siblings = (conversation, node) => conversation.nodes.filter((other) => other.parent === node.parent);

/** Adds a node after the one with the id `parent` (null: at the beginning), and makes it the head. */
export function addNode(conversation, parent, node) {
  Object.assign(node, { id: newId(), parent });
  conversation.nodes.push(node);
  conversation.head = node.id;
  return node;
}

/** Makes the newest branch through `node` the one that is shown. */
export function showBranch(conversation, node) {
  for (let next = node; next; next = conversation.nodes.findLast((other) => other.parent === next.id)) {
    conversation.head = next.id;
  }
}

export const isEmpty = (conversation) => !conversation.nodes.length && !conversation.text;

function read(key) {
  try {
    const conversation = JSON.parse(localStorage.getItem(key));
    return Array.isArray(conversation.nodes) && typeof conversation.id === "string" ? conversation : null;
  } catch {
    return null;
  }
}

/** All conversations that this browser keeps, the newest first. What cannot be read is left out. */
export function all() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  return keys.map(read).filter(Boolean).sort((one, other) => other.changed - one.changed);
}

export const kept = (id) => read(PREFIX + id);
export const lastShown = () => read(PREFIX + localStorage.getItem(LAST));
export const remember = (id) => localStorage.setItem(LAST, id);
export const remove = (id) => localStorage.removeItem(PREFIX + id);

function characters() {
  return Object.keys(localStorage).reduce((sum, key) => sum + localStorage.getItem(key).length, 0);
}

function dropOldest(exceptId) {
  const oldest = all().filter(({ id }) => id !== exceptId).at(-1);
  if (oldest) remove(oldest.id);
  return oldest;
}

/** Keeps a conversation, and drops the oldest ones where there is no room. Returns the titles of what was dropped.
 * Throws the browser's own error where even the one alone does not fit, or nothing may be kept. */
export function keep(conversation) {
  const [text, dropped] = [JSON.stringify(conversation), []];
  for (;;) {
    let failed = null;
    try {
      localStorage.setItem(PREFIX + conversation.id, text);
      if (all().length <= MOST && characters() <= MOST_CHARACTERS) return dropped;
    } catch (error) {
      failed = error;
    }
    const oldest = dropOldest(conversation.id);
    if (!oldest && failed) throw failed;
    if (!oldest) return dropped;
    dropped.push(oldest.title);
  }
}
