// The page goes on by itself: submits without leaving, watches the submission live, moves the map as you type.
// Every page works without it too: a reload shows the same.

const EQUATOR = 3963.190592, FLATTENING = 1 / 298.257223563; // WGS-84; miles
const FARTHEST = 12450, RADIUS = 200;
const WINDS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];
const PACE = 260; // ms between two steps shown; the times beside them are the true ones
const SLOWEST = 30000; // ms between two tries
const DEAD = "dead:", PARTS = "parts:", ENDED = "ended:";
const EVERY = 3000; // ms between two looks at a submission whose stream is refused
const LOST = { true: "The connection is lost. Trying again…", false: "You are offline. This goes on when you are back." };
const ASKING = "Live updates are busy just now, so this page checks every few seconds.";

const find = (selector, within = document) => within.querySelector(selector);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// Lambert's formula for long lines, as gateway/world_map.py has it.
export function locate(lat, long) {
  const radians = Math.PI / 180, [north, east] = find(".map svg").dataset.office.split(" ").map(Number); // the office
  const [here, there] = [north, lat].map((north) => Math.atan((1 - FLATTENING) * Math.tan(north * radians)));
  const turn = (long - east) * radians, middle = (here + there) / 2, apart = (there - here) / 2;
  const half = Math.hypot(Math.sin(apart), Math.sqrt(Math.cos(here) * Math.cos(there)) * Math.sin(turn / 2));
  const angle = 2 * Math.asin(Math.min(1, half));
  if (!angle) return { miles: 0, bearing: 0, wind: "N", x: 0, y: 0 };
  const far = (angle - Math.sin(angle)) * (Math.sin(middle) * Math.cos(apart) / Math.max(Math.cos(angle / 2), 1e-6)) ** 2;
  const near = (angle + Math.sin(angle)) * (Math.cos(middle) * Math.sin(apart) / Math.sin(angle / 2)) ** 2;
  const miles = Math.min(EQUATOR * (angle - FLATTENING / 2 * (far + near)), FARTHEST);
  const bearing = Math.atan2(Math.sin(turn) * Math.cos(there),
    Math.cos(here) * Math.sin(there) - Math.sin(here) * Math.cos(there) * Math.cos(turn));
  const out = RADIUS * miles / FARTHEST, degrees = (bearing / radians + 360) % 360;
  return { miles, bearing: degrees, wind: WINDS[Math.round(degrees / 45) % 8], x: out * Math.sin(bearing), y: -out * Math.cos(bearing) };
}

// What milepost/events/payload.py reads as a number: any minus sign, and blanks and direction marks around it.
const AROUND = "[\\t \\u00a0\\u2000-\\u200b\\u202f\\u205f\\u2060\\u3000\\ufeff\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*";
const MINUS = "\\u002d\\u2212\\u2010-\\u2013\\ufe63\\uff0d";
const DECIMAL = new RegExp(`^${AROUND}([+${MINUS}]?)${AROUND}(\\d+(?:\\.\\d*)?|\\.\\d+)${AROUND}$`);

function degrees(input, most) {
  const [, sign, digits] = DECIMAL.exec(input.value) ?? [];
  if (digits === undefined || Number(digits) > most) return null;
  return sign && sign !== "+" ? -digits : Number(digits);
}

const grouped = (number) => Math.round(number).toLocaleString("en-US");

function took(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000), minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${seconds % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// ---- the form

function ask(form) {
  const { lat, long } = form.elements, point = find("#point"), caption = find("#bearing"), idle = caption.textContent;
  let saying;
  const draw = () => {
    const [north, east] = [degrees(lat, 90), degrees(long, 180)];
    clearTimeout(saying);
    if (north === null || east === null) {
      point.setAttribute("display", "none");
      saying = setTimeout(() => { caption.textContent = idle; }, 400);
      return;
    }
    const { miles, bearing, wind, x, y } = locate(north, east), at = `${x.toFixed(1)} ${y.toFixed(1)}`;
    find(".route", point).setAttribute("d", `M0 0L${at}`);
    find(".way", point).setAttribute("d", `M${at}L0 0`);
    find(".pin", point).setAttribute("cx", x.toFixed(1));
    find(".pin", point).setAttribute("cy", y.toFixed(1));
    point.removeAttribute("display");
    const strong = document.createElement("strong");
    strong.textContent = `${grouped(miles)} miles`;
    // A little later, so that a screen reader says it once and not at every key.
    saying = setTimeout(() => caption.replaceChildren("About ", strong, ` from the office, bearing ${bearing.toFixed(0)}° ${wind}`), 400);
  };
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => { event.preventDefault(); send(form); });
  if (lat.value || long.value) draw();
  if ("geolocation" in navigator && isSecureContext) offerLocation(form, draw);
}

