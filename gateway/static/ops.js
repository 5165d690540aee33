// The operators' page, kept up to date: parts that the server renders anew replace the old ones; messages come as a stream.

const EVERY = 5000; // milliseconds: as often as bridges write their figures
const LINES = 200; // of the messages

const find = (selector, root = document) => root.querySelector(selector);
const fresh = find("#fresh"), messages = find("#messages"), state = find("#messages-state");

// Replaces nothing while a person is about to click it.
const inUse = (part) => part.contains(document.activeElement) || part.matches(":hover") || find("details[open]", part);

async function renew() {
  try {
    const answer = await fetch("/ops", { headers: { accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["#overview", "#letters"]) {
      if (part === "#overview" || !inUse(find(part))) {
        const scrolled = find(".wide")?.scrollLeft;
        const focused = part === "#overview" && document.activeElement?.matches(".wide");
        find(part).replaceChildren(...find(part, page).childNodes);
        if (find(".wide")) find(".wide").scrollLeft = scrolled;
        if (focused) find(".wide")?.focus({ preventScroll: true });
      }
    }
    fresh.textContent = "The last minute, updated every 5 s.";
  } catch (fault) {
    fresh.textContent = `Not up to date: ${fault.message}. Trying again…`;
  }
}

function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

function add(message) {
  const atEnd = messages.scrollTop + messages.clientHeight >= messages.scrollHeight - 8;
  const line = document.createElement("div");
  if (message.passed) {
    line.append(element("span", `${message.passed} more, not shown`, "passed"));
  } else {
    const data = message.id ? `${message.id} ${message.data}` : message.data;
    const time = new Date().toLocaleTimeString("en-GB");
    line.append(element("time", time), element("span", message.channel, "channel"), element("span", data, "data"));
  }
  messages.append(line);
  while (messages.childElementCount > LINES) messages.firstElementChild.remove();
  if (atEnd) messages.scrollTop = messages.scrollHeight;
}

function listen() {
  const source = new EventSource("/ops/messages");
  source.onopen = () => { state.textContent = "Listening. Addresses are masked."; };
  source.onmessage = (event) => add(JSON.parse(event.data));
  source.onerror = () => {
    state.textContent = "The connection is lost; trying again.";
    // An answer that is no stream ends an EventSource for good.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, EVERY);
  };
}

listen();

// A form that was posted has its own address: a reload would post it again.
if (location.pathname !== "/ops" || location.search) history.replaceState(null, "", "/ops");
setInterval(() => { if (!document.hidden) renew(); }, EVERY);
fresh.textContent = "The last minute, updated every 5 s.";
