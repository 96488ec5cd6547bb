// Shows answers as they are made: each update is {stream, seq, kind}, and kind is text, done or error.

const page = JSON.parse(document.getElementById("page").textContent);
const list = document.getElementById("answers");
const form = document.getElementById("ask");
const box = document.getElementById("question");

/** One answer on the page. Updates may come twice after a lost connection, so it counts. */
class Answer {
  constructor(question, id) {
    this.next = 0;
    this.item = document.createElement("li");
    this.text = this.add("p", "answer");
    this.item.prepend(this.add("p", "question", question));
    this.button = this.add("button", "stop", "Stop");
    this.button.type = "button";
    this.button.addEventListener("click", () => post(page.stop, { id }).catch(() => {}));
    this.item.dataset.state = "writing";
    list.append(this.item);
  }

  add(tag, name, content = "") {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = content;
    this.item.append(element);
    return element;
  }

  take({ seq, kind, text, message }) {
    if (seq < this.next || this.item.dataset.state !== "writing") return;
    this.next = seq + 1;
    if (kind === "text") this.text.append(text);
    else if (kind === "done") this.end("done", text);
    else this.fail(message);
  }

  end(state, text) {
    this.text.textContent = text; // the whole text: right even if a piece was lost
    this.item.dataset.state = state;
    this.button.remove();
  }

  fail(message) {
    if (this.item.dataset.state !== "writing") return;
    this.item.dataset.state = "failed";
    this.button.remove();
    this.add("p", "problem", message).setAttribute("role", "alert");
  }
}

const answers = new Map();
const source = new EventSource(page.stream, { withCredentials: true });
source.onmessage = ({ data }) => {
  const update = JSON.parse(data);
  answers.get(update.stream)?.take(update);
};

function post(url, body) {
  return fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (!question) return;
  box.value = "";
  const id = crypto.randomUUID();
  const answer = new Answer(question, id);
  answers.set(id, answer);
  try {
    const response = await post(page.ask, { question, id });
    if (!response.ok) {
      const { error } = await response.json();
      // The stream may say it too, a moment later and better.
      setTimeout(() => answer.fail(error), 1000);
    }
  } catch {
    answer.fail("The question did not arrive. Try again.");
  }
});