function offerLocation(form, draw) {
  const offer = find("#locate"), says = find("[role=status]", offer), button = find("button", offer);
  offer.hidden = false;
  button.addEventListener("click", () => {
    says.textContent = "Asking your browser…";
    navigator.geolocation.getCurrentPosition(
      ({ coords }) => {
        form.elements.lat.value = coords.latitude.toFixed(5);
        form.elements.long.value = coords.longitude.toFixed(5);
        says.textContent = "Filled in.";
        draw();
      },
      ({ code }) => { says.textContent = code === 1 ? "Your browser was told not to say where you are." : "Your browser cannot tell where you are."; },
      { maximumAge: 600000, timeout: 10000 },
    );
  });
}

async function send(form) {
  const button = find("button[type=submit]", form);
  if (button.hasAttribute("aria-disabled")) return; // pressed twice
  button.setAttribute("aria-disabled", "true");
  try {
    const answer = await fetch(form.action, {
      method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "text/html" },
    });
    if (!answer.headers.get("content-type")?.startsWith("text/html")) throw new TypeError(`status ${answer.status}`);
    show(await answer.text(), answer.headers.get("location"));
  } catch (fault) {
    if (!(fault instanceof TypeError)) throw fault;
    const notice = document.createElement("div"), title = document.createElement("h2"), words = document.createElement("p");
    notice.className = "notice";
    title.textContent = "We cannot be reached just now";
    words.textContent = "What you typed is still here. Try again when you are back online: it counts once.";
    notice.append(title, words);
    find("#refusal").replaceChildren(notice);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

// Shows the page that the server answered in place of this one; a submission gets its own address.
function show(html, place) {
  const next = new DOMParser().parseFromString(html, "text/html");
  document.title = next.title;
  find("main").replaceWith(find("main", next));
  if (place) history.pushState(null, "", place);
  start();
  const first = find("main [autofocus]") || find("main h1");
  first?.focus({ preventScroll: true });
  (find(".notice:not([data-when])") || document.body).scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  if (place) scrollTo({ top: 0, behavior: calm.matches ? "auto" : "smooth" });
}

// ---- a submission

let stopWatching = () => {};

function watch(section) {
  const place = section.dataset.place, items = find("ol", section), skew = Date.now() - section.dataset.now;
  const link = find("#link"), announced = find("#announced"), waiting = [];
  const leaving = new AbortController(), { signal } = leaving;
  let source, retry, look, pause = 1000, pacing = false, starting = [];

  const reached = () => [...items.children].filter((item) => item.dataset.at);
  const ticking = setInterval(() => {
    const next = find(".next .took", items), last = reached().at(-1);
    if (!next || !last) return;
    const passed = took(Math.max(0, Date.now() - skew - last.dataset.at));
    next.textContent = starting.includes(next.closest("li").dataset.channel) ? `starting · ${passed}` : passed;
  }, 200);

  function open() {
    source = new EventSource(`${place}/events`);
    source.onopen = () => { say(""); clearTimeout(look); pause = 1000; };
    source.onmessage = ({ data }) => {
      const step = JSON.parse(data);
      if (step.last) source.close();
      tell(step);
    };
    source.addEventListener("starting", ({ data }) => begin(JSON.parse(data).channels));
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return say(LOST[navigator.onLine]); // the browser tries by itself
      hangUp();
      retry = setTimeout(open, pause);
      pause = Math.min(2 * pause, SLOWEST);
      poll();
    };
  }
  const hangUp = () => { source.close(); clearTimeout(retry); clearTimeout(look); };
  const offline = () => { hangUp(); say(LOST.false); };
  const online = () => { hangUp(); open(); };

  // Asks for the status while a stream is refused because too many are open.
  async function poll() {
    let text = LOST[navigator.onLine];
    try {
      const answer = await fetch(place, { signal, headers: { Accept: "application/json" }, cache: "no-store" });
      if (answer.ok) {
        const { over, channels, starting, splits = [] } = await answer.json();
        const steps = [...splits.map(({ stage, ...data }) => ({ channel: PARTS + stage, data })), ...channels];
        steps.forEach((reached, index) => tell({ ...reached, last: over && index === steps.length - 1 }));
        begin(starting);
        text = ASKING;
      }
    } catch (fault) {
      if (signal.aborted) return;
      // No answer, or a proxy's page in its place; it is asked for again.
      if (!(fault instanceof TypeError || fault instanceof SyntaxError)) throw fault;
    }
    if (signal.aborted || source.readyState === EventSource.OPEN || !navigator.onLine) return;
    say(text);
    clearTimeout(look);
    look = setTimeout(poll, EVERY);
  }

  // The channels to come whose stage was at zero; the next of them is announced once.
  function begin(channels) {
    const next = find(".next", items), channel = next?.dataset.channel;
    if (channels.includes(channel) && !starting.includes(channel)) announced.textContent = `${next.dataset.stage || channel} is starting`;
    starting = channels;
  }

  // A status that is set anew is read out anew.
  function say(words) {
    if (link.textContent !== words) link.textContent = words;
    link.classList.toggle("lost", words !== ASKING);
  }

  const tell = (step) => { waiting.push(step); if (!pacing) drain(); };
  function drain() {
    const step = waiting.shift();
    pacing = Boolean(step);
    if (step) setTimeout(drain, reach(step) && !calm.matches ? PACE : 0);
  }

  // Shows the channels that are not shown yet; returns whether there was one.
  function reach({ channel, time, data, last }) {
    if (channel.startsWith(DEAD)) {
      const stage = channel.slice(DEAD.length), reason = data?.reason ?? "";
      find("#gave-up").textContent = stage;
      find("#reason").textContent = reason;
      end("dead", `Stage ${stage} could not go on: ${reason}`);
      const item = [...items.children].find((one) => !one.dataset.at && one.dataset.stage === stage);
      if (item) {
        mark(item, "stopped");
        find(".took", item).textContent = "stopped";
      }
      return true;
    }
    if (channel.startsWith(PARTS)) {
      const fresh = split(channel.slice(PARTS.length), data);
      if (last) finish();
      return fresh;
    }
    if (channel.startsWith(ENDED)) {
      const fresh = unanswered(channel.slice(ENDED.length));
      if (last) finish();
      return fresh;
    }
    let item = [...items.children].find((one) => one.dataset.channel === channel);
    const fresh = !item?.dataset.at, before = reached().at(-1);
    item ??= added(channel);
    item.dataset.at = Date.parse(time); // Redis's, also where the gateway's own stood until now
    if (fresh) {
      mark(item, "reached");
      if (before) {
        before.after(item);
        find(".took", item).textContent = took(item.dataset.at - before.dataset.at);
      }
      const next = [...items.children].find((one) => !one.dataset.at);
      if (next) mark(next, last ? "ahead" : "next");
      announced.textContent = `${find(".does", item).textContent}: ${find(".took", item).textContent}`;
      find("#point .way").setAttribute("stroke-dashoffset", 100 - Math.round(100 * reached().length / items.children.length));
    }
    if (typeof data?.message === "string") {
      find("#message").textContent = data.message;
      if (typeof data.distance_from_velocity === "number") find("#miles").textContent = grouped(data.distance_from_velocity);
    }
    if (last) finish();
    return fresh;
  }

  function finish() {
    const times = reached().map((one) => Number(one.dataset.at));
    find("#whole").textContent = took(Math.max(...times) - Math.min(...times));
    const message = find("#message").textContent;
    if (message || !find("[data-ended]", section)) end("done", message);
    else end("ended", find("h1 [data-when=ended]").textContent);
  }

  // Shows that a stage has taken the submission and has not answered it; whether that is new.
  function unanswered(stage) {
    if ([...section.querySelectorAll("[data-ended]")].some((one) => one.dataset.ended === stage)) return false;
    const line = document.createElement("p");
    line.dataset.ended = stage;
    line.className = "small";
    line.textContent = announced.textContent = `${stage}: no answer`;
    items.after(line);
    return true;
  }

  // Shows that a stage has made parts of the submission, and how many have ended; whether that is new.
  function split(stage, { parts, ended }) {
    let line = [...section.querySelectorAll("[data-split]")].find((one) => one.dataset.split === stage);
    if (!line) {
      const links = document.createElement("p");
      line = document.createElement("p");
      line.dataset.split = stage;
      line.className = links.className = "small";
      for (let number = 0; number < parts; number += 1) {
        const link = links.appendChild(document.createElement("a"));
        link.href = `${place}/${number}`;
        link.textContent = number;
        link.after(" ");
      }
      items.after(line, links);
    }
    const words = `${stage}: ${parts} parts, ${ended} ended`, fresh = line.textContent !== words;
    if (fresh) line.textContent = announced.textContent = words;
    return fresh;
  }

  function mark(item, how) {
    item.className = how;
    if (how === "next") item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }

  function added(channel) {
    const item = items.firstElementChild.cloneNode(true);
    item.dataset.channel = find("code", item).textContent = find(".does", item).textContent = channel;
    delete item.dataset.at;
    delete item.dataset.stage;
    return items.appendChild(item);
  }

  function end(state, words) {
    section.dataset.state = state;
    for (const item of items.querySelectorAll(".next")) {
      mark(item, "ahead");
      find(".took", item).textContent = "";
    }
    // A stage has chosen other channels, or has not answered.
    if (state !== "dead") for (const item of [...items.children]) if (!item.dataset.at) item.remove();
    document.title = `${find(`h1 [data-when=${state}]`).textContent} – Milepost`;
    announced.textContent = words;
    stopWatching();
  }

  stopWatching = () => {
    leaving.abort();
    hangUp();
    clearInterval(ticking);
    link.textContent = "";
    stopWatching = () => {};
  };
  addEventListener("offline", offline, { signal });
  addEventListener("online", online, { signal });
  open();
}

// ---- every page

let path;

function start() {
  stopWatching();
  const form = find("form"), section = find("#submission");
  if (form) ask(form);
  if (section) {
    // A form that was posted without us has the form's address: a reload would post it again.
    if (location.pathname !== section.dataset.place) history.replaceState(null, "", section.dataset.place);
    if (section.dataset.state === "underway") watch(section);
  }
  path = location.pathname;
}

addEventListener("popstate", () => { if (location.pathname !== path) location.reload(); });
start();
