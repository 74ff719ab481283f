// Sends messages without leaving the page and shows answers as they come.
// Without this file the same forms load the page anew.
"use strict";

const area = document.getElementById("messages");
const progress = document.getElementById("progress");
const faults = document.getElementById("faults");
const composer = document.querySelector("form.composer");
const field = composer.elements.message;
let busy = false;

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-send]")) return;
  event.preventDefault();
  if (!busy) send(event.target);
});

field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

async function send(form) {
  const body = new FormData(form);
  const message = body.get("message").trim();
  if (!message) return field.focus();
  begin();
  const failed = form.closest(".message");
  if (failed) hideFailure(failed);
  else field.value = "";
  const added = failed ? [] : [add("user", "You:", message)];
  const answer = add("assistant", "Assistant:", "");
  answer.classList.add("arriving");
  try {
    await receive(await post(form.action, body), answer.querySelector(".text"));
    progress.textContent = `Answer: ${answer.querySelector(".text").textContent}`;
    await refresh();
  } catch (fault) {
    // The chat shows its own failures; they are only spoken.
    const shown = await refresh() && fault.stored;
    progress.textContent = shown ? fault.message : "";
    if (!shown) tell(fault.message);
    if (!fault.stored && !failed && !field.value) field.value = message;
  }
  answer.classList.remove("arriving");
  end();
}

function begin() {
  busy = true;
  document.body.setAttribute("aria-busy", "true");
  faults.replaceChildren();
  progress.textContent = "Waiting for the answer.";
}

function end() {
  busy = false;
  document.body.removeAttribute("aria-busy");
  scrollDown();
}

function hideFailure(item) {
  item.classList.remove("unanswered");
  item.querySelector(".failure").hidden = true;
}

function add(role, speaker, text) {
  const item = document.getElementById("new-message").content.firstElementChild.cloneNode(true);
  item.classList.add(role);
  item.querySelector(".unseen").textContent = speaker;
  item.querySelector(".text").textContent = text;
  area.append(item);
  scrollDown();
  return item;
}

async function post(address, body) {
  const headers = { Accept: "application/x-ndjson" };
  const response = await fetch(address, { method: "POST", body, headers }).catch(() => {
    throw makeFault("The site cannot be reached.", false);
  });
  if (response.headers.get("Content-Type") !== "application/x-ndjson") {
    throw makeFault(`The site answered with status ${response.status}. Load the page anew.`, false);
  }
  return response;
}

async function receive(response, target) {
  for await (const line of readLines(response)) {
    if (line.done) return;
    if (line.error) throw makeFault(line.error, line.stored);
    const atEnd = isAtEnd();
    target.append(target.textContent ? line.piece : line.piece.trimStart());
    if (atEnd) scrollDown();
  }
  throw makeFault("The connection was lost before the answer was whole.", true);
}

async function* readLines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    // A connection that breaks is told by the last line, which is missing then.
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

function makeFault(sentence, stored) {
  return Object.assign(new Error(sentence), { stored });
}

function tell(sentence) {
  const line = document.createElement("p");
  line.className = "fault";
  line.textContent = sentence;
  faults.replaceChildren(line);
}

// What the server has is the truth: tool calls, failures, and what other windows sent.
async function refresh() {
  try {
    const response = await fetch(location.href);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ["messages", "chats"]) {
      const found = page.getElementById(id);
      document.getElementById(id).replaceChildren(...found.childNodes);
    }
    document.title = page.title;
    return true;
  } catch {
    return false;
  }
}

function isAtEnd() {
  const end = area.lastElementChild.getBoundingClientRect().bottom;
  return end < composer.getBoundingClientRect().top + 80;
}

function scrollDown() {
  area.lastElementChild?.scrollIntoView({ block: "end" });
}

scrollDown();
