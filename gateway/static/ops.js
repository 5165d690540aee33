// The operators' page, kept up to date: what the server renders anew replaces what is here, and the tail is a stream.

const EVERY = 5000; // milliseconds: as often as bridges tell
const LINES = 200; // of the tail

const find = (selector, root = document) => root.querySelector(selector);
const fresh = find("#fresh"), tail = find("#tail"), state = find("#tail-state");

// Not under the hands of whoever is about to click.
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

function add(said) {
  const atEnd = tail.scrollTop + tail.clientHeight >= tail.scrollHeight - 8;
  const line = document.createElement("div");
  if (said.passed) {
    line.append(element("span", `${said.passed} more, not shown`, "passed"));
  } else {
    const data = said.id ? `${said.id} ${said.data}` : said.data;
    const time = new Date().toLocaleTimeString("en-GB");
    line.append(element("time", time), element("span", said.channel, "channel"), element("span", data, "data"));
  }
  tail.append(line);
  while (tail.childElementCount > LINES) tail.firstElementChild.remove();
  if (atEnd) tail.scrollTop = tail.scrollHeight;
}

function listen() {
  const source = new EventSource("/ops/tail");
  source.onopen = () => { state.textContent = "Listening. Addresses are masked."; };
  source.onmessage = (event) => add(JSON.parse(event.data));
  source.onerror = () => {
    state.textContent = "The tail is lost; trying again.";
    // An answer that is no stream ends an EventSource for good.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, EVERY);
  };
}

listen();

// A form that was posted has its own address: a reload would post it again.
if (location.pathname !== "/ops" || location.search) history.replaceState(null, "", "/ops");
setInterval(() => { if (!document.hidden) renew(); }, EVERY);
fresh.textContent = "The last minute, updated every 5 s.";
