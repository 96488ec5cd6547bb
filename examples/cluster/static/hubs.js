// Three streams of the same updates: one through the proxy, as the pages of a site have it, and one directly to
// each hub. The updates are numbered, so the page knows whether it has missed one.

const page = JSON.parse(document.getElementById("page").textContent);
const { connect } = await import(page.mercure);
const $ = (selector, within = document) => within.querySelector(selector);
const STATES = { connecting: "Connecting", offline: "Cut off; connecting again", refused: "Refused" };

// -- this browser -----------------------------------------------------------------------------------

const own = connect(page.stream);
let received = 0;
let lost = 0;
let last = null;

own.on("message", (update) => {
  const { number } = update.json();
  if (last !== null && number <= last) return; // published again by the app, which did not know whether it was stored
  if (last !== null) lost += number - last - 1;
  last = number;
  $("#received").textContent = ++received;
  $("#lost").textContent = lost;
});
own.addEventListener("gap", () => $("#problem").append("The hub has reported a gap in the history. "));
own.addEventListener("state", showOwn);

/** The proxy tells with a cookie which hub has the stream: a page does not see the headers of the answer. */
function showOwn() {
  const isOpen = own.state === "open";
  const hub = isOpen && /(?:^|; )hub=(\d)/.exec(document.cookie)?.[1];
  for (const tile of document.querySelectorAll("[data-hub]")) {
    tile.classList.toggle("chosen", tile.dataset.hub === hub);
    $(".mine", tile).hidden = tile.dataset.hub !== hub;
  }
  $("#own-lamp").dataset.state = isOpen ? "live" : "pending";
  $("#own-state").textContent = isOpen ? `Your stream is on hub ${hub}` : (STATES[own.state] ?? own.state);
}
showOwn();

// -- each hub ---------------------------------------------------------------------------------------

page.direct.forEach((url, index) => {
  const tile = $(`[data-hub="${index + 1}"]`);
  connect(url, { topics: page.topic }).on("message", (update) => {
    $(".number", tile).textContent = update.json().number;
  });
});

function condition({ running, ready = true, people }) {
  if (!running) return ["down", "down"];
  if (!ready) return ["pending", "not ready"];
  return people === null ? ["pending", "without the engine"] : ["live", "ready"];
}

function show(tile, part) {
  const { running, people = null } = part;
  [$(".lamp", tile).dataset.state, $(".condition", tile).textContent] = condition(part);
  for (const button of tile.querySelectorAll("button")) {
    button.hidden = (button.dataset.act === "kill") !== running;
  }
  const list = $(".names", tile);
  if (list) list.textContent = people === null ? "–" : people.join(", ") || "nobody";
}

async function look() {
  try {
    const answer = await fetch("/hubs/state", { cache: "no-store", signal: AbortSignal.timeout(8000) });
    const { hubs, engine } = await answer.json();
    hubs.forEach((hub, index) => show($(`[data-hub="${index + 1}"]`), hub));
    show($('[data-part="engine"]'), engine);
  } catch {
    // The demo has ended, or is busy; the next look tells.
  }
}

async function watch() {
  await look();
  setTimeout(watch, 1000);
}
watch();

document.addEventListener("click", async ({ target }) => {
  const act = target.dataset.act;
  if (!act) return;
  target.disabled = true;
  const answer = await fetch(`/hubs/${act}/${target.closest("[data-part]").dataset.part}`, { method: "POST" });
  $("#problem").textContent = answer.ok ? "" : await answer.text();
  await look();
  target.disabled = false;
});
